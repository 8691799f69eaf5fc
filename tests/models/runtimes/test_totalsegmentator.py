"""TotalSegmentator's folders: the parts' labels, each nnU-Net's own, in the task's numbering, and a card that lacks nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 -- its documentation's own name

from models import drafts, registry
from models.card import BadCard, Card
from models.nnunet import classes
from models.vocabulary import Grid, Volume
from tests.models.grids import grid
from tests.models.runtimes.test_nnunet import image
from tests.models.trained import Training, adopt, first_plans, reference, train

PARTS: dict[str, dict[str, int]] = {
    "Dataset291_TotalSegmentator_part1_organs_1559subj": {"background": 0, "spleen": 1, "kidney_right": 2, "liver": 3},
    "Dataset293_TotalSegmentator_part3_cardiac_1559subj": {"background": 0, "heart": 1, "aorta": 2, "kidney_cyst_left": 3},
}


def write(folder: Path) -> dict[str, Path]:
    """Write both parts as nnU-Net's results folder has them, with the first plans of v2, as TotalSegmentator's are."""
    paths = {}
    for number, (name, labels) in enumerate(PARTS.items()):
        training = Training(
            configurations={"3d_fullres": first_plans()},
            labels=labels,
            mirroring=None,
            dataset_name=name,
            seed=number + 5,
        )
        paths[name] = train(training, folder / name)
    return paths


def turned(array: np.ndarray, of: Grid) -> sitk.Image:
    """Give an image as ITK turns it to right, front, up."""
    itk = sitk.GetImageFromArray(array)
    itk.SetSpacing(of.spacing_mm[::-1])
    itk.SetOrigin(of.origin_mm)
    itk.SetDirection(np.array(of.axes[::-1]).T.ravel().tolist())
    return sitk.DICOMOrient(itk, "RAS")


@pytest.mark.parametrize("orientation", ["axial", "sagittal"])
def test_parts_are_merged_in_the_tasks_numbering(tmp_path: Path, orientation: str) -> None:
    """Every voxel has the number of the class that nnU-Net's predictor gives for its part, a later part over an earlier one."""
    of = grid(orientation, (18, 30, 24), (3.0, 1.1, 1.4))
    paths = write(tmp_path / "results")
    array = image(1, of)
    upright = turned(array[0], of)
    expected = np.zeros(sitk.GetArrayFromImage(upright).shape, dtype=np.uint8)
    for name, path in paths.items():
        found = reference(path, sitk.GetArrayFromImage(upright)[None], upright.GetSpacing()[::-1])
        for label, value in PARTS[name].items():
            if value:
                expected[found == value] = classes.numbers()[label]
    assert len(np.unique(expected)) > 4
    model = registry.load(adopt(tmp_path / "results", tmp_path / "card"), "cpu")
    told: list[float] = []
    prediction = model.predict({"ct": Volume(array=array[0], grid=of, unit="HU", modality="CT")}, told.append)
    assert np.array_equal(sitk.GetArrayFromImage(turned(prediction.labels, of)), expected)
    assert told == sorted(told)
    assert prediction.variant["runtime"] == "totalsegmentator"


def test_the_draft_is_a_whole_card(tmp_path: Path) -> None:
    """A folder of parts needs no human to fill in codes: only the name of the model is the folder's."""
    write(tmp_path / "results")
    draft = drafts.inspect(tmp_path / "results")
    assert draft.format == "totalsegmentator"
    assert [entry.key for entry in draft.missing] == ["model.name"]
    table = {**draft.card, "schema_version": 1, "model": {**draft.card["model"], "name": "total"}}
    card = Card.model_validate(table)
    assert [(label.index, label.label, label.type.value) for label in card.output.labels] == [
        (1, "Spleen", "78961009"),
        (2, "Right kidney", "64033007"),
        (5, "Liver", "10200004"),
        (23, "Left kidney cyst", "367643001"),
        (51, "Heart", "80891009"),
        (52, "Aorta", "15825003"),
    ]
    assert set(draft.files) == {f"{part}_{what}" for part in ("part1organs", "part3cardiac") for what in ("plans", "dataset", "fold_0")}
    assert any("111 are in no part here" in note for note in draft.notes)


def test_a_folder_of_other_labels_is_nnunets(tmp_path: Path) -> None:
    """A folder of that name with a class that the task does not have is drafted as nnU-Net's, for a human to code."""
    labels = {"background": 0, "spleen": 1, "horn": 2, "liver": 3}
    path = train(Training(labels=labels, mirroring=None, dataset_name="Dataset999_TotalSegmentator_own"), tmp_path)
    assert drafts.inspect(path).format == "nnunet"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"runtime.options.parts": []}, "parts"),
        ({"runtime.options.orientation": "SAX"}, "orientation"),
        ({"output.labels.52.index": 60, "measurements.52.label": 60}, r"labels are \[1, 2, 5, 23, 51, 52\]"),
    ],
)
def test_a_card_that_does_not_fit_its_parts_is_bad(tmp_path: Path, change: dict[str, Any], reason: str) -> None:
    """A wrong word in the card is named when the model is loaded."""
    write(tmp_path / "results")
    with pytest.raises((BadCard, ValueError), match=reason):
        registry.load(adopt(tmp_path / "results", tmp_path / "card", change), "cpu")
