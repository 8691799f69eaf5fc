"""One case before one judge, to a result that is kept: a broken run goes on with what is there."""

from __future__ import annotations

import io
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from time import process_time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models import whole
from models.evaluation import overlap
from models.evaluation.froc import MISSED, Mark, Reading, Scored, read
from models.starter.chest_ct.evaluation.cases import Case
from models.starter.chest_ct.evaluation.judging import Judge
from models.starter.chest_ct.generator import LEFT, RIGHT
from models.vocabulary import Grid, Triple, Unfit, Volume

LEAST_LUNG_ML = 50.0
LEAST_SHOWN_MM = 6.0
PICTURE_MM, PICTURE = 64.0, 64
WINDOW_HU = (-1250.0, 350.0)
Picture = NDArray[np.uint8]


@dataclass(frozen=True, slots=True, kw_only=True)
class Lung:
    """One lung of the truth against what was said: Dice 0..1, HD95 in mm (infinite where nothing was said), volumes."""

    dice: float
    hd95_mm: float
    said_ml: float
    truth_ml: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What one judge did on one scan.

    key       what must be the same for the result to stand: the judge's weights and the case
    declined  the reason, or "": a declined scan finds nothing and marks nothing
    seconds   of the processor
    """

    key: str
    case: str
    judge: str
    declined: str = ""
    lungs: tuple[Lung, ...] = ()
    lesions: tuple[Scored, ...] = ()
    false_marks: tuple[float, ...] = ()
    seconds: float = 0.0

    @property
    def reading(self) -> Reading:
        """Give what the FROC reads."""
        return Reading(lesions=self.lesions, false_marks=self.false_marks)


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """A lesion that was missed or a false mark: what is said of it, how bad it is (higher is worse), and its three planes in one row."""

    words: str
    weight: float
    planes: Picture


def score(case: Case, judge: Judge, names: tuple[str, str, str], threshold: float) -> tuple[Result, tuple[Failure, ...]]:
    """Let a judge see a case. `names` are the result's key, the case and the judge; failures are told at the threshold."""
    key, name, who = names
    begun = process_time()
    try:
        labels, marks = judge(case.volume)
    except Unfit as verdict:
        missed = tuple(Scored(size_mm=lesion.size_mm, kind=lesion.kind, score=MISSED) for lesion in case.lesions if lesion.counts)
        seconds = process_time() - begun
        return Result(key=key, case=name, judge=who, declined=verdict.reason, lesions=missed, seconds=seconds), ()
    seconds = process_time() - begun
    reading = read(case.lesions, marks)
    result = Result(
        key=key, case=name, judge=who, lungs=_lungs(case, labels), lesions=reading.lesions, false_marks=reading.false_marks, seconds=seconds
    )
    return result, tuple(_failures(case, reading, marks, threshold))


def _lungs(case: Case, labels: NDArray[np.uint8]) -> tuple[Lung, ...]:
    """Compare each lung that the truth has; voxels of nodules count neither way."""
    if case.lungs is None:
        return ()
    grid, found = case.volume.grid, []
    per_ml = grid.voxel_mm3 / 1000
    for side in (LEFT, RIGHT):
        truth, said = (case.lungs == side) & ~case.nodules, (labels == side) & ~case.nodules
        if truth.sum() * per_ml > LEAST_LUNG_ML:
            # Every second voxel in plane is enough for distances, and four times as fast.
            far = overlap.hausdorff_mm(said[:, ::2, ::2], truth[:, ::2, ::2], _halved(grid))
            found.append(
                Lung(
                    dice=overlap.dice(said, truth) or 0.0,
                    hd95_mm=far if far is not None else float("inf"),
                    said_ml=float(said.sum()) * per_ml,
                    truth_ml=float(truth.sum()) * per_ml,
                )
            )
    return tuple(found)


def _halved(grid: Grid) -> Grid:
    z, y, x = grid.spacing_mm
    shape = (grid.shape[0], (grid.shape[1] + 1) // 2, (grid.shape[2] + 1) // 2)
    return Grid(shape=shape, origin_mm=grid.origin_mm, axes=grid.axes, spacing_mm=(z, 2 * y, 2 * x))


def _failures(case: Case, reading: Reading, marks: tuple[Mark, ...], threshold: float) -> list[Failure]:
    def shown(words: str, centre_mm: Triple, weight: float) -> Failure:
        return Failure(words=words, weight=weight, planes=planes(case.volume, centre_mm))

    counted = [lesion for lesion in case.lesions if lesion.counts]
    missed = [
        shown(f"missed: {lesion.size_mm:.0f} mm {lesion.kind}, {_best(scored)}", lesion.centre_mm, lesion.size_mm)
        for lesion, scored in zip(counted, reading.lesions, strict=True)
        if scored.score < threshold and lesion.size_mm >= LEAST_SHOWN_MM
    ]
    false = [
        shown(f"false: p {mark.score:.2f}", mark.centre_mm, mark.score)
        for mark in marks
        if mark.score >= threshold and not any(lesion.is_hit(mark.centre_mm) for lesion in case.lesions)
    ]
    return missed + false


def _best(lesion: Scored) -> str:
    return "no mark" if lesion.score == MISSED else f"p {lesion.score:.2f}"


def planes(volume: Volume, centre_mm: Triple) -> Picture:
    """Give (PICTURE, 3 * PICTURE) greys of PICTURE_MM about a point: axial, coronal, sagittal; outside the volume is black.

    The patient's left is on the right, the front and the head are up, as a radiologist has them.
    """
    steps = (np.arange(PICTURE) - (PICTURE - 1) / 2) * PICTURE_MM / PICTURE
    across, down = np.meshgrid(steps, steps)
    zero = np.zeros_like(across)
    offsets = ((across, down, zero), (across, zero, -down), (zero, across, -down))
    views = []
    for x, y, z in offsets:
        points = np.stack([x, y, z], axis=-1).reshape(-1, 3) + np.array(centre_mm)
        at = np.rint(volume.grid.to_index(points)).astype(int)
        inside = ((at >= 0) & (at < volume.grid.shape)).all(axis=1)
        hu = np.full(len(at), WINDOW_HU[0])
        hu[inside] = volume.array[tuple(at[inside].T)]
        views.append(hu.reshape(PICTURE, PICTURE))
    low, high = WINDOW_HU
    return np.asarray(np.clip((np.hstack(views) - low) / (high - low), 0, 1) * 255, dtype=np.uint8)


def keep(folder: Path, result: Result, failures: tuple[Failure, ...]) -> None:
    """Write a result and its failures, whole or not at all; raises OSError."""
    words, weights = [failure.words for failure in failures], [failure.weight for failure in failures]
    pictures = io.BytesIO()
    planes = np.array([failure.planes for failure in failures], np.uint8)
    np.savez_compressed(pictures, words=np.array(words, str), weight=np.array(weights, float), planes=planes)
    stem = f"{result.case}.{result.judge}"
    told = json.dumps(asdict(result)) + "\n"
    whole.write_all(folder, {f"{stem}.npz": pictures.getvalue(), f"{stem}.json": told.encode()})


def kept(folder: Path, key: str, case: str, judge: str) -> Result | None:
    """Read a result of an earlier run, if it is of the same judge and case."""
    try:
        raw: dict[str, Any] = json.loads((folder / f"{case}.{judge}.json").read_text(encoding="utf-8"))
        lungs = tuple(Lung(**lung) for lung in raw.pop("lungs"))
        lesions = tuple(Scored(**lesion) for lesion in raw.pop("lesions"))
        result = Result(**raw | {"false_marks": tuple(raw["false_marks"])}, lungs=lungs, lesions=lesions)
    except (OSError, ValueError, TypeError, KeyError):
        return None
    return result if result.key == key else None


def failures_of(folder: Path, result: Result) -> tuple[Failure, ...]:
    """Read the pictures that were kept with a result."""
    with np.load(folder / f"{result.case}.{result.judge}.npz") as facts:
        rows = zip(facts["words"], facts["weight"], facts["planes"], strict=True)
        return tuple(Failure(words=str(words), weight=float(weight), planes=planes) for words, weight, planes in rows)
