"""A case of DICOM images with the labels that viewers and nodes write, a SEG, or a list of points: read as what was drawn."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from models import card
from models.card import STARTERS, ShelvedCard
from models.vocabulary import Grid
from node.errors import Refused
from overread.evaluation import cases
from overread.sample import study
from overread.tuning import site
from tests.overread.tuning import labelled


@pytest.fixture(scope="module")
def shelved() -> ShelvedCard:
    """Give the starter's card."""
    return card.read(STARTERS / "chest_ct" / "card.toml")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> study.Truth:
    """Give one study with two nodules."""
    return labelled.write(tmp_path_factory.mktemp("images"), 4)


def read(shelved: ShelvedCard, images: study.Truth, folder: Path) -> site.Read:
    """Read the case in a folder, to which the images are added."""
    (folder / "image").symlink_to(images.files[0].parent)
    return site.read(cases.read(folder, shelved.card), shelved, {})


def points(grid: Grid) -> np.ndarray:
    """Give the LPS position of each voxel (z, y, x, 3)."""
    return grid.to_world_mm(np.argwhere(np.ones(grid.shape))).reshape(*grid.shape, 3)


@pytest.mark.parametrize("names", [("Nodule", "nodule"), ("Nodule 1", "Nodule 2")], ids=["by one name", "numbered, as in our own SEGs"])
def test_a_seg_by_another_writer_is_learnt_as_drawn(
    shelved: ShelvedCard, images: study.Truth, names: tuple[str, str], tmp_path: Path
) -> None:
    """Both lungs lie where the formulas say, in the patient, and each nodule is one of its own."""
    labelled.seg(tmp_path / "labels.dcm", images, names)
    found = read(shelved, images, tmp_path)
    example, places = found.example, points(found.example.volume.grid)
    assert example.lungs is not None
    assert example.nodules is not None
    assert found.lesions is not None
    nodules = images.in_nodule(0, places) | images.in_nodule(1, places)
    assert np.array_equal(example.nodules > 0, nodules)
    assert np.array_equal(example.lungs == 1, images.in_lung("left", places) & ~nodules)
    assert np.array_equal(example.lungs == 2, images.in_lung("right", places) & ~nodules)
    apart = [min(np.linalg.norm(np.subtract(lesion.centre_mm, nodule.centre_mm)) for nodule in images.nodules) for lesion in found.lesions]
    assert len(apart) == 2
    assert max(apart) < 1.5  # slices of 5 mm


def test_a_list_of_points_is_learnt_as_balls(shelved: ShelvedCard, images: study.Truth, tmp_path: Path) -> None:
    """Points in LPS with their diameters, beside a SEG that has the lungs; one that need not be found is neither right nor wrong."""
    labelled.seg(tmp_path / "labels.dcm", images, ())
    lines = [f"{x},{y},{z},{nodule.diameter_mm},1" for nodule in images.nodules for x, y, z in [nodule.centre_mm]]
    text = "\n".join(["x_mm,y_mm,z_mm,diameter_mm,counts", *lines, lines[0].removesuffix("1") + "0"])
    (tmp_path / "findings.csv").write_text(text)
    found = read(shelved, images, tmp_path)
    places = points(found.example.volume.grid)
    assert found.example.nodules is not None
    for index in range(2):
        assert np.array_equal(found.example.nodules == index + 1, images.in_nodule(index, places))
    (aside,) = found.example.aside
    assert aside.centre_mm == pytest.approx(images.nodules[0].centre_mm)
    (tmp_path / "findings.csv").write_text("x_mm,y_mm,z_mm\n1,2,3\n")
    with pytest.raises(Refused, match="without diameter_mm"):
        site.read(cases.read(tmp_path, shelved.card), shelved, {})
