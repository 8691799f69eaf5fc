"""What a prediction marks, straight from its arrays: the truth that a written object is compared with.

No writer uses it, so that a check and what it checks cannot err alike.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from models.card import LabelPart
from models.vocabulary import Finding, Prediction
from node.errors import Refused
from workers.results.identity import tracking_uid
from workers.results.request import ComposeRequest

Mask = NDArray[np.bool_]
ALL = slice(None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """One organ, or one finding with voxels or a box alone.

    name   what a reader sees, and the tracking identifier: "Left lung", "Nodule 2"
    areas  pixels by slice, where there are any
    bands  half-open ranges of the rows that have them, by slice
    hu     mean and standard deviation of the volume's values under it, where the card asks for them
    """

    name: str
    areas: Mapping[int, int]
    bands: Mapping[int, tuple[int, int]]
    part: LabelPart
    prediction: Prediction
    finding: Finding | None = None
    hu: tuple[float, float] | None = None

    @property
    def boxed(self) -> bool:
        """Tell whether a box is all that marks it."""
        return self.finding is not None and self.prediction.instances is None

    def band(self, index: int) -> slice:
        """Give the rows of a slice on which it has pixels; none where it has none."""
        return slice(*self.bands.get(index, (0, 0)))

    def plane(self, index: int, rows: slice = ALL) -> Mask:
        """Give its pixels on a slice, or on some of its rows; of a box, those inside."""
        prediction, finding = self.prediction, self.finding
        if finding is not None and prediction.instances is not None:
            return np.asarray(prediction.instances[index, rows] == finding.number)
        if finding is not None:
            (first, top, left), (last, bottom, right) = finding.box.low, finding.box.high
            inside = np.zeros(prediction.grid.shape[1:], bool)
            inside[top:bottom, left:right] = first <= index < last
            return inside[rows]
        if self.part.index in prediction.masks:
            return np.asarray(prediction.masks[self.part.index][index, rows])
        return np.asarray(prediction.labels[index, rows] == self.part.index)

    @property
    def voxels(self) -> int:
        """Count them."""
        return sum(self.areas.values())


@dataclass(frozen=True, slots=True)
class _Extent:
    """On each slice that has any: the number of pixels, and the half-open range of rows they lie on."""

    areas: dict[int, int] = field(default_factory=dict)
    bands: dict[int, tuple[int, int]] = field(default_factory=dict)


NOWHERE = _Extent()


def marks(request: ComposeRequest) -> dict[str, Mark]:
    """Give every mark by its tracking UID: organs in the card's order, then findings by number."""
    prediction, card = request.prediction, request.card.card
    organs, lesions = _extents(prediction.labels), _extents(prediction.instances)
    organs |= {index: _extents(mask.view(np.uint8)).get(1, NOWHERE) for index, mask in prediction.masks.items()}
    found: dict[str, Mark] = {}
    for part in card.output.labels:
        own = organs.get(part.index, NOWHERE)
        if part.kind == "organ" and own.areas:
            mark = Mark(name=part.label, areas=own.areas, bands=own.bands, part=part, prediction=prediction)
            found[tracking_uid(request, part.index, 0)] = mark
    counted: Counter[int] = Counter()
    for finding in sorted(prediction.findings, key=lambda entry: entry.number):
        part = card.label(finding.label)
        counted[part.index] += 1
        own = _of_box(finding) if prediction.instances is None else lesions.get(finding.number, NOWHERE)
        name = f"{part.label} {counted[part.index]}"
        mark = Mark(name=name, areas=own.areas, bands=own.bands, part=part, prediction=prediction, finding=finding)
        found[tracking_uid(request, part.index, finding.number)] = mark
    return found


def _extents(array: NDArray[np.uint8] | NDArray[np.uint16] | None) -> dict[int, _Extent]:
    """Count the pixels of each value besides 0 on each slice, run by run: there are few runs of equal pixels."""
    found: dict[int, _Extent] = {}
    for index, plane in enumerate(() if array is None else array):
        flat, width = plane.ravel(), plane.shape[1]
        ends = np.append(np.flatnonzero(flat[:-1] != flat[1:]), flat.size - 1)
        values, lengths = flat[ends], np.diff(ends, prepend=-1)
        counts = np.bincount(values, weights=lengths)
        kinds, firsts = np.unique(values, return_index=True)
        lasts = len(values) - 1 - np.unique(values[::-1], return_index=True)[1]
        tops, bottoms = (ends - lengths + 1)[firsts] // width, ends[lasts] // width + 1
        for value, top, bottom in zip(kinds.tolist(), tops.tolist(), bottoms.tolist(), strict=True):
            if value:
                extent = found.setdefault(value, _Extent())
                extent.areas[index], extent.bands[index] = int(counts[value]), (top, bottom)
    return found


def _of_box(finding: Finding) -> _Extent:
    (first, top, left), (last, bottom, right) = finding.box.low, finding.box.high
    slices, size = range(first, last), (bottom - top) * (right - left)
    return _Extent(dict.fromkeys(slices, size), dict.fromkeys(slices, (top, bottom)))


def measured(request: ComposeRequest, found: Mapping[str, Mark]) -> dict[str, Mark]:
    """Measure the attenuation of each mark of which the card asks for it."""
    asked = {entry.label for entry in request.card.card.measurements if "hu" in entry.what and request.volume.unit == "HU"}
    return {
        uid: replace(mark, hu=attenuation_hu(request, mark)) if mark.part.index in asked and not mark.boxed else mark
        for uid, mark in found.items()
    }


def attenuation_hu(request: ComposeRequest, mark: Mark) -> tuple[float, float]:
    """Give mean and standard deviation of the volume's values under a mark; NaN where it marks nothing."""
    if not mark.areas:
        return np.nan, np.nan
    total, squares = 0.0, 0.0
    for index in mark.areas:
        rows = mark.band(index)
        values = request.volume.array[index, rows][mark.plane(index, rows)].astype(np.float64)
        total, squares = total + float(values.sum()), squares + float(values @ values)
    mean = total / mark.voxels
    return mean, float(np.sqrt(max(squares / mark.voxels - mean**2, 0)))


def check_explained(request: ComposeRequest, found: Mapping[str, Mark]) -> None:
    """Raise Refused where voxels are marked that no organ or finding stands for: they would vanish unseen, whatever is written."""
    prediction = request.prediction
    known = [mark for mark in found.values() if not mark.boxed]
    exclusive = sum(mark.voxels for mark in known if mark.finding is not None or mark.part.index not in prediction.masks)
    marked = np.count_nonzero(prediction.labels) + (0 if prediction.instances is None else np.count_nonzero(prediction.instances))
    if exclusive != marked:
        raise Refused("the prediction marks something that no organ or finding stands for")
