"""Scores on the model's grid to labels on the image's, as nnU-Net decides them, without an array of classes x image.

nnU-Net interpolates every class's scores in float64, rounds them to half precision and takes the first greatest. Where the
corners of a cell agree, with more between first and second than rounding can level, so does all of the cell; the rest is
interpolated, with scipy's own order of operations. Other ways than linear ones go class by class.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from models.nnunet import resampling
from models.nnunet.plans import Heads
from models.nnunet.scores import Slab

Labels = NDArray[np.uint8]
CHUNK = 1 << 13  # voxels interpolated at once


@dataclass(frozen=True, slots=True, kw_only=True)
class _Line:
    """Where each sample of an axis lies: between `low` and `high`, with their weights; both the same where nothing is interpolated."""

    low: torch.Tensor
    high: torch.Tensor
    weights: tuple[torch.Tensor, torch.Tensor] | None


def label(slabs: Iterable[Slab], shape: Sequence[int], way: resampling.Way, heads: Heads) -> Labels:
    """Give the labels of an image's crop (way.shape) from the scores of a model's grid of that shape, slab by slab.

    Equal to nnU-Net's own labels voxel for voxel, whatever the slabs are.
    """
    stays = tuple(shape) == way.shape or way.resampler.none
    if not stays and (way.resampler.order != 1 or (way.axis is not None and way.resampler.order_z != 0)):
        return _class_by_class(torch.cat([slab.scores.cpu() for slab in slabs], dim=1), way, heads)
    back: _Back | None = None
    for slab in slabs:
        if back is None:
            axes = zip(shape, way.shape if not way.resampler.none else shape, strict=True)
            back = _Back(
                lines=[_line(*sizes, apart=axis == way.axis) for axis, sizes in enumerate(axes)], heads=heads, values=_table(heads)
            )
        back.take(slab)
    assert back is not None  # a volume has at least one plane
    return np.stack(back.planes)


def _line(count_in: int, count_out: int, *, apart: bool) -> _Line:
    """Plan an axis. The weights are scipy's, which are those of places not held to the ends."""
    if count_in == count_out or apart:
        index = torch.from_numpy(np.arange(count_in) if count_in == count_out else resampling.nearest(count_in, count_out))
        return _Line(low=index, high=index, weights=None)
    places = resampling.places_of(count_in, count_out)
    floor = np.floor(places)
    near = 1 - (places - floor)
    ends = [torch.from_numpy(np.clip(floor + more, 0, count_in - 1).astype(np.int64)) for more in (0, 1)]
    return _Line(low=ends[0], high=ends[1], weights=(torch.from_numpy(near), torch.from_numpy(1 - near)))


def _table(heads: Heads) -> torch.Tensor:
    """Give the label of each decision: of regions the first decision is none."""
    return torch.tensor([0, *heads.values] if heads.regions else heads.values, dtype=torch.uint8)


def _decide(scores: torch.Tensor, heads: Heads) -> tuple[torch.Tensor, torch.Tensor]:
    """Decide on half precision scores (classes, ...): the first greatest, or the last region above one half and 1, or 0.

    Beside it: whether no earlier class is so near to the greatest that rounding to half precision could level them. Two numbers
    become the same half only within 2^-10 of their size, or 2^-24. Twice that is asked, which scales as the scores do between
    the corners of a cell. A later class that is level loses, so it does not matter.
    """
    best = scores[0].float()
    decided = torch.zeros(best.shape, dtype=torch.uint8, device=best.device)
    if heads.regions:
        for number, values in enumerate(scores, start=1):
            decided[torch.sigmoid(values.float()) > 0.5] = number
        return decided, torch.ones_like(decided, dtype=torch.bool)
    earlier = torch.full_like(best, -torch.inf)
    for number, values in enumerate(scores[1:], start=1):
        better = values > best
        earlier = torch.where(better, best, earlier)
        best = torch.where(better, values.float(), best)
        decided[better] = number
    return decided, best - earlier > best.abs() * 2**-9 + 2**-23


@dataclass(slots=True, kw_only=True)
class _Back:
    """What has come back so far: finished planes of the image, and the model's last plane, which the next slab goes on from."""

    lines: list[_Line]
    heads: Heads
    values: torch.Tensor
    planes: list[Labels] = field(default_factory=list)
    _first: int = 0
    _scores: torch.Tensor | None = None
    _turned: dict[int, torch.Tensor] = field(default_factory=dict)

    def take(self, slab: Slab) -> None:
        """Label every plane of the image that lies within what has come."""
        scores = slab.scores if self._scores is None else torch.cat([self._scores, slab.scores], dim=1)
        first = self._first
        decided, clear = _decide(scores, self.heads)
        last = first + scores.shape[1]
        while len(self.planes) < len(self.lines[0].low) and int(self.lines[0].high[len(self.planes)]) < last:
            index = len(self.planes)
            ends = [int(end[index]) - first for end in (self.lines[0].low, self.lines[0].high)]
            self.planes.append(self._plane(scores, decided[ends], clear[ends], (index, ends)))
        self._first, self._scores = last - 1, scores[:, -1:].clone()

    def _plane(self, scores: torch.Tensor, decided: torch.Tensor, clear: torch.Tensor, at: tuple[int, list[int]]) -> Labels:
        """Label one plane from the two planes of the model beside it."""
        low, high, sure = decided.amin(dim=0), decided.amax(dim=0), clear.all(dim=0)
        if all(line.weights is None for line in self.lines):
            sure = torch.ones_like(sure)
        lines = [_Line(low=line.low.to(low.device), high=line.high.to(low.device), weights=line.weights) for line in self.lines[1:]]
        for axis, line in enumerate(lines):
            ends = [[part.index_select(axis, end) for end in (line.low, line.high)] for part in (low, high, sure)]
            low, high, sure = torch.minimum(*ends[0]), torch.maximum(*ends[1]), ends[2][0] & ends[2][1]
        rows, columns = torch.nonzero((low != high) | ~sure, as_tuple=True)
        for begin in range(0, len(rows), CHUNK):
            some = rows[begin : begin + CHUNK], columns[begin : begin + CHUNK]
            low[some] = _decide(self._between(scores, at, some), self.heads)[0].to(low.device)
        return np.asarray(self.values[low.cpu().long()].numpy())

    def _between(self, scores: torch.Tensor, at: tuple[int, list[int]], points: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        """Interpolate scores at points of a plane in float64, corner by corner in scipy's order, and round them to half precision."""
        index, planes = at
        total = torch.zeros((len(points[0]), scores.shape[0]), dtype=torch.float64, device=scores.device)
        for z in self._ends(0):
            for y in self._ends(1):
                for x in self._ends(2):
                    rows = self._place(1, y, points[0]), self._place(2, x, points[1])
                    value = self._by_place(scores, planes[z])[rows].double()
                    for axis, end, where in ((0, z, index), (1, y, points[0]), (2, x, points[1])):
                        weights = self.lines[axis].weights
                        if weights is not None:
                            value *= weights[end].to(scores.device)[where].reshape(-1, 1)
                    total += value
        halves = total.cpu().numpy().astype(np.float16)  # torch rounds twice, to single precision before
        return torch.from_numpy(np.ascontiguousarray(halves.T))

    def _by_place(self, scores: torch.Tensor, plane: int) -> torch.Tensor:
        """Give a plane's scores with the classes of a place beside each other, which are gathered many times faster."""
        key = self._first + plane
        if key not in self._turned:
            self._turned = {near: part for near, part in self._turned.items() if near >= key - 1}
            self._turned[key] = scores[:, plane].permute(1, 2, 0).contiguous()
        return self._turned[key]

    def _ends(self, axis: int) -> tuple[int, ...]:
        return (0,) if self.lines[axis].weights is None else (0, 1)

    def _place(self, axis: int, end: int, where: torch.Tensor) -> torch.Tensor:
        line = self.lines[axis]
        return (line.high if end else line.low).to(where.device)[where]


def _class_by_class(scores: torch.Tensor, way: resampling.Way, heads: Heads) -> Labels:
    """Resample one class after another, as nnU-Net does, and keep the best so far."""
    best = np.full(way.shape, -np.inf, dtype=np.float16)
    decided = np.zeros(way.shape, dtype=np.uint8)
    for values, channel in zip(heads.values, scores.numpy(), strict=True):
        resampled = resampling.image(channel, way)
        if heads.regions:
            decided[torch.sigmoid(torch.from_numpy(resampled).float()).numpy() > 0.5] = values
        else:
            better = resampled > best
            decided[better], best[better] = values, resampled[better]
    return decided
