"""The two-step runtime: a card that does not fit is refused when it is loaded, and what shows no chest is declined with its reason."""

from __future__ import annotations

import shutil
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from models import card, registry
from models.card import STARTERS, BadCard
from models.execution import PLAIN, Execution
from models.vocabulary import Grid, Model, Unfit, Volume

CARD = STARTERS / "chest_ct" / "card.toml"
AXES = ((0.0, 0.0, 1.0), (0.0, 1.0, 0.0), (1.0, 0.0, 0.0))
FAULTS = {
    "another label for nodules": ("[runtime.options.nodules]\nlabel = 3", "[runtime.options.nodules]\nlabel = 2", "finding labels"),
    "a lung that is no organ": ("left = 1\n", "left = 3\n", "organ labels"),
    "a volume the label does not have": ("batch = 16\nmin_volume_ml = 0.02", "batch = 16\nmin_volume_ml = 0.03", "output label"),
    "a map of a lung": ("probabilities = [3]", "probabilities = [1]", "finding's label alone"),
    "an unknown key": ("limit = 500\n", "limit = 600\nspeed = 9\n", "speed"),
    "another network": ('network = "UNet"', 'network = "NoSuchNet"', "NoSuchNet"),
    "intensities upside down": ("low = -1000.0, high = 400.0", "low = 400.0, high = -1000.0", "low must be below high"),
    "one file for both networks": ('path = "nodules.safetensors"', 'path = "lungs.safetensors"', "sha256"),
}


@cache
def _model() -> Model:
    return registry.load(card.read(CARD), "cpu")


def _changed(folder: Path, old: str, new: str) -> card.ShelvedCard:
    for name in ("lungs.safetensors", "nodules.safetensors"):
        shutil.copy(CARD.with_name(name), folder / name)
    text = CARD.read_text(encoding="utf-8")
    assert old in text
    (folder / "card.toml").write_text(text.replace(old, new, 1), encoding="utf-8")
    return card.read(folder / "card.toml")


@pytest.mark.parametrize("fault", FAULTS)
def test_a_card_that_does_not_fit_is_refused_with_the_key_at_fault(tmp_path: Path, fault: str) -> None:
    """Each fault is a BadCard at load that names what is wrong."""
    old, new, word = FAULTS[fault]
    with pytest.raises(BadCard, match=word):
        registry.load(_changed(tmp_path, old, new), "cpu")


def test_weights_of_the_other_network_are_refused(tmp_path: Path) -> None:
    """Two files exchanged, with their hashes: the network and its weights do not fit."""
    text = CARD.read_text(encoding="utf-8")
    text = text.replace('path = "lungs.', 'path = "other.').replace('path = "nodules.', 'path = "lungs.').replace('"other.', '"nodules.')
    files = card.read(CARD).card.runtime.files
    one, other = files["lungs"].sha256, files["nodules"].sha256
    text = text.replace(one, "x").replace(other, one).replace('"x"', f'"{other}"')
    for name in ("lungs.safetensors", "nodules.safetensors"):
        shutil.copy(CARD.with_name(name), tmp_path / name)
    (tmp_path / "card.toml").write_text(text, encoding="utf-8")
    with pytest.raises(BadCard, match="do not fit the network"):
        registry.load(card.read(tmp_path / "card.toml"), "cpu")


def _volume(array: np.ndarray, unit: str = "HU") -> Volume:
    grid = Grid(shape=array.shape, origin_mm=(0, 0, 0), axes=AXES, spacing_mm=(4.0, 4.0, 4.0))
    return Volume(array=array.astype(np.int16), grid=grid, unit=unit, modality="CT")


@pytest.mark.parametrize(
    "array",
    [
        np.full((40, 60, 60), -1000),
        np.full((40, 60, 60), 40),
        np.zeros((3, 60, 60)),
        np.random.default_rng(0).integers(-1000, 1000, (40, 60, 60)),
    ],
    ids=["air", "tissue", "three slices", "noise"],
)
def test_what_shows_no_lungs_is_declined_with_a_reason(array: np.ndarray) -> None:
    """Empty, full, short and meaningless volumes are Unfit, never called clean."""
    with pytest.raises(Unfit) as caught:
        _model().predict({"ct": _volume(array)}, lambda _share: None)
    assert len(caught.value.reason) > 20


def test_values_that_are_no_hounsfield_units_are_declined() -> None:
    """A CT whose values have no meaning is Unfit."""
    with pytest.raises(Unfit, match="Hounsfield"):
        _model().predict({"ct": _volume(np.zeros((40, 60, 60)), unit="1")}, lambda _share: None)


def test_slices_out_of_order_are_declined_before_lungs_are_looked_for() -> None:
    """Values that rise from slice to slice, from air to bone: in order no lungs are found, shuffled the order is named."""
    rising = np.broadcast_to(np.linspace(-1000, 500, 40)[:, None, None], (40, 60, 60))
    for array, words in ((rising, "[Ll]ung"), (rising[np.random.default_rng(2).permutation(40)], "not in the order")):
        with pytest.raises(Unfit, match=words):
            _model().predict({"ct": _volume(array)}, lambda _share: None)


def test_need_grows_with_the_scan_and_the_batch() -> None:
    """A larger scan needs more memory on the host, a larger batch more on the device."""
    small, large = (_volume(np.zeros((size, 60, 60))).grid for size in (40, 80))
    plain = _model().need({"ct": small}, PLAIN)
    assert _model().need({"ct": large}, PLAIN).host > 1.8 * plain.host
    assert _model().need({"ct": small}, Execution(batch=4)).device > plain.device
