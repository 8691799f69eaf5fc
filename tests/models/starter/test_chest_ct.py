"""The chest CT starter: its generated scans are what they say, its recipe learns, its weights are the card's, left stays left."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from scipy import ndimage

from models import card, registry
from models.starter.chest_ct import baseline, evaluate, train
from models.starter.chest_ct.generator import AXES, LEFT, RIGHT, Scan, draw, draw_other
from models.vocabulary import Grid, Model, Prediction, Unfit, Volume
from tests.servers import shared

CARD = Path(train.__file__).with_name("card.toml")
COARSE = (4.0, 3.0, 3.0)


@cache
def _scan(seed: int = 41) -> Scan:
    return draw(seed, COARSE, nodules=(5, 8))


@cache
def _model() -> Model:
    return registry.load(card.read(CARD), "cpu")


@cache
def _predicted() -> tuple[Scan, Prediction]:
    scan = draw(900_101, (2.5, 2.0, 2.0), nodules=(3, 5))
    return scan, _model().predict({"ct": scan.volume}, lambda _share: None)


def _middle_mm(volume: Volume, mask: np.ndarray) -> np.ndarray:
    middle: np.ndarray = volume.grid.to_world_mm(np.argwhere(mask).mean(axis=0, keepdims=True))[0]
    return middle


def _dice(one: np.ndarray, other: np.ndarray) -> float:
    return float(2 * (one & other).sum() / (one.sum() + other.sum()))


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


def test_one_tiny_batch_is_learnt() -> None:
    """A few steps of the recipe lower the loss on the patch they are taken on."""
    torch.manual_seed(0)
    settings = train.options()
    network = train.build(settings).train()
    optimiser = torch.optim.AdamW(network.parameters(), lr=3e-3)
    patch = train.cut(np.random.default_rng(5), _scan(), settings, (32, 64, 64))
    before = sum(train.train_step(network, optimiser, patch))
    for _ in range(5):
        after = sum(train.train_step(network, optimiser, patch))
    assert after < 0.9 * before


def test_the_recipe_gives_the_same_weights_again_also_after_an_interruption(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Four steps in one go, and as two and two from the checkpoint: the same bytes. Coarse scans and small patches, for speed."""
    monkeypatch.setattr(train, "draw", partial(draw, spacing_mm=(8.0, 6.0, 6.0)))
    monkeypatch.setattr(train, "PATCH", (32, 32, 64))
    train.train(tmp_path / "one", tmp_path / "one.checkpoint", 4)
    train.train(tmp_path / "two", tmp_path / "two.checkpoint", 2)
    assert (tmp_path / "two").read_bytes() != (tmp_path / "one").read_bytes()
    train.train(tmp_path / "two", tmp_path / "two.checkpoint", 4)
    assert (tmp_path / "two").read_bytes() == (tmp_path / "one").read_bytes()


def test_a_mirrored_patch_renames_its_lungs() -> None:
    """Training may mirror a patch; the left lung is then still the one at greater x."""
    sides = []
    for seed in range(12):
        patch = train.cut(np.random.default_rng(seed), _scan(), train.options(), (48, 80, 128))
        organs = patch.organs[0].numpy()
        if (organs == LEFT).sum() > 500 and (organs == RIGHT).sum() > 500:
            sides.append(np.argwhere(organs == LEFT)[:, 2].mean() > np.argwhere(organs == RIGHT)[:, 2].mean())
    assert len(sides) >= 3
    assert all(sides)


def test_the_weights_are_those_the_card_names() -> None:
    """The card's sha256 is that of the file beside it, and the file is small enough for git."""
    wanted = card.read(CARD).card.runtime.files["weights"]
    data = CARD.with_name(wanted.path).read_bytes()
    assert hashlib.sha256(data).hexdigest() == wanted.sha256
    assert len(data) < 10_000_000


def test_lungs_of_an_unseen_scan_are_found_on_their_own_side() -> None:
    """Through card, registry and resampling: both lungs at Dice 0.8 or more; exchanged sides would give 0."""
    scan, prediction = _predicted()
    for side in (LEFT, RIGHT):
        assert _dice(prediction.labels == side, (scan.organs == side) & (prediction.instances == 0)) > 0.8


def test_a_scan_mirrored_in_its_array_has_its_lungs_exchanged() -> None:
    """A planted flip: x reversed in the array but not in the grid puts each lung on the other side, and the model says so."""
    scan, prediction = _predicted()
    flipped = replace(scan.volume, array=scan.volume.array[:, :, ::-1].astype(np.int16))
    answer = _model().predict({"ct": flipped}, lambda _share: None).labels[:, :, ::-1]
    assert _dice(answer == RIGHT, prediction.labels == LEFT) > 0.9
    assert _dice(answer == LEFT, prediction.labels == LEFT) < 0.05


@pytest.mark.parametrize("seed", [3, 4, 5])
def test_what_is_no_chest_is_declined_never_called_clean(seed: int) -> None:
    """A scan without lungs is Unfit with a reason, so that no empty answer leaves the node."""
    with pytest.raises(Unfit) as caught:
        _model().predict({"ct": draw_other(seed, COARSE).volume}, lambda _share: None)
    assert caught.value.reason


def _nifti(path: Path) -> Volume:
    """Read NIfTI (RAS) into LPS: x and y grow the other way there."""
    image: Any = nibabel.as_closest_canonical(nibabel.load(path))  # type: ignore[no-untyped-call]
    array = np.asanyarray(image.dataobj)[::-1, ::-1].transpose(2, 1, 0)
    x, y, z = (float(v) for v in image.header.get_zooms()[:3])
    grid = Grid(shape=(len(array), array.shape[1], array.shape[2]), origin_mm=(0, 0, 0), axes=AXES, spacing_mm=(z, y, x))
    return Volume(array=np.rint(array).astype(np.int16), grid=grid, unit="HU", modality="CT")


def test_a_real_abdomen_is_declined() -> None:
    """A patient's abdomen with bowel gas and a table shows no lungs to judge."""
    with pytest.raises(Unfit):
        _model().predict({"ct": _nifti(shared("data/abdomen_ct_totalseg/example_ct.nii.gz"))}, lambda _share: None)


def test_a_real_chest_has_its_lungs_on_their_sides() -> None:
    """In a patient's cropped CT angiogram both lungs are found, left of and right of the heart, and hold air."""
    volume = _nifti(shared("data/chest_cta_totalseg/aorta_report/test_result/models/ct_cropped.nii.gz"))
    labels = _model().predict({"ct": volume}, lambda _share: None).labels
    left, right = _middle_mm(volume, labels == LEFT), _middle_mm(volume, labels == RIGHT)
    assert left[0] - right[0] > 60
    air = ndimage.binary_opening((volume.array < -600) & (volume.array > -960), iterations=2)
    assert (labels[air] > 0).mean() > 0.85
    assert np.median(volume.array[labels > 0]) < -600


def test_the_baseline_finds_lungs_so_the_comparison_is_fair() -> None:
    """The baseline is a working method: its lungs are right on an easy scan."""
    scan, _ = _predicted()
    labels, _ = baseline.judge(scan.volume)
    assert _dice(labels > 0, scan.organs > 0) > 0.8


def test_the_cut_leaves_the_allowed_false_marks() -> None:
    """Two scans with false marks 0.9, 0.8, 0.3 at one a scan: the cut lies between 0.3 and 0.8."""
    tally = evaluate.Tally(scans=2, false_marks=[0.3, 0.9, 0.8], nodules=[(9.0, "solid", 0.85), (9.0, "solid", 0.2)])
    cut = evaluate.cut_at(tally, 1)
    assert 0.3 < cut < 0.8
    assert evaluate.sensitivity(tally, cut) == 0.5
