"""Boxes on a network's grid: decoded from heat maps or rows, thinned out in the patient's millimetres, brought to the source grid."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator
from scipy import ndimage
from torch.nn import functional

from models.grids import transforms
from models.vocabulary import Box, Broken, Finding, Triple, Unfit

SLACK = 1e-3  # a probability in half precision may lie that far outside of 0..1, a sum of them that far from 1
NEVER = (0, math.inf)
MOST = 10_000  # boxes above their threshold; a network that marks more does not see what it was taught on


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A box on a network's grid, (z, y, x): edges in voxels, of which voxel i reaches from i to i + 1."""

    label: int
    score: float
    low: Triple
    high: Triple

    def moved(self, by: Sequence[float]) -> Candidate:
        """Give the same box seen from a corner that lies so many voxels before: a window's on the whole."""
        (z0, y0, x0), (z1, y1, x1), (z, y, x) = self.low, self.high, by
        return replace(self, low=(z0 + z, y0 + y, x0 + x), high=(z1 + z, y1 + y, x1 + x))


class Suppression(BaseModel):
    """Of boxes of one label that mark the same the better one is kept; exactly one of both says what is the same.

    overlap      two boxes whose intersection is more than this of their union
    distance_mm  two boxes whose centres lie no farther apart
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    overlap: float | None = Field(default=None, ge=0, le=1)
    distance_mm: float | None = Field(default=None, gt=0)

    @model_validator(mode="after")
    def _one(self) -> Suppression:
        if (self.overlap is None) == (self.distance_mm is None):
            raise ValueError("exactly one of overlap and distance_mm says which boxes mark the same")
        return self


def suppress(candidates: Sequence[Candidate], spacing_mm: Triple, rule: Suppression) -> tuple[Candidate, ...]:
    """Keep, of the boxes of one label that mark the same, the one with the highest score; the best come first.

    Equal scores go by position, then size, so that the order in which a network gave them decides nothing. Raises Unfit where
    there are more than MOST.
    Example: boxes of 10 x 10 x 10 voxels of 5 x 1 x 1 mm, moved by two slices: centres 10 mm apart, 8 / 12 of the union shared.
    """
    _bearable(len(candidates))
    order = sorted(candidates, key=lambda entry: (-entry.score, entry.low, entry.high, entry.label))
    scale = np.array(spacing_mm)
    lows, highs = (np.array([getattr(entry, side) for entry in order]).reshape(-1, 3) * scale for side in ("low", "high"))
    labels = np.array([entry.label for entry in order])
    alive = np.ones(len(order), dtype=bool)
    for index in range(len(order)):
        if alive[index]:
            later = np.arange(len(order)) > index
            alive &= ~(later & (labels == labels[index]) & _same(lows, highs, index, rule))
    return tuple(entry for entry, kept in zip(order, alive.tolist(), strict=True) if kept)


def _same(lows: NDArray[np.float64], highs: NDArray[np.float64], index: int, rule: Suppression) -> NDArray[np.bool_]:
    """Tell which boxes (mm) mark the same as one of them."""
    if rule.distance_mm is not None:
        centres = (lows + highs) / 2
        near: NDArray[np.bool_] = np.linalg.norm(centres - centres[index], axis=1) <= rule.distance_mm
        return near
    common = np.clip(np.minimum(highs, highs[index]) - np.maximum(lows, lows[index]), 0, None).prod(axis=1)
    sizes = (highs - lows).prod(axis=1)
    shared: NDArray[np.bool_] = common > (rule.overlap or 0) * (sizes + sizes[index] - common)
    return shared


class Centres(BaseModel):
    """Findings as peaks of heat maps (a sigmoid each), with the boxes' sizes in further channels; without those, points.

    channels       one heat map for each finding label, in the card's order; a peak counts from the label's threshold on
    size_channels  the size in mm along the network's own z, y and x, of two for a 2-D network along y and x, read at the peak
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    channels: tuple[int, ...] = Field(min_length=1)
    size_channels: tuple[int, ...] = ()

    @model_validator(mode="after")
    def _sizes(self) -> Centres:
        if len(self.size_channels) not in {0, 2, 3}:
            raise ValueError("size_channels are three (z, y, x), or two (y, x) of a 2-D network, or none for points")
        return self

    def decode(self, scores: torch.Tensor, spacing_mm: Triple, wanted: Sequence[tuple[int, float]]) -> list[Candidate]:
        """Give the boxes around the peaks of (channels, *model shape); the heat has been through its sigmoid, sizes have not.

        wanted  (label, threshold) for each heat map. A size that is not above 0 is that of one voxel. Raises Unfit.
        """
        found = []
        for channel, (label, threshold) in zip(self.channels, wanted, strict=True):
            heat = scores[channel]
            for place in _peaks(heat, threshold):
                z, y, x = place
                sizes = scores[list(self.size_channels), z, y, x].tolist()
                sizes_mm = [*([0.0] * (3 - len(sizes))), *sizes]
                wide = [size / step if size > 0 else 1.0 for size, step in zip(sizes_mm, spacing_mm, strict=True)]
                low, high = ([at + 0.5 + way * each / 2 for at, each in zip(place, wide, strict=True)] for way in (-1, 1))
                score = min(1.0, float(heat[z, y, x]))
                found.append(Candidate(label=label, score=score, low=(low[0], low[1], low[2]), high=(high[0], high[1], high[2])))
        return found


def _peaks(heat: torch.Tensor, threshold: float) -> list[list[int]]:
    """Give the voxels that no neighbour exceeds, one for each flat top: the one nearest to its middle. Raises Unfit beyond MOST.

    A sigmoid that is sure gives 1.0 to many voxels side by side; they are one peak.
    """
    kernel = [1 if count == 1 else 3 for count in heat.shape]
    top = functional.max_pool3d(heat[None, None], kernel, 1, [each // 2 for each in kernel])[0, 0]
    flat = ((heat >= threshold) & (heat == top)).cpu().numpy()
    parts, count = ndimage.label(flat, structure=np.ones((3, 3, 3)))
    _bearable(count)
    places = []
    for number, where in enumerate(ndimage.find_objects(parts), start=1):
        voxels = np.argwhere(parts[where] == number)
        middle = voxels[np.linalg.norm(voxels - voxels.mean(axis=0), axis=1).argmin()]
        places.append([int(at) + side.start for at, side in zip(middle, where, strict=True)])
    return places


def _bearable(count: int) -> None:
    if count > MOST:
        raise Unfit(f"The model marks {count} places, far more than can be looked at. Is this the kind of image it was made for?")


class Rows(BaseModel):
    """Findings as the rows a network gives itself: boxes (n, 6), or (n, 4) of a 2-D one, their scores (n) and classes (n).

    boxes, scores, classes  which of the network's outputs, from 0; without `classes` every box has the card's only finding label.
                   Scores are probabilities
    class_numbers  the network's number of each finding label, in the card's order
    ignore         numbers of classes that are no finding
    form           "corners": low then high edges; "centre-size"
    axes           the order of the numbers within a corner: "zyx" (MONAI's, first array axis first) or "xyz" (torchvision's)
    Edges count voxels of what the network saw, from the outer face of the first: voxel i reaches from i to i + 1.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    boxes: int = Field(default=0, ge=0)
    scores: int = Field(default=1, ge=0)
    classes: int | None = Field(default=None, ge=0)
    class_numbers: tuple[int, ...] = ()
    ignore: tuple[int, ...] = ()
    form: Literal["corners", "centre-size"] = "corners"
    axes: Literal["zyx", "xyz"] = "zyx"

    @model_validator(mode="after")
    def _classes_are_named(self) -> Rows:
        if self.classes is not None and not self.class_numbers:
            raise ValueError("class_numbers must name the network's number of each finding label")
        return self

    def decode(self, outputs: Sequence[torch.Tensor], wanted: Sequence[tuple[int, float]], seen: Sequence[int]) -> list[Candidate]:
        """Give the boxes that reach the threshold of their label; `wanted` holds (label, threshold) in the card's order.

        seen  the voxels (z, y, x) that the network saw. A box clipped to nothing at their edge is left out. Raises ValueError
        for outputs of other shapes; Broken for what would otherwise vanish unseen: numbers that are none, scores that are no
        probabilities, classes the card does not know, boxes without width elsewhere, and boxes whose high edge lies before the
        low one, as those of another form or order do.
        """
        boxes, scores = (outputs[index].detach().float().cpu().numpy() for index in (self.boxes, self.scores))
        boxes, scores = boxes.reshape(-1, boxes.shape[-1]), scores.reshape(-1)
        numbers = np.zeros(len(scores), dtype=int)
        if self.classes is not None:
            numbers = outputs[self.classes].detach().cpu().numpy().astype(int).reshape(-1)
        if boxes.shape[1] not in {4, 6} or not len(boxes) == len(scores) == len(numbers):
            raise ValueError(f"boxes {boxes.shape}, scores {scores.shape} and classes {numbers.shape} do not fit")
        if not (np.isfinite(boxes).all() and np.isfinite(scores).all()):
            raise Broken("The network gave boxes or scores that are no finite numbers.")
        if len(scores) and not (scores.min() >= -SLACK and scores.max() <= 1 + SLACK):
            raise Broken(f"The network gave scores from {scores.min():g} to {scores.max():g}, which are no probabilities.")
        known = dict(zip(self.class_numbers or range(len(wanted)), wanted, strict=True)) | dict.fromkeys(self.ignore, NEVER)
        if strange := sorted(set(numbers.tolist()) - set(known)):
            raise Broken(f"The network gave a box of class {strange[0]}, which the card names neither in class_numbers nor in ignore.")
        found = []
        for row, score, number in zip(boxes.tolist(), scores.tolist(), numbers.tolist(), strict=True):
            label, threshold = known[number]
            low, high = self._edges(row)
            if score >= threshold and _marks(low, high, seen):
                found.append(Candidate(label=label, score=min(1.0, score), low=low, high=high))
        return found

    def _edges(self, row: Sequence[float]) -> tuple[Triple, Triple]:
        """Give a row's corners as (z, y, x). Example: (x, y) centre (20, 10), size (4, 2): low (0, 9, 18), high (1, 11, 22)."""
        half = len(row) // 2
        first, second = list(row[:half]), list(row[half:])
        if self.axes == "xyz":
            first, second = first[::-1], second[::-1]
        if self.form == "centre-size":
            first, second = ([at + way * size / 2 for at, size in zip(first, second, strict=True)] for way in (-1, 1))
        low, high = ([0.0, *first], [1.0, *second]) if half == 2 else (first, second)
        return (low[0], low[1], low[2]), (high[0], high[1], high[2])


def _marks(low: Triple, high: Triple, seen: Sequence[int]) -> bool:
    """Tell a box with a width from one that is clipped to nothing at the edge of what was seen; raises Broken for what is no box."""
    if any(start > stop for start, stop in zip(low, high, strict=True)):
        raise Broken("The network gave a box that ends before it begins: its rows are of another form than the card says.")
    flat = [(at, size) for at, stop, size in zip(low, high, seen, strict=True) if at == stop]
    if any(0 < at < size for at, size in flat):
        raise Broken("The network gave a box without width: its rows are of another form than the card says.")
    return not flat


def to_source(candidate: Candidate, plan: transforms.Resampling) -> Box | None:
    """Give the voxels of the source grid a box covers to the nearest edge, one at least; None where it lies outside.

    Example: 4 source voxels of 1 mm, 2 network voxels of 2 mm: the edges 0.5 and 1.7 are 1.0 and 3.4 there, so voxels 1 to 3.
    """
    low, high = [0, 0, 0], [0, 0, 0]
    for oriented, source in enumerate(plan.turning.axes):
        n, m = plan.oriented.shape[oriented], plan.model.shape[oriented]
        ratio = plan.model.spacing_mm[oriented] / plan.oriented.spacing_mm[oriented]
        ends = [(edge - m / 2) * ratio + n / 2 for edge in (candidate.low[oriented], candidate.high[oriented])]
        first, last = (n - ends[1], n - ends[0]) if plan.turning.flips[oriented] else (ends[0], ends[1])
        if last <= 0 or first >= n:
            return None
        start = min(n - 1, max(0, math.floor(first + 0.5)))
        low[source], high[source] = start, max(start + 1, min(n, math.floor(last + 0.5)))
    return Box(low=(low[0], low[1], low[2]), high=(high[0], high[1], high[2]))


def findings(candidates: Sequence[Candidate], plan: transforms.Resampling) -> tuple[Finding, ...]:
    """Bring boxes to the source grid, numbered by position from 1; those wholly outside are left out."""
    placed = [(box, entry) for entry in candidates if (box := to_source(entry, plan)) is not None]
    placed.sort(key=lambda pair: (*(a + b for a, b in zip(pair[0].low, pair[0].high, strict=True)), pair[1].label, -pair[1].score))
    return tuple(
        Finding(number=number, label=entry.label, score=entry.score, box=box) for number, (box, entry) in enumerate(placed, start=1)
    )
