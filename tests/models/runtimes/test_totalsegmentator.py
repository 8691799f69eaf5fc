"""TotalSegmentator's folders: the parts' labels, each nnU-Net's own, in the task's numbering, and a card that lacks nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 -- its documentation's own name
from totalsegmentator.resampling import change_spacing

from models import drafts, registry
from models.card import BadCard, Card
from models.execution import PLAIN
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
            configurations={"3d_fullres": first_plans() | {"spacing": [1.5, 1.5, 1.5]}},
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


def merged(paths: dict[str, Path], array: np.ndarray, spacing_mm: tuple[float, ...]) -> np.ndarray:
    """Give the labels of nnU-Net's predictor for each part in the task's numbering, a later part over an earlier one."""
    labels = np.zeros(array.shape, dtype=np.uint8)
    for name, path in paths.items():
        found = reference(path, array[None], spacing_mm)
        for label, value in PARTS[name].items():
            if value:
                labels[found == value] = classes.numbers()[label]
    assert len(np.unique(labels)) > 4
    return labels


def predicted(folder: Path, array: np.ndarray, of: Grid, values: dict[str, Any]) -> np.ndarray:
    """Give the model's labels, turned as ITK turns them; it tells its progress and its name."""
    model = registry.load(adopt(folder / "results", folder / "card", values), "cpu")
    told: list[float] = []
    prediction = model.predict({"ct": Volume(array=array, grid=of, unit="HU", modality="CT")}, told.append)
    assert (told, told[-1]) == (sorted(told), 1.0)
    assert prediction.variant["runtime"] == "totalsegmentator"
    assert model.need({"ct": of}, PLAIN).host > array.size
    return sitk.GetArrayFromImage(turned(prediction.labels, of))


@pytest.mark.parametrize("orientation", ["axial", "sagittal"])
def test_parts_are_merged_in_the_tasks_numbering(tmp_path: Path, orientation: str) -> None:
    """Without resample_mm every voxel has the class that nnU-Net's predictor gives for its part on the series itself."""
    of = grid(orientation, (18, 30, 24), (3.0, 1.1, 1.4))
    paths = write(tmp_path / "results")
    array = image(1, of)[0]
    upright = turned(array, of)
    expected = merged(paths, sitk.GetArrayFromImage(upright), upright.GetSpacing()[::-1])
    assert np.array_equal(predicted(tmp_path, array, of, {"runtime.options.resample_mm": None}), expected)


@pytest.mark.parametrize("order", [1, 3])
@pytest.mark.parametrize("orientation", ["axial", "coronal"])
def test_labels_are_totalsegmentators_own(tmp_path: Path, orientation: str, order: int) -> None:
    """As drafted, every voxel has what TotalSegmentator's resampling around nnU-Net's predictor gives."""
    of = grid(orientation, (18, 30, 24), (3.0, 1.1, 1.4))
    paths = write(tmp_path / "results")
    array = image(1, of)[0]
    upright = turned(array, of)
    spacing_mm = upright.GetSpacing()
    nifti = nibabel.Nifti1Image(sitk.GetArrayFromImage(upright).T.astype(np.int16), np.diag([*spacing_mm, 1.0]))
    small = change_spacing(nifti, [1.5, 1.5, 1.5], order=order, dtype=np.int32)
    labels = merged(paths, np.asarray(small.dataobj).T.astype(np.float32), (1.5, 1.5, 1.5))
    large = change_spacing(
        nibabel.Nifti1Image(labels.T, small.affine), [1.5, 1.5, 1.5], nifti.shape, order=0, dtype=np.uint8, force_affine=nifti.affine
    )
    found = predicted(tmp_path, array, of, {"runtime.options.resample_order": order})
    assert np.array_equal(found, np.asarray(large.dataobj).T)


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
