"""Readers of scores: the same labels from pieces as from the whole, and those of a plain interpolation."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch.nn import functional

from models.execution import PLAIN, Execution
from models.grids import cells, inverse, transforms, windows
from tests.models.grids import grid

SPACINGS = [(1.5, 1.5, 1.5), (0.6, 3.0, 2.0), (4.0, 0.5, 0.5), (40.0, 40.0, 40.0)]
WINDOW = (8, 12, 10)


def rough(seen: torch.Tensor) -> torch.Tensor:
    """Make of a window four channels that change from voxel to voxel, so that nearly every cell is mixed."""
    return torch.cat([torch.sin(seen * factor) * 3 for factor in (1, 2, 3, 5)], dim=1)


def smooth(seen: torch.Tensor) -> torch.Tensor:
    """Make of a window four channels with wide areas, so that most cells are of one label."""
    means = functional.avg_pool3d(seen, 5, stride=1, padding=2)
    return torch.cat([means * 10, -means * 10, seen * 0 + 1, means * 3 + 1], dim=1)


def read(spacing_mm: tuple[float, float, float], forward: Any, readers: Any, *, whole: bool = False) -> None:
    """Give every piece to every reader, or all as one."""
    plan = transforms.resampling(grid("sagittal", (12, 40, 26)), "SPL", spacing_mm)
    tensor = torch.randn(1, *plan.model.shape, generator=torch.Generator().manual_seed(5))
    layout = windows.regular(plan.model.shape, WINDOW, 0.25, "gaussian")
    pieces: Iterable[windows.Piece] = windows.pieces(forward, tensor, layout, PLAIN, lambda _: None)
    if whole:
        pieces = [windows.Piece(scores=windows.scores(forward, tensor, layout, PLAIN, lambda _: None), low=(0, 0, 0))]
    for piece in pieces:
        for reader in readers:
            reader.take(piece)


def plan_of(spacing_mm: tuple[float, float, float]) -> transforms.Resampling:
    """Give the plan that `read` uses."""
    return transforms.resampling(grid("sagittal", (12, 40, 26)), "SPL", spacing_mm)


@pytest.mark.parametrize("spacing_mm", SPACINGS)
@pytest.mark.parametrize("forward", [rough, smooth])
def test_pieces_give_the_labels_of_the_whole(spacing_mm: tuple[float, float, float], forward: Any) -> None:
    """Exclusive labels, masks of a channel, nearest labels and whole maps are the same, voxel for voxel, either way."""
    plan = plan_of(spacing_mm)
    found: list[list[NDArray[Any]]] = []
    for whole in (False, True):
        readers = [
            inverse.Linear(plan, inverse.exclusive([0, 30, 20, 10])),
            inverse.Linear(plan, inverse.exclusive([0, 9], channels=(3, 1))),
            inverse.Linear(plan, inverse.above(0.7, 2)),
            inverse.Nearest(plan, inverse.exclusive([0, 30, 20, 10])),
            inverse.Whole(plan, (1, 3)),
        ]
        read(spacing_mm, forward, readers, whole=whole)
        found.append([np.asarray(reader.finish()) for reader in readers])
    for one, other in zip(*found, strict=True):
        assert np.array_equal(one, other)


@pytest.mark.parametrize("spacing_mm", SPACINGS)
def test_labels_are_those_of_probabilities_interpolated(spacing_mm: tuple[float, float, float]) -> None:
    """Torch's own interpolation of all probabilities gives the same classes and masks."""
    plan = plan_of(spacing_mm)
    whole = inverse.Whole(plan, (0, 1, 2, 3), activate=lambda scores: scores)
    labels, mask = inverse.Linear(plan, inverse.exclusive([0, 30, 20, 10])), inverse.Linear(plan, inverse.above(0.7, 2))
    read(spacing_mm, rough, [whole, labels, mask])
    places = [torch.from_numpy(plan.model_places(axis)) for axis in range(3)]
    scaled = [2 * place / max(1, count - 1) - 1 for place, count in zip(places, plan.model.shape, strict=True)]
    z, y, x = torch.meshgrid(*scaled, indexing="ij")
    points = torch.stack([x, y, z], dim=-1)[None]
    softmax, sigmoid = torch.softmax(whole.finish(), 0).double(), torch.sigmoid(whole.finish()[2:3]).double()
    classes = functional.grid_sample(softmax[None], points, align_corners=True, padding_mode="border")[0].argmax(0)
    expected = plan.turning.turn_back(np.array([0, 30, 20, 10])[classes.numpy()])
    assert np.count_nonzero(labels.finish() != expected) <= 1e-4 * expected.size
    above = functional.grid_sample(sigmoid[None], points, align_corners=True, padding_mode="border")[0, 0] >= 0.7
    assert np.count_nonzero(mask.finish() != plan.turning.turn_back(above.numpy())) <= 1e-4 * expected.size
    assert bool(mask.finish().any()) == (spacing_mm[0] < 40), "one voxel of noise lies below"


def test_nearest_labels_are_the_nearest_voxels() -> None:
    """Each source voxel has the label decided at the model voxel whose centre is nearest in the patient."""
    spacing_mm = (1.5, 1.7, 2.3)
    plan = plan_of(spacing_mm)
    whole, labels = inverse.Whole(plan, (0, 1, 2, 3)), inverse.Nearest(plan, inverse.exclusive([0, 30, 20, 10]))
    read(spacing_mm, rough, [whole, labels])
    decided = np.array([0, 30, 20, 10])[whole.finish().argmax(0).numpy()]
    voxels = np.argwhere(np.ones(plan.source.shape))
    index = plan.model.to_index(plan.source.to_world_mm(voxels.astype(float)))
    held = np.clip(index, 0, np.array(plan.model.shape) - 1)
    clear = (np.abs(held - np.floor(held) - 0.5) > 1e-6).all(axis=1)
    expected = decided[tuple(np.rint(held).astype(int).T)]
    assert clear.mean() > 0.8
    assert np.array_equal(labels.finish()[tuple(voxels.T)][clear], expected[clear])


def test_the_estimate_holds_no_class_times_volume() -> None:
    """The scores of a hundred classes take a fraction of the volume's, and on the host they are none of the device's."""
    layout = windows.regular((300, 240, 240), (96, 96, 96), 0.25, "gaussian")
    plain = windows.need(layout, (1, 105), PLAIN)
    assert 1e9 < plain.device < 4e9 < 4 * 105 * 300 * 240 * 240
    aside = windows.need(layout, (1, 105), Execution(stitch="host"))
    assert aside.device + aside.host == plain.device
    assert aside.device < 1.2e9


def test_the_first_of_the_highest_is_taken() -> None:
    """Where classes tie the first one wins, as in torch's argmax, on arrays of any layout."""
    classes = torch.randint(0, 4, (7, 500), generator=torch.Generator().manual_seed(0)).float()
    expected = classes.numpy().argmax(0)
    assert np.array_equal(inverse.highest(classes).numpy(), expected)
    assert np.array_equal(inverse.highest(classes.T.contiguous().T).numpy(), expected)


def test_cells_share_their_corners() -> None:
    """The docstring's cell has its eight corners; a corner's value is found at its place, and the middle is the mean."""
    assert cells._corners([torch.tensor([0])] * 3, (2, 3, 4)).tolist() == [[0, 1, 4, 5, 12, 13, 16, 17]]
    scores = torch.rand(2, 2, 3, 4)
    found = cells.sample(scores, np.array([[0.0, 1.0, 0.5], [0.0, 2.0, 0.5], [0.0, 3.0, 0.5]]))
    assert torch.allclose(found[:, 0], scores[:, 0, 0, 0])
    assert torch.allclose(found[:, 1], scores[:, 1, 2, 3])
    assert torch.allclose(found[:, 2], scores[:, :2, :2, :2].mean(dim=(1, 2, 3)))
