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

import numpy as np
import torch
from numpy.typing import NDArray

from models.grids import cells
from models.grids.transforms import Resampling
from models.grids.windows import Piece

Activate = cells.Activate
Decide = Callable[[torch.Tensor], torch.Tensor]
PLANES = 16
"""Decided at once: enough for several threads, few enough for the processor's cache."""


def _as_it_is(scores: torch.Tensor) -> torch.Tensor:
    return scores


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """How scores become labels.

    channels  the network's channels that are looked at; None: all
    activate  (channels, ...) raw scores -> (values, ...) what is interpolated, of each voxel by itself
    decide    (values, n) -> (n,) labels up to 255, such that values between several of one label give that label (argmax, or a
              threshold on one value)
    at_once   (channels, ...) raw scores -> (...) the same labels without `activate`, where they can be had so
    """

    decide: Decide
    activate: Activate = _as_it_is
    channels: tuple[int, ...] | None = None
    at_once: Decide | None = None

    def pick(self, scores: torch.Tensor) -> torch.Tensor:
        """Give the channels that are looked at; a view where they follow each other."""
        if self.channels is None:
            return scores
        first, count = self.channels[0], len(self.channels)
        if self.channels == tuple(range(first, first + count)):
            return scores[first : first + count]
        return scores[list(self.channels)]

    def corners(self, scores: torch.Tensor) -> torch.Tensor:
        """Decide at every voxel of picked scores (channels, z, y, x), some planes at a time: uint8."""
        found = torch.empty(scores.shape[1:], dtype=torch.uint8, device=scores.device)
        for begin in range(0, len(found), PLANES if self.at_once else 1):
            if self.at_once:
                found[begin : begin + PLANES] = self.at_once(scores[:, begin : begin + PLANES])
            else:
                found[begin] = self.decide(self.activate(scores[:, begin].flatten(1))).view(found.shape[1:])
        return found


def exclusive(values: Sequence[int], channels: Sequence[int] | None = None) -> Decision:
    """Give each voxel the most probable class of a softmax; class i has the label values[i], the first being 0 for none."""
    table = torch.tensor(list(values), dtype=torch.uint8)
    plain = list(values) == list(range(len(values)))

    def decide(classes: torch.Tensor) -> torch.Tensor:
        best = highest(classes)
        return best if plain else table.to(best.device)[best.long()]

    return Decision(
        channels=None if channels is None else tuple(channels),
        activate=lambda scores: torch.softmax(scores, dim=0),
        decide=decide,
        at_once=decide,  # a softmax keeps the order
    )


def highest(classes: torch.Tensor) -> torch.Tensor:
    """Give the first of the highest of (classes, ...), up to 256 of them: (...) uint8."""
    if classes.device.type != "cpu" or classes.stride(-1) != 1:
        return classes.max(dim=0).indices.to(torch.uint8)
    # On a processor torch's own goes through memory against its grain; this takes half the time.
    best, found = classes[0].clone(), torch.zeros(classes.shape[1:], dtype=torch.uint8)
    for index, scores in enumerate(classes[1:], start=1):
        torch.maximum(found, (scores > best).view(torch.uint8).mul_(index), out=found)
        torch.maximum(best, scores, out=best)
    return found


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
        self._oriented = np.zeros(plan.oriented.shape, dtype=np.uint8)

    def take(self, piece: Piece) -> None:
        """Label the source voxels that lie in the cells of this piece."""
        scores = self._decision.pick(piece.scores)
        where, axes = [], []
        for places, whole, low, count in zip(self._places, self._plan.model.shape, piece.low, scores.shape[1:], strict=True):
            last = low + count - 1 if whole > 1 else 1
            where.append(slice(*np.searchsorted(cells.low(places, whole), [low, last]).tolist()))
            axes.append(cells.axis(places[where[-1]] - low, count, scores.device))
        if any(span.start == span.stop for span in where):
            return
        first, mixed = cells.compare(self._decision.corners(scores))
        found = self._oriented[tuple(where)]
        wide = first.cpu().numpy().take(axes[2].cells, axis=2)
        for plane, cell in zip(found, axes[0].cells, strict=True):
            wide[cell].take(axes[1].cells, axis=0, out=plane, mode="clip")
        flat, (_, rows, columns) = self._oriented.reshape(-1), self._oriented.shape
        for (z, y, x), values in cells.interpolated(scores, mixed, axes, self._decision.activate):
            index = ((z + where[0].start) * rows + y + where[1].start) * columns + x + where[2].start
            flat[index.cpu().numpy()] = self._decision.decide(values).cpu().numpy()

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


def scores_at_source(channel: torch.Tensor, plan: Resampling, voxels: NDArray[np.int64]) -> NDArray[np.float32]:
    """Interpolate one channel (*model shape) at source voxels (n, 3) of (z, y, x)."""
    places = np.empty((3, len(voxels)))
    for oriented, source in enumerate(plan.turning.axes):
        index = voxels[:, source]
        if plan.turning.flips[oriented]:
            index = plan.oriented.shape[oriented] - 1 - index
        places[oriented] = plan.model_places(oriented)[index]
    return np.asarray(cells.sample(channel[None], places)[0].cpu().numpy(), dtype=np.float32)
