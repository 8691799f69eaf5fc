"""One request for each form of the report, composed once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from io import BytesIO
from typing import Any

import pydicom
from pydicom.dataset import Dataset

from models.card import Card
from models.vocabulary import Box, Finding, Score
from node.profiles import BUILT_IN, Profile
from tests.workers.results import scans
from workers.results import ComposedObject, ComposeRequest, compose

SR_ALONE = Profile(name="sr-alone", objects=("sr",))
THRESHOLD = 0.5
LABELS = (("Pneumothorax", "36118008", THRESHOLD), ("Effusion", "60046008", THRESHOLD), ("Fracture", "125605004", None))


def recarded(request: ComposeRequest, change: Callable[[dict[str, Any]], Any]) -> ComposeRequest:
    """Change the card."""
    raw = request.card.card.model_dump()
    change(raw)
    return replace(request, card=replace(request.card, card=Card.model_validate(raw)))


def scored(*scores: float, profile: Profile = BUILT_IN["ohif"]) -> ComposeRequest:
    """Give the analysis of a classifier of two labels with a threshold and one without."""
    request = scans.request(nodules=0, organs=False)

    def change(raw: dict[str, Any]) -> None:
        nodule = raw["output"]["labels"][-1] | {"region": None}
        raw["measurements"] = []
        raw["output"] = {"kind": "scores", "inverse": "runtime", "labels": [
            nodule | {"index": i, "label": name, "threshold": at, "type": {"scheme": "SCT", "value": code, "meaning": name}}
            for i, (name, code, at) in enumerate(LABELS, start=1)
        ]}  # fmt: skip

    said = tuple(Score(label=index, score=score) for index, score in enumerate(scores, start=1))
    prediction = replace(request.prediction, instances=None, findings=(), scores=said)
    return replace(recarded(request, change), prediction=prediction, profile=profile)


def boxed() -> ComposeRequest:
    """Give the analysis of a detector that marks boxes alone: rows 5..7, columns 4..9 of slices 2 and 3."""
    request = scans.request(nodules=0, organs=False)
    finding = Finding(number=1, label=3, score=0.875, box=Box(low=(2, 5, 4), high=(4, 8, 10)))
    request = recarded(request, lambda raw: raw["output"].update(kind="boxes"))
    return replace(request, prediction=replace(request.prediction, instances=None, findings=(finding,)))


def marked_and_scored() -> ComposeRequest:
    """Give the analysis of a model that marks nodules and says how likely there is one at all."""
    request = scans.request()
    return replace(request, prediction=replace(request.prediction, scores=(Score(label=3, score=0.9),)), profile=scans.PLAIN)


FORMS: dict[str, Callable[[], ComposeRequest]] = {
    "editable": lambda: replace(scans.request(), profile=BUILT_IN["editable"]),
    "editable oblique": lambda: replace(scans.request(scans.Scan(plane="oblique")), profile=BUILT_IN["editable"]),
    "editable organs": lambda: replace(scans.request(finds=False), profile=BUILT_IN["editable"]),
    "text": lambda: replace(scans.request(), profile=BUILT_IN["basic"]),
    "text organs": lambda: replace(scans.request(finds=False), profile=BUILT_IN["basic"]),
    "alone": lambda: replace(scans.request(), profile=SR_ALONE),
    "basic class": lambda: replace(scans.request(), profile=Profile(name="c", sr_class="comprehensive")),
    "boxes": boxed,
    "marks and scores": marked_and_scored,
    "scores": lambda: scored(0.874, 0.496, 0.2),
    "low scores": lambda: scored(0.1, 0.2, 0.9, profile=BUILT_IN["basic"]),
}


@cache
def composed(form: str) -> tuple[ComposeRequest, tuple[ComposedObject, ...]]:
    """Compose a form once."""
    request = FORMS[form]()
    return request, tuple(compose(request).objects)


def report_of(form: str) -> Dataset:
    """Read a form's report back."""
    return pydicom.dcmread(BytesIO(composed(form)[1][-1].dataset_bytes))
