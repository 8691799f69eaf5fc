"""A model tried on made-up images that its card would accept, so that what is wrong with it shows before the first patient."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from models.card import Accept, ShelvedCard
from models.vocabulary import Finding, Grid, Model, Prediction, Progress, Unfit, Volume

PICTURES = frozenset({"CR", "DX", "MG", "RG", "PX", "IO", "XA", "RF"})
STUDIES = ("empty", "body")
EXTENT_MM = 128.0
PICTURE = (320, 256)
UPRIGHT = ((0.0, 0.0, 1.0), (0.0, 1.0, 0.0), (1.0, 0.0, 0.0))


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """What came of one made-up study.

    study    "empty" or "body"
    outcome  in words; of a fault what is wrong
    holds    whether the model did what a node needs; to decline the study is that too
    """

    study: str
    outcome: str
    seconds: float
    holds: bool


def run(shelved: ShelvedCard, model: Model, progress: Progress = lambda _part: None) -> Iterator[Trial]:
    """Try a loaded model on nothing and on a body, the body twice; whatever it raises is a fault in words."""
    for study in STUDIES:
        volumes = studies(shelved, study)
        begun = time.perf_counter()
        try:
            prediction = model.predict(volumes, progress)
            seconds = time.perf_counter() - begun
            faults = judge(shelved, volumes, prediction)
            if not faults and study == "body":
                again = model.predict(volumes, progress)
                faults = [] if _same(prediction, again) else ["another result for the same images, run again"]
        except Unfit as verdict:
            yield Trial(study=study, outcome=f"declined: {verdict.reason}", seconds=time.perf_counter() - begun, holds=True)
        except Exception as error:  # noqa: BLE001 -- a model may raise anything, and that is the finding
            words = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:300]}"
            yield Trial(study=study, outcome=words, seconds=time.perf_counter() - begun, holds=False)
        else:
            yield Trial(study=study, outcome="; ".join(faults) or _words(prediction), seconds=seconds, holds=not faults)


def studies(shelved: ShelvedCard, study: str) -> dict[str, Volume]:
    """Make one volume a role on one grid, as the reference's card entry wants it: air alone, or a body with a bright part."""
    reference = next(entry for entry in shelved.card.inputs if entry.reference)
    grid = _grid(reference.accept)
    return {entry.role: _volume(grid, entry.accept.modality[0], study) for entry in shelved.card.inputs}


def judge(shelved: ShelvedCard, volumes: Mapping[str, Volume], prediction: Prediction) -> list[str]:
    """Say what of a prediction is not as the card and models.vocabulary promise; empty where all is."""
    card = shelved.card
    grid = volumes[card.reference_role].grid
    organs = {label.index for label in card.output.labels if label.kind == "organ"}
    if prediction.grid != grid or prediction.labels.shape != grid.shape or prediction.labels.dtype != np.uint8:
        return ["the labels are not uint8 on the images' own grid"]
    faults = []
    if strange := set(np.unique(prediction.labels).tolist()) - organs - {0}:
        faults.append(f"label {min(strange)} is no organ label of the card")
    for index, mask in prediction.masks.items():
        if index not in organs or mask.shape != grid.shape or mask.dtype != np.bool_:
            faults.append(f"mask {index} is no organ label of the card, or not bool on the images' grid")
    if prediction.instances is not None and prediction.instances.shape != grid.shape:
        faults.append("the findings' numbers are not on the images' grid")
    faults += [words for finding in prediction.findings if (words := _finding(shelved, grid, finding))]
    known = {label.index for label in card.output.labels}
    for score in prediction.scores:
        if score.label not in known or not 0 <= score.score <= 1:
            faults.append(f"score {score.score} of label {score.label} is none")
    if card.output.kind == "scores" and not prediction.scores:
        faults.append("no score, and the card promises scores")
    return list(dict.fromkeys(faults))


def _finding(shelved: ShelvedCard, grid: Grid, finding: Finding) -> str:
    marks = {label.index for label in shelved.card.output.labels if label.kind == "finding"}
    if finding.label not in marks:
        return f"a finding has label {finding.label}, which is no finding of the card"
    if not 0 <= finding.score <= 1:
        return f"a finding has the score {finding.score}"
    inside = all(0 <= low < high <= size for low, high, size in zip(finding.box.low, finding.box.high, grid.shape, strict=True))
    return "" if inside else "a finding's box is empty or leaves the images"


def _same(one: Prediction, other: Prediction) -> bool:
    alike = np.array_equal(one.labels, other.labels) and one.findings == other.findings and one.scores == other.scores
    return alike and all(index in other.masks and np.array_equal(mask, other.masks[index]) for index, mask in one.masks.items())


def _words(prediction: Prediction) -> str:
    marked = int(np.count_nonzero(prediction.labels)) + sum(int(mask.sum()) for mask in prediction.masks.values())
    return f"{marked} of {prediction.labels.size} voxels marked, {len(prediction.findings)} findings, {len(prediction.scores)} scores"


def _grid(accept: Accept) -> Grid:
    """Give a grid within the card's limits, of EXTENT_MM where they allow it."""
    if set(accept.modality) <= PICTURES:
        return Grid(shape=(1, *PICTURE), origin_mm=(0, 0, 0), axes=UPRIGHT, spacing_mm=(1, 1, 1), space="image", calibrated=False)
    pixel_mm = _within(1.0, accept.spacing_mm)
    between_mm = _within(2.0, accept.slice_spacing_mm)
    slices = int(_within(math.ceil(_within(EXTENT_MM, accept.extent_mm) / between_mm) + 1, accept.slices))
    side = max(32, math.ceil(EXTENT_MM / pixel_mm))
    return Grid(shape=(slices, side, side + 8), origin_mm=(-60, -70, -80), axes=UPRIGHT, spacing_mm=(between_mm, pixel_mm, pixel_mm))


def _within(wanted: float, bounds: tuple[float, float] | None) -> float:
    return wanted if bounds is None else min(max(wanted, bounds[0]), bounds[1])


def _volume(grid: Grid, modality: str, study: str) -> Volume:
    """Fill a grid: CT in HU, a picture from 0 to 1, anything else from 0 to some hundreds."""
    air, body, bright, noise = {"CT": (-1000.0, 40.0, 150.0, 20.0)}.get(modality, (0.0, 300.0, 600.0, 20.0))
    array = np.full(grid.shape, air, dtype=np.float32)
    if study == "body":
        places = np.meshgrid(*(np.linspace(-1, 1, count) for count in grid.shape), indexing="ij")
        distance = np.sqrt(sum(place**2 for place in places[(1 if grid.is_projection else 0) :]))
        array[distance < 0.8] = body
        array[distance < 0.2] = bright
        array += np.random.default_rng(1).normal(0, noise, grid.shape).astype(np.float32)
    if grid.is_projection:
        return Volume(array=np.clip(array / 600, 0, 1).astype(np.float32), grid=grid, unit="1", modality=modality)
    if modality == "CT":
        return Volume(array=np.clip(array, -1024, 3071).astype(np.int16), grid=grid, unit="HU", modality=modality)
    return Volume(array=np.clip(array, 0, None).astype(np.float32), grid=grid, unit="1", modality=modality)
