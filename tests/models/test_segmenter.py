"""The segmenter: windows cover the volume, small organs are dropped, missing ones refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from models import segmenter
from models.vocabulary import Unfit, Volume
from tests.models.cards import lines
from tests.models.grids import grid, ramp


class Itself(torch.nn.Module):
    """Gives back what it sees, twice, and counts its windows."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = torch.nn.Parameter(torch.tensor(1.0))
        self.shapes: list[tuple[int, ...]] = []

    def forward(self, windows: torch.Tensor) -> torch.Tensor:
        """Stack the input and its negative as two channels."""
        self.shapes.append(tuple(windows.shape))
        return torch.cat([windows * self.scale, -windows], dim=1)


@pytest.mark.parametrize("shape", [(12, 20, 16), (40, 30, 50)])
def test_windows_cover_the_volume_once(shape: tuple[int, int, int]) -> None:
    """What the network sees in windows, larger or smaller than the volume, is put together to the whole, cut to 0..1."""
    source = grid("axial", shape)
    preparation = segmenter.Preparation(
        orientation="SPL", spacing_mm=source.spacing_mm, low=-300, high=300, window=(16, 24, 16), overlap=0.25
    )
    network, told = Itself(), list[float]()
    volume = Volume(array=ramp(source), grid=source, unit="HU", modality="CT")
    scores, plan = segmenter.scores(network, volume, preparation, told.append)
    assert plan.model.shape == shape
    expected = np.clip((ramp(source) + 300) / 600, 0, 1)
    assert np.allclose(scores[0].numpy(), expected, atol=1e-5)
    assert np.allclose(scores[1].numpy(), -expected, atol=1e-5)
    assert set(network.shapes) == {(1, 1, 16, 24, 16)}
    assert told[-1] == 1.0
    assert told == sorted(told)
    assert len(set(told)) == len(told)


def test_classes_are_named_by_the_card() -> None:
    """Class i of the softmax becomes the card's value i, not i."""
    source = grid("axial")
    preparation = segmenter.Preparation(orientation="SPL", spacing_mm=source.spacing_mm, low=-1, high=1, window=(16, 24, 16), overlap=0.25)
    volume = Volume(array=np.sign(ramp(source)), grid=source, unit="1", modality="MR")
    scores, plan = segmenter.scores(Itself(), volume, preparation, lambda _: None)
    labels = segmenter.organs(torch.stack([1 - scores[0], scores[0]]), plan, [0, 40])
    assert np.array_equal(labels, np.where(ramp(source) > 0, 40, 0))


def test_volumes_are_counted_in_ml() -> None:
    """2000 voxels of 0.5 mm3 hold 1 ml."""
    source = grid("axial", (20, 20, 20), (2.0, 0.5, 0.5))
    labels = np.zeros(source.shape, dtype=np.uint8)
    labels.ravel()[:2000] = 7
    assert segmenter.volumes_ml(labels, source)[7] == pytest.approx(1.0)
    assert segmenter.volumes_ml(labels, source)[255] == 0


def test_too_little_of_an_organ_is_unfit(tmp_path: Path) -> None:
    """An organ below its least volume refuses the series; at its least volume it does not."""
    card = lines(tmp_path).card
    source = grid("axial", (20, 20, 20), (2.0, 0.5, 0.5))
    labels = np.zeros(source.shape, dtype=np.uint8)
    labels.ravel()[:2000] = 1
    segmenter.require(labels, source, card, {1: 1.0})
    with pytest.raises(Unfit, match="First organ: only 1 ml was found where 2 ml is needed"):
        segmenter.require(labels, source, card, {1: 2.0})


def test_organs_below_their_least_volume_are_dropped(tmp_path: Path) -> None:
    """Crumbs of an organ are no organ where the card says so, and other organs stay."""
    card = lines(tmp_path, 'label = "Second organ"', 'min_volume_ml = 1.5\nlabel = "Second organ"').card
    source = grid("axial", (20, 20, 20), (2.0, 0.5, 0.5))
    labels = np.ones(source.shape, dtype=np.uint8)
    labels.ravel()[:2000] = 2
    segmenter.drop_small(labels, source, card)
    assert np.count_nonzero(labels == 1) == 6000
    assert np.count_nonzero(labels == 0) == 2000
