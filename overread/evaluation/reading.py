"""One case through the model and against its truth. Predictions are kept under the card's digest, so that a broken run goes on."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from models.card import BadCard, Card, ShelvedCard
from models.evaluation import froc, overlap
from models.evaluation.froc import Mark, Reading
from models.evaluation.overlap import Overlap
from models.vocabulary import Prediction, Triple, Unfit, Volume
from node.settings import Settings
from overread import nifti
from overread.evaluation import truth
from overread.evaluation.cases import Case
from workers import gpu, pipeline, workspace
from workers.workspace import LostWork, Shelf


@dataclass(frozen=True, slots=True, kw_only=True)
class Study:
    """What all cases share: the model as it runs, where predictions are kept, and which truth value is which label.

    marking  the model with findings down to their extent, so that the curve goes beyond its own threshold; None where the card
             names no extent below it, and the model's own marks are all there is
    """

    shelved: ShelvedCard
    marking: ShelvedCard | None
    kept: Path
    values: Mapping[int, int]
    settings: Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What came of one case: overlaps by label index, marks against lesions, or the model's reason to decline it."""

    case: str
    overlaps: Mapping[int, Overlap] = field(default_factory=dict)
    reading: Reading | None = None
    declined: str = ""
    seconds: float = 0.0


def study(shelved: ShelvedCard, settings: Settings, kept: Path, values: Mapping[int, int]) -> Study:
    """Load the model, and prepare what all cases share; raises BadCard."""
    device = gpu.devices(settings.workers.devices)[0]
    gpu.warm(shelved, device)
    marking = _open(shelved)
    if marking is not None:
        try:
            gpu.warm(marking, device)
        except BadCard:  # its runtime ties the threshold to something else; its own marks are what there is
            marking = None
    return Study(shelved=shelved, marking=marking, kept=kept, values=values, settings=settings)


def outcome(case: Case, shared: Study) -> Outcome:
    """Run one case and compare; raises Refused where its files do not go together."""
    begun = perf_counter()
    volumes = read(case, shared.shelved)
    grid = volumes[shared.shelved.card.reference_role].grid
    card = shared.shelved.card
    wanted = truth.labels(case.labels, grid, card, shared.values) if case.labels else None
    lesions = truth.lesions(case.findings, grid) if case.findings else None
    overlaps: Mapping[int, Overlap] = {}
    reading = None
    try:
        if wanted is not None:
            overlaps = compared(predicted(case, volumes, shared.shelved, shared), wanted, card)
        if lesions is not None:
            reading = froc.read(lesions, marks(predicted(case, volumes, shared.marking or shared.shelved, shared)))
    except Unfit as verdict:
        return Outcome(case=case.name, declined=verdict.reason)
    return Outcome(case=case.name, overlaps=overlaps, reading=reading, seconds=perf_counter() - begun)


def read(case: Case, shelved: ShelvedCard) -> dict[str, Volume]:
    """Read a case's images, NIfTI or DICOM; raises Refused."""
    if "" in case.images:
        return pipeline.read_folder(shelved, case.images[""])
    modalities = {entry.role: entry.accept.modality[0] for entry in shelved.card.inputs}
    return {role: nifti.volume(path, modalities[role]) for role, path in case.images.items()}


def predicted(case: Case, volumes: Mapping[str, Volume], shelved: ShelvedCard, shared: Study) -> Prediction:
    """Give the kept prediction of these images by this card, else make and keep it; raises Unfit."""
    key = hashlib.sha256(f"{shelved.digest} {case.fingerprint}".encode()).hexdigest()
    place = Shelf(root=shared.kept, job_id=key[:32], generation=1, fence=1)
    try:
        return workspace.load_prediction(place)
    except LostWork:
        device = gpu.devices(shared.settings.workers.devices)[0]
        prediction = pipeline.predict(shelved, volumes, device, pipeline.policy_of(shared.settings))
        workspace.save_prediction(place, prediction)
        return prediction


def compared(prediction: Prediction, wanted: NDArray[np.uint8], card: Card) -> dict[int, Overlap]:
    """Measure every label of the card that has voxels; what is nowhere has neither Dice nor distance."""
    found = {}
    for label in card.output.labels:
        if label.index in prediction.masks:
            said = prediction.masks[label.index]
        elif label.kind == "organ":
            said = prediction.labels == label.index
        elif prediction.instances is not None:
            numbers = [finding.number for finding in prediction.findings if finding.label == label.index]
            said = np.isin(prediction.instances, numbers)
        else:
            continue
        found[label.index] = overlap.compare(said, wanted == label.index, prediction.grid)
    return found


def marks(prediction: Prediction) -> list[Mark]:
    """Give the findings as places: the middle of their voxels, or of their boxes."""
    found = []
    for finding in prediction.findings:
        box = tuple(slice(low, high) for low, high in zip(finding.box.low, finding.box.high, strict=True))
        if prediction.instances is None:
            middle = np.add(finding.box.low, np.subtract(finding.box.high, 1)) / 2
        else:
            middle = np.argwhere(prediction.instances[box] == finding.number).mean(axis=0) + np.array(finding.box.low)
        place = prediction.grid.to_world_mm(middle[None])[0]
        found.append(Mark(centre_mm=_triple(place), score=finding.score))
    return found


def _open(shelved: ShelvedCard) -> ShelvedCard | None:
    """Give the card with its findings' thresholds lowered to their extents; None where that changes nothing."""
    raw = shelved.card.model_dump(mode="json")
    told = raw["runtime"]["options"].get("findings")
    lowered = set()
    for entry in told if isinstance(told, list) else [told]:
        if isinstance(entry, dict) and entry.get("extent") and entry["extent"] < entry.get("threshold", 0):
            entry["threshold"] = entry["extent"]
            lowered.add(entry.get("label"))
    if not lowered:
        return None
    for label in raw["output"]["labels"]:
        label["threshold"] = None if label["index"] in lowered else label["threshold"]
    return replace(shelved, card=Card.model_validate(raw), digest=digest_of(shelved.digest))


def digest_of(digest: str) -> str:
    """Give the digest of a model whose thresholds are lowered: its predictions are others than the model's own."""
    return hashlib.sha256(f"{digest} open".encode()).hexdigest()


def _triple(values: NDArray[np.float64]) -> Triple:
    return float(values[0]), float(values[1]), float(values[2])
