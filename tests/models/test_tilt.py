"""Tilted slices: what a model sees is upright, and each of its marks comes back to the voxel it was made on."""

from __future__ import annotations

import numpy as np
import pytest

from models.grids import tilt
from models.vocabulary import Box, Finding, Grid, Prediction, Volume

LEAN = np.radians(18.5)
ROW, COLUMN = (1.0, 0.0, 0.0), (0.0, float(np.cos(LEAN)), float(np.sin(LEAN)))
SHAPE = (30, 24, 20)


def leaning(sign: float = 1.0) -> Grid:
    """Give slices stacked along the table by 3 mm while the gantry leans."""
    return Grid(shape=SHAPE, origin_mm=(-10.0, 20.0, -300.0), axes=((0.0, 0.0, sign), COLUMN, ROW), spacing_mm=(3.0, 0.7, 0.9))


def volume(grid: Grid, unit: str = "HU") -> Volume:
    """Give a volume in which no two voxels are alike."""
    return Volume(array=np.arange(np.prod(SHAPE), dtype=np.int32).reshape(SHAPE), grid=grid, unit=unit, modality="CT")


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_every_voxel_is_seen_within_half_a_pixel_of_its_true_place(sign: float) -> None:
    """The upright grid has right angles, and each voxel's value stands on it next to where the voxel truly lies."""
    source = volume(leaning(sign))
    seen = tilt.upright(source)
    assert seen.grid.is_orthogonal()
    assert seen.grid.spacing_mm[0] == pytest.approx(3 * np.cos(LEAN))
    found = np.argwhere(seen.array >= 0)
    assert len(found) == source.array.size
    order = np.argsort(seen.array[tuple(found.T)])
    theirs = source.grid.to_world_mm(np.argwhere(np.ones(SHAPE)).astype(float))
    off = (seen.grid.to_world_mm(found[order].astype(float)) - theirs) @ np.array(seen.grid.axes).T
    assert np.abs(off[:, 0]).max() < 1e-6
    assert np.abs(off[:, 1]).max() <= 0.35 + 1e-6
    assert np.abs(off[:, 2]).max() <= 0.45 + 1e-6


def test_what_no_slice_covers_is_air_in_a_ct_and_dark_elsewhere() -> None:
    """The corners of the upright grid hold no made-up tissue."""
    assert tilt.upright(volume(leaning())).array.min() == -1024
    assert tilt.upright(volume(leaning(), "1")).array.min() == 0


def test_marks_come_back_to_the_very_voxels() -> None:
    """A mark on chosen values of the upright volume comes back on the voxels that hold these values, box and all."""
    source = volume(leaning())
    seen = tilt.upright(source)
    wanted = np.zeros(SHAPE, bool)
    wanted[5:9, 3:8, 10:14] = True
    instances = np.isin(seen.array, source.array[wanted]).astype(np.uint16)
    labels = ((seen.array >= 0) & (instances == 0)).astype(np.uint8)
    box = Box(low=(0, 0, 0), high=seen.grid.shape)
    finding = Finding(number=1, label=3, score=0.5, box=box)
    back = tilt.back(Prediction(grid=seen.grid, labels=labels, instances=instances, findings=(finding,)), source.grid)
    assert back.grid == source.grid
    assert back.instances is not None
    assert np.array_equal(back.instances == 1, wanted)
    assert np.array_equal(back.labels == 1, ~wanted)
    assert back.findings[0].box == Box(low=(5, 3, 10), high=(9, 8, 14))


def test_a_finding_outside_every_slice_is_dropped_and_the_others_numbered_anew() -> None:
    """What a model marks in the air beside the slices is no finding of the patient's."""
    source = volume(leaning())
    seen = tilt.upright(source)
    instances = np.zeros(seen.grid.shape, np.uint16)
    outside = np.argwhere(seen.array < 0)[0]
    inside = np.argwhere(seen.array == 4321)[0]
    instances[tuple(outside)], instances[tuple(inside)] = 1, 2
    findings = tuple(Finding(number=n, label=3, score=0.5, box=Box(low=(0, 0, 0), high=(1, 1, 1))) for n in (1, 2))
    labels = np.zeros(seen.grid.shape, np.uint8)
    back = tilt.back(Prediction(grid=seen.grid, labels=labels, instances=instances, findings=findings), source.grid)
    assert [finding.number for finding in back.findings] == [1]
    assert back.instances is not None
    assert source.array[back.instances == 1].tolist() == [4321]


def test_masks_and_probabilities_come_back_to_the_very_voxels() -> None:
    """What may overlap, and what is known of each voxel, lies on the same voxels as the labels."""
    source = volume(leaning())
    seen = tilt.upright(source)
    masks = {4: (seen.array >= 0) & (seen.array % 2 == 0)}
    levels = {4: np.where(seen.array >= 0, seen.array % 251, 0).astype(np.uint8)}
    labels = np.zeros(seen.grid.shape, np.uint8)
    back = tilt.back(Prediction(grid=seen.grid, labels=labels, masks=masks, probabilities=levels), source.grid)
    assert np.array_equal(back.masks[4], source.array % 2 == 0)
    assert np.array_equal(back.probabilities[4], (source.array % 251).astype(np.uint8))


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_a_box_comes_back_round_what_it_marked(sign: float) -> None:
    """A box of an upright volume holds on the slices every voxel it held, and no row or column more; one in the air is dropped."""
    source = volume(leaning(sign))
    seen = tilt.upright(source)
    rows = seen.grid.shape[1]
    boxes = [Box(low=(12, rows // 2 - 5, 3), high=(15, rows // 2 + 5, 9)), Box(low=(0, rows - 2, 0), high=(1, rows, 2))]
    corner = seen.array[0, rows - 2 :, :2]
    if (corner >= 0).any():
        boxes[1] = Box(low=(0, 0, 0), high=(1, 2, 2))
    findings = tuple(Finding(number=number, label=3, score=0.5, box=box) for number, box in enumerate(boxes[::-1], start=1))
    labels = np.zeros(seen.grid.shape, np.uint8)
    back = tilt.back(Prediction(grid=seen.grid, labels=labels, findings=findings), source.grid)
    held = seen.array[12:15, rows // 2 - 5 : rows // 2 + 5, 3:9]
    voxels = np.argwhere(np.isin(source.array, held[held >= 0]))
    (finding,) = back.findings
    assert finding.number == 1
    assert finding.box == Box(low=tuple(voxels.min(axis=0).tolist()), high=tuple((voxels.max(axis=0) + 1).tolist()))


def test_an_upright_volume_is_left_alone() -> None:
    """Where nothing leans, volume and prediction are the same objects."""
    grid = Grid(shape=SHAPE, origin_mm=(0.0, 0.0, 0.0), axes=((0.0, 0.0, 1.0), (0.0, 1.0, 0.0), ROW), spacing_mm=(3.0, 0.7, 0.9))
    source = volume(grid)
    assert tilt.upright(source) is source
    prediction = Prediction(grid=grid, labels=np.zeros(SHAPE, np.uint8))
    assert tilt.back(prediction, grid) is prediction


def test_a_prediction_on_another_grid_is_an_error() -> None:
    """A prediction that is not on the upright grid cannot be brought back."""
    with pytest.raises(ValueError, match="not on the upright grid"):
        tilt.back(Prediction(grid=leaning(), labels=np.zeros(SHAPE, np.uint8)), leaning())
