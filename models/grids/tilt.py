"""Tilted gantries: what a model sees is upright, what it marks lies on the slices as they were scanned.

The slices of a leaning gantry are stacked along the table, not along their normal: their grid is sheared, and a model taught
on upright volumes would see a sheared patient. So each slice is moved within its plane, by whole pixels, onto a grid with right
angles. No value is interpolated: every voxel keeps its value, the way back is exact, and what the model sees of a slice lies
at most half a pixel from its true place. Measures are taken on the sheared grid itself, never on the moved slices.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from models.vocabulary import Box, Finding, Grid, Prediction, Triple, Volume

AIR_HU = -1024
Kind = TypeVar("Kind", bound=np.generic)


@dataclass(frozen=True, slots=True, kw_only=True)
class Moves:
    """How far each slice moves, (z, 2) pixels down and right of the upright grid's corner."""

    grid: Grid
    pixels: NDArray[np.int64]

    def of(self, index: int, shape: tuple[int, int, int]) -> tuple[slice, slice]:
        """Give where a slice lies in the upright one."""
        down, right = self.pixels[index].tolist()
        return slice(down, down + shape[1]), slice(right, right + shape[2])


def moves(source: Grid) -> Moves:
    """Plan the upright grid of a sheared one: the same rows and columns, its planes along their normal.

    Example: 3 slices of 4 mm along the normal, each 1.2 mm further back, pixels of 0.5 mm: they move 0, 2.4 and 4.8 pixels,
    so 0, 2 and 5, and the upright grid has 5 rows more.
    """
    row, column = np.asarray(source.axes[2], dtype=float), np.asarray(source.axes[1], dtype=float)
    normal = np.cross(row, column) / np.linalg.norm(np.cross(row, column))
    step = np.asarray(source.axes[0], dtype=float) * source.spacing_mm[0]
    if step @ normal < 0:
        normal = -normal
    each = np.array([step @ column / source.spacing_mm[1], step @ row / source.spacing_mm[2]])
    pixels = np.rint(np.arange(source.shape[0])[:, None] * each).astype(np.int64)
    corner = pixels.min(axis=0)
    pixels -= corner
    more = pixels.max(axis=0)
    origin = np.asarray(source.origin_mm) + corner[0] * source.spacing_mm[1] * column + corner[1] * source.spacing_mm[2] * row
    grid = Grid(
        shape=(source.shape[0], source.shape[1] + int(more[0]), source.shape[2] + int(more[1])),
        origin_mm=_triple(origin),
        axes=(_triple(normal), source.axes[1], source.axes[2]),
        spacing_mm=(source.between_planes_mm, source.spacing_mm[1], source.spacing_mm[2]),
    )
    return Moves(grid=grid, pixels=pixels)


def upright(volume: Volume) -> Volume:
    """Give the volume on a grid with right angles; the same object where it has one. What no slice covers is air, or the darkest."""
    if volume.grid.is_orthogonal():
        return volume
    plan = moves(volume.grid)
    array = np.full(plan.grid.shape, AIR_HU if volume.unit == "HU" else volume.array.min(), dtype=volume.array.dtype)
    for index, plane in enumerate(volume.array):
        array[index][plan.of(index, volume.grid.shape)] = plane
    return replace(volume, array=array, grid=plan.grid)


def back(prediction: Prediction, source: Grid) -> Prediction:
    """Bring a prediction on the upright grid back to the slices; the same object where the source was upright.

    What was marked outside every slice is dropped, with it a finding that lies there wholly; the others are numbered anew.
    Raises ValueError where the prediction is on another grid.
    """
    if source.is_orthogonal():
        return prediction
    plan = moves(source)
    if prediction.grid != plan.grid:
        raise ValueError("the prediction is not on the upright grid of this source")
    drawn = replace(
        prediction,
        grid=source,
        labels=_leaning(prediction.labels, plan, source),
        masks={index: _leaning(mask, plan, source) for index, mask in prediction.masks.items()},
        probabilities={index: _leaning(levels, plan, source) for index, levels in prediction.probabilities.items()},
    )
    if prediction.instances is None:
        boxes = ((finding, _around(finding.box, plan, source)) for finding in prediction.findings)
        left = [replace(finding, box=box) for finding, box in boxes if box is not None]
        return replace(drawn, findings=tuple(replace(finding, number=number) for number, finding in enumerate(left, start=1)))
    instances = _leaning(prediction.instances, plan, source)
    found = ndimage.find_objects(instances, max_label=max((finding.number for finding in prediction.findings), default=0))
    findings: list[Finding] = []
    numbers = np.zeros(int(instances.max()) + 1, dtype=np.uint16)
    for finding in sorted(prediction.findings, key=lambda entry: entry.number):
        where = found[finding.number - 1]
        if where is not None:
            numbers[finding.number] = len(findings) + 1
            low, high = (tuple(int(side) for side in ends) for ends in zip(*((part.start, part.stop) for part in where), strict=True))
            findings.append(replace(finding, number=len(findings) + 1, box=Box(low=_corner(low), high=_corner(high))))
    return replace(drawn, instances=numbers[instances], findings=tuple(findings))


def _leaning(array: NDArray[Kind], plan: Moves, source: Grid) -> NDArray[Kind]:
    """Give the slices of an upright array as they were scanned."""
    return np.stack([plane[plan.of(index, source.shape)] for index, plane in enumerate(array)])


def _around(box: Box, plan: Moves, source: Grid) -> Box | None:
    """Give the box around all that an upright box marks on the slices, None where that is nothing.

    Example: rows 10 to 20 of three slices that moved 0, 2 and 5 pixels down are rows 10-20, 8-18 and 5-15: 5 to 20 together.
    """
    low, high = list(box.low), list(box.high)
    moved = plan.pixels[box.low[0] : box.high[0]]
    for axis, size in ((1, source.shape[1]), (2, source.shape[2])):
        low[axis] = max(0, box.low[axis] - int(moved[:, axis - 1].max()))
        high[axis] = min(size, box.high[axis] - int(moved[:, axis - 1].min()))
        if low[axis] >= high[axis]:
            return None
    return Box(low=(low[0], low[1], low[2]), high=(high[0], high[1], high[2]))


def _corner(values: tuple[int, ...]) -> tuple[int, int, int]:
    return values[0], values[1], values[2]


def _triple(vector: NDArray[np.float64]) -> Triple:
    return float(vector[0]), float(vector[1]), float(vector[2])
