"""Which segments a result has: organs that are not empty in the card's order, then findings in number order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from models.card import LabelPart
from models.vocabulary import Finding
from node.errors import Refused
from workers.results.identity import tracking_uid
from workers.results.request import ComposeRequest
from workers.runs import Cover, Covers, covers

Mask = NDArray[np.bool_]
ALL = slice(None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """One segment of the SEG and its pair of groups in the SR.

    number   Segment Number, from 1 in each SEG
    seg      which of the written SEGs holds it, from 0
    name     what a reader sees, and the tracking identifier: "Left lung", "Nodule 2"
    finding  None for an organ
    boxed    a box alone marks the finding: no SEG can hold it, and its numbers stand beside its outline
    covered  where it has voxels, by slice index
    overlapping  it has a mask of its own, which may overlap every other
    """

    number: int
    part: LabelPart
    name: str
    tracking_uid: str
    finding: Finding | None = None
    boxed: bool = False
    seg: int = 0
    covered: Mapping[int, Cover] = field(default_factory=dict)
    overlapping: bool = False

    @property
    def slices(self) -> tuple[int, ...]:
        """Give the slices on which it has voxels."""
        return tuple(self.covered)

    @property
    def voxels(self) -> int:
        """Count them."""
        return sum(cover.pixels for cover in self.covered.values())

    @property
    def key(self) -> tuple[Literal["organ", "finding"], int]:
        """Give the key under which it was measured."""
        return ("organ", self.part.index) if self.finding is None else ("finding", self.finding.number)


def plan(request: ComposeRequest, labelled: Covers | None = None) -> tuple[Segment, ...]:
    """Give the segments of a prediction, all as if in one SEG; empty where nothing was marked.

    labelled  what the prediction's labels cover, where it is known already
    Raises Refused for a prediction that its card does not explain.
    """
    card, prediction = request.card.card, request.prediction
    present, lesions = covers(prediction.labels) if labelled is None else labelled, covers(prediction.instances)
    _explained(request, present, lesions)
    organs = {**present} | {index: covers(voxels.view(np.uint8)).get(1, {}) for index, voxels in prediction.masks.items()}
    rows: list[tuple[LabelPart, Finding | None, str, Mapping[int, Cover]]] = [
        (part, None, part.label, organs[part.index]) for part in card.output.labels if part.kind == "organ" and organs.get(part.index)
    ]
    counted: Counter[int] = Counter()
    for finding in sorted(prediction.findings, key=lambda found: found.number):
        part = card.label(finding.label)
        counted[part.index] += 1
        rows.append((part, finding, f"{part.label} {counted[part.index]}", lesions.get(finding.number, {})))
    return tuple(
        Segment(
            number=number,
            part=part,
            name=name,
            finding=finding,
            boxed=finding is not None and prediction.instances is None,
            tracking_uid=tracking_uid(request, part.index, 0 if finding is None else finding.number),
            covered=covered,
            overlapping=finding is None and part.index in prediction.masks,
        )
        for number, (part, finding, name, covered) in enumerate(rows, start=1)
    )


def _explained(request: ComposeRequest, present: Mapping[int, Any], marked: Mapping[int, Any]) -> None:
    """Refuse voxels that no label or finding stands for; they would vanish from the result unseen."""
    prediction = request.prediction
    organs = {part.index for part in request.card.card.output.labels if part.kind == "organ"}
    if strange := (present.keys() | prediction.masks.keys()) - organs:
        raise Refused(f"the prediction holds label {min(strange)}, which the model's card does not name as an organ")
    if twice := present.keys() & prediction.masks.keys():
        raise Refused(f"the prediction holds label {min(twice)} twice, as a label and as a mask")
    if any(voxels.shape != prediction.labels.shape for voxels in prediction.masks.values()):
        raise Refused("a mask of the prediction is not on its grid")
    numbers = [finding.number for finding in prediction.findings]
    if len(set(numbers)) != len(numbers):
        raise Refused("two findings of the prediction share a number")
    if prediction.instances is None:
        _boxes_fit(request)
    elif difference := marked.keys() ^ set(numbers):
        raise Refused(f"finding {min(difference)} of the prediction has no voxels or no description")
    elif any(np.any((plane > 0) & (lesions > 0)) for plane, lesions in zip(prediction.labels, prediction.instances, strict=True)):
        raise Refused("an organ and a finding of the prediction overlap")
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


def mask(request: ComposeRequest, segment: Segment) -> Mask:
    """Give the voxels of one segment on the prediction's grid."""
    array, value = _array(request, segment)
    return np.asarray(array == value)


def mask_on(request: ComposeRequest, segment: Segment, index: int, rows: slice = ALL) -> Mask:
    """Give the pixels of one segment on one slice, or on some of its rows."""
    array, value = _array(request, segment)
    return np.asarray(array[index, rows] == value)


def _array(request: ComposeRequest, segment: Segment) -> tuple[NDArray[Any], int]:
    """Give the array that holds a segment, and its value there."""
    prediction = request.prediction
    if segment.overlapping:
        return prediction.masks[segment.part.index], 1
    if segment.finding is None:
        return prediction.labels, segment.part.index
    assert prediction.instances is not None
    return prediction.instances, segment.finding.number
