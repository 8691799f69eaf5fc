"""Results made from truth instead of a network: what compose must show rightly, whatever a model says."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from models.card import STARTERS, ShelvedCard
from models.card import read as read_card
from models.vocabulary import Box, Finding, Prediction
from node.settings import ResultsSection
from node.study import Job, JobState, Mode, Stage
from overread.sample import Truth
from tests import phantoms
from workers.load import Loaded, load
from workers.results import Composed, ComposeRequest, compose

CREATED_AT = 1767348000.0


@dataclass(frozen=True, slots=True, kw_only=True)
class TrueResult:
    """The objects of a perfect model, and the truth as ITK's grid has it."""

    composed: Composed
    request: ComposeRequest
    expected: phantoms.OnGrid
    centres_mm: NDArray[np.float64]
    loaded: Loaded

    @property
    def kinds(self) -> set[str]:
        """Give the kinds of objects there are."""
        return {item.kind for item in self.composed.objects}

    def write(self, folder: Path) -> dict[str, Path]:
        """Write the objects as files, by kind; the second of a kind is "sc-2"."""
        folder.mkdir(parents=True, exist_ok=True)
        paths: dict[str, Path] = {}
        for item in self.composed.objects:
            count = sum(name.partition("-")[0] == item.kind for name in paths)
            name = f"{item.kind}-{count + 1}" if count else item.kind
            paths[name] = folder / f"{name}.dcm"
            paths[name].write_bytes(item.dataset_bytes)
        return paths


def chest_card() -> ShelvedCard:
    """Read the chest starter's card."""
    return read_card(STARTERS / "chest_ct" / "card.toml")


def job_for(truth: Truth, sop_uids: tuple[str, ...], card: ShelvedCard) -> Job:
    """Make the row of a job that has come as far as compose."""
    return Job(
        job_id=hashlib.sha256(truth.study_instance_uid.encode()).hexdigest(), generation=1,
        study_instance_uid=truth.study_instance_uid, revision=1, model=card.card.model.name,
        version=card.card.model.version, card_digest=card.digest, inputs={card.card.reference_role: tuple(sorted(sop_uids))},
        mode=Mode.LIVE, priority=5, destinations=("archive",), state=JobState.RUNNING, stage=Stage.COMPOSE, attempt=1, fence=1,
        created_at=CREATED_AT,
    )  # fmt: skip


def perfect(truth: Truth, change: Callable[[ComposeRequest], ComposeRequest] = lambda request: request) -> TrueResult:
    """Compose what a model that sees the truth would say, after a change. The truth's grid is ITK's, never the loader's."""
    card = chest_card()
    centres_mm = phantoms.voxel_centres_mm(phantoms.read_with_itk(truth.files))
    expected = phantoms.on_grid(truth, centres_mm)
    loaded = load(truth.files)
    assert loaded.volume.grid.shape == expected.labels.shape
    instances, findings = _numbered(expected.instances)
    prediction = Prediction(
        grid=loaded.volume.grid, labels=expected.labels, instances=instances, findings=findings, variant={"device": "truth"}
    )
    sop_uids = tuple(str(source.SOPInstanceUID) for source in loaded.sources)
    request = change(
        ComposeRequest(
            job=job_for(truth, sop_uids, card),
            card=card,
            prediction=prediction,
            volume=loaded.volume,
            sources=loaded.sources,
            settings=ResultsSection(),
        )
    )
    return TrueResult(composed=compose(request), request=request, expected=expected, centres_mm=centres_mm, loaded=loaded)


def _numbered(instances: NDArray[np.uint16]) -> tuple[NDArray[np.uint16], tuple[Finding, ...]]:
    """Give the nodules the numbers a Prediction has: by position (z, y, x)."""
    places = {value: np.argwhere(instances == value) for value in np.unique(instances) if value}
    numbered, findings = np.zeros_like(instances), []
    for number, value in enumerate(sorted(places, key=lambda value: tuple(places[value].mean(axis=0))), start=1):
        voxels = places[value]
        numbered[instances == value] = number
        low, high = voxels.min(axis=0), voxels.max(axis=0) + 1
        box = Box(low=(int(low[0]), int(low[1]), int(low[2])), high=(int(high[0]), int(high[1]), int(high[2])))
        findings.append(Finding(number=number, label=3, score=0.9, box=box))
    return numbered, tuple(findings)
