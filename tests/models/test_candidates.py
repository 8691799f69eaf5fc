"""Blobs in the lungs: balls are found wherever they sit, vessels rank below them, and nothing outside the hull is looked at."""

from __future__ import annotations

import numpy as np

from models.chest import candidates

SPACING_MM = 1.25
SHAPE = (48, 56, 64)


def scene() -> tuple[np.ndarray, np.ndarray]:
    """Give a lung of -850 HU as a box in soft tissue, and the box."""
    lung = np.zeros(SHAPE, bool)
    lung[6:42, 8:48, 8:56] = True
    return np.where(lung, -850.0, 40.0).astype(np.float32), lung


def ball(middle: tuple[int, int, int], radius_mm: float) -> np.ndarray:
    """Give the voxels of a ball."""
    places = np.stack(np.meshgrid(*(np.arange(n) for n in SHAPE), indexing="ij"), axis=-1)
    return np.asarray(np.linalg.norm((places - middle) * SPACING_MM, axis=-1) <= radius_mm)


def nearest_mm(found: candidates.Candidates, middle: tuple[int, int, int], among: int = 1000) -> float:
    """Give how far the nearest of the best candidates is from a place."""
    return float(np.linalg.norm((found.voxels[:among] - middle) * SPACING_MM, axis=1).min())


def test_balls_of_every_size_are_among_the_best() -> None:
    """Balls of 5, 9 and 20 mm each have a candidate at their middle, and whatever comes before the last of these lies in a ball too."""
    hu, lung = scene()
    places = {(14, 16, 16): 2.5, (14, 16, 44): 4.5, (30, 34, 30): 10.0}
    for middle, radius in places.items():
        hu[ball(middle, radius)] = 30.0
    found = candidates.find(hu, candidates.hull(lung & (hu < -400), SPACING_MM), SPACING_MM, 100)
    for middle in places:
        assert nearest_mm(found, middle, 10) <= 1.5 * SPACING_MM
    away = np.array([np.linalg.norm(found.voxels - middle, axis=1) * SPACING_MM for middle in places])
    last = int((away <= 1.5 * SPACING_MM).argmax(axis=1).max())
    assert (away[:, :last] <= np.array([[radius] for radius in places.values()])).any(axis=0).all()


def test_a_ball_on_the_wall_is_found() -> None:
    """A ball of 10 mm that half lies in the chest wall is cut into the lung's edge; the closed hull holds it, and it is found."""
    hu, lung = scene()
    middle = (24, 9, 30)
    hu[ball(middle, 5.0)] = 40.0
    inside = candidates.hull(lung & (hu < -400), SPACING_MM)
    assert inside[ball(middle, 4.0) & lung].mean() > 0.9
    assert nearest_mm(candidates.find(hu, inside, SPACING_MM, 50), middle) < 5.0


def test_a_straight_vessel_ranks_below_a_ball_of_its_width() -> None:
    """A rod along an axis curves in two directions only; a ball as wide, less dense, still comes first."""
    hu, lung = scene()
    rows, columns = np.meshgrid(np.arange(SHAPE[0]), np.arange(SHAPE[1]), indexing="ij")
    rod = np.hypot(rows - 14, columns - 20) * SPACING_MM <= 3.0
    hu[np.broadcast_to(rod[:, :, None], SHAPE) & lung] = 60.0
    hu[ball((30, 34, 30), 3.0)] = -100.0
    found = candidates.find(hu, lung, SPACING_MM, 100)
    assert np.linalg.norm((found.voxels[0] - (30, 34, 30)) * SPACING_MM) <= 2.0


def test_large_haze_is_among_the_best_in_noise() -> None:
    """A ball of 20 mm, 100 HU above the lung, comes before all but a few of the narrow peaks that noise of 160 HU makes."""
    hu, lung = scene()
    middle = (24, 28, 32)
    hu[ball(middle, 10.0)] = -750.0
    hu += np.random.default_rng(5).normal(0, 160, SHAPE).astype(np.float32)
    assert nearest_mm(candidates.find(hu, lung, SPACING_MM, 100), middle, 5) <= 4.0


def test_a_faint_ball_ranks_above_a_dense_long_shape() -> None:
    """A shape 7 mm thick and 24 mm long curves along its axis too, but weakly: a ball of 9 mm and a third of its contrast comes first."""
    hu, lung = scene()
    z, y, x = (places * SPACING_MM for places in np.indices(SHAPE))
    hu[np.hypot(z - 17.5, y - 25.0) ** 2 / 3.5**2 + (x - 40.0) ** 2 / 12.0**2 <= 1] = 50.0
    hu[ball((30, 34, 30), 4.5)] = -600.0
    found = candidates.find(hu, lung, SPACING_MM, 100)
    assert np.linalg.norm((found.voxels[0] - (30, 34, 30)) * SPACING_MM) <= 2.0


def test_no_lung_no_candidates() -> None:
    """An empty hull gives no candidates and an empty mask."""
    hu, _ = scene()
    empty = candidates.hull(np.zeros(SHAPE, bool), SPACING_MM)
    assert not empty.any()
    assert len(candidates.find(hu, empty, SPACING_MM, 10).voxels) == 0


def test_candidates_keep_their_distance_and_their_order() -> None:
    """No two candidates lie within 3 mm, and the responses fall."""
    hu, lung = scene()
    hu += np.random.default_rng(3).normal(0, 60, SHAPE).astype(np.float32)
    found = candidates.find(hu, lung, SPACING_MM, 60)
    away = np.linalg.norm((found.voxels[:, None] - found.voxels[None]) * SPACING_MM, axis=-1) + 99 * np.eye(len(found.voxels))
    assert away.min() >= 3.0
    assert (np.diff(found.response) <= 0).all()
    assert lung[tuple(found.voxels.T)].all()
