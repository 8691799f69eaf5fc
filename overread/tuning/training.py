"""The stages of a fine-tuning: cases looked at, shared out, made into lessons; both networks trained; the probability fitted."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from models import registry
from models.card import ShelvedCard
from models.chest.patchnet import PatchNet
from models.starter.chest_ct.generator import LEFT, RIGHT, Scan
from models.starter.chest_ct.lessons import SPACING_MM
from models.tuning import calibrating, course, examples, folder, parts
from models.tuning.course import Course, Plan
from models.tuning.examples import Lesson
from models.vocabulary import Broken, Prediction, Unfit
from node.errors import Misconfigured, Refused
from overread.evaluation import reading
from overread.evaluation.cases import Case
from overread.evaluation.reading import Study
from overread.tuning import comparison, site
from overread.tuning.comparison import Seen

LESSON_BYTES = 40_000_000
FIXED_BYTES = 200_000_000
"""Checkpoints, weights and pictures."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """What a look at a case told: what was drawn in it, and how many voxels it has."""

    lungs: bool
    nodules: int | None
    voxels: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What all stages share. `work` holds lessons, predictions and checkpoints, so that a broken run goes on."""

    base: ShelvedCard
    shared: Study
    work: Path
    device: str
    seed: int
    steps: int
    limit_s: float | None


def look(job: Job, found: Sequence[Case], progress: Callable[[], None]) -> tuple[list[tuple[Case, Size]], dict[str, str]]:
    """Read every case once, so that what is wrong shows before hours of work; give the good ones, and the others by name."""
    good, bad = [], {}
    for case in found:
        try:
            read = site.read(case, job.base, job.shared.values)
        except (Refused, Broken) as reason:
            bad[case.name] = reason.reason
        else:
            lesions = None if read.lesions is None else sum(lesion.counts for lesion in read.lesions)
            good.append((case, Size(lungs=read.example.lungs is not None, nodules=lesions, voxels=read.example.volume.array.size)))
        progress()
    return good, bad


def require_room(job: Job, training: Sequence[Size], held_out: Sequence[Size]) -> None:
    """Refuse a disk that would be full before the end; raises Misconfigured."""
    predicted = [*(size for size in training if not size.lungs), *held_out, *held_out]
    needed = FIXED_BYTES + LESSON_BYTES * len(training) + 3 * sum(size.voxels for size in predicted)
    free = shutil.disk_usage(job.work).free
    if free < needed:
        raise Misconfigured(
            f"--out: {free / 1e9:.1f} GB are free there, and lessons, predictions and checkpoints need up to {needed / 1e9:.1f} GB"
        )


def lessons(job: Job, training: Sequence[Case], progress: Callable[[], None]) -> tuple[list[Lesson], list[str]]:
    """Give the lessons of the training cases and their keys; kept ones are read. Raises Refused where a case gives none."""
    found, keys = [], []
    for case in training:
        key = site.key(case, job.base.digest)
        path = job.work / f"lesson-{key}.safetensors"
        if not path.is_file():
            read = site.read(case, job.base, job.shared.values)
            examples.save(examples.lesson_of(read.example, surroundings(job, case, read), int(key[:8], 16)), path)
        found.append(examples.load(path))
        keys.append(key)
        progress()
    return found, keys


def surroundings(job: Job, case: Case, read: site.Read) -> NDArray[np.uint8]:
    """Give the drawn lungs, else the base's; raises Refused where it declines the scan."""
    if read.example.lungs is not None:
        return read.example.lungs
    prediction = predicted(job, case, read, comparison.opened(job.base))
    if isinstance(prediction, str):
        raise Refused(f"{case.name}: no lungs are drawn in it, and the base model declines it: {prediction}")
    labels = site.labels_of(job.base)
    return np.where(prediction.labels == labels.left, LEFT, np.where(prediction.labels == labels.right, RIGHT, 0)).astype(np.uint8)


def predicted(job: Job, case: Case, read: site.Read, shelved: ShelvedCard) -> Prediction | str:
    """Run a model on a case, or read what it said before; the reason where it declines."""
    try:
        return reading.predicted(case, read.volumes, shelved, job.shared)
    except Unfit as verdict:
        return verdict.reason


def seen(job: Job, held_out: Sequence[Case], shelved: ShelvedCard, progress: Callable[[], None]) -> list[Seen]:
    """Run a model, its threshold lowered, on every case held out."""
    found = []
    for case in held_out:
        read = site.read(case, job.base, job.shared.values)
        prediction = predicted(job, case, read, comparison.opened(shelved))
        found.append(comparison.seen(read, None if isinstance(prediction, str) else prediction, site.labels_of(shelved)))
        progress()
    return found


def begun(job: Job, given: Sequence[Lesson]) -> dict[str, parts.NodulePart | parts.LungPart]:
    """Build the parts that the lessons can teach; raises Misconfigured where there is none."""
    content = registry.weights(job.base, ("lungs", "nodules"))
    found: dict[str, parts.NodulePart | parts.LungPart] = {}
    cubes = [lesson.cubes for lesson in given if lesson.cubes is not None]
    if examples.with_nodules(given):
        found["nodules"] = parts.NodulePart(parts.nodule_network(content["nodules"], job.device), cubes, job.seed)
    whole = [lesson.whole for lesson in given if lesson.whole is not None]
    if whole:
        settings = job.base.card.runtime.options["lungs"]
        found["lungs"] = parts.LungPart(parts.lung_network(content["lungs"], settings, job.device), whole, settings, job.seed)
    if not found:
        raise Misconfigured("no training case has lungs drawn, nor a nodule of 4 mm or more: there is nothing to learn")
    return found


def train(
    job: Job,
    found: Mapping[str, parts.NodulePart | parts.LungPart],
    keys: Sequence[str],
    told: tuple[Callable[[str, Course], None], Callable[[], bool]],
) -> dict[str, Course]:
    """Train each part, a fair share of the time each; `told` are who is told of each step, and who says stop."""
    progress, stopped = told
    identity = hashlib.sha256(" ".join([job.base.digest, str(job.seed), *sorted(keys)]).encode()).hexdigest()
    courses: dict[str, Course] = {}
    for name, part in found.items():
        plan = Plan(
            steps=job.steps,
            limit_s=job.limit_s / len(found) if job.limit_s else None,
            seed=job.seed,
            identity=identity,
            checkpoint=job.work / f"{name}.checkpoint",
            stopped=stopped,
        )
        courses[name] = course.follow(part, plan, lambda at, name=name: progress(name, at))  # type: ignore[misc]
        if not courses[name].ended:
            break
    return courses


def weights(job: Job, found: Mapping[str, parts.NodulePart | parts.LungPart]) -> dict[str, bytes]:
    """Give both networks' weights; a part that was not trained keeps the base's, byte for byte."""
    content = dict(registry.weights(job.base, ("lungs", "nodules")))
    return content | {name: folder.weights_of(part.network) for name, part in found.items()}


def calibration(job: Job, content: bytes, tuning: Sequence[Case]) -> tuple[tuple[float, float] | None, int, int]:
    """Fit the probability on generated blocks and the cases set aside for it."""
    return calibrating.fitted(_network(content), _scans(job, tuning), calibrating.BLOCKS)


def _network(content: bytes) -> PatchNet:
    return parts.nodule_network(content, "cpu")


def _scans(job: Job, tuning: Sequence[Case]) -> Iterator[Scan]:
    for case in tuning:
        read = site.read(case, job.base, job.shared.values)
        if read.example.nodules is not None:
            yield examples.scan_of(read.example, surroundings(job, case, read), (SPACING_MM, SPACING_MM, SPACING_MM))
