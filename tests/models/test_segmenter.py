"""The segmenter: small organs are dropped, missing ones refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from models.answers import segmenter
from models.vocabulary import Unfit
from tests.models.cards import lines
from tests.models.grids import grid


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
