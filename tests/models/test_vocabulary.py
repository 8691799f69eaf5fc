"""Grid: where voxels lie in the patient."""

from __future__ import annotations

import numpy as np
import pytest

from models.vocabulary import Grid

AXIAL = Grid(shape=(5, 6, 7), origin_mm=(10, 20, 30), axes=((0, 0, 1), (0, 1, 0), (1, 0, 0)), spacing_mm=(2, 0.5, 0.5))


def test_the_docstrings_example_holds() -> None:
    """Index (3, 4, 8) of the worked example lies at (14, 22, 36) mm."""
    assert AXIAL.to_world_mm(np.array([[3, 4, 8]])).tolist() == [[14, 22, 36]]


def test_world_and_index_are_inverse_on_an_oblique_grid() -> None:
    """Index -> LPS -> index returns to where it began."""
    c, s = np.cos(0.3), np.sin(0.3)
    grid = Grid(shape=(4, 4, 4), origin_mm=(-3, 8, 1), axes=((0, -s, c), (0, c, s), (1, 0, 0)), spacing_mm=(3, 0.7, 1.1))
    points = np.array([[0.0, 0, 0], [3, 2, 1], [-1.5, 0.25, 9]])
    assert np.allclose(grid.to_index(grid.to_world_mm(points)), points, atol=1e-9)
    assert grid.voxel_mm3 == pytest.approx(3 * 0.7 * 1.1)
    assert grid.is_orthogonal()


def test_a_tilted_gantry_is_not_orthogonal() -> None:
    """Slices that step at 18.5 degrees to their normal make a sheared grid with a smaller voxel."""
    tilt = np.radians(18.5)
    grid = Grid(shape=(4, 4, 4), origin_mm=(0, 0, 0), axes=((0, np.sin(tilt), np.cos(tilt)), (0, 1, 0), (1, 0, 0)), spacing_mm=(4, 1, 1))
    assert not grid.is_orthogonal()
    assert grid.voxel_mm3 == pytest.approx(4 * np.cos(tilt))
