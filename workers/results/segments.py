"""Which segments a result has: organs that are not empty in the card's order, then findings in number order."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from models.card import LabelPart
from models.vocabulary import Finding
from node.errors import Refused
from workers.results.identity import tracking_uid
from workers.results.request import ComposeRequest

Mask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """One segment of the SEG and its pair of groups in the SR.

    number   Segment Number, from 1 in each SEG
    seg      which of the written SEGs holds it, from 0
    name     what a reader sees, and the tracking identifier: "Left lung", "Nodule 2"
    finding  None for an organ
    boxed    a box alone marks the finding: no SEG can hold it, and its numbers stand beside its outline
    """

    number: int
    part: LabelPart
    name: str
    tracking_uid: str
    finding: Finding | None = None
    boxed: bool = False
    seg: int = 0

    @property
    def key(self) -> tuple[Literal["organ", "finding"], int]:
        """Give the key under which it was measured."""
        return ("organ", self.part.index) if self.finding is None else ("finding", self.finding.number)


def plan(request: ComposeRequest) -> tuple[Segment, ...]:
    """Give the segments of a prediction; empty where nothing was marked.

    Raises Refused for a prediction that its card does not explain.
    """
    _explained(request)
    card, prediction = request.card.card, request.prediction
    present = _values(prediction.labels)
    rows: list[tuple[LabelPart, Finding | None, str, int]] = [
        (part, None, part.label, 0) for part in card.output.labels if part.kind == "organ" and part.index in present
    ]
    counted: Counter[int] = Counter()
    for finding in sorted(prediction.findings, key=lambda found: found.number):
        part = card.label(finding.label)
        counted[part.index] += 1
        rows.append((part, finding, f"{part.label} {counted[part.index]}", finding.number))
    return tuple(
        Segment(
            number=number,
            part=part,
            name=name,
            finding=finding,
            boxed=finding is not None and prediction.instances is None,
            tracking_uid=tracking_uid(request, part.index, ordinal),
        )
        for number, (part, finding, name, ordinal) in enumerate(rows, start=1)
    )


def _explained(request: ComposeRequest) -> None:
    """Refuse voxels that no label or finding stands for; they would vanish from the result unseen."""
    prediction = request.prediction
    organs = {part.index for part in request.card.card.output.labels if part.kind == "organ"}
    if strange := _values(prediction.labels) - organs:
        raise Refused(f"the prediction holds label {min(strange)}, which the model's card does not name as an organ")
    marked = set() if prediction.instances is None else _values(prediction.instances)
    numbers = [finding.number for finding in prediction.findings]
    if len(set(numbers)) != len(numbers):
        raise Refused("two findings of the prediction share a number")
    if prediction.instances is None:
        _boxes_fit(request)
    elif difference := marked ^ set(numbers):
        raise Refused(f"finding {min(difference)} of the prediction has no voxels or no description")
    kinds = {part.index: part.kind for part in request.card.card.output.labels}
    if any(kinds.get(finding.label) != "finding" for finding in prediction.findings):
        raise Refused("a finding of the prediction has a label that the model's card does not name as a finding")


def _boxes_fit(request: ComposeRequest) -> None:
    """Refuse findings without voxels where the card promises voxels, and boxes that leave the images."""
    prediction = request.prediction
    if prediction.findings and request.card.card.output.kind != "boxes":
        raise Refused("the prediction marks findings without a voxel, which its model's card does not announce")
    for finding in prediction.findings:
        sides = zip(finding.box.low, finding.box.high, prediction.grid.shape, strict=True)
        if any(not 0 <= low < high <= size for low, high, size in sides):
            raise Refused(f"the box of finding {finding.number} of the prediction is empty or leaves the images")


def _values(array: NDArray[np.uint8] | NDArray[np.uint16]) -> set[int]:
    """Give the values besides 0, slice by slice: indexing with a whole CT would take eight bytes a voxel."""
    found = np.zeros(np.iinfo(array.dtype).max + 1, dtype=bool)
    for plane in array:
        found[plane] = True
    return set(np.flatnonzero(found).tolist()) - {0}


def mask(request: ComposeRequest, segment: Segment) -> Mask:
    """Give the voxels of one segment on the prediction's grid."""
    prediction = request.prediction
    if segment.finding is None:
        return np.asarray(prediction.labels == segment.part.index)
    assert prediction.instances is not None
    return np.asarray(prediction.instances == segment.finding.number)


def numbered(request: ComposeRequest, segments: tuple[Segment, ...]) -> NDArray[np.unsignedinteger[Any]]:
    """Give one array of segment numbers; segments do not overlap, since a finding's voxels carry no organ label."""
    prediction = request.prediction
    dtype = np.uint8 if len(segments) < 256 else np.uint16
    organs, findings = np.zeros(256, dtype), np.zeros(65536, dtype)
    for segment in segments:
        if segment.finding is None:
            organs[segment.part.index] = segment.number
        else:
            findings[segment.finding.number] = segment.number
    out = np.empty(prediction.labels.shape, dtype)
    for index, plane in enumerate(prediction.labels):
        out[index] = organs[plane]
        if prediction.instances is not None:
            lesions = findings[prediction.instances[index]]
            if np.any((out[index] > 0) & (lesions > 0)):
                raise Refused("an organ and a finding of the prediction overlap")
            out[index] += lesions
    return out
