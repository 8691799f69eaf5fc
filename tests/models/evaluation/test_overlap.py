"""Dice, surface distance and volumes against examples by hand, MONAI and SimpleITK."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK
import torch
from monai.metrics import compute_hausdorff_distance

from models.evaluation import overlap
from models.vocabulary import Grid
from tests.models import grids


def block(grid: Grid, low: tuple[int, int, int], high: tuple[int, int, int]) -> np.ndarray:
    """Give a mask of a half-open box."""
    mask = np.zeros(grid.shape, dtype=bool)
    mask[tuple(slice(a, b) for a, b in zip(low, high, strict=True))] = True
    return mask


def test_two_blocks_are_measured_as_by_hand() -> None:
    """Blocks of 4 x 4 x 4 and 4 x 4 x 6 voxels of 2 x 0.8 x 1.1 mm with 64 in common: Dice 128 / 160, volumes by counting."""
    grid = grids.grid("oblique")
    said, truth = block(grid, (2, 2, 2), (6, 6, 6)), block(grid, (2, 2, 2), (6, 6, 8))
    found = overlap.compare(said, truth, grid)
    assert found.dice == pytest.approx(0.8)
    assert found.said_ml == pytest.approx(64 * 1.76 / 1000)
    assert found.error_ml == pytest.approx(-32 * 1.76 / 1000)
    assert found.error_percent == pytest.approx(-100 / 3)
    assert found.hd95_mm == pytest.approx(2.2)


def test_a_single_voxel_has_the_distance_in_the_patient_on_a_sheared_grid() -> None:
    """Planes that step (0, 3, 4) mm: one plane up is 5 mm away, where the spacing along the normal says 4."""
    grid = Grid(shape=(3, 4, 4), origin_mm=(0, 0, 0), axes=((0.0, 0.6, 0.8), (0, 1, 0), (1, 0, 0)), spacing_mm=(5.0, 1.0, 1.0))
    assert overlap.hausdorff_mm(block(grid, (0, 0, 0), (1, 1, 1)), block(grid, (1, 0, 0), (2, 1, 1)), grid) == pytest.approx(5)


def test_what_is_empty_has_no_distance_and_both_empty_no_dice() -> None:
    """A missed label has Dice 0; a label that is nowhere has none at all."""
    grid = grids.grid("axial")
    full, empty = block(grid, (1, 1, 1), (3, 3, 3)), np.zeros(grid.shape, dtype=bool)
    missed = overlap.compare(empty, full, grid)
    assert (missed.dice, missed.hd95_mm, missed.error_percent) == (0, None, -100)
    nowhere = overlap.compare(empty, empty, grid)
    assert (nowhere.dice, nowhere.hd95_mm, nowhere.error_percent) == (None, None, None)


@pytest.mark.parametrize("orientation", ["axial", "sagittal", "oblique"])
@pytest.mark.parametrize("seed", [1, 2])
def test_the_figures_are_monais_and_simpleitks(orientation: str, seed: int) -> None:
    """Two ragged balls, one touching the grid's edge: Dice as SimpleITK, HD95 as MONAI with the spacing."""
    grid = grids.grid(orientation, shape=(14, 30, 26))
    rng = np.random.default_rng(seed)
    middle = tuple(grid.to_world_mm(np.array([[3.0, 12.0, 12.0]]))[0])
    said = grids.ball(grid, middle, 7.5) & (rng.random(grid.shape) < 0.9)
    truth = grids.ball(grid, tuple(np.add(middle, (1.5, -2.0, 1.0))), 7.0) | (rng.random(grid.shape) < 0.0005)
    found = overlap.compare(said, truth, grid)
    measure = SimpleITK.LabelOverlapMeasuresImageFilter()
    measure.Execute(*(SimpleITK.GetImageFromArray(mask.astype(np.uint8)) for mask in (truth, said)))
    assert found.dice == pytest.approx(measure.GetDiceCoefficient(1))
    pair = (torch.from_numpy(mask.astype(np.float32))[None, None] for mask in (said, truth))
    expected = compute_hausdorff_distance(*pair, include_background=True, percentile=95, spacing=list(grid.spacing_mm))
    assert found.hd95_mm == pytest.approx(float(expected), abs=1e-4)
