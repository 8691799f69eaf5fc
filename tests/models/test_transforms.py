"""Resampling: every sample lies where its grid says, and the way back is the way there."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional

from models.grids import inverse, transforms
from models.vocabulary import Grid
from tests.models.grids import AXES, ball, grid, middle_mm, places_mm, ramp


@pytest.mark.parametrize("name", AXES)
@pytest.mark.parametrize("orientation", ["SPL", "RAS", "LIA", "PIR"])
def test_turning_moves_no_voxel(name: str, orientation: str) -> None:
    """A turned array has the same value at the same LPS point, and turns back to itself."""
    source = grid(name)
    array = ramp(source)
    turning = transforms.turning(source, orientation)
    turned = turning.turned(source)
    assert np.allclose(turning.turn(array), ramp(turned), atol=1e-3)
    assert np.array_equal(turning.turn_back(turning.turn(array)), array)
    wanted = [transforms.DIRECTIONS[letter] for letter in orientation]
    assert all(np.dot(axis, direction) > 0.7 for axis, direction in zip(turned.axes, wanted, strict=True))


def test_the_worked_turning_holds() -> None:
    """The docstring's sagittal example is what the function gives."""
    source = Grid(shape=(2, 3, 4), origin_mm=(0, 0, 0), axes=((-1, 0, 0), (0, 0, -1), (0, 1, 0)), spacing_mm=(1, 1, 1))
    turning = transforms.turning(source, "SPL")
    assert (turning.axes, turning.flips) == ((1, 2, 0), (True, False, True))


@pytest.mark.parametrize("wrong", ["SP", "SSL", "SIL", "XYZ", "spl", ""])
def test_what_is_no_orientation_is_refused(wrong: str) -> None:
    """Letters that do not name three different axes are an error."""
    with pytest.raises(ValueError, match=r"orientation|direction"):
        transforms.turning(grid("axial"), wrong)


@pytest.mark.parametrize("name", AXES)
@pytest.mark.parametrize("spacing_mm", [(1.5, 1.5, 1.5), (2.0, 0.8, 1.1), (0.7, 0.5, 0.9), (3.0, 3.0, 3.0)])
def test_a_ramp_keeps_its_values_at_every_point(name: str, spacing_mm: tuple[float, float, float]) -> None:
    """A field linear in LPS, resampled to any spacing, has at each inner model voxel the value of that LPS point."""
    source = grid(name)
    plan = transforms.resampling(source, "SPL", spacing_mm)
    model = transforms.to_model(ramp(source), plan, "cpu").numpy()
    assert model.shape == plan.model.shape
    # A mean that reaches over the border of the field of view is one-sided: only voxels a full reach inside are exact.
    reach = [1 + np.sqrt(max(0.0, (m / s) ** 2 - 1) / 2) for m, s in zip(spacing_mm, plan.oriented.spacing_mm, strict=True)]
    places = plan.oriented.to_index(places_mm(plan.model).reshape(-1, 3)).reshape(*plan.model.shape, 3)
    inner = np.all((places >= np.array(reach) - 1) & (places <= np.array(plan.oriented.shape) - np.array(reach)), axis=-1)
    assert inner.sum() > 20
    assert np.abs(model - ramp(plan.model))[inner].max() < 0.02


def test_the_worked_weights_hold() -> None:
    """Four voxels of 1 mm to two of 2 mm: the docstrings' weights and places."""
    source = Grid(shape=(4, 1, 1), origin_mm=(0, 0, 0), axes=((0, 0, 1), (0, 1, 0), (1, 0, 0)), spacing_mm=(1, 1, 1))
    plan = transforms.resampling(source, "SPL", (2, 1, 1))
    impulses = [transforms.to_model(np.eye(4)[index].reshape(4, 1, 1), plan, "cpu")[0, 0, 0].item() for index in range(4)]
    assert impulses == pytest.approx([0.50, 0.39, 0.11, 0], abs=5e-3)
    assert plan.model_places(0).tolist() == [0, 0.25, 0.75, 1]
    assert transforms.nearest_indices(5, 3).tolist() == [0, 2, 4]


@pytest.mark.parametrize("name", AXES)
def test_a_ball_returns_to_its_place(name: str) -> None:
    """A ball labelled on the model's grid is, back on the source grid, the ball at the same LPS place."""
    source = grid(name, shape=(30, 60, 44))
    plan = transforms.resampling(source, "SPL", (1.3, 1.3, 1.3))
    centre = middle_mm(source)
    soft = np.clip(10.0 - np.linalg.norm(places_mm(plan.model) - centre, axis=-1), -3, 3)
    scores = torch.from_numpy(np.stack([-soft, soft])).float()
    labels = inverse.labels_to_source(scores, plan, lambda values: values.argmax(0))
    truth = ball(source, centre, 10.0)
    assert 2 * (labels.astype(bool) & truth).sum() / (labels.sum() + truth.sum()) > 0.985
    assert np.allclose(places_mm(source)[labels == 1].mean(axis=0), centre, atol=0.05)


@pytest.mark.parametrize("name", ["axial", "sagittal"])
@pytest.mark.parametrize("spacing_mm", [(1.5, 1.5, 1.5), (0.6, 3.0, 2.0), (40.0, 40.0, 40.0)])
def test_labels_are_those_of_every_class_interpolated(name: str, spacing_mm: tuple[float, float, float]) -> None:
    """Leaving out cells whose corners agree changes no voxel against torch's own interpolation of all classes."""
    source = grid(name)
    plan = transforms.resampling(source, "SPL", spacing_mm)
    scores = torch.randn(5, *plan.model.shape, generator=torch.Generator().manual_seed(1))
    places = [torch.from_numpy(plan.model_places(axis)) for axis in range(3)]
    scaled = [2 * place / max(1, count - 1) - 1 for place, count in zip(places, plan.model.shape, strict=True)]
    z, y, x = torch.meshgrid(*scaled, indexing="ij")
    full = functional.grid_sample(scores[None].double(), torch.stack([x, y, z], dim=-1)[None], align_corners=True, padding_mode="border")[0]
    expected = plan.turning.turn_back(full.argmax(0).numpy())
    labels = inverse.labels_to_source(scores, plan, lambda values: values.argmax(0))
    assert labels.dtype == np.uint8
    assert np.count_nonzero(labels != expected) <= 1e-4 * labels.size


def test_one_channel_is_read_at_source_voxels() -> None:
    """A probability map linear in LPS has, at single source voxels of a flipped grid, the value of their LPS points."""
    source = grid("feet up")
    plan = transforms.resampling(source, "SPL", (1.0, 1.0, 1.0))
    channel = torch.from_numpy(ramp(plan.model))
    voxels = np.array([[6, 10, 8], [3, 5, 12], [9, 15, 2]])
    expected = source.to_world_mm(voxels.astype(float)) @ np.array([3.0, 5.0, -7.0])
    assert inverse.scores_at_source(channel, plan, voxels) == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("shape", [(128, 128, 128), (37, 100, 9)])
def test_nearest_picks_what_torch_picks(shape: tuple[int, int, int]) -> None:
    """Our own indices are those of torch's nearest-exact, up and down."""
    tensor = torch.rand(61, 192, 77, generator=torch.Generator().manual_seed(2))
    theirs = functional.interpolate(tensor[None, None], shape, mode="nearest-exact")[0, 0]
    assert torch.equal(transforms.pick_nearest(tensor, shape), theirs)


def test_flipping_a_series_flips_its_samples() -> None:
    """A series sent feet first gives the network the same picture as head first."""
    source = grid("axial")
    array = np.random.default_rng(0).normal(size=source.shape).astype(np.float32)
    last = source.to_world_mm(np.array([[source.shape[0] - 1, 0, 0]], dtype=float))[0]
    flipped = Grid(
        shape=source.shape, origin_mm=tuple(last.tolist()), axes=((0, 0, -1), source.axes[1], source.axes[2]), spacing_mm=source.spacing_mm
    )
    one = transforms.to_model(array, transforms.resampling(source, "SPL", (1.5, 1.5, 1.5)), "cpu")
    other = transforms.to_model(array[::-1], transforms.resampling(flipped, "SPL", (1.5, 1.5, 1.5)), "cpu")
    assert torch.equal(one, other)


def test_grids_coincide_only_where_all_their_corners_do() -> None:
    """A step 0.009 mm wider drifts by 0.9 mm over 100 voxels; rows and columns exchanged share the first and the last voxel."""
    one = Grid(shape=(4, 101, 101), origin_mm=(1, 2, 3), axes=((0, 0, 1), (0, 1, 0), (1, 0, 0)), spacing_mm=(2, 1, 1))
    assert transforms.coincide(one, replace(one, origin_mm=(1.001, 2, 3)))
    assert not transforms.coincide(one, replace(one, spacing_mm=(2, 1, 1.009)))
    assert not transforms.coincide(one, replace(one, axes=((0, 0, 1), (1, 0, 0), (0, 1, 0))))
    assert not transforms.coincide(one, replace(one, shape=(4, 101, 100)))
