"""The chest CT starter on a thorax of which a lung is filled, and on images cut to one: judged with a remark, or declined."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from models import card, registry
from models.card import STARTERS
from models.starter.chest_ct.generator import LEFT, RIGHT, draw
from models.vocabulary import Model, Unfit, Volume


@pytest.fixture(scope="module")
def model() -> Model:
    """Give the starter."""
    return registry.load(card.read(STARTERS / "chest_ct" / "card.toml"), "cpu")


def cut(volume: Volume, low: int, high: int) -> Volume:
    """Keep columns low to high of a scan whose columns grow to the patient's left."""
    x, y, z = volume.grid.origin_mm
    grid = replace(volume.grid, shape=(*volume.grid.shape[:2], high - low), origin_mm=(x + low * volume.grid.spacing_mm[2], y, z))
    return replace(volume, array=volume.array[:, :, low:high].copy(), grid=grid)


@pytest.mark.verify
@pytest.mark.parametrize(("side", "name"), [(LEFT, "left"), (RIGHT, "right")])
def test_one_lung_is_judged_beside_one_that_is_filled_and_not_in_images_cut_to_it(model: Model, side: int, name: str) -> None:
    """A lung full of fluid is named as not judged, and no voxel is called it; the half of the body with the other one may show either."""
    scan = draw(3, (4.0, 3.0, 3.0), nodules=(0, 0))
    filled = np.where(scan.organs == side, 20, scan.volume.array).astype(np.int16)
    said = model.predict({"ct": replace(scan.volume, array=filled)}, lambda _share: None)
    assert f"The {name} lung was not judged: only 0 ml" in said.remarks[0]
    assert not (said.labels == side).any()
    assert (said.labels > 0).sum() > 0.8 * (scan.organs == LEFT + RIGHT - side).sum()
    width = scan.volume.grid.shape[2]
    half = cut(scan.volume, 0, width // 2) if side == LEFT else cut(scan.volume, width // 2, width)
    with pytest.raises(Unfit):
        model.predict({"ct": half}, lambda _share: None)


@pytest.mark.verify
def test_a_very_noisy_scan_is_judged_and_said_to_be(model: Model) -> None:
    """Noise that drowns small nodules does not pass for a clean answer; the same scan without it says nothing of noise."""
    scan = draw(3, (4.0, 3.0, 3.0), nodules=(0, 0))
    noise = np.random.default_rng(5).normal(scale=220, size=scan.volume.array.shape)
    noisy = np.clip(scan.volume.array + noise, -1024, 3071).astype(np.int16)
    for array, told in ((scan.volume.array, 0), (noisy, 1)):
        said = model.predict({"ct": replace(scan.volume, array=array)}, lambda _share: None)
        assert sum(words.startswith("The images are noisy") for words in said.remarks) == told
