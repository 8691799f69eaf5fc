"""Finished analyses of radiographs: boxes round opacities whose places in the patient are known."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from models.card import Card, ShelvedCard
from models.vocabulary import Box, Finding, Prediction
from node.settings import ResultsSection
from tests.radiographs import Radiograph
from tests.workers.results.scans import job
from workers.load import Loaded, load
from workers.results import ComposeRequest


def card(**changes: Any) -> ShelvedCard:
    """Give the card of a model that marks opacities by boxes."""
    lung = {"scheme": "SCT", "value": "39607008", "meaning": "Lung"}
    opacity: dict[str, Any] = {
        "index": 1,
        "label": "Opacity",
        "kind": "finding",
        "cielab": (58, 66, 50),
        "threshold": 0.5,
        "category": {"scheme": "SCT", "value": "49755003", "meaning": "Morphologically Abnormal Structure"},
        "type": {"scheme": "SCT", "value": "128477000", "meaning": "Abscess"},
        "region": lung,
    }
    opacity["type"] = {"scheme": "SCT", "value": "125154007", "meaning": "Lesion of lung"}
    raw: dict[str, Any] = {
        "schema_version": 1,
        "model": {
            "name": "opacities",
            "version": "0.3",
            "title": "Chest opacities",
            "licence": "Apache-2.0",
            "intended_use": "Marks opacities for a reader.",
            "limits": ["t"],
        },
        "runtime": {"format": "state-dict", "files": {"weights": {"path": "w", "sha256": "ab" * 32}}},
        "inputs": [{"role": "image", "reference": True, "accept": {"modality": ["CR", "DX", "MG"]}}],
        "output": {"kind": "boxes", "inverse": "runtime", "labels": [opacity]},
        "measurements": [{"label": 1, "what": ["diameters", "probability"]}],
    }
    return ShelvedCard(card=Card.model_validate(raw | changes), folder=Path(), digest="ef" * 32)


def request(folder: Path, shown: Radiograph, **changes: Any) -> ComposeRequest:
    """Give an analysis that boxes every opacity of the truth exactly, in the order of their places on the picture."""
    return boxed(load([shown.write(folder)]), sorted(_box(mask) for mask in shown.masks()), **changes)


def boxed(loaded: Loaded, boxes: Sequence[tuple[tuple[int, int, int], tuple[int, int, int]]], **changes: Any) -> ComposeRequest:
    """Give an analysis of a loaded radiograph that marks these boxes, (low, high) each."""
    findings = tuple(
        Finding(number=number, label=1, score=0.9 - 0.1 * number, box=Box(low=low, high=high))
        for number, (low, high) in enumerate(boxes, start=1)
    )
    grid = loaded.volume.grid
    return ComposeRequest(
        job=job(loaded.sources, model="opacities", version="0.3", inputs={"image": loaded.origin.images}),
        card=card(),
        prediction=Prediction(grid=grid, labels=np.zeros(grid.shape, np.uint8), findings=findings, variant={"device": "cpu"}),
        volume=loaded.volume,
        sources=loaded.sources,
        settings=ResultsSection(),
        **changes,
    )


def _box(mask: np.ndarray) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    rows, columns = np.nonzero(mask)
    return (0, int(rows.min()), int(columns.min())), (1, int(rows.max()) + 1, int(columns.max()) + 1)
