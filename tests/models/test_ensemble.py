"""Ensembles: the mean of the members' probabilities, each member pinned by its own hash, and how far they agreed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.inferers.utils import sliding_window_inference
from torch import nn

from models import registry
from models.card import BadCard, ShelvedCard
from models.execution import Execution
from models.vocabulary import Volume
from tests.models import programs
from tests.models.grids import grid
from tests.models.shelf import labels, shelve

SHAPE = (16, 24, 16)
NETWORKS = [programs.random(1, 3, seed) for seed in (1, 2, 11)]
OPTIONS = 'organ_channels = [0, 1, 2]\nweights = ["fold0", "fold1", "fold2"]\n'


def shelved(folder: Path, options: str, networks: list[nn.Module] = NETWORKS, output: str = "") -> ShelvedCard:
    """Write a card of several files."""
    content = [programs.scripted(network, torch.zeros(1))["weights"][1] for network in networks]
    files = {f"fold{number}": (f"fold{number}.ts", member) for number, member in enumerate(content)}
    return shelve(folder, "torchscript", files, options, output or "labels\n" + labels("organ", "organ"))


def volume() -> Volume:
    """Give noise on the network's own grid."""
    array = np.random.default_rng(3).normal(0.5, 0.4, SHAPE).astype(np.float32)
    return Volume(array=array, grid=grid("axial", SHAPE), unit="1", modality="MR")


def test_the_mean_of_probabilities_decides(tmp_path: Path) -> None:
    """Voxel for voxel what MONAI's sliding window gives for the mean of the members' softmax; in any batch, whole or in pieces."""

    def mean(seen: torch.Tensor) -> torch.Tensor:
        return torch.stack([torch.softmax(network(seen), dim=1) for network in NETWORKS]).mean(dim=0)

    with torch.inference_mode():
        seen = torch.from_numpy(volume().array)[None, None]
        scores: Any = sliding_window_inference(seen, (12, 16, 12), 1, mean, overlap=0.5, mode="gaussian")
    model = registry.load(shelved(tmp_path, OPTIONS + "window = [12, 16, 12]\noverlap = 0.5\n"), "cpu")
    for execution in (Execution(), Execution(batch=4)):
        assert np.array_equal(model.predict({"ct": volume()}, lambda _: None, execution).labels, scores[0].argmax(dim=0).numpy())


def test_agreement_is_the_share_of_what_any_marks_that_all_mark_alike(tmp_path: Path) -> None:
    """Counted anew for each study; alone with itself a network agrees fully."""
    model = registry.load(shelved(tmp_path / "three", OPTIONS + "multiple_of = [4, 4, 4]\n"), "cpu")
    seen = torch.from_numpy(volume().array)[None, None]
    with torch.inference_mode():
        each = np.stack([network(seen)[0].argmax(dim=0).numpy() for network in NETWORKS])
    marked = (each > 0).any(axis=0)
    share = (marked & (each == each[0]).all(axis=0)).sum() / marked.sum()
    assert 0.01 < share < 0.95
    for _ in range(2):
        variant = model.predict({"ct": volume()}, lambda _: None).variant
        assert (variant["members"], variant["agreement"]) == ("3", f"{share:.3f}")
    twins = registry.load(shelved(tmp_path / "twins", OPTIONS + "multiple_of = [4, 4, 4]\n", [NETWORKS[0]] * 3), "cpu")
    assert twins.predict({"ct": volume()}, lambda _: None).variant["agreement"] == "1.000"


class Told(nn.Module):
    """Scores everything alike."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = value

    def forward(self, seen: torch.Tensor) -> torch.Tensor:
        """Give (batch, 1)."""
        return torch.full((seen.shape[0], 1), self.value)


def test_scores_are_averaged_as_probabilities(tmp_path: Path) -> None:
    """Logits of 0, 1 and 3: the mean of their sigmoids, and agreement as 1 minus the widest distance."""
    options = 'weights = ["fold0", "fold1", "fold2"]\nmultiple_of = [4, 4, 4]\nscores = { activation = "sigmoid", channels = [0] }\n'
    model = registry.load(shelved(tmp_path, options, [Told(0.0), Told(1.0), Told(3.0)], "scores\n" + labels("finding")), "cpu")
    prediction = model.predict({"ct": volume()}, lambda _: None)
    sigmoids = 1 / (1 + np.exp(-np.array([0.0, 1.0, 3.0])))
    assert prediction.scores[0].score == pytest.approx(sigmoids.mean(), abs=1e-6)
    assert prediction.variant["agreement"] == f"{1 - (sigmoids[2] - sigmoids[0]):.3f}"


def test_each_member_must_be_pinned_fit_and_be_there(tmp_path: Path) -> None:
    """One member with another hash, of other channels, named but absent, there but not named: the card is bad."""
    options = OPTIONS + "multiple_of = [4, 4, 4]\n"
    changed = shelved(tmp_path / "changed", options)
    (tmp_path / "changed" / "fold1.ts").write_bytes(b"another")
    with pytest.raises(BadCard, match=r"files\.fold1: .* has sha256"):
        registry.load(changed, "cpu")
    with pytest.raises(BadCard, match="the labels need channels"):
        registry.load(shelved(tmp_path / "other", options, [*NETWORKS[:2], programs.random(1, 4)]), "cpu")
    with pytest.raises(BadCard, match=r"runtime\.files must be fold0, fold1, fold2"):
        registry.load(shelved(tmp_path / "few", options, NETWORKS[:2]), "cpu")
    with pytest.raises(BadCard, match=r"runtime\.files must be fold0, fold1, not"):
        registry.load(shelved(tmp_path / "many", options.replace(', "fold2"', "")), "cpu")


class Halving(nn.Module):
    """Halves what it is given in place, as networks do that scale their own input, and gives that as its only score."""

    def forward(self, seen: torch.Tensor) -> torch.Tensor:
        """Give (batch, 1, z, y, x)."""
        return seen.mul_(0.5).clone()


def test_a_member_that_changes_its_input_changes_it_for_itself_alone(tmp_path: Path) -> None:
    """Each member sees the volume: of three equal members all mark the same, and each what it marks alone."""
    options = 'mask_channels = [0]\nweights = ["fold0", "fold1", "fold2"]\nwindow = [12, 16, 12]\noutputs = "probabilities"\n'
    shown = Volume(array=np.full(SHAPE, 1.0, dtype=np.float32), grid=grid("axial", SHAPE), unit="1", modality="MR")
    model = registry.load(shelved(tmp_path, options, [Halving()] * 3, "masks\n" + labels("organ")), "cpu")
    prediction = model.predict({"ct": shown}, lambda _: None)
    assert prediction.masks[1].all()
    assert prediction.variant["agreement"] == "1.000"
