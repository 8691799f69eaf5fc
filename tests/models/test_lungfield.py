"""The lungs' border: the image's own edge near a coarse network's, no trachea, no hole where a vessel or a nodule lies."""

from __future__ import annotations

import numpy as np
import torch

from models.chest import lungfield
from models.grids import transforms
from models.vocabulary import Grid

AXES = ((0.0, 0.0, 1.0), (0.0, 1.0, 0.0), (1.0, 0.0, 0.0))
GRID = Grid(shape=(60, 80, 120), origin_mm=(0, 0, 0), axes=AXES, spacing_mm=(1.25, 1.25, 1.25))
EDGE = lungfield.Edge(air_hu=-400.0, reach_mm=5.0)


def ellipsoid(middle_mm: tuple[float, float, float], radii_mm: tuple[float, float, float], of: Grid = GRID) -> np.ndarray:
    """Give the voxels of an ellipsoid, (x, y, z) mm."""
    places = of.to_world_mm(np.stack(np.meshgrid(*(np.arange(n) for n in of.shape), indexing="ij"), axis=-1).reshape(-1, 3))
    depth = (((places - middle_mm) / radii_mm) ** 2).sum(axis=1)
    return np.asarray((depth <= 1).reshape(of.shape))


LEFT, RIGHT = ((105.0, 50.0, 37.0), (30.0, 35.0, 30.0)), ((42.0, 50.0, 37.0), (30.0, 35.0, 30.0))


Ellipsoid = tuple[tuple[float, float, float], tuple[float, float, float]]


def drawn(
    hu: np.ndarray, *unseen: Ellipsoid, off_mm: float = 2.5, turned: Ellipsoid | None = None, also: Ellipsoid | None = None
) -> lungfield.Field:
    """Draw with a coarse network that is off by some mm everywhere: it sees the lungs' ellipsoids smaller, and not what is `unseen`.

    It takes what of the lungs is `turned` for the other side's, and what is `also` there for left lung.
    """
    plans = (transforms.resampling(GRID, "SPL", (3.0, 3.0, 3.0)), transforms.resampling(GRID, "SPL", (1.25, 1.25, 1.25)))
    shares = torch.zeros((3, *plans[0].model.shape))
    for index, (middle, radii) in ((1, LEFT), (2, RIGHT)):
        seen = ellipsoid(middle, (radii[0] - off_mm, radii[1] - off_mm, radii[2] - off_mm), plans[0].model)
        for hidden in unseen:
            seen &= ~ellipsoid(*hidden, plans[0].model)
        shares[index] = 0.98 * torch.from_numpy(seen.astype(np.float32))
    if turned is not None:
        part = torch.from_numpy(ellipsoid(*turned, plans[0].model))
        shares[1:, part] = shares[1:, part].flip(0)
    if also is not None:
        shares[1, torch.from_numpy(ellipsoid(*also, plans[0].model))] = 0.98
    shares[0] = 1 - shares[1] - shares[2]
    return lungfield.draw(hu.astype(np.float32), shares, plans, EDGE)


def scene() -> tuple[np.ndarray, np.ndarray]:
    """Give HU and the two lungs."""
    lungs = ellipsoid(*LEFT) | ellipsoid(*RIGHT)
    return np.where(lungs, -850.0, 40.0), lungs


def test_the_border_is_the_images_where_the_network_is_off() -> None:
    """A network that sees lungs 2.5 mm too small gives lungs as large as they are, each on its side."""
    hu, lungs = scene()
    field = drawn(hu)
    assert 2 * (field.mask & lungs).sum() / (field.mask.sum() + lungs.sum()) > 0.985
    assert (field.leftness[ellipsoid(LEFT[0], (25.0, 25.0, 25.0))] > 0).all()
    assert (field.leftness[ellipsoid(RIGHT[0], (25.0, 25.0, 25.0))] < 0).all()
    assert field.aerated > 0.95


def test_a_core_of_one_lung_is_not_the_other_ones() -> None:
    """A ball in the right lung that the network calls left is right; a half of a lung that it calls so is left as it said."""
    hu, lungs = scene()
    core = (RIGHT[0], (15.0, 15.0, 15.0))
    field = drawn(hu, turned=core)
    assert (field.leftness[ellipsoid(*core)] < 0).all()
    assert (field.leftness[ellipsoid(LEFT[0], (25.0, 25.0, 25.0))] > 0).all()
    half = ((42.0, 90.0, 37.0), (60.0, 40.0, 60.0))
    kept = drawn(hu, turned=half)
    assert (kept.leftness[ellipsoid(*half) & ellipsoid(RIGHT[0], (20.0, 28.0, 20.0))] > 0).mean() > 0.9
    assert (kept.mask == field.mask).mean() > 0.999
    assert 2 * (field.mask & lungs).sum() / (field.mask.sum() + lungs.sum()) > 0.985


def test_foam_that_lies_in_air_is_no_lung_and_a_part_of_a_lung_behind_fluid_is() -> None:
    """The network calls a ball as dense as lung left lung: in air it is a cushion, with walls of tissue it is what is left of a lobe."""
    ball = ((73.5, 86.0, 37.0), (12.0, 12.0, 12.0))
    hu, lungs = scene()
    hu[ellipsoid(*ball)] = -850
    walled = drawn(hu, also=ball)
    assert walled.mask[ellipsoid(*ball)].mean() > 0.9
    chest = ellipsoid(LEFT[0], (33.0, 38.0, 33.0)) | ellipsoid(RIGHT[0], (33.0, 38.0, 33.0))
    hu[ellipsoid(ball[0], (25.0, 25.0, 25.0)) & ~ellipsoid(*ball) & ~chest] = -1000
    open_to_air = drawn(hu, also=ball)
    assert not open_to_air.mask[ellipsoid(*ball) & ~lungs].any()
    assert open_to_air.mask[lungs].mean() > 0.97


def test_air_beside_the_lungs_that_the_network_does_not_call_lung_stays_out() -> None:
    """A trachea 3 mm from a lung's edge is not lung."""
    hu, _ = scene()
    trachea = (
        ellipsoid((73.5, 50.0, 37.0), (4.0, 4.0, 200.0))
        & ~ellipsoid(LEFT[0], (32.0, 37.0, 32.0))
        & ~ellipsoid(RIGHT[0], (32.0, 37.0, 32.0))
    )
    hu[trachea] = -980.0
    assert (drawn(hu).mask & trachea).mean() < 0.02 * trachea.mean() + 1e-6


def test_vessels_and_nodules_are_lung() -> None:
    """Dense balls deep in a lung and near its edge leave no hole in it."""
    hu, lungs = scene()
    deep, near = ellipsoid((105.0, 50.0, 37.0), (6.0, 6.0, 6.0)), ellipsoid((105.0, 26.0, 37.0), (4.0, 4.0, 4.0))
    hu[deep | near] = 30.0
    field = drawn(hu)
    assert field.mask[deep].all()
    assert field.mask[near & lungs].mean() > 0.95


def test_a_dark_pocket_in_a_lung_is_lung_and_gas_behind_a_wall_is_not() -> None:
    """A bulla that the network leaves out is lung; gas as dark in a stomach that bulges into a lung, behind 3 mm of wall, is not."""
    hu, lungs = scene()
    bulla, stomach = ellipsoid((105.0, 60.0, 37.0), (12.0, 10.0, 12.0)), ellipsoid((42.0, 50.0, 30.0), (10.0, 10.0, 10.0))
    hu[ellipsoid((42.0, 50.0, 30.0), (13.5, 13.5, 13.5))] = 40.0
    hu[bulla | stomach] = -1000.0
    field = drawn(hu, ((105.0, 60.0, 37.0), (15.0, 13.0, 15.0)), ((42.0, 50.0, 30.0), (20.0, 20.0, 20.0)))
    assert field.mask[bulla & lungs].mean() > 0.99
    assert not field.mask[stomach].any()


def test_a_network_that_calls_soft_tissue_lung_shows_in_aerated() -> None:
    """Where the network's lungs hold no air the share of air tells."""
    assert drawn(np.full(GRID.shape, 40.0)).aerated == 0.0


def test_lung_that_the_network_missed_is_found_by_what_it_hangs_together_with() -> None:
    """A network that sees only the middle of each lung, 10 mm short everywhere: the lungs are whole, each voxel on its side."""
    hu, lungs = scene()
    field = drawn(hu, off_mm=10.0)
    assert (field.mask & lungs).sum() > 0.97 * lungs.sum()
    assert ((field.leftness > 0) == ellipsoid(*LEFT))[lungs].mean() > 0.99


def test_nothing_found_gives_an_empty_field() -> None:
    """A network that finds no lungs gives none, without an error."""
    field = drawn(scene()[0], off_mm=29.9)
    assert field.mask.sum() < 100
