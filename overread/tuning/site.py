"""A site's cases as examples: images and truth as `models evaluate` reads them, and which patient each is of."""

from __future__ import annotations

import hashlib
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.errors import InvalidDicomError
from scipy import ndimage

from models.card import BadCard, ShelvedCard
from models.evaluation.froc import Lesion
from models.starter.chest_ct.body import Mass
from models.starter.chest_ct.generator import LEFT, RIGHT
from models.tuning import examples
from models.tuning.examples import Example
from models.vocabulary import Grid, Volume
from node.errors import Misconfigured, Refused
from overread import nifti
from overread.evaluation import cases, reading, truth
from overread.evaluation.cases import Case

FORMAT = "lung-nodules"
PATIENTS = "patients.toml"


@dataclass(frozen=True, slots=True, kw_only=True)
class Labels:
    """The card's indices of what is learnt."""

    left: int
    right: int
    nodule: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Read:
    """One case in memory: its volumes by role, what is learnt of it, and its lesions; None where nobody looked for nodules."""

    volumes: Mapping[str, Volume]
    example: Example
    lesions: tuple[Lesion, ...] | None


def labels_of(shelved: ShelvedCard) -> Labels:
    """Give the indices; raises BadCard for a model that is not of the chest starter's kind."""
    runtime = shelved.card.runtime
    if runtime.format != FORMAT:
        raise BadCard(f"{shelved.path}: runtime.format is {runtime.format!r}; only {FORMAT!r}, which chest-ct has, can be trained here")
    options = runtime.options
    return Labels(left=options["lungs"]["left"], right=options["lungs"]["right"], nodule=options["nodules"]["label"])


def patients(data: Path, found: list[Case]) -> list[str]:
    """Say which cases are of one patient: as patients.toml has it, else by PatientID, else each case is of its own.

    What is given are hashes: no PatientID goes further than this. Raises Misconfigured.
    """
    path = data / PATIENTS
    told: dict[str, object] = {}
    if path.is_file():
        try:
            told = tomllib.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise Misconfigured(f'{path}: {error}; write "CASE" = "any word for the patient" for each case') from None
        strange = sorted(set(told) - {case.name for case in found})
        if strange:
            raise Misconfigured(f"{path}: {strange[0]} is no folder of a case")
    return [hashlib.sha256(str(told.get(case.name) or _patient(case) or f"case {case.name}").encode()).hexdigest() for case in found]


def _patient(case: Case) -> str:
    if "" not in case.images:
        return ""
    for path in sorted(case.images[""].rglob("*")):
        if path.is_file():
            try:
                header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=["PatientID", "IssuerOfPatientID"])
            except (InvalidDicomError, OSError, ValueError):
                continue
            name = str(header.get("PatientID") or "").strip()
            return f"patient {name} {header.get('IssuerOfPatientID', '')}" if name else ""
    return ""


def read(case: Case, shelved: ShelvedCard, values: Mapping[int, int]) -> Read:
    """Read a case whole; raises Refused where its files do not go together or there is nothing to learn."""
    volumes = reading.read(case, shelved)
    volume = volumes[shelved.card.reference_role]
    index = labels_of(shelved)
    wanted = np.zeros(volume.grid.shape, np.uint8)
    if case.labels is not None:
        _known(case.labels, values, shelved)
        wanted = truth.labels(case.labels, volume.grid, shelved.card, values)
    drawn = (wanted == index.left) | (wanted == index.right)
    lungs = np.where(wanted == index.left, LEFT, np.where(wanted == index.right, RIGHT, 0)).astype(np.uint8) if drawn.any() else None
    nodules, aside, lesions = _nodules(case, volume.grid, wanted == index.nodule)
    if lungs is None and nodules is None:
        raise Refused(f"its labels have no voxel of a label to learn ({_words(shelved)}), and it has no findings")
    example = Example(volume=volume, lungs=lungs, nodules=nodules, aside=aside)
    if fault := examples.sides_at_fault(example):
        raise Refused(fault)
    return Read(volumes=volumes, example=example, lesions=lesions)


def key(case: Case, digest: str) -> str:
    """Name what is made of a case by its images, its truth and the base: other files, another lesson."""
    lines = [case.fingerprint, digest]
    for path in (case.labels, case.findings):
        if path is not None:
            facts = path.stat()
            lines.append(f"{path.name} {facts.st_size} {facts.st_mtime_ns}")
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:24]


def _known(path: Path, values: Mapping[int, int], shelved: ShelvedCard) -> None:
    """Refuse a value that is told nowhere: what it means must be said, not guessed."""
    if path.suffix == ".dcm":
        return
    array, _ = nifti.read(path)
    strange = sorted({int(value) for value in np.unique(array) if np.isfinite(value)} - {0, *values})
    if strange:
        raise Refused(
            f"{path.name} has the value {strange[0]}; known are {_words(shelved)}. "
            f'Say what it is in labels.toml: "{strange[0]}" = 1, or = 0 to leave it out'
        )


def _words(shelved: ShelvedCard) -> str:
    return ", ".join(f"{label.index} {label.label}" for label in shelved.card.output.labels)


def _nodules(
    case: Case, grid: Grid, drawn: NDArray[np.bool_]
) -> tuple[NDArray[np.uint16] | None, tuple[Mass, ...], tuple[Lesion, ...] | None]:
    """Give nodules by number, places that are neither right nor wrong, and the lesions to be found."""
    if case.findings is None:
        if not drawn.any():
            return None, (), None
        numbers, _ = ndimage.label(drawn, np.ones((3, 3, 3)))
        return numbers.astype(np.uint16), (), truth.numbered(numbers.astype(np.int64), grid)
    lesions = truth.lesions(case.findings, grid)
    if case.findings.suffix != ".csv":
        array = truth.whole_numbers(case.findings, grid)
        if array.min() < 0 or array.max() > np.iinfo(np.uint16).max:
            raise Refused(f"{case.findings.name} has numbers below 0 or above 65535")
        return array.astype(np.uint16), (), lesions
    return _balls(case.findings, grid, lesions)


def _balls(path: Path, grid: Grid, lesions: tuple[Lesion, ...]) -> tuple[NDArray[np.uint16], tuple[Mass, ...], tuple[Lesion, ...]]:
    """Draw listed lesions as balls of their diameters about their centres."""
    numbers, aside = np.zeros(grid.shape, np.uint16), []
    for number, lesion in enumerate(lesions, start=1):
        if lesion.size_mm <= 0:
            raise Refused(f"{path.name} names a lesion without diameter_mm; to be learnt it must have one")
        if not lesion.counts:
            aside.append(Mass(centre_mm=lesion.centre_mm, radius_mm=lesion.size_mm / 2))
            continue
        middle = grid.to_index(np.array([lesion.centre_mm]))[0]
        reach = lesion.size_mm / 2 / np.array(grid.spacing_mm) * 1.5 + 1
        low = np.clip(np.floor(middle - reach), 0, grid.shape).astype(int)
        high = np.clip(np.ceil(middle + reach) + 1, 0, grid.shape).astype(int)
        places = np.stack(np.meshgrid(*(np.arange(a, b) for a, b in zip(low, high, strict=True)), indexing="ij"), axis=-1).reshape(-1, 3)
        if not len(places):
            raise Refused(f"{path.name} names a lesion that lies outside the image")
        away = np.linalg.norm(grid.to_world_mm(places.astype(float)) - np.array(lesion.centre_mm), axis=1)
        numbers[tuple(places[(away <= lesion.size_mm / 2) | (away == away.min())].T)] = number
    return numbers, tuple(aside), lesions


def found_in(data: Path, shelved: ShelvedCard) -> tuple[list[Case], dict[str, str]]:
    """Look at every case's folder; give those that are whole, and by name what is wrong with the others. Raises Misconfigured."""
    good, bad = [], {}
    for folder in cases.find(data):
        try:
            good.append(cases.read(folder, shelved.card))
        except Refused as reason:
            bad[folder.name] = reason.reason
    return good, bad
