"""Files of one series to a Volume. Everything that could make its geometry wrong is refused with a reason."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset

from models.vocabulary import Grid, Triple, Volume
from node.errors import Refused
from workers import radiographs
from workers.frames import Frame, Origin, frames
from workers.pixels import UNREADABLE, calibration, decode, quiet, read
from workers.planes import Plane, Vector, along_normal, one_series, placed, text
from workers.stacks import choose, without_localizers

STEEPEST = 45.0  # degrees: no gantry leans further, so more is a mistake
MISSING = 1.5  # of a step: a wider gap has lost a slice
UNEVEN = 0.02  # of a step: how far a slice may lie from its even place
UNCLEAR = "The images' pixel description is incomplete or contradicts itself."
ROUNDED_MM = 0.06  # writers that round positions to 0.1 mm put them up to 0.05 mm off


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """A series as an array on its grid.

    sources   a header for each slice, without pixels, in the array's z order; a frame's is unfolded
    """

    volume: Volume
    sources: tuple[Dataset, ...]
    origin: Origin


@dataclass(frozen=True, slots=True, kw_only=True)
class Stack:
    """A series as its headers describe it: the planes in z order, the grid they lie on, and what of the files they are."""

    planes: tuple[Plane, ...]
    grid: Grid
    origin: Origin


def headers(paths: Sequence[Path]) -> list[Dataset]:
    """Read the headers only, in the order given; raises Refused."""
    return [read(path, pixels=False) for path in paths]


def load(paths: Sequence[Path]) -> Loaded:
    """Load one series, one plane a position, or one radiograph; raises Refused with a reason for a technologist.

    The array is (z, y, x) with z along cross(row, column); the headers follow the same order. The order of `paths`
    does not matter. Where a gantry leaned, the grid's axes are not at right angles. Ref: PS3.3 C.7.6.2.1.1
    """
    found = frames(paths)
    if _is_radiograph(found):
        return _radiograph(found)
    stack = _stack(found)
    with quiet():
        try:
            array = decode([plane.frame for plane in stack.planes])
        except UNREADABLE:
            raise Refused(UNCLEAR) from None
    modality = str(stack.planes[0].header.Modality)
    return Loaded(
        volume=Volume(array=array, grid=stack.grid, unit="HU" if modality == "CT" else "1", modality=modality),
        sources=tuple(plane.header for plane in stack.planes),
        origin=stack.origin,
    )


def judge(paths: Sequence[Path]) -> tuple[Grid, Dataset]:
    """Judge a series as `load` does, a stack by its headers alone; give its grid and its first header. Raises Refused."""
    found = frames(paths)
    if _is_radiograph(found):
        return _radiograph(found).volume.grid, found[0].header
    stack = _stack(found)
    return stack.grid, stack.planes[0].header


def _stack(found: Sequence[Frame]) -> Stack:
    """Choose, sort and judge the planes of one volume; raises Refused."""
    kept, left_out = without_localizers(found)
    planes: Sequence[Plane] = [placed(frame) for frame in kept]
    if len(planes) < 2:
        raise Refused("The series has fewer than two images; a volume needs at least two.")
    with quiet():
        one_series(planes)
        chosen = choose(planes)
        planes, places_mm = along_normal(chosen.planes)
        if len(planes) < 2:
            raise Refused("The series has images of one position only; a volume needs at least two.")
        _one_stack(planes, places_mm)
        grid = _grid(planes)
        try:
            for plane in planes:
                calibration(plane.header)
        except UNREADABLE:
            raise Refused(UNCLEAR) from None
    return Stack(
        planes=tuple(planes),
        grid=grid,
        origin=Origin(
            sources=tuple(plane.frame.source for plane in planes),
            given=len(found),
            remark=", ".join(filter(None, (left_out, chosen.words, _tilt(grid)))),
        ),
    )


def _is_radiograph(found: list[Frame]) -> bool:
    with quiet():
        return any(radiographs.is_radiograph(frame) for frame in found)


def _radiograph(found: list[Frame]) -> Loaded:
    picture = radiographs.volume(found)
    with quiet():
        origin = Origin(sources=(found[0].source,), given=1, remark="")
    return Loaded(volume=picture, sources=(found[0].header,), origin=origin)


def _one_stack(planes: Sequence[Plane], places_mm: Vector) -> None:
    """Refuse anything but one stack of evenly spaced slices without a gap.

    Example: places 0, 2, 4, 8, 10 mm: gaps 2, 2, 4, 2, the step is 2, and 4 > 1.5 * 2: one slice is missing.
    """
    gaps = np.diff(places_mm)
    step = float(np.sort(gaps)[(len(gaps) - 1) // 2])
    _one_acquisition(planes, places_mm)
    _straight(planes, places_mm)
    wide = np.flatnonzero(gaps > MISSING * step)
    if 0 < len(wide) <= max(2, len(gaps) // 4):
        at = int(wide[0])
        more = f", and at {len(wide) - 1} more places" if len(wide) > 1 else ""
        raise Refused(
            f"Slices are missing: {planes[at].name} and {planes[at + 1].name} lie {gaps[at]:.1f} mm apart, "
            f"where the step is {step:.1f} mm{more}. Send the whole series again."
        )
    even = np.linspace(places_mm[0], places_mm[-1], len(places_mm))
    off = np.abs(places_mm - even)
    if off.max() > max(ROUNDED_MM, UNEVEN * step):
        raise Refused(f"The slices are unevenly spaced: gaps range from {gaps.min():.2f} to {gaps.max():.2f} mm.")
    _as_dense_as_declared(planes, step)


def _one_acquisition(planes: Sequence[Plane], places_mm: Vector) -> None:
    """Refuse acquisitions that reach into one another: the patient may have breathed or moved between them.

    Acquisitions that follow each other along the normal (one a table step) are one stack.
    Example: acquisition 1 at 0, 2, 4 mm and 2 at 1, 3, 5 mm overlap; 1 at 0, 1, 2 and 2 at 3, 4, 5 mm do not.
    """
    numbers = np.array([text(plane.header, "AcquisitionNumber") for plane in planes])
    spans = sorted((places_mm[numbers == number].min(), places_mm[numbers == number].max()) for number in set(numbers.tolist()))
    if any(later[0] < earlier[1] for earlier, later in pairwise(spans)):
        raise Refused(f"The series mixes {len(spans)} acquisitions of the same region; they cannot be stacked into one volume.")


def _as_dense_as_declared(planes: Sequence[Plane], step: float) -> None:
    """Refuse a stack from which every second slice is gone: even, but wider than it declares.

    Some writers put the gap between slices, not their distance, into Spacing Between Slices; where the slices are
    thicker than the declared distance it proves nothing. Ref: PS3.3 C.8.15.3.9
    """
    try:
        declared = float(planes[0].header.get("SpacingBetweenSlices") or 0)
        thickness = float(planes[0].header.get("SliceThickness") or 0)
    except UNREADABLE:
        return
    if 0 < thickness <= declared * 1.01 and step > MISSING * declared:
        raise Refused(f"Slices are missing: they lie {step:.1f} mm apart and declare {declared:.1f} mm. Send the whole series again.")


def _straight(planes: Sequence[Plane], places_mm: Vector) -> None:
    """Refuse slices that do not lie on one line; a line that leans against their normal is a tilted gantry.

    Example: origins (0, 0, 0), (0, 1.27, 3.79) with normal (0, 0, 1): 1.27 mm sideways for 3.79 mm along the normal
    is a tilt of atan(1.27 / 3.79) = 18.5 degrees.
    """
    normal = np.cross(planes[0].row, planes[0].column)
    origins = np.array([plane.origin_mm for plane in planes])
    sideways = origins - origins[0] - (places_mm - places_mm[0])[:, None] * normal
    drift = sideways[-1] / (places_mm[-1] - places_mm[0])
    astray = np.linalg.norm(sideways - (places_mm - places_mm[0])[:, None] * drift, axis=1).max()
    if astray > ROUNDED_MM * 2:
        raise Refused(f"The slices are shifted sideways against each other, by up to {astray:.1f} mm.")
    angle = float(np.degrees(np.arctan(np.linalg.norm(drift))))
    if angle > STEEPEST or (len(planes) == 2 and angle > 0.1):
        raise Refused(f"The slices' line leans {angle:.1f} degrees against their normal, which no gantry's tilt explains.")


def _tilt(grid: Grid) -> str:
    """Say how far the gantry leaned; empty where it did not."""
    if grid.is_orthogonal():
        return ""
    return f"gantry tilt {np.degrees(np.arccos(grid.between_planes_mm / grid.spacing_mm[0])):.1f} degrees"


def _grid(planes: Sequence[Plane]) -> Grid:
    """Give the grid of a sorted, straight, evenly spaced stack, from its first slice's place to its last one's."""
    first, last, count = planes[0], planes[-1], len(planes)
    step = (last.origin_mm - first.origin_mm) / (count - 1)
    length = float(np.linalg.norm(step))
    return Grid(
        shape=(count, int(first.header.Rows), int(first.header.Columns)),
        origin_mm=_triple(first.origin_mm),
        axes=(_triple(step / length), _triple(first.column), _triple(first.row)),
        spacing_mm=(length, float(first.spacing_mm[0]), float(first.spacing_mm[1])),
    )


def _triple(vector: Vector) -> Triple:
    return float(vector[0]), float(vector[1]), float(vector[2])
