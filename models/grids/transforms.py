"""Volume to tensor on a model's grid and exactly back: the only resampling code.

An orientation is three letters: the directions in which the array's three indices grow. "SPL" is to the head, to the back,
to the patient's left, which is how an axial series is loaded; "RAS" is what NIfTI tools call canonical, right index first.

A model's grid has axes parallel to the source's, permuted and flipped so that they come closest to the wanted orientation:
nothing is rotated, so every step works along one axis at a time, and the way back has the same coordinates as the way there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import permutations
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from models.vocabulary import Grid, Triple

DIRECTIONS: dict[str, Triple] = {
    "L": (1, 0, 0), "R": (-1, 0, 0), "P": (0, 1, 0), "A": (0, -1, 0), "S": (0, 0, 1), "I": (0, 0, -1),
}  # fmt: skip

Array = NDArray[Any]
BLOCK = 32
"""Samples made at once on a processor: few enough that the span they look at is short."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Turning:
    """How a source array's axes become those of an oriented array.

    axes   oriented axis i runs along source axis axes[i]
    flips  whether it runs against it
    """

    axes: tuple[int, int, int]
    flips: tuple[bool, bool, bool]

    def turn(self, array: Array) -> Array:
        """View a source array in the oriented way."""
        return np.transpose(array, self.axes)[tuple(slice(None, None, -1 if flip else 1) for flip in self.flips)]

    def turn_back(self, array: Array) -> Array:
        """View an oriented array in the source's way: the inverse of `turn`."""
        unflipped = array[tuple(slice(None, None, -1 if flip else 1) for flip in self.flips)]
        back = [0, 0, 0]
        for oriented, source in enumerate(self.axes):
            back[source] = oriented
        return np.transpose(unflipped, back)

    def turned(self, grid: Grid) -> Grid:
        """Give the grid of the oriented array; the voxels stay where they are in the patient."""
        corner = np.array([[grid.shape[axis] - 1 if flip else 0 for axis, flip in sorted(zip(self.axes, self.flips, strict=True))]])
        signs = [-1 if flip else 1 for flip in self.flips]
        origin = grid.to_world_mm(corner.astype(float))[0]
        axes = [tuple(sign * part for part in grid.axes[axis]) for axis, sign in zip(self.axes, signs, strict=True)]
        return replace(
            grid,
            shape=(grid.shape[self.axes[0]], grid.shape[self.axes[1]], grid.shape[self.axes[2]]),
            origin_mm=(float(origin[0]), float(origin[1]), float(origin[2])),
            axes=(_triple(axes[0]), _triple(axes[1]), _triple(axes[2])),
            spacing_mm=_triple([grid.spacing_mm[axis] for axis in self.axes]),
        )


UNTURNED = Turning(axes=(0, 1, 2), flips=(False, False, False))


def _triple(values: Sequence[float]) -> Triple:
    return float(values[0]), float(values[1]), float(values[2])


def turning(grid: Grid, orientation: str) -> Turning:
    """Find the permutation and flips that bring a grid's axes closest to an orientation; raises ValueError.

    Example: a sagittal series grows to the right, down and to the back ("RIP"); for "SPL" its axes are taken
    (1, 2, 0) with flips (True, False, True).
    """
    if len(orientation) != 3 or {letter for pair in ("LR", "PA", "SI") for letter in pair if letter in orientation} != set(orientation):
        raise ValueError(f"{orientation!r} is not an orientation")
    wanted = np.array([DIRECTIONS[letter] for letter in orientation], dtype=float)
    if abs(round(float(np.linalg.det(wanted)))) != 1:
        raise ValueError(f"{orientation!r} names one direction twice")
    along = wanted @ np.array(grid.axes, dtype=float).T
    best = max(permutations(range(3)), key=lambda order: sum(abs(along[i, axis]) for i, axis in enumerate(order)))
    flips = [bool(along[i, axis] < 0) for i, axis in enumerate(best)]
    return Turning(axes=(best[0], best[1], best[2]), flips=(flips[0], flips[1], flips[2]))


def nearest_indices(count_in: int, count_out: int) -> NDArray[np.int64]:
    """Give the source index of each of `count_out` samples, evenly over the field of view, centre to centre.

    In single precision on purpose: torch's "nearest-exact" computes so, and a network trained on it must see the same voxels.
    Example: 5 to 3: (0.5 * 5/3, 1.5 * 5/3, 2.5 * 5/3) = (0.83, 2.5, 4.17) gives 0, 2, 4.
    """
    scale = np.float32(count_in) / np.float32(count_out)
    places = np.floor((np.arange(count_out, dtype=np.float32) + np.float32(0.5)) * scale)
    indices: NDArray[np.int64] = np.minimum(places.astype(np.int64), count_in - 1)
    return indices


def pick_nearest(tensor: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
    """Resize the last three axes by `nearest_indices`."""
    for axis, count in zip((-3, -2, -1), shape, strict=True):
        indices = torch.from_numpy(nearest_indices(tensor.shape[axis], count)).to(tensor.device)
        tensor = tensor.index_select(tensor.dim() + axis, indices)
    return tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Resampling:
    """Both grids of a resampling, and the oriented source grid between them.

    Along each axis the two fields of view share their centre: model index j lies at oriented index
    (j - (m - 1) / 2) * model_spacing / source_spacing + (n - 1) / 2.
    """

    source: Grid
    oriented: Grid
    model: Grid
    turning: Turning

    def model_places(self, axis: int) -> NDArray[np.float64]:
        """Give the place of each oriented voxel along an axis, as a fractional model index within 0..m-1.

        Example: 4 source voxels of 1 mm, 2 model voxels of 2 mm: -0.25, 0.25, 0.75, 1.25, held to 0, 0.25, 0.75, 1.
        """
        n, m = self.oriented.shape[axis], self.model.shape[axis]
        ratio = self.oriented.spacing_mm[axis] / self.model.spacing_mm[axis]
        return np.clip((np.arange(n) - (n - 1) / 2) * ratio + (m - 1) / 2, 0, m - 1)


def resampling(source: Grid, orientation: str, spacing_mm: Sequence[float]) -> Resampling:
    """Plan a model's grid: axes parallel to the source's, the wanted spacing, and the same field of view.

    Example: 300 voxels of 0.7 mm at 2 mm: 105 voxels; the field of view is 210 mm in both.
    """
    turned = turning(source, orientation)
    oriented = turned.turned(source)
    shape = [max(1, round(n * s / t)) for n, s, t in zip(oriented.shape, oriented.spacing_mm, spacing_mm, strict=True)]
    first = np.array([
        [(n - 1) / 2 - (m - 1) / 2 * t / s for n, m, s, t in zip(oriented.shape, shape, oriented.spacing_mm, spacing_mm, strict=True)]
    ])  # fmt: skip
    model = replace(
        oriented,
        shape=(shape[0], shape[1], shape[2]),
        origin_mm=_triple(oriented.to_world_mm(first)[0]),
        spacing_mm=_triple(spacing_mm),
    )
    return Resampling(source=source, oriented=oriented, model=model, turning=turned)


def to_model(array: Array, plan: Resampling, device: str) -> torch.Tensor:
    """Resample a source array onto the model's grid: float32 of the model's shape.

    Along an axis that gets coarser each sample is a weighted mean over its neighbours, so that noise and thin structures do
    not alias; along one that gets finer it is linear interpolation.
    """
    turned = torch.from_numpy(np.ascontiguousarray(plan.turning.turn(array)))
    shrink = [m / n for m, n in zip(plan.model.shape, plan.oriented.shape, strict=True)]
    tensor = turned.to(device)
    for axis in sorted(range(3), key=lambda axis: shrink[axis]):
        tensor = _along(tensor, axis, _weights(plan, axis))
    return tensor.float()


def _weights(plan: Resampling, axis: int) -> NDArray[np.float32]:
    """Give the (m, n) weights of model samples over source samples along an axis.

    Example: 4 voxels of 1 mm to 2 of 2 mm: the sample at 0.5 has the weights 0.50, 0.39, 0.11, 0.
    """
    n, m = plan.oriented.shape[axis], plan.model.shape[axis]
    ratio = plan.model.spacing_mm[axis] / plan.oriented.spacing_mm[axis]
    centres: NDArray[np.float64] = (np.arange(m, dtype=np.float64) - (m - 1) / 2) * ratio + (n - 1) / 2
    return _means(n, centres, ratio)


def _means(n: int, centres: NDArray[np.float64], ratio: float) -> NDArray[np.float32]:
    """Give the (m, n) weights of samples at `centres`, fractional indices, over n source samples; each row sums to 1.

    A sample is the mean of the linearly interpolated source over a width w around its centre, w = sqrt(2 (r^2 - 1)) source
    voxels where r > 1 is the ratio of the spacings, so that its spread is that of a triangle as wide as two model voxels.
    The mean of a linear field is its value at the centre, so nothing is displaced. Beyond the ends the end voxels go on.
    Example: ratio 2: w = sqrt(6) = 2.45.
    """
    half = np.sqrt(2 * max(0.0, ratio**2 - 1)) / 2
    beyond = 2 + int(np.ceil(half + ratio))
    distance = centres[:, None] - np.arange(-beyond, n + beyond)
    half = max(half, 1e-6)  # a width near none is the linear interpolation itself
    wide = (_below(distance + half) - _below(distance - half)) / (2 * half)
    weights: NDArray[np.float32] = wide[:, beyond : n + beyond].astype(np.float32)
    weights[:, 0] += wide[:, :beyond].sum(axis=1)
    weights[:, -1] += wide[:, n + beyond :].sum(axis=1)
    return weights


def _below(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Give the area of the unit triangle over -1..1 that lies below x.

    Example: -1 gives 0, 0 gives 0.5, 0.5 gives 0.875, 1 gives 1.
    """
    inside = np.clip(x, -1, 1)
    area: NDArray[np.float64] = np.where(inside < 0, (1 + inside) ** 2 / 2, 1 - (1 - inside) ** 2 / 2)
    return area


def onto(array: Array, grid: Grid, target: Grid, device: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Resample an array onto another grid through the patient, wherever both grids' axes point.

    Gives float32 of the target's shape, linearly interpolated, and the bool of the voxels whose centre lies in the array's
    field of view (to the outer faces of its voxels); the others have the nearest voxel's value. Along an axis that the target
    samples more coarsely each voxel is first a mean over its neighbours, as in `to_model`.
    Example: the voxel (0, 0, 0) of a target at LPS (10, 0, 0) takes the value at x = 10 mm of the array, here between columns
    3 and 4 of an array with origin (0, 0, 0), x to the left and 3 mm pixels: 2/3 of column 3 and 1/3 of column 4.
    """
    tensor = torch.from_numpy(np.ascontiguousarray(array)).to(device)
    steps = np.asarray(target.axes) * np.asarray(target.spacing_mm)[:, None]
    for axis, (direction, spacing) in enumerate(zip(grid.axes, grid.spacing_mm, strict=True)):
        # How far one step of the target leads along this axis: all of it where the axes are parallel.
        ratio = float(np.linalg.norm(steps @ np.asarray(direction))) / spacing
        if ratio > 1 + 1e-6:
            own = np.arange(grid.shape[axis], dtype=np.float64)
            tensor = _along(tensor, axis, _means(grid.shape[axis], own, ratio))
    tensor = tensor.float()
    matrix = _index_to_index(target, grid)
    values = torch.empty(target.shape, dtype=torch.float32, device=device)
    seen = torch.empty(target.shape, dtype=torch.bool, device=device)
    rows, columns = (torch.arange(count, device=device, dtype=torch.float32) for count in target.shape[1:])
    for index in range(target.shape[0]):
        places = [float(line[0] * index + line[3]) + float(line[1]) * rows[:, None] + float(line[2]) * columns for line in matrix]
        inside = [(place >= -0.5 - 1e-4) & (place <= count - 0.5 + 1e-4) for place, count in zip(places, grid.shape, strict=True)]
        seen[index] = inside[0] & inside[1] & inside[2]
        # grid_sample counts -1..1 from the first voxel's centre to the last one's, x first.
        scaled = [2 * place / max(count - 1, 1) - 1 for place, count in zip(places, grid.shape, strict=True)]
        where = torch.stack(scaled[::-1], dim=-1)[None, None]
        values[index] = functional.grid_sample(tensor[None, None], where, "bilinear", "border", align_corners=True)[0, 0, 0]
    return values, seen


def coincide(one: Grid, other: Grid) -> bool:
    """Tell whether two grids place every voxel alike, within a hundredth of a millimetre at all eight corners.

    Steps that differ by 0.009 mm are 2.7 mm apart at the 300th voxel; grids with rows and columns exchanged share two corners.
    """
    corners = np.argwhere(np.ones((2, 2, 2))) * (np.array(one.shape, dtype=float) - 1)
    return one.shape == other.shape and bool(np.abs(one.to_world_mm(corners) - other.to_world_mm(corners)).max() < 0.01)


def _index_to_index(one: Grid, other: Grid) -> NDArray[np.float64]:
    """Give the (3, 4) matrix that takes (z, y, x, 1) indices of one grid to (z, y, x) indices of another."""
    corners = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]], dtype=float)
    taken = other.to_index(one.to_world_mm(corners))
    return np.column_stack([(taken[1:] - taken[0]).T, taken[0]])


def _along(tensor: torch.Tensor, axis: int, weights: NDArray[np.float32]) -> torch.Tensor:
    """Multiply one axis by weights (m, n), integers becoming floats a part at a time.

    A sample has weights on few neighbours, so the samples are made some at a time from the span they look at.
    """
    many, count = weights.shape
    if many == count and np.array_equal(weights, np.eye(count, dtype=np.float32)):
        return tensor
    shape = [*tensor.shape]
    shape[axis] = many
    out = torch.empty(shape, dtype=torch.float32, device=tensor.device)
    block = BLOCK if tensor.device.type == "cpu" else many
    parts = []
    for begin in range(0, many, block):
        some = weights[begin : begin + block]
        looked_at = np.flatnonzero(some.any(axis=0))
        first, last = int(looked_at[0]), int(looked_at[-1]) + 1
        parts.append((slice(begin, begin + block), slice(first, last), torch.from_numpy(some[:, first:last]).to(tensor.device)))
    if axis == 0:
        planes = [(tensor.flatten(1), out.flatten(1))]
    elif axis == 1:
        planes = list(zip(tensor, out, strict=True))
    else:
        planes = [(source.T, target.T) for source, target in zip(tensor, out, strict=True)]
    for source, target in planes:
        for samples, span, factors in parts:
            torch.mm(factors, source[span].float(), out=target[samples])
    return out
