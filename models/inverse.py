"""Scores on the model's grid back to the source grid: readers that take finished pieces and never hold classes x volume.

A runtime makes the readers it wants and gives each of them every piece:

    labels = inverse.Linear(plan, inverse.exclusive([0, 10, 20]))
    for piece in windows.pieces(forward, tensor, layout, execution, progress):
        labels.take(piece)
    labels.finish()       # uint8 on the source grid
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from models.transforms import Resampling
from models.windows import Piece

Decide = Callable[[torch.Tensor], torch.Tensor]
Activate = Callable[[torch.Tensor], torch.Tensor]


def _as_it_is(scores: torch.Tensor) -> torch.Tensor:
    return scores


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """How scores become labels.

    channels  the network's channels that are looked at; None: all
    activate  (channels, ...) raw scores -> (values, ...) what is interpolated, of each voxel by itself
    decide    (values, n) -> (n,) labels up to 255, such that values between several of one label give that label (argmax, or a
              threshold on one value)
    """

    decide: Decide
    activate: Activate = _as_it_is
    channels: tuple[int, ...] | None = None

    def pick(self, scores: torch.Tensor) -> torch.Tensor:
        """Give the channels that are looked at; a view where they follow each other."""
        if self.channels is None:
            return scores
        first, count = self.channels[0], len(self.channels)
        if self.channels == tuple(range(first, first + count)):
            return scores[first : first + count]
        return scores[list(self.channels)]

    def corners(self, scores: torch.Tensor) -> torch.Tensor:
        """Decide at every voxel of picked scores (channels, z, y, x), plane by plane: uint8."""
        found = torch.empty(scores.shape[1:], dtype=torch.uint8, device=scores.device)
        for index in range(len(found)):
            plane = self.activate(scores[:, index].flatten(1))
            found[index] = self.decide(plane).view(found.shape[1:])
        return found


def exclusive(values: Sequence[int], channels: Sequence[int] | None = None) -> Decision:
    """Give each voxel the most probable class of a softmax; class i has the label values[i], the first being 0 for none."""
    table = torch.tensor(list(values), dtype=torch.uint8)
    return Decision(
        channels=None if channels is None else tuple(channels),
        activate=lambda scores: torch.softmax(scores, dim=0),
        decide=lambda classes: table.to(classes.device)[classes.max(dim=0).indices],
    )


def above(threshold: float, channel: int) -> Decision:
    """Give 1 where the sigmoid of a channel reaches a threshold, else 0: a mask that may overlap others."""
    return Decision(channels=(channel,), activate=torch.sigmoid, decide=lambda values: (values[0] >= threshold).to(torch.uint8))


class Linear:
    """Labels on the source grid, decided on scores interpolated linearly.

    Where the eight corners of a model cell decide alike, so does all of the cell; only the rest is interpolated.
    """

    def __init__(self, plan: Resampling, decision: Decision) -> None:
        self._plan = plan
        self._decision = decision
        self._places = [plan.model_places(axis) for axis in range(3)]
        self._lows = [_low(places, count) for places, count in zip(self._places, plan.model.shape, strict=True)]
        self._oriented = np.zeros(plan.oriented.shape, dtype=np.uint8)

    def take(self, piece: Piece) -> None:
        """Label the source voxels that lie in the cells of this piece."""
        scores = self._decision.pick(piece.scores)
        where, places, lows = [], [], []
        for axis, (low, size) in enumerate(zip(piece.low, scores.shape[1:], strict=True)):
            stop = low + size - 1 if self._plan.model.shape[axis] > 1 else 1
            where.append(slice(*np.searchsorted(self._lows[axis], [low, stop]).tolist()))
            places.append(torch.from_numpy(self._places[axis][where[axis]] - low).to(scores.device))
            lows.append(torch.from_numpy(self._lows[axis][where[axis]] - low).to(scores.device))
        if all(len(places[axis]) for axis in range(3)):
            self._oriented[tuple(where)] = self._labels(scores, places, lows).cpu().numpy()

    def _labels(self, scores: torch.Tensor, places: list[torch.Tensor], lows: list[torch.Tensor]) -> torch.Tensor:
        """Give the labels at places of a piece along each axis, which lie in the cells `lows`."""
        cells, mixed = _cells(self._decision.corners(scores))
        found = torch.empty([len(axis) for axis in places], dtype=torch.uint8, device=scores.device)
        for index, low in enumerate(lows[0].tolist()):
            plane = cells[low].index_select(0, lows[1]).index_select(1, lows[2])
            rows, columns = torch.nonzero(mixed[low].index_select(0, lows[1]).index_select(1, lows[2]), as_tuple=True)
            if len(rows):
                points = torch.stack([places[0][index].expand(len(rows)), places[1][rows], places[2][columns]])
                plane[rows, columns] = self._decision.decide(sample(scores, points, self._decision.activate)).to(torch.uint8)
            found[index] = plane
        return found

    def finish(self) -> NDArray[np.uint8]:
        """Give the labels (z, y, x) of the source grid."""
        return np.ascontiguousarray(self._plan.turning.turn_back(self._oriented))


class Nearest:
    """Labels on the source grid: decided on the model's grid, each source voxel then takes the nearest one's."""

    def __init__(self, plan: Resampling, decision: Decision) -> None:
        self._plan = plan
        self._decision = decision
        self._labels = torch.zeros(plan.model.shape, dtype=torch.uint8)

    def take(self, piece: Piece) -> None:
        """Decide at the voxels of this piece."""
        piece.within(self._labels).copy_(self._decision.corners(self._decision.pick(piece.scores)))

    def finish(self) -> NDArray[np.uint8]:
        """Give the labels (z, y, x) of the source grid.

        Example: places 0.4, 0.5 and 1.2 on the model's grid take its voxels 0, 1 and 1.
        """
        nearest = [np.floor(self._plan.model_places(axis) + 0.5).astype(np.int64) for axis in range(3)]
        return np.ascontiguousarray(self._plan.turning.turn_back(self._labels.numpy()[np.ix_(*nearest)]))


class Whole:
    """Some channels on the model's grid, whole and activated: what needs to be looked at as a map, a heat map of findings."""

    def __init__(self, plan: Resampling, channels: Sequence[int], activate: Activate = torch.sigmoid) -> None:
        self._plan = plan
        self._decision = Decision(decide=_as_it_is, activate=activate, channels=tuple(channels))
        self._values: torch.Tensor | None = None

    def take(self, piece: Piece) -> None:
        """Keep the channels of this piece."""
        values = self._decision.activate(self._decision.pick(piece.scores))
        if self._values is None:
            self._values = torch.zeros((len(values), *self._plan.model.shape), device=values.device)
        piece.within(self._values).copy_(values)

    def finish(self) -> torch.Tensor:
        """Give (channels, *model shape), float32, where the pieces were."""
        assert self._values is not None, "no piece was taken"
        return self._values


def labels_to_source(scores: torch.Tensor, plan: Resampling, decide: Decide) -> NDArray[np.uint8]:
    """Give on the source grid what `decide` says of (classes, *model shape) interpolated linearly as they are."""
    labels = Linear(plan, Decision(decide=decide))
    labels.take(Piece(scores=scores, low=(0, 0, 0)))
    return labels.finish()


def _low(places: NDArray[np.float64], count: int) -> NDArray[np.int64]:
    """Give the lower corner of the cell a place lies in; the last corner belongs to the last cell."""
    return np.clip(np.floor(places).astype(np.int64), 0, max(count - 2, 0))


def _cells(corners: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Give each cell's first corner, and whether its eight corners differ."""
    low, high = corners, corners
    for axis in range(3):
        if corners.shape[axis] > 1:
            one, other = (part.narrow(axis, 0, corners.shape[axis] - 1) for part in (low, high))
            next_one, next_other = (part.narrow(axis, 1, corners.shape[axis] - 1) for part in (low, high))
            low, high = torch.minimum(one, next_one), torch.maximum(other, next_other)
    return low, low != high


def sample(scores: torch.Tensor, places: torch.Tensor, activate: Activate = _as_it_is) -> torch.Tensor:
    """Interpolate (channels, z, y, x), activated, linearly at places (3, n), float64 indices: (values, n) float32."""
    shape = scores.shape[1:]
    lows = [torch.clamp(place.floor().long(), 0, max(count - 2, 0)) for place, count in zip(places, shape, strict=True)]
    parts = [place - low for place, low in zip(places, lows, strict=True)]
    total: Any = 0
    for corner in range(8):
        ups = [corner >> axis & 1 for axis in range(3)]
        index = [torch.clamp(low + up, max=count - 1) for low, up, count in zip(lows, ups, shape, strict=True)]
        weight = torch.ones_like(parts[0])
        for part, up in zip(parts, ups, strict=True):
            weight = weight * (part if up else 1 - part)
        total = total + activate(scores[:, index[0], index[1], index[2]]) * weight.float()
    return torch.as_tensor(total)


def scores_at_source(channel: torch.Tensor, plan: Resampling, voxels: NDArray[np.int64]) -> NDArray[np.float32]:
    """Interpolate one channel (*model shape) at source voxels (n, 3) of (z, y, x)."""
    places = np.empty((3, len(voxels)))
    for oriented, source in enumerate(plan.turning.axes):
        index = voxels[:, source]
        if plan.turning.flips[oriented]:
            index = plan.oriented.shape[oriented] - 1 - index
        places[oriented] = plan.model_places(oriented)[index]
    return np.asarray(sample(channel[None], torch.from_numpy(places).to(channel.device))[0].cpu().numpy(), dtype=np.float32)
