"""Several roles' whole way: two series of one patient in different planes, from files through a network to checked objects."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest
import torch
from pydicom.dataset import Dataset
from torch import nn

from models.card import ShelvedCard, read
from node.errors import Refused
from node.settings import Settings
from overread.sample import Truth
from tests import phantoms
from tests.models import programs
from tests.models.shelf import labels, shelve
from workers import pipeline

OPTIONS = """
spacing_mm = [6.0, 5.5, 5.5]
window = [32, 32, 32]
intensity = { low = -1000.0, high = 400.0 }
mask_channels = [0, 1]
"""


class Dense(nn.Module):
    """Gives, for each role, where its tissue is denser than -200 HU (0.571 of the window)."""

    def forward(self, seen: torch.Tensor) -> torch.Tensor:
        """Give (batch, 2, z, y, x)."""
        return 100 * (seen - 0.571)


def card(folder: Path) -> ShelvedCard:
    """Write a card of an axial and a coronal CT; two masks that overlap nearly everywhere."""
    shelve(
        folder,
        "torchscript",
        programs.scripted(Dense(), torch.zeros(1)),
        OPTIONS,
        "masks\n" + labels("organ", "organ"),
        ("axial", "coronal"),
    )
    text = (folder / "card.toml").read_text()
    for role in ("axial", "coronal"):
        accept = f'accept = {{ modality = ["CT"], orientation = ["{role}"] }}'
        text = text.replace('accept = { modality = ["MR"] }', accept, 1)
    (folder / "card.toml").write_text(text)
    return read(folder / "card.toml")


def study(home: Path, frame: str | None = None) -> Truth:
    """Scan one patient twice, in two planes; with another frame of reference for the second where asked."""
    axial = phantoms.thorax(home / "axial")
    coronal = phantoms.thorax(home / "coronal", replace(phantoms.ORIENTATIONS["coronal"], series_description="Across"))

    def joined(dataset: Dataset) -> None:
        dataset.StudyInstanceUID = axial.study_instance_uid
        dataset.FrameOfReferenceUID = frame or axial.frame_of_reference_uid
        dataset.SeriesNumber = 77

    phantoms.rewrite(coronal.files, joined)
    assert axial.series_instance_uid != coronal.series_instance_uid
    return axial


def test_a_second_series_in_another_plane_is_laid_over_the_first(tmp_path: Path) -> None:
    """What the network saw in the coronal series lies on the axial one's voxels: dense outside the lungs, air inside, in LPS."""
    truth = study(tmp_path / "study")
    shelved = card(tmp_path / "model")
    ran = pipeline.run(shelved, *pipeline.routed(shelved, tmp_path / "study"), pipeline.Wanted(out=tmp_path / "out"), Settings())
    assert ran.files[0].name == "01-seg.dcm"
    image = phantoms.read_with_itk(truth.files)
    lungs = phantoms.on_grid(truth, phantoms.voxel_centres_mm(image)).labels > 0
    own, across = (ran.prediction.masks[index] for index in (1, 2))
    if ran.prediction.grid.axes[0][2] < 0:
        lungs = lungs[::-1]
    assert across[lungs].mean() < 0.15
    common = 2 * np.count_nonzero(own & across) / (np.count_nonzero(own) + np.count_nonzero(across))
    assert common > 0.93
    for axis in range(3):
        assert np.flip(across, axis)[lungs].mean() > 1.5 * across[lungs].mean()
    # They overlap, so each has a SEG of its own.
    segments = [segment for path in ran.files if "seg" in path.name for segment in pydicom.dcmread(path).SegmentSequence]
    assert sorted(segment.SegmentLabel for segment in segments) == ["Label 1", "Label 2"]


def test_series_of_different_frames_are_not_laid_over_each_other(tmp_path: Path) -> None:
    """The card demands one frame of reference; a series that was moved is refused with that reason."""
    study(tmp_path / "study", frame="1.2.3.4")
    with pytest.raises(Refused, match="frame of reference"):
        pipeline.routed(card(tmp_path / "model"), tmp_path / "study")
