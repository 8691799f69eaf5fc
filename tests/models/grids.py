"""Grids in the orientations series come in, and fields whose value at an LPS point is known."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.vocabulary import Grid

AXES = {
    "axial": ((0, 0, 1), (0, 1, 0), (1, 0, 0)),
    "feet up": ((0, 0, -1), (0, -1, 0), (1, 0, 0)),
    "sagittal": ((-1, 0, 0), (0, 0, -1), (0, 1, 0)),
    "coronal": ((0, 1, 0), (0, 0, -1), (1, 0, 0)),
    "oblique": (
        (0.17101007166283433, -0.29619813272602386, 0.9396926207859084),
        (-0.46984631039295416, 0.8137976813493737, 0.3420201433256687),
        (-0.8660254037844387, -0.5, 0.0),
    ),
}


def grid(orientation: str, shape: tuple[int, int, int] = (12, 20, 16), spacing_mm: tuple[float, float, float] = (2.0, 0.8, 1.1)) -> Grid:
    """Give a grid with distinct counts and spacings along its axes."""
    return Grid(shape=shape, origin_mm=(-11.0, 23.0, 5.0), axes=AXES[orientation], spacing_mm=spacing_mm)


def places_mm(of: Grid) -> NDArray[np.float64]:
    """Give the LPS position of every voxel, (z, y, x, 3)."""
    return of.to_world_mm(np.argwhere(np.ones(of.shape)).astype(float)).reshape(*of.shape, 3)


def ramp(of: Grid) -> NDArray[Any]:
    """Give 3 x + 5 y - 7 z at every voxel, float32."""
    return (places_mm(of) @ np.array([3.0, 5.0, -7.0])).astype(np.float32)


def ball(of: Grid, centre_mm: tuple[float, float, float], radius_mm: float) -> NDArray[np.bool_]:
    """Give the voxels whose centres lie in a ball."""
    inside: NDArray[np.bool_] = np.linalg.norm(places_mm(of) - centre_mm, axis=-1) <= radius_mm
    return inside


def middle_mm(of: Grid) -> tuple[float, float, float]:
    """Give the LPS centre of the field of view."""
    centre = of.to_world_mm((np.array([of.shape], dtype=float) - 1) / 2)[0]
    return float(centre[0]), float(centre[1]), float(centre[2])
