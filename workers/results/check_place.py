"""Look that a result lies on its images: to a thousandth of a millimetre where their headers place them.

The headers themselves may lie as far from the even grid as loading lets them: scanners round.
Ref: PS3.3 C.7.6.2.1.1
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from models.vocabulary import Grid
from node.errors import Refused
from workers.results.request import ComposeRequest

PLACE_MM = 1e-3
ROUNDED_MM = 0.15
Vector = NDArray[np.float64]


def check_images(request: ComposeRequest) -> None:
    """Look that the images are the slices that were analysed, in order, whatever is written of them; a projection has no place.

    Writers that round positions to 0.1 mm put slices up to 0.05 mm off their even places, in each of three directions.
    """
    grid, first = request.prediction.grid, request.sources[0]
    if len(request.sources) != grid.shape[0] or (first.Rows, first.Columns) != grid.shape[1:]:
        raise Refused("the prediction's grid is not that of the images")
    if grid.is_projection:
        return
    pixel = np.array(first.PixelSpacing, dtype=float)
    theirs = _reach(np.array(first.ImageOrientationPatient, dtype=float), pixel, grid)
    # Headers round direction cosines, the grid's axes are of length 1: no more than half a pixel in the farthest corner.
    if np.abs(theirs - grid.affine[:3, [2, 1]].T * [[grid.shape[2]], [grid.shape[1]]]).max() > pixel.min() / 2:
        raise Refused("the prediction's grid is not that of the images")
    places, affine = _places(request), grid.affine
    step_mm = float(np.linalg.norm(affine[:3, 0]))
    even = affine[:3, 3] + np.arange(len(places))[:, None] * affine[:3, 0]
    if np.abs(places - even).max() > min(max(ROUNDED_MM, 0.03 * step_mm), 0.4 * step_mm):
        raise Refused("the source images are not in the order of the volume's slices")


def check_planes(request: ComposeRequest, shared: Dataset, what: str) -> None:
    """Compare orientation and spacings that all frames share with the images'; `what` names the object in a refusal.

    A distance between slices is claimed only where it is one.
    """
    grid, first = request.prediction.grid, request.sources[0]
    spacing = np.array(shared.PixelMeasuresSequence[0].PixelSpacing, dtype=float)
    ours = _reach(np.array(shared.PlaneOrientationSequence[0].ImageOrientationPatient, dtype=float), spacing, grid)
    theirs = _reach(np.array(first.ImageOrientationPatient, dtype=float), np.array(first.PixelSpacing, dtype=float), grid)
    if np.abs(ours - theirs).max() > PLACE_MM:
        raise Refused(f"the {what}'s orientation or spacing is not that of the images")
    affine = grid.affine
    normal = np.cross(affine[:3, 2], affine[:3, 1])
    normal /= np.linalg.norm(normal)
    apart = abs(float(affine[:3, 0] @ normal))
    uneven = bool((np.abs(np.abs(np.diff(_places(request) @ normal)) - apart) > PLACE_MM).any())
    told = shared.PixelMeasuresSequence[0].get("SpacingBetweenSlices")
    if uneven != (told is None) or (told is not None and abs(float(told) - apart) > PLACE_MM):
        raise Refused(f"the {what}'s slice spacing is not that of the images")


def _places(request: ComposeRequest) -> Vector:
    return np.array([source.ImagePositionPatient for source in request.sources], dtype=float)


def _reach(orientation: Vector, spacing: Vector, grid: Grid) -> Vector:
    """Give the two edges of a picture as vectors in mm.

    x grows along the row's direction by the distance between columns, the second spacing. Ref: PS3.3 C.7.6.2.1.1
    """
    return np.array([orientation[:3] * spacing[1] * grid.shape[2], orientation[3:] * spacing[0] * grid.shape[1]])


def slice_of(request: ComposeRequest, group: Dataset, what: str) -> int:
    """Find the slice of a frame by its groups, see `place_of`."""
    flat = request.prediction.grid.is_projection
    position = None if flat else [float(part) for part in group.PlanePositionSequence[0].ImagePositionPatient]
    images = [item for entry in group.DerivationImageSequence for item in entry.SourceImageSequence]
    named = [(item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID, item.get("ReferencedFrameNumber")) for item in images]
    return place_of(request, position, named, what)


def place_of(request: ComposeRequest, position: Sequence[float] | None, named: Sequence[tuple[str, str, int | None]], what: str) -> int:
    """Find the slice a frame lies on by its position alone, and compare with the images it names; a projection has one slice."""
    index = 0 if position is None else _nearest(request, np.array([position]), what)
    source = request.sources[index]
    if list(named) != [(source.SOPClassUID, source.SOPInstanceUID, request.frame(index))]:
        raise Refused(f"a frame of the {what} names another source image than the one it lies on")
    return index


def _nearest(request: ComposeRequest, position: Vector, what: str) -> int:
    grid = request.prediction.grid
    index = round(float(grid.to_index(position)[0, 0]))
    if (
        not 0 <= index < grid.shape[0]
        or np.abs(position - np.array(request.sources[index].ImagePositionPatient, dtype=float)).max() > PLACE_MM
    ):
        raise Refused(f"a frame of the {what} lies on none of the images")
    return index


def on_image(request: ComposeRequest, points_mm: Vector) -> tuple[int, Vector]:
    """Give the image that (n, 3) LPS points lie in the plane of, and the points on it as (row, column); Refused off every plane.

    The centre of the first pixel is (0, 0).
    """
    grid = request.prediction.grid
    index = round(float(grid.to_index(points_mm)[:, 0].mean()))
    if not 0 <= index < grid.shape[0]:
        raise Refused("points of the result lie on none of the images")
    source = request.sources[index]
    orientation, spacing = np.array(source.ImageOrientationPatient, dtype=float), np.array(source.PixelSpacing, dtype=float)
    edges = np.column_stack([orientation[3:] * spacing[0], orientation[:3] * spacing[1]])
    away = points_mm - np.array(source.ImagePositionPatient, dtype=float)
    places = away @ np.linalg.pinv(edges).T
    if not np.abs(places @ edges.T - away).max() <= PLACE_MM:
        raise Refused("points of the result lie on none of the images")
    return index, np.asarray(places, dtype=float)
