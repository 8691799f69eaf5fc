"""Where a result lies: on the images as their headers place them, not on an even grid that rounds otherwise.

Scanners round positions and directions; a viewer puts a frame or a line where its image is only if both are rounded alike.
Ref: PS3.3 C.7.6.2.1.1, C.7.6.16.2.1
"""

from __future__ import annotations

import highdicom
import numpy as np
from numpy.typing import NDArray

from workers.results.request import ComposeRequest

EVEN_MM = 1e-3
Points = NDArray[np.float64]


def pixel_measures(request: ComposeRequest) -> highdicom.PixelMeasuresSequence:
    """Take spacing from the headers, the distance between slices from the grid: a header's own is often wrong.

    None is claimed where the images lie unevenly; each frame has the place of its image.
    Where a gantry leaned it is the distance along the normal, less than that of the slices' corners. Ref: PS3.3 C.7.6.16.2.1
    """
    first = request.sources[0]
    between_mm = request.prediction.grid.between_planes_mm
    return highdicom.PixelMeasuresSequence(
        pixel_spacing=[float(value) for value in first.PixelSpacing],
        slice_thickness=float(first.get("SliceThickness") or between_mm),
        spacing_between_slices=float(f"{between_mm:.9g}") if is_even(request) else None,
    )


def is_even(request: ComposeRequest) -> bool:
    """Tell whether all images lie equally far apart along their normal, to a thousandth of a millimetre."""
    grid = request.prediction.grid
    normal = np.cross(np.asarray(grid.axes[2], dtype=float), np.asarray(grid.axes[1], dtype=float))
    places_mm = np.array([source.ImagePositionPatient for source in request.sources], dtype=float) @ (normal / np.linalg.norm(normal))
    return bool((np.abs(np.abs(np.diff(places_mm)) - grid.between_planes_mm) <= EVEN_MM).all())


def on_image(request: ComposeRequest, index: int, points: Points) -> Points:
    """Take (n, 2) fractional (row, column) on an image to (n, 3) LPS mm, by that image's own header.

    Example: position (10, 20, 30), rows along x, columns along y, spacing 0.5 (rows) and 0.7 (columns):
    (4, 8) lies at (10 + 8*0.7, 20 + 4*0.5, 30) = (15.6, 22, 30). Ref: PS3.3 C.7.6.2.1.1
    """
    source = request.sources[index]
    orientation = np.array(source.ImageOrientationPatient, dtype=float)
    between_rows_mm, between_columns_mm = (float(value) for value in source.PixelSpacing)
    corner_mm = np.array(source.ImagePositionPatient, dtype=float)
    return np.asarray(
        corner_mm + points[:, 1:] * between_columns_mm * orientation[:3] + points[:, :1] * between_rows_mm * orientation[3:], dtype=float
    )
