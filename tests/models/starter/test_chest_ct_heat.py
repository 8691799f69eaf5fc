"""The chest starter's map of nodule probability: its peak is a nodule planted by formula, in the patient, however the scan is stored."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from models import card, registry
from models.starter.chest_ct import generator
from models.vocabulary import Grid, Triple, Volume

RADIUS_MM = 8.0


def planted() -> tuple[Volume, np.ndarray]:
    """Draw a chest without nodules and put a ball of soft tissue into the middle of the left lung; give its LPS centre."""
    scan = generator.draw(7, (2.5, 2.0, 2.0), nodules=(0, 0))
    grid = scan.volume.grid
    lung = np.argwhere(scan.organs == generator.LEFT)
    centre = grid.to_world_mm(np.median(lung, axis=0)[None].astype(float))[0] + (10.0, -12.0, 6.0)
    points = grid.to_world_mm(np.argwhere(np.ones(grid.shape, bool)).astype(float))
    off = np.linalg.norm(points - centre, axis=1).reshape(grid.shape)
    share = np.clip((RADIUS_MM - off) / 2 + 0.5, 0, 1)
    array = scan.volume.array * (1 - share) + 40 * share
    return replace(scan.volume, array=np.rint(array).astype(np.int16)), centre


def stored(volume: Volume, axes: tuple[int, int, int], flips: tuple[int, ...]) -> Volume:
    """Store the same voxels of the same patient with other axes, some of them running backwards."""
    grid = volume.grid
    array = np.flip(volume.array, flips).transpose(axes)
    corner = np.array([[grid.shape[axis] - 1 if axis in flips else 0 for axis in range(3)]], dtype=float)
    origin = grid.to_world_mm(corner)[0]

    def along(axis: int) -> Triple:
        x, y, z = ((-part if axis in flips else part) for part in grid.axes[axis])
        return x, y, z

    turned = Grid(
        shape=(array.shape[0], array.shape[1], array.shape[2]),
        origin_mm=(float(origin[0]), float(origin[1]), float(origin[2])),
        axes=(along(axes[0]), along(axes[1]), along(axes[2])),
        spacing_mm=(grid.spacing_mm[axes[0]], grid.spacing_mm[axes[1]], grid.spacing_mm[axes[2]]),
    )
    return replace(volume, array=np.ascontiguousarray(array), grid=turned)


@pytest.mark.parametrize(("axes", "flips"), [((0, 1, 2), ()), ((2, 0, 1), (0, 2))], ids=["axial", "sagittal, backwards"])
def test_the_maps_peak_is_the_planted_nodule(axes: tuple[int, int, int], flips: tuple[int, ...]) -> None:
    """Within the ball in the patient; the same map mirrored from left to right has its peak far from it."""
    volume, centre = planted()
    volume = stored(volume, axes, flips)
    model = registry.load(card.read(card.STARTERS / "chest_ct" / "card.toml"), "cpu")
    levels = model.predict({"ct": volume}, lambda _share: None).probabilities[3]
    assert (levels.shape, levels.dtype) == (volume.array.shape, np.uint8)
    points = volume.grid.to_world_mm(np.argwhere(levels == levels.max()).astype(float))
    assert np.linalg.norm(points - centre, axis=1).min() < RADIUS_MM / 2
    assert (np.linalg.norm(points - centre, axis=1) < RADIUS_MM).mean() > 0.9
    mirrored = np.flip(levels, axes.index(2))
    others = volume.grid.to_world_mm(np.argwhere(mirrored == levels.max()).astype(float))
    assert np.linalg.norm(others - centre, axis=1).min() > 30
