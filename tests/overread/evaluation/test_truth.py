"""A truth from DICOM lies on the images' voxels, or is refused."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from models import card as cards_room
from models.card import ShelvedCard
from models.vocabulary import Grid
from node.errors import Refused
from node.settings import Settings
from overread.evaluation import cases, truth
from tests import phantoms, shelf
from tests.models import grids
from workers import pipeline


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> tuple[ShelvedCard, pipeline.Ran, Path]:
    """Give a model, what it made of an oblique study, and the study's folder."""
    home = tmp_path_factory.mktemp("site")
    shelved = cards_room.read(shelf.put(home / "models") / "two-parts" / "card.toml")
    phantoms.thorax(home / "case" / "image", phantoms.ORIENTATIONS["oblique"])
    made = pipeline.run(shelved, *pipeline.routed(shelved, home / "case" / "image"), pipeline.Wanted(out=home / "out"), Settings())
    return shelved, made, home


def test_a_seg_is_read_back_as_the_labels_it_was_made_of(ran: tuple[ShelvedCard, pipeline.Ran, Path]) -> None:
    """Segments are found by the card's labels and lie voxel for voxel where the prediction has them, also obliquely."""
    shelved, made, _ = ran
    found = truth.labels(made.files[0], made.prediction.grid, shelved.card, {})
    np.testing.assert_array_equal(found, made.prediction.labels)
    assert set(np.unique(found)) == {0, 1, 2}


def test_a_seg_beside_the_images_or_of_other_names_is_refused(ran: tuple[ShelvedCard, pipeline.Ran, Path], tmp_path: Path) -> None:
    """Half a voxel aside, outside the grid, segments nobody knows, and a file that is no SEG each have a reason."""
    shelved, made, home = ran
    grid = made.prediction.grid
    aside = Grid(
        shape=grid.shape, origin_mm=tuple(grid.to_world_mm(np.array([[0, 0.5, 0.0]]))[0]), axes=grid.axes, spacing_mm=grid.spacing_mm
    )
    small = Grid(shape=(3, 3, 3), origin_mm=grid.origin_mm, axes=grid.axes, spacing_mm=grid.spacing_mm)
    for place in (aside, small):
        with pytest.raises(Refused, match="does not lie on the image's own voxels"):
            truth.labels(made.files[0], place, shelved.card, {})
    raw = shelved.card.model_dump()
    for label in raw["output"]["labels"]:
        label["label"] = "Another " + label["label"]
    with pytest.raises(Refused, match="First part, Second part"):
        truth.labels(made.files[0], grid, cards_room.Card.model_validate(raw), {})
    image = Path(shutil.copy(min((home / "case" / "image").iterdir()), tmp_path / "image.dcm"))
    with pytest.raises(Refused, match="no SEG"):
        truth.labels(image, grid, shelved.card, {})


def test_a_case_with_two_truths_or_several_studies_is_refused(ran: tuple[ShelvedCard, pipeline.Ran, Path], tmp_path: Path) -> None:
    """Which of two label files is meant is asked; two studies in one case's folder are one too many."""
    shelved, made, home = ran
    case = Path(shutil.copytree(home / "case", tmp_path / "case"))
    shutil.copy(made.files[0], case / "labels.dcm")
    assert cases.read(case, shelved.card).labels == case / "labels.dcm"
    (case / "labels.nii.gz").write_bytes(b"")
    with pytest.raises(Refused, match="has both"):
        cases.read(case, shelved.card)
    phantoms.thorax(case / "image" / "more", seed=2)
    with pytest.raises(Refused, match="2 studies"):
        pipeline.read_folder(shelved, case / "image")


def test_numbered_lesions_have_the_size_of_their_ball() -> None:
    """A ball of 9 mm, drawn in the patient on an oblique grid, has its centre and about its diameter."""
    grid = grids.grid("oblique", shape=(24, 40, 40), spacing_mm=(1.0, 0.8, 0.8))
    centre = tuple(float(value) for value in grid.to_world_mm(np.array([[11.0, 20.0, 19.0]]))[0])
    numbers, _ = ndimage.label(grids.ball(grid, (centre[0], centre[1], centre[2]), 4.5))
    (lesion,) = truth.numbered(numbers.astype(np.int64), grid)
    assert lesion.centre_mm == pytest.approx(centre, abs=0.1)
    assert lesion.size_mm == pytest.approx(9, abs=0.3)
