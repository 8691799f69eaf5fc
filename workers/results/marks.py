"""What a prediction marks, straight from its arrays: the truth that a written object is compared with.

No writer uses it, so that a check and what it checks cannot err alike.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.card import LabelPart
from models.vocabulary import Finding, Prediction
from node.errors import Refused
from workers.results.identity import tracking_uid
from workers.results.request import ComposeRequest

Mask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """One organ, or one finding with voxels or a box alone.

    name   what a reader sees, and the tracking identifier: "Left lung", "Nodule 2"
    areas  pixels by slice, where there are any
    """

    name: str
    areas: Mapping[int, int]
    part: LabelPart
    prediction: Prediction
    finding: Finding | None = None

    @property
    def boxed(self) -> bool:
        """Tell whether a box is all that marks it."""
        return self.finding is not None and self.prediction.instances is None

    def plane(self, index: int) -> Mask:
        """Give its pixels on a slice; of a box, those inside."""
        prediction, finding = self.prediction, self.finding
        if finding is not None and prediction.instances is not None:
            return np.asarray(prediction.instances[index] == finding.number)
        if finding is not None:
            (first, top, left), (last, bottom, right) = finding.box.low, finding.box.high
            inside = np.zeros(prediction.grid.shape[1:], bool)
            inside[top:bottom, left:right] = first <= index < last
            return inside
        if self.part.index in prediction.masks:
            return np.asarray(prediction.masks[self.part.index][index])
        return np.asarray(prediction.labels[index] == self.part.index)

    @property
    def voxels(self) -> int:
        """Count them."""
        return sum(self.areas.values())


def marks(request: ComposeRequest) -> dict[str, Mark]:
    """Give every mark by its tracking UID: organs in the card's order, then findings by number."""
    prediction, card = request.prediction, request.card.card
    organs, lesions = _areas(prediction.labels), _areas(prediction.instances)
    organs |= {
        index: {place: int(count) for place, count in enumerate(np.count_nonzero(mask, axis=(1, 2))) if count}
        for index, mask in prediction.masks.items()
    }
    found: dict[str, Mark] = {}
    for part in card.output.labels:
        if part.kind == "organ" and organs.get(part.index):
            mark = Mark(name=part.label, areas=organs[part.index], part=part, prediction=prediction)
            found[tracking_uid(request, part.index, 0)] = mark
    counted: Counter[int] = Counter()
    for finding in sorted(prediction.findings, key=lambda entry: entry.number):
        part = card.label(finding.label)
        counted[part.index] += 1
        areas = _of_box(finding) if prediction.instances is None else lesions.get(finding.number, {})
        mark = Mark(name=f"{part.label} {counted[part.index]}", areas=areas, part=part, prediction=prediction, finding=finding)
        found[tracking_uid(request, part.index, finding.number)] = mark
    return found


def _areas(array: NDArray[np.uint8] | NDArray[np.uint16] | None) -> dict[int, dict[int, int]]:
    """Count the pixels of each value besides 0 on each slice, run by run: there are few runs of equal pixels."""
    found: dict[int, dict[int, int]] = {}
    for index, plane in enumerate(() if array is None else array):
        flat = plane.ravel()
        ends = np.append(np.flatnonzero(flat[:-1] != flat[1:]), flat.size - 1)
        counts = np.bincount(flat[ends], weights=np.diff(ends, prepend=-1))
        for value in np.flatnonzero(counts).tolist():
            if value:
                found.setdefault(value, {})[index] = int(counts[value])
    return found


def _of_box(finding: Finding) -> dict[int, int]:
    (first, top, left), (last, bottom, right) = finding.box.low, finding.box.high
    return dict.fromkeys(range(first, last), (bottom - top) * (right - left))


def check_explained(request: ComposeRequest) -> None:
    """Raise Refused where voxels are marked that no organ or finding stands for: they would vanish unseen, whatever is written."""
    prediction = request.prediction
    known = [mark for mark in marks(request).values() if not mark.boxed]
    exclusive = sum(mark.voxels for mark in known if mark.finding is not None or mark.part.index not in prediction.masks)
    marked = np.count_nonzero(prediction.labels) + (0 if prediction.instances is None else np.count_nonzero(prediction.instances))
    if exclusive != marked:
        raise Refused("the prediction marks something that no organ or finding stands for")
