"""Masks and boxes to numbers: volumes, areas, diameters, attenuation, probability, and the outline of the key slice."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import ConvexHull

from models.card import Card
from models.vocabulary import Box, Code, Finding, Grid, Measurement, Prediction, Volume
from workers import runs

VOLUME = Code(scheme="SCT", value="118565006", meaning="Volume")
ATTENUATION = Code(scheme="DCM", value="112031", meaning="Attenuation Coefficient")
LONG_AXIS = Code(scheme="SCT", value="103339001", meaning="Long Axis")
SHORT_AXIS = Code(scheme="SCT", value="103340004", meaning="Short Axis")
AREA = Code(scheme="SCT", value="42798000", meaning="Area")
# Of a box: it is not known how the lesion lies in it, so its sides are no axes.
WIDTH = Code(scheme="SCT", value="103355008", meaning="Width")
HEIGHT = Code(scheme="DCM", value="121207", meaning="Height")
# The device's certainty that the mark is what its label says; 111047 would say "Probability of cancer", which no detector here claims.
CERTAINTY = Code(scheme="DCM", value="111012", meaning="Certainty of Finding")
MEAN = Code(scheme="SCT", value="373098007", meaning="Mean")
STANDARD_DEVIATION = Code(scheme="SCT", value="386136009", meaning="Standard Deviation")
MM = Code(scheme="UCUM", value="mm", meaning="mm")
MM2 = Code(scheme="UCUM", value="mm2", meaning="square millimeter")
PIXELS = Code(scheme="UCUM", value="{pixels}", meaning="pixels")
MM3 = Code(scheme="UCUM", value="mm3", meaning="cubic millimeter")
ML = Code(scheme="UCUM", value="mL", meaning="milliliter")
HU = Code(scheme="UCUM", value="[hnsf'U]", meaning="Hounsfield unit")
PERCENT = Code(scheme="UCUM", value="%", meaning="Percent")

EXACT = 2.0**53  # whole numbers up to this are floats without rounding

Mask = NDArray[np.bool_]
Polyline = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Diameters:
    """The long axis of a 2-D mask and the longest chord across it: lengths, and both ends as (column, row), each (2, 2)."""

    long_mm: float
    short_mm: float
    long_ends: Polyline
    short_ends: Polyline


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentMeasures:
    """What is known about one non-empty segment of a prediction, or about a finding that a box alone marks.

    key           ("organ", the card's label index) or ("finding", the finding's number)
    label         index of the card's output label; for an organ the same as in `key`
    measurements  rounded values in the order a viewer should show them; empty where the card asks for none
    key_slice     z index, on the prediction's grid, of the slice where the segment's area is largest
    outline       (n, 2) float64 of (column, row) on the key slice: n >= 6, the last point repeats the first,
                  the top left corner of the image is (0, 0) and the centre of its first pixel (0.5, 0.5);
                  it runs along pixel borders around the largest part of the segment in that slice, or is the box
    axes          where the diameters lie on the key slice, in the outline's coordinates; None where none are asked for
    Ref: PS3.3 C.18.6.1.2
    """

    key: tuple[Literal["organ", "finding"], int]
    label: int
    measurements: tuple[Measurement, ...]
    key_slice: int
    outline: Polyline
    axes: Diameters | None = None


def measure(prediction: Prediction, volume: Volume, card: Card, labelled: runs.Covers | None = None) -> tuple[SegmentMeasures, ...]:
    """Measure every non-empty segment: organs in the card's order, then findings by number.

    labelled  what the labels cover, where it is known already

    Raises ValueError where the volume is not on the prediction's grid, or where the prediction has instances and a finding
    has no voxel in them. Without instances a finding's box is all that is known of it.
    """
    if not volume.array.shape == prediction.labels.shape == prediction.grid.shape:
        raise ValueError("the volume and the prediction are not on one grid")
    labelled = runs.covers(prediction.labels) if labelled is None else labelled
    measured = []
    for label in card.output.labels:
        own = prediction.masks.get(label.index)
        array, value = (prediction.labels, label.index) if own is None else (own.view(np.uint8), 1)
        covered = (labelled if own is None else runs.covers(array)).get(value)
        if label.kind == "organ" and covered:
            part = _Part(array=array, value=value, covered=tuple(covered.values()), corner=(0, 0, 0), volume=volume)
            measured.append(_segment(("organ", label.index), part, card, None))
    for finding in prediction.findings:
        if prediction.instances is None:
            measured.append(_boxed(finding, prediction.grid, _asked(card, finding.label)))
            continue
        array = (prediction.instances[_slices(finding.box)] == finding.number).view(np.uint8)
        covered = runs.covers(array).get(1)
        if covered is None:
            raise ValueError(f"finding {finding.number} has no voxel inside its box")
        part = _Part(array=array, value=1, covered=tuple(covered.values()), corner=finding.box.low, volume=volume)
        measured.append(_segment(("finding", finding.number), part, card, finding))
    return tuple(measured)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Part:
    """A segment: where an array of numbers, which begins at `corner` of the volume, has its value."""

    array: NDArray[Any]
    value: int
    covered: Sequence[runs.Cover]
    corner: tuple[int, int, int]
    volume: Volume

    @property
    def largest(self) -> runs.Cover:
        """Give what it covers of its key slice."""
        return self.covered[key_slice([cover.pixels for cover in self.covered])]

    @property
    def voxels(self) -> int:
        """Count them."""
        return sum(cover.pixels for cover in self.covered)

    def mask(self, cover: runs.Cover) -> Mask:
        """Give the pixels of one slice, within the ranges that it covers there."""
        return np.asarray(self.array[cover.z, slice(*cover.rows), slice(*cover.columns)] == self.value)

    def volume_values(self) -> list[NDArray[Any]]:
        """Give the volume's values under it, slice by slice."""
        z, y, x = self.corner
        planes = self.volume.array[z:, y:, x:]
        return [planes[cover.z, slice(*cover.rows), slice(*cover.columns)][self.mask(cover)] for cover in self.covered]


def _slices(box: Box) -> tuple[slice, ...]:
    return tuple(slice(low, high) for low, high in zip(box.low, box.high, strict=True))


def _segment(key: tuple[Literal["organ", "finding"], int], part: _Part, card: Card, finding: Finding | None) -> SegmentMeasures:
    label = finding.label if finding else key[1]
    shown = part.largest
    plane = largest_part(part.mask(shown))
    offset = np.array([part.corner[2] + shown.columns[0], part.corner[1] + shown.rows[0]], dtype=float)
    asked, grid = _asked(card, label), part.volume.grid
    axes = None
    if "diameters" in asked and grid.calibrated:
        found = diameters(plane, row_mm=grid.spacing_mm[1], column_mm=grid.spacing_mm[2])
        axes = replace(found, long_ends=found.long_ends + offset, short_ends=found.short_ends + offset)
    return SegmentMeasures(
        key=key,
        label=label,
        measurements=tuple(_measurements(asked, part, axes, finding)),
        key_slice=part.corner[0] + shown.z,
        outline=outline(plane) + offset,
        axes=axes,
    )


def _asked(card: Card, label: int) -> set[Any]:
    return {what for entry in card.measurements if entry.label == label for what in entry.what}


def _boxed(finding: Finding, grid: Grid, asked: set[Any]) -> SegmentMeasures:
    """Give what a box tells: its sides in mm, if these are known, and the score. The key slice is the box's middle one.

    Example: rows 10..14 and columns 20..28 at 0.5 mm: width 4 mm, height 2 mm; the outline runs from (20, 10) to (28, 14).
    """
    (first, top, left), (last, bottom, right) = finding.box.low, finding.box.high
    values = []
    if "diameters" in asked and grid.calibrated:
        values.append(Measurement(concept=WIDTH, value=round((right - left) * grid.spacing_mm[2], 1), unit=MM))
        values.append(Measurement(concept=HEIGHT, value=round((bottom - top) * grid.spacing_mm[1], 1), unit=MM))
    if "probability" in asked:
        values += _certainty(finding)
    corners = np.array([(left, top), (right, top), (right, bottom), (left, bottom)], dtype=float)
    return SegmentMeasures(
        key=("finding", finding.number),
        label=finding.label,
        measurements=tuple(values),
        key_slice=(first + last - 1) // 2,
        outline=_closed(corners),
    )


def _certainty(finding: Finding) -> list[Measurement]:
    """Give the score and, where the model looked more than once, how far its opinions lie apart."""
    values = [Measurement(concept=CERTAINTY, value=float(round(100 * finding.score)), unit=PERCENT)]
    if finding.deviation is not None:
        spread = float(round(100 * finding.deviation))
        values.append(Measurement(concept=CERTAINTY, value=spread, unit=PERCENT, derivation=STANDARD_DEVIATION))
    return values


def _measurements(asked: set[Any], part: _Part, axes: Diameters | None, finding: Finding | None) -> list[Measurement]:
    """Give the asked values; standard deviations come last because OHIF shows only the first five."""
    grid = part.volume.grid
    values: list[Measurement] = []
    flat = grid.is_projection
    if "volume" in asked and finding and not flat:
        values.append(Measurement(concept=VOLUME, value=float(round(volume_mm3(part.voxels, grid))), unit=MM3))
    elif "volume" in asked and not flat:
        values.append(Measurement(concept=VOLUME, value=round(volume_mm3(part.voxels, grid) / 1000, 1), unit=ML))
    if "area" in asked:
        values.append(area(part.largest.pixels, grid))
    deviation = None
    if "hu" in asked and part.volume.unit == "HU":
        mean_hu, deviation = attenuation_hu(part.volume_values())
        values.append(Measurement(concept=ATTENUATION, value=float(round(mean_hu)), unit=HU, derivation=MEAN))
    if axes is not None:
        values.append(Measurement(concept=LONG_AXIS, value=round(axes.long_mm, 1), unit=MM))
        values.append(Measurement(concept=SHORT_AXIS, value=round(axes.short_mm, 1), unit=MM))
    if "probability" in asked and finding:
        values += _certainty(finding)
    if deviation is not None:
        values.append(Measurement(concept=ATTENUATION, value=float(round(deviation)), unit=HU, derivation=STANDARD_DEVIATION))
    return values


def volume_mm3(voxels: int, grid: Grid) -> float:
    """Give the volume of so many voxels.

    Example: 10 voxels of 2 x 0.5 x 0.5 mm are 10 * 0.5 = 5 mm3 = 0.005 ml.
    """
    return voxels * grid.voxel_mm3


def area(pixels: int, grid: Grid) -> Measurement:
    """Give the area of so many pixels, where the grid is calibrated; else their number alone.

    Example: 12 pixels of 0.5 x 0.5 mm are 3 mm2.
    """
    if not grid.calibrated:
        return Measurement(concept=AREA, value=float(pixels), unit=PIXELS)
    return Measurement(concept=AREA, value=round(pixels * grid.spacing_mm[1] * grid.spacing_mm[2], 1), unit=MM2)


def enclosed(line: Polyline, grid: Grid) -> Measurement:
    """Give the area inside a closed outline, where the grid is calibrated in mm2, else in pixels.

    Example: the outline around 3 x 4 pixels of 0.5 x 0.5 mm encloses 3 mm2.
    """
    column, row = line[:-1].T
    count = float(abs(column @ np.roll(row, -1) - row @ np.roll(column, -1))) / 2
    if not grid.calibrated:
        return Measurement(concept=AREA, value=count, unit=PIXELS)
    return Measurement(concept=AREA, value=round(count * grid.spacing_mm[1] * grid.spacing_mm[2], 1), unit=MM2)


def attenuation_hu(pieces: Sequence[NDArray[Any]]) -> tuple[float, float]:
    """Give the mean and the population standard deviation of the values under a mask, which come in pieces.

    Example: 10, 20, then 30 and 40 HU: mean 25, deviation sqrt((225 + 25 + 25 + 225) / 4) = 11.18.
    """
    count, total, squares = 0, 0.0, 0.0
    for piece in pieces:
        real = piece.astype(np.float64)
        count, total, squares = count + len(real), total + float(real.sum()), squares + float(real @ real)
    if pieces[0].dtype.kind == "f" or squares > EXACT:
        real = np.concatenate(pieces).astype(np.float64)
        return float(real.mean()), float(real.std())
    # Sums of whole numbers and of their squares are exact: one look at them is enough, in any order.
    return total / count, math.sqrt(count * int(squares) - int(total) ** 2) / count


def key_slice(areas: Sequence[int]) -> int:
    """Give the index of the slice of the largest area; of several the middle one, where a lesion's centre is.

    Example: areas 1, 4, 4, 4, 2: slice 2.
    """
    most = max(areas)
    largest = [index for index, pixels in enumerate(areas) if pixels == most]
    return largest[(len(largest) - 1) // 2]


def largest_part(plane: Mask) -> Mask:
    """Give the largest edge-connected part of a 2-D mask with its holes filled: what one outline can enclose.

    Example: a 3 x 3 ring and a lone pixel: the full 3 x 3 square.
    """
    parts, count = ndimage.label(plane)
    if count > 1:
        plane = parts == 1 + int(np.argmax(np.bincount(parts.ravel())[1:]))
    return np.asarray(ndimage.binary_fill_holes(plane), dtype=bool)


def outline(plane: Mask) -> Polyline:
    """Trace the borders of an edge-connected 2-D mask without holes; closed, at least six points.

    The enclosed area is the mask's area exactly. Corners only; where these are fewer than five, the middle of each
    side is added, because viewers take a closed polyline of five points for a rectangle tool of their own.
    Returns (n, 2) of (column, row); the pixel at row r, column c spans columns c..c+1 and rows r..r+1.

    Example: a single pixel at row 2, column 5: (5,2) (5.5,2) (6,2) (6,2.5) (6,3) (5.5,3) (5,3) (5,2.5) (5,2).
    Ref: PS3.3 C.18.6.1.2
    """
    follows = _border_steps(plane)
    start = min(follows)
    path, point = [start], follows[start]
    while point != start:
        path.append(point)
        point = follows[point]
    points = np.array(path, dtype=float)[:, ::-1]
    step_in, step_out = points - np.roll(points, 1, axis=0), np.roll(points, -1, axis=0) - points
    return _closed(points[(step_in != step_out).any(axis=1)])


def _closed(corners: Polyline) -> Polyline:
    """Close a polyline; where it has fewer than five corners, with the middle of each side."""
    if len(corners) < 5:
        middles = (corners + np.roll(corners, -1, axis=0)) / 2
        corners = np.stack([corners, middles], axis=1).reshape(-1, 2)
    return np.concatenate([corners, corners[:1]])


def _border_steps(plane: Mask) -> dict[tuple[int, int], tuple[int, int]]:
    """Link each border corner (row, column) to the next, clockwise on the screen.

    A corner has one successor only: in an edge-connected mask without holes no two pixels touch at a corner alone.
    """
    padded = np.pad(plane, 1)
    inside = padded[1:-1, 1:-1]
    steps: dict[tuple[int, int], tuple[int, int]] = {}
    sides = (
        (padded[:-2, 1:-1], (0, 0), (0, 1)),  # above: left to right
        (padded[1:-1, 2:], (0, 1), (1, 1)),  # right: downwards
        (padded[2:, 1:-1], (1, 1), (1, 0)),  # below: right to left
        (padded[1:-1, :-2], (1, 0), (0, 0)),  # left: upwards
    )
    for neighbour, first, last in sides:
        for row, column in np.argwhere(inside & ~neighbour).tolist():
            steps[row + first[0], column + first[1]] = (row + last[0], column + last[1])
    return steps


def diameters_mm(plane: Mask, *, row_mm: float, column_mm: float) -> tuple[float, float]:
    """Give the lengths of the longest diameter and of the longest chord at right angles to it, see `diameters`."""
    found = diameters(plane, row_mm=row_mm, column_mm=column_mm)
    return found.long_mm, found.short_mm


def diameters(plane: Mask, *, row_mm: float, column_mm: float) -> Diameters:
    """Give the longest diameter in the plane and the longest chord at right angles to it.

    Measured between the middles of border edges, so that n pixels in a row are n pixels long and a disc keeps its
    diameter; between corners it would come out one pixel too long, between centres one too short.
    `row_mm` is the distance between rows, `column_mm` between columns. A concave mask is measured on its hull.

    Example: 3 rows by 8 columns at 2 mm between rows and 0.5 mm between columns: rows span 6 mm, columns 4 mm.
    Between middles the longest is top to bottom, 7 columns sideways: sqrt(6^2 + 3.5^2) = 6.95 mm.
    Ref: PS3.3 10.7.1.3 (spacing between rows comes first)
    """
    points = _edge_middles(plane) * (column_mm, row_mm)
    hull = points[ConvexHull(points).vertices]
    between = hull[:, None] - hull[None]
    lengths = np.hypot(between[..., 0], between[..., 1])
    first, last = np.unravel_index(int(lengths.argmax()), lengths.shape)
    long_mm = float(lengths[first, last])
    along = between[last, first] / long_mm
    across = np.array([-along[1], along[0]])
    place, upper, lower = _longest_chord((hull - hull[first]) @ along, (hull - hull[first]) @ across)
    chord = hull[first] + place * along + np.array([[upper], [lower]]) * across
    return Diameters(
        long_mm=long_mm,
        short_mm=upper - lower,
        long_ends=hull[[first, last]] / (column_mm, row_mm),
        short_ends=chord / (column_mm, row_mm),
    )


def _edge_middles(plane: Mask) -> Polyline:
    """Give the (column, row) middles of every border edge of a 2-D mask."""
    steps = _border_steps(plane)
    ends = np.array([(*first, *last) for first, last in steps.items()], dtype=float)
    middles: Polyline = (ends[:, [1, 0]] + ends[:, [3, 2]]) / 2
    return middles


def _longest_chord(along: NDArray[np.float64], across: NDArray[np.float64]) -> tuple[float, float, float]:
    """Give the longest chord of a convex polygon across its long axis, which runs along 0..max: place, upper and lower end.

    Example: a square of diagonal 10: along 0, 5, 5, 10 and across 0, 5, -5, 0 give 5, 5, -5.
    """
    upper, lower = across >= -1e-9, across <= 1e-9
    places = np.unique(along)
    heights = []
    for side in (upper, lower):
        order = np.argsort(along[side], kind="stable")
        heights.append(np.interp(places, along[side][order], across[side][order]))
    where = int((heights[0] - heights[1]).argmax())
    return float(places[where]), float(heights[0][where]), float(heights[1][where])
