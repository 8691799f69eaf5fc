"""Linear interpolation where it is needed: in the cells of a grid whose eight corners are not decided alike."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

Activate = Callable[[torch.Tensor], torch.Tensor]
MOST_BYTES = 1 << 28
"""At once, where every cell is mixed; in a usual volume one in a hundred is."""
BYTES_A_POINT = 150


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Axis:
    """Places along one axis of a part of a grid.

    cells   (n,) the cell in which each place lies, rising
    parts   (n,) where in it, 0..1, float32
    first   the first place of each cell
    counts  how many places each cell has
    """

    cells: NDArray[np.int64]
    parts: torch.Tensor
    first: torch.Tensor
    counts: torch.Tensor


def most_bytes(points: int, channels: int) -> int:
    """Give what `interpolated` takes at the most for that many points, every cell being mixed."""
    return min(MOST_BYTES, points * (4 * channels + BYTES_A_POINT))


def low(places: NDArray[np.float64], count: int) -> NDArray[np.int64]:
    """Give the cell that a place lies in, by its lower corner; the last corner belongs to the last cell."""
    return np.clip(np.floor(places).astype(np.int64), 0, max(count - 2, 0))


def axis(places: NDArray[np.float64], count: int, device: torch.device) -> Axis:
    """Sort rising places into the cells between `count` corners."""
    cells = low(places, count)
    bounds = np.searchsorted(cells, np.arange(max(count - 1, 1) + 1))
    return Axis(
        cells=cells,
        parts=torch.from_numpy((places - cells).astype(np.float32)).to(device),
        first=torch.from_numpy(bounds[:-1]).to(device),
        counts=torch.from_numpy(np.diff(bounds)).to(device),
    )


def compare(corners: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Give each cell's first corner, and whether its eight corners differ."""
    lowest, highest = corners, corners
    for along in range(3):
        count = corners.shape[along] - 1
        if count > 0:
            lowest = torch.minimum(lowest.narrow(along, 0, count), lowest.narrow(along, 1, count))
            highest = torch.maximum(highest.narrow(along, 0, count), highest.narrow(along, 1, count))
    return lowest, lowest != highest


def interpolated(
    scores: torch.Tensor, mixed: torch.Tensor, axes: Sequence[Axis], activate: Activate
) -> Iterator[tuple[tuple[torch.Tensor, ...], torch.Tensor]]:
    """Give, for the places in mixed cells, their indices (z, y, x) and the activated scores (values, n) there.

    scores  (channels, z, y, x) at the corners
    """
    densest = int(axes[0].counts.max()) * len(axes[1].cells) * len(axes[2].cells)
    deep = max(1, MOST_BYTES // (densest * (4 * len(scores) + BYTES_A_POINT)))
    for begin in range(0, len(mixed), deep):
        cells = torch.nonzero(mixed[begin : begin + deep], as_tuple=True)
        if len(cells[0]):
            table, rows = _table(scores[:, begin : begin + deep + 1], cells, activate)
            owners, places = _places((cells[0] + begin, cells[1], cells[2]), axes)
            parts = [along.parts[place] for along, place in zip(axes, places, strict=True)]
            yield places, _weigh(table, rows.index_select(0, owners), parts)


def _table(scores: torch.Tensor, cells: Sequence[torch.Tensor], activate: Activate) -> tuple[torch.Tensor, torch.Tensor]:
    """Give the activated scores of the corners of cells, each corner once, (rows, values), and the eight rows of each cell."""
    corners = _corners(cells, scores.shape[1:])
    numbers = torch.zeros(scores[0].numel(), dtype=torch.int32, device=scores.device)
    numbers[corners.flatten()] = 1
    used = torch.nonzero(numbers).flatten()
    numbers[used] = torch.arange(len(used), dtype=torch.int32, device=scores.device)
    return activate(scores.flatten(1).index_select(1, used)).T.contiguous(), numbers[corners]


def _corners(cells: Sequence[torch.Tensor], shape: Sequence[int]) -> torch.Tensor:
    """Give the eight corners (n, 8) of cells as flat indices; the last axis changes first.

    Example: cell (0, 0, 0) of a grid of (2, 3, 4) corners: 0, 1, 4, 5, 12, 13, 16, 17.
    """
    steps = [shape[1] * shape[2], shape[2], 1]
    first = sum(index * step for index, step in zip(cells, steps, strict=True))
    z, y, x = ((0, step if count > 1 else 0) for step, count in zip(steps, shape, strict=True))
    offsets = [up + down + right for up in z for down in y for right in x]
    return torch.as_tensor(first)[:, None] + torch.tensor(offsets, device=cells[0].device)


def _places(cells: Sequence[torch.Tensor], axes: Sequence[Axis]) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
    """Give all places in cells: the number of each one's cell, and its indices (z, y, x)."""
    owners = torch.arange(len(cells[0]), device=cells[0].device)
    found: list[torch.Tensor] = []
    for along, cell in zip(axes, cells, strict=True):
        index = cell[owners]
        counts = along.counts[index]
        spread = torch.repeat_interleave(counts)
        begins = along.first[index] - (counts.cumsum(0) - counts)
        found = [earlier[spread] for earlier in found]
        found.append(begins[spread] + torch.arange(len(spread), device=spread.device))
        owners = owners[spread]
    return owners, tuple(found)


def _weigh(table: torch.Tensor, rows: torch.Tensor, parts: Sequence[torch.Tensor]) -> torch.Tensor:
    """Give the mean (values, n) of eight rows each of a table (rows, values), weighted by where a place lies in its cell."""
    z, y, x = (torch.stack([1 - part, part]) for part in parts)
    weights = (z[:, None, None] * y[None, :, None] * x[None, None]).flatten(0, 2).T.contiguous()
    return functional.embedding_bag(rows, table, per_sample_weights=weights, mode="sum").T


def sample(scores: torch.Tensor, places: NDArray[np.float64]) -> torch.Tensor:
    """Interpolate (channels, z, y, x) at places (3, n), fractional indices within the grid: (channels, n)."""
    lows = [low(place, count) for place, count in zip(places, scores.shape[1:], strict=True)]
    parts = [torch.from_numpy((place - first).astype(np.float32)).to(scores.device) for place, first in zip(places, lows, strict=True)]
    corners = _corners([torch.from_numpy(first).to(scores.device) for first in lows], scores.shape[1:])
    rows = torch.arange(corners.numel(), device=scores.device).view(-1, 8)
    return _weigh(scores.flatten(1).index_select(1, corners.flatten()).T.contiguous(), rows, parts)
