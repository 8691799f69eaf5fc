"""Generated thoraxes are what they say: the same from the same seed, left at +x, nodules, tumours and fissures where the truth has them."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from scipy import ndimage

from models.starter.chest_ct import body, generator
from models.starter.chest_ct.body import Body, View
from models.starter.chest_ct.generator import LEFT, RIGHT, Scan, draw, draw_view
from models.starter.chest_ct.nodules import Nodule, sow
from models.vocabulary import Volume

COARSE = (4.0, 3.0, 3.0)


@cache
def _scan() -> Scan:
    return draw(41, COARSE, nodules=(5, 8))


def _middle_mm(volume: Volume, mask: np.ndarray) -> np.ndarray:
    middle: np.ndarray = volume.grid.to_world_mm(np.argwhere(mask).mean(axis=0, keepdims=True))[0]
    return middle


def test_the_same_seed_draws_the_same_scan_and_another_seed_another() -> None:
    """A scan follows from its seed alone."""
    again = draw(41, COARSE, nodules=(5, 8))
    assert np.array_equal(again.volume.array, _scan().volume.array)
    assert np.array_equal(again.instances, _scan().instances)
    assert again.nodules == _scan().nodules
    other = draw(42, COARSE, nodules=(5, 8))
    assert other.volume.array.shape != again.volume.array.shape or not np.array_equal(other.volume.array, again.volume.array)


@pytest.mark.parametrize("seed", [1, 2, 3, 4])
def test_the_left_lung_lies_at_greater_x_in_lps(seed: int) -> None:
    """Left is +x (PS3.3 C.7.6.2.1.1), in every drawn scan."""
    scan = draw(seed, COARSE)
    left, right = _middle_mm(scan.volume, scan.organs == LEFT), _middle_mm(scan.volume, scan.organs == RIGHT)
    assert left[0] - right[0] > 60


def test_hu_are_plausible_inside_and_outside_the_lungs() -> None:
    """Lungs are mostly air, what surrounds them is not, and nothing leaves CT's range."""
    scan = draw(7, COARSE, nodules=(0, 0))
    hu = scan.volume.array
    assert hu.min() >= -1024
    assert hu.max() <= 3071
    assert -960 < np.median(hu[scan.organs > 0]) < -600
    around = ndimage.binary_dilation(scan.organs > 0, iterations=3) & ~ndimage.binary_dilation(scan.organs > 0)
    assert -150 < np.median(hu[around]) < 200
    assert 500 < (scan.organs > 0).sum() * scan.volume.grid.voxel_mm3 / 1000 < 9000


def test_a_nodule_lies_where_and_as_large_as_the_truth_says() -> None:
    """A nodule's mask is about its centre and has about its sphere's volume."""
    scan = draw(12, (2.0, 1.5, 1.5), nodules=(6, 9))
    assert scan.nodules
    for nodule in scan.nodules:
        mask = scan.instances == nodule.number
        assert mask.any()
        assert np.linalg.norm(_middle_mm(scan.volume, mask) - nodule.centre_mm) < max(3.0, 0.6 * nodule.diameter_mm)
        volume = mask.sum() * scan.volume.grid.voxel_mm3
        assert 0.4 < volume / (np.pi / 6 * nodule.diameter_mm**3) < 2.0


@pytest.mark.parametrize("seed", [0, 8, 11])
def test_a_nodule_that_the_field_of_view_does_not_show_is_none(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """These boxes lose a nodule to the corners of a round field of view; those that stay can be seen, and are numbered from 1."""
    drawn: list[tuple[Nodule, ...]] = []
    shown = generator.shown

    def noted(instances: np.ndarray, found: tuple[Nodule, ...], columns: np.ndarray) -> tuple[Nodule, ...]:
        drawn.append(found)
        return shown(instances, found, columns)

    monkeypatch.setattr(generator, "shown", noted)
    scan = draw_view(seed, View(spacing_mm=(3.0, 3.0, 3.0), box_mm=(150.0, 150.0, 150.0)), (6, 9))
    assert 0 < len(scan.nodules) < len(drawn[0])
    assert [nodule.number for nodule in scan.nodules] == list(range(1, len(scan.nodules) + 1)) == np.unique(scan.instances)[1:].tolist()
    centres = {nodule.centre_mm for nodule in drawn[0]}
    for nodule in scan.nodules:
        assert nodule.centre_mm in centres
        seen = scan.volume.array[scan.instances == nodule.number]
        assert (seen > -990).mean() > 0.85


def test_a_part_of_a_scan_shows_the_same_body() -> None:
    """A box of a scan on the same spacing has the lungs the whole scan has there."""
    whole = draw_view(12, View(spacing_mm=COARSE), (0, 0))
    part = draw_view(12, View(spacing_mm=COARSE, box_mm=(100.0, 90.0, 90.0)), (0, 0))
    low = np.rint(whole.volume.grid.to_index(np.array([part.volume.grid.origin_mm]))[0]).astype(int)
    there = tuple(slice(start, start + size) for start, size in zip(low, part.organs.shape, strict=True))
    assert part.organs.any()
    assert np.array_equal(whole.organs[there], part.organs)


def test_disease_takes_room_from_the_lungs_and_masses_are_told() -> None:
    """Among some scans there are masses, and no voxel near a mass's middle is lung."""
    masses = 0
    for seed in (31, 33, 35):
        scan = draw(seed, (8.0, 8.0, 8.0), nodules=(0, 0))
        for mass in scan.masses:
            at = np.rint(scan.volume.grid.to_index(np.array([mass.centre_mm]))[0]).astype(int)
            if all(0 <= index < size for index, size in zip(at, scan.organs.shape, strict=True)):
                masses += 1
                assert not scan.organs[tuple(at)]
    assert masses >= 1


def _body(seed: int) -> Body:
    return body.begin(np.random.default_rng(seed), View(spacing_mm=(6.0, 6.0, 6.0)), np.random.default_rng(0))


def test_beyond_a_tumour_an_upper_or_a_lower_lobe_or_the_whole_lung_lies_without_air(monkeypatch: pytest.MonkeyPatch) -> None:
    """In thirty chests with a tumour and collapse each of the three happens; the other lung keeps all its air."""
    heights, emptied = [], 0
    for seed in range(30):
        drawn = _body(seed)
        throws = iter([True, True, True, False])  # ill, on the left, with collapse, without fluid
        with monkeypatch.context() as patch:
            inside = body.lungs(drawn)
            patch.setattr(Body, "chance", lambda _self, _share, throws=throws: next(throws))
            left = body.airless(drawn, inside.copy())
        lost, (tall, _, _) = (inside > 0) & (left <= 0), drawn.cavity
        assert not lost[:, :, drawn.frame.x_mm < -30].any()
        share = lost.sum() / max(1, ((inside > 0) & (drawn.x > 0)).sum())
        emptied += share > 0.9
        if 0.1 < share < 0.9:
            heights.append(float(np.argwhere(lost)[:, 0].mean() * 6 + drawn.frame.z_mm[0]) / tall)
    assert emptied >= 1
    assert min(heights) < -0.1
    assert max(heights) > 0.1


def test_nodules_lie_on_fissures_where_a_lung_has_them() -> None:
    """Some are told to; each of these lies within its radius of the sheet, and where a lung has no fissure none does."""
    drawn = _body(3)
    inside = np.full(drawn.frame.shape, 40, np.float32)
    height = float(drawn.frame.z_mm[len(drawn.frame.z_mm) // 2])
    _, none = sow(drawn, np.full_like(inside, -850), inside, 40)
    assert not any(nodule.site == "fissure" for nodule in none)
    drawn.fissures = np.broadcast_to((drawn.frame.z_mm == height)[:, None, None], inside.shape)
    _, found = sow(drawn, np.full_like(inside, -850), inside, 60)
    on = [nodule for nodule in found if nodule.site == "fissure"]
    assert len(on) >= 3
    assert all(abs(nodule.centre_mm[2] - height) < max(0.6 * 0.6 * nodule.diameter_mm, 4) for nodule in on)
