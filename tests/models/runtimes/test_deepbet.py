"""The brain network: the mask of its authors' own command, voxel for voxel, on the source grid of any orientation."""

from __future__ import annotations

import hashlib
import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK
import torch

from models import registry
from models.card import STARTERS, BadCard, ShelvedCard, read
from models.runtimes.deepbet import _box, _largest
from models.vocabulary import Grid, Unfit, Volume
from tests.models.cards import write
from tests.models.grids import AXES, ball, grid, middle_mm
from tests.servers import shared
from workers.load import load

CARD = (STARTERS / "brain_mr" / "card.toml").read_text()


class Threshold(torch.nn.Module):
    """Stands for a trained network: what is bright is brain."""

    def forward(self, head: torch.Tensor) -> torch.Tensor:
        """Give (1, 2, ...) probabilities."""
        brain = (head > 0.449).float()
        return torch.cat([1 - brain, brain], dim=1)


def simple(folder: Path, old: str = "", new: str = "") -> ShelvedCard:
    """Give a card whose two networks are thresholds, so that the path can be tried in a second."""
    torch.jit.script(Threshold()).save(str(folder / "both.pt"))
    content = (folder / "both.pt").read_bytes()
    text = CARD
    for line in CARD.splitlines():
        if line.startswith("sha256"):
            text = text.replace(line, f'sha256 = "{hashlib.sha256(content).hexdigest()}"')
    text = (
        text.replace('package = "deepbet"\n', "").replace("data/models/bbox_model.pt", "both.pt").replace("data/models/model.pt", "both.pt")
    )
    assert old in text
    return read(write(folder, b"", text.replace(old, new) if old else text))


def head(of: Grid) -> tuple[Volume, np.ndarray[Any, np.dtype[np.bool_]]]:
    """Draw a bright ball of 60 mm radius with a dark hole inside and a bright crumb beside it."""
    middle = middle_mm(of)
    brain = ball(of, middle, 60.0)
    array = np.where(brain, 900, 100).astype(np.int16)
    array[ball(of, (middle[0] + 20, middle[1], middle[2]), 8.0)] = 100
    array[ball(of, (middle[0], middle[1] + 75, middle[2]), 6.0)] = 900
    return Volume(array=array, grid=of, unit="1", modality="MR"), brain


@pytest.mark.parametrize("name", AXES)
def test_the_mask_lies_on_the_source_grid(tmp_path: Path, name: str) -> None:
    """In any orientation the mask is the drawn brain: its hole filled, the crumb beside it left out."""
    of = grid(name, (80, 120, 100), (2.0, 1.5, 1.6))
    volume, brain = head(of)
    prediction = registry.load(simple(tmp_path), "cpu").predict({"t1": volume}, lambda _: None)
    assert prediction.grid == of
    assert prediction.labels.dtype == np.uint8
    assert prediction.instances is None
    assert np.count_nonzero((prediction.labels == 1) != brain) <= 0.002 * np.count_nonzero(brain)


def test_what_is_too_small_for_a_brain_is_unfit(tmp_path: Path) -> None:
    """A ball of 38 ml is refused, with its volume in the reason."""
    of = grid("axial", (60, 60, 60), (2.0, 2.0, 2.0))
    array = np.where(ball(of, middle_mm(of), 21.0), 900, 100).astype(np.int16)
    with pytest.raises(Unfit, match=r"measures 3\d ml, which is no plausible brain \(400 to 2300 ml\)"):
        registry.load(simple(tmp_path), "cpu").predict({"t1": Volume(array=array, grid=of, unit="1", modality="MR")}, lambda _: None)


@pytest.mark.parametrize(("thickness", "reason"), [(0, "no contrast"), (5, "Too little brain was found")])
def test_a_picture_without_a_brain_is_unfit(tmp_path: Path, thickness: int, reason: str) -> None:
    """An empty volume, and one with a thin bright rod across it, are refused in words."""
    of = grid("axial", (40, 40, 40), (3.0, 3.0, 3.0))
    array = np.zeros(of.shape, dtype=np.int16)
    for index in range(36):
        array[index, index : index + thickness, index : index + thickness] = 900
    with pytest.raises(Unfit, match=reason):
        registry.load(simple(tmp_path), "cpu").predict({"t1": Volume(array=array, grid=of, unit="1", modality="MR")}, lambda _: None)


def test_the_worked_box_holds() -> None:
    """Planes 20..99 of 128 on a head of 256 give 24..216, and a box never leaves the head."""
    coarse = np.zeros((128, 128, 128), dtype=bool)
    coarse[20:100, 20:100, 60:128] = True
    assert _box(coarse, (256, 128, 128)) == (slice(24, 216), slice(12, 108), slice(53, 128))


def test_the_largest_part_touches_also_at_corners() -> None:
    """Voxels that touch at a corner are one part; a smaller part goes."""
    mask = np.zeros((6, 6, 6), dtype=bool)
    mask[0, 0, 0] = mask[1, 1, 1] = mask[2, 2, 2] = mask[5, 5, 5] = mask[5, 5, 4] = True
    assert np.argwhere(_largest(mask)).tolist() == [[0, 0, 0], [1, 1, 1], [2, 2, 2]]


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("plausible_ml = [400.0, 2300.0]", "plausible_ml = [400.0]", r"runtime\.options"),
        ("plausible_ml = [400.0, 2300.0]", "plausible_ml = [400.0, 2300.0]\nguess = 1", r"runtime\.options"),
        ('kind = "organ"', 'kind = "finding"', "one organ label"),
    ],
)
def test_a_card_that_does_not_fit_is_bad(tmp_path: Path, old: str, new: str, reason: str) -> None:
    """A wrong word in the card is named when the model is loaded."""
    with pytest.raises(BadCard, match=reason):
        registry.load(simple(tmp_path, old, new), "cpu")


def test_a_file_that_is_no_network_is_bad(tmp_path: Path) -> None:
    """A broken file whose hash is right is named when the model is loaded, not by a crash of the worker."""
    shelved = simple(tmp_path)
    text = (tmp_path / "card.toml").read_text()
    for entry in shelved.card.runtime.files.values():
        (tmp_path / entry.path).write_bytes(b"no network")
        text = text.replace(entry.sha256, hashlib.sha256(b"no network").hexdigest())
    (tmp_path / "card.toml").write_text(text)
    with pytest.raises(BadCard, match="no TorchScript program"):
        registry.load(read(tmp_path / "card.toml"), "cpu")


@pytest.mark.skipif(importlib.util.find_spec("deepbet") is None, reason="the extra brain-mr is not installed")
@pytest.mark.real
def test_a_real_head_gets_the_mask_of_the_authors_own_command(tmp_path: Path) -> None:
    """On a real sagittal T1 our mask equals the one deepbet's command line writes, in every voxel."""
    folder = shared("data/mr_t1_sag_anon")
    loaded = load(sorted(folder.glob("*.dcm")))
    prediction = registry.load(read(STARTERS / "brain_mr" / "card.toml"), "cpu").predict({"t1": loaded.volume}, lambda _: None)

    reader = SimpleITK.ImageSeriesReader()
    reader.SetFileNames([header.filename for header in loaded.sources])
    SimpleITK.WriteImage(reader.Execute(), str(tmp_path / "t1.nii.gz"))
    (tmp_path / "masks").mkdir()
    code = "from deepbet.ui.cli import run_cli; run_cli()"
    words = ["-i", str(tmp_path / "t1.nii.gz"), "-o", str(tmp_path / "brain.nii.gz"), "-m", str(tmp_path / "masks"), "-g"]
    subprocess.run([sys.executable, "-c", code, *words], check=True, capture_output=True)
    theirs = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(tmp_path / "masks" / "t1.nii.gz"))) > 0
    ours = prediction.labels == 1
    dice = 2 * np.count_nonzero(ours & theirs) / (np.count_nonzero(ours) + np.count_nonzero(theirs))
    assert dice > 0.9999
    assert 1400 < np.count_nonzero(ours) * prediction.grid.voxel_mm3 / 1000 < 1540
