"""MONAI bundles give what MONAI gives of them, voxel for voxel, on the grid of the images and where the patient is."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models import registry
from models.card import BadCard
from models.vocabulary import Unfit, Volume
from tests.models.grids import AXES, ball, grid, middle_mm
from tests.models.runtimes import bundles
from tests.models.runtimes.bundles import (
    ARGMAX,
    CUT,
    INFERENCE,
    INVERT,
    MASKS,
    POINT,
    SAVE,
    SHAPE,
    SIGMOID,
    SOFTMAX,
    SPACING_MM,
    changed,
    metadata,
    of_monai,
    predict,
    scene,
)


@pytest.mark.parametrize("name", AXES)
def test_labels_are_monais_own(tmp_path: Path, name: str) -> None:
    """On a series of any orientation the labels equal those that MONAI's own loop makes of its NIfTI file, in every voxel."""
    volume, _ = scene(grid(name, SHAPE, SPACING_MM))
    prediction = predict(bundles.card(bundles.write(tmp_path)), volume)
    assert prediction.grid == volume.grid
    assert prediction.labels.dtype == np.uint8
    assert min(np.bincount(prediction.labels.ravel(), minlength=3)) > 1000  # every class occurs, so that equality says something
    assert np.array_equal(prediction.labels, of_monai(tmp_path, volume, INFERENCE)[0])


@pytest.mark.parametrize("name", AXES)
def test_organs_lie_where_they_were_drawn(tmp_path: Path, name: str) -> None:
    """A network of a known answer marks what was drawn at places fixed in the patient, on series of every orientation."""
    volume, truth = scene(grid(name, SHAPE, SPACING_MM))
    inference = changed(INFERENCE, network_def=POINT)
    # Intensities 0..1 stand for -1000..400 HU: none below 0.3, organ 1 up to 0.8, organ 2 above.
    folder = bundles.write(tmp_path, inference, weights=bundles.lines(inference, ((0.0, 0.0), (40.0, -12.0), (80.0, -44.0))))
    labels = predict(bundles.card(folder), volume).labels
    for value, organ in ((1, "one"), (2, "two")):
        centre_mm = volume.grid.to_world_mm(np.argwhere(truth[organ]).mean(axis=0)[None])[0]
        # Around organ 2 a blurred border passes through organ 1's intensities; each is judged on its own side.
        found = (labels == value) & ball(volume.grid, tuple(centre_mm), 10.0)
        common = np.count_nonzero(found & truth[organ])
        assert 2 * common / (np.count_nonzero(found) + np.count_nonzero(truth[organ])) > 0.85
        assert np.allclose(volume.grid.to_world_mm(np.argwhere(found).mean(axis=0)[None])[0], centre_mm, atol=0.4)


def test_overlapping_masks_are_monais_own(tmp_path: Path) -> None:
    """Sigmoid channels that are cut at a threshold become masks that may overlap, each as MONAI makes it."""
    volume, _ = scene(grid("sagittal", SHAPE, SPACING_MM))
    inference = changed(INFERENCE, postprocessing__transforms=[SIGMOID, INVERT, CUT, SAVE])
    folder = bundles.write(
        tmp_path, inference, metadata(network_data_format__outputs__pred__channel_def={"0": "whole", "1": "core", "2": "edge"})
    )
    shelved = bundles.card(
        folder,
        MASKS,
        ("[runtime.options]", "[runtime.options]\nchannels = { 1 = 0, 2 = 1, 3 = 2 }"),
        labels={1: "Whole", 2: "Core", 3: "Edge"},
    )
    prediction = predict(shelved, volume)
    expected = of_monai(folder, volume, inference)
    assert not prediction.labels.any()
    for index in (1, 2, 3):
        assert np.array_equal(prediction.masks[index], expected[index - 1] > 0)
        assert 1000 < np.count_nonzero(prediction.masks[index]) < volume.array.size - 1000
    assert (prediction.masks[1] & prediction.masks[2]).any()


def test_probabilities_are_monais_own(tmp_path: Path) -> None:
    """A bundle's probabilities are MONAI's own, as near as their steps of 1/255 allow, and masks are cut at the card's threshold."""
    volume, _ = scene(grid("oblique", SHAPE, SPACING_MM))
    inference = changed(INFERENCE, postprocessing__transforms=[SIGMOID, INVERT])
    folder = bundles.write(tmp_path, inference)
    cut = ("cielab = [1, 1, 1]", "cielab = [1, 1, 1]\nthreshold = 0.4")
    prediction = predict(bundles.card(folder, MASKS, cut), volume)
    expected = of_monai(folder, volume, inference)
    for index in (1, 2):
        assert np.abs(prediction.probabilities[index] / 255 - expected[index]).max() <= 0.5 / 255 + 1e-4
        assert np.array_equal(prediction.masks[index], expected[index] >= np.float32(0.4))


@pytest.mark.parametrize(
    ("inverse", "steps"), [("scores-linear", [SOFTMAX, INVERT, ARGMAX]), ("labels-nearest", [SOFTMAX, ARGMAX, INVERT])]
)
def test_a_bundle_without_a_way_back_gets_one(tmp_path: Path, inverse: str, steps: list[dict[str, Any]]) -> None:
    """Where a bundle has no Invertd its scores or its labels are returned as the card says, as if the bundle had one in that place."""
    volume, _ = scene(grid("coronal", SHAPE, SPACING_MM))
    folder = bundles.write(tmp_path, changed(INFERENCE, postprocessing__transforms=[SOFTMAX, ARGMAX, SAVE]))
    prediction = predict(bundles.card(folder, ('inverse = "runtime"', f'inverse = "{inverse}"')), volume)
    steps = [{**step, "nearest_interp": inverse == "labels-nearest"} if step["_target_"] == "Invertd" else step for step in steps]
    assert np.array_equal(prediction.labels, of_monai(folder, volume, changed(INFERENCE, postprocessing__transforms=steps))[0])
    assert prediction.variant["inverse"] == "ours"


@pytest.mark.parametrize(
    "steps",
    [
        [SOFTMAX, INVERT, ARGMAX, {"_target_": "KeepLargestConnectedComponentd", "keys": "pred", "applied_labels": [1, 2]}],
        [SOFTMAX, ARGMAX, {"_target_": "FillHolesd", "keys": "pred"}, {**INVERT, "nearest_interp": True}],
        [{"_target_": "Lambdad", "keys": "pred", "func": "$lambda x: torch.softmax(x, dim=0)"}, INVERT, ARGMAX],
        [SOFTMAX, INVERT, {**ARGMAX, "to_onehot": 3}],
    ],
    ids=["largest part", "holes filled", "lambda", "one-hot"],
)
def test_postprocessing_is_honoured(tmp_path: Path, steps: list[dict[str, Any]]) -> None:
    """What a bundle does after its network is done, in its order, and gives what MONAI gives."""
    volume, _ = scene(grid("axial", SHAPE, SPACING_MM))
    inference = changed(INFERENCE, postprocessing__transforms=[*steps, SAVE])
    folder = bundles.write(tmp_path, inference)
    expected = of_monai(folder, volume, inference)
    labels = predict(bundles.card(folder), volume).labels
    assert np.array_equal(labels, expected.argmax(axis=0) if len(expected) > 1 else expected[0])


def test_a_bundle_that_numbers_its_map_itself_must_say_how(tmp_path: Path) -> None:
    """A map made of sigmoid channels by a lambda, as for brain tumours, is read by the card's values, never as channels."""
    volume, _ = scene(grid("axial", SHAPE, SPACING_MM))
    merge = "$lambda x: torch.where(x[[2]] > 0, 4, torch.where(x[[0]] > 0, 1, torch.where(x[[1]] > 0, 2, 0)))"
    steps = [SIGMOID, INVERT, CUT, {"_target_": "Lambdad", "keys": "pred", "func": merge}]
    inference = changed(INFERENCE, postprocessing__transforms=steps)
    pred = {"num_channels": 3, "channel_def": {"0": "tumour core", "1": "whole tumour", "2": "enhancing"}}
    folder = bundles.write(tmp_path, inference, metadata(network_data_format__outputs__pred=pred))
    names = {1: "Necrosis", 2: "Oedema", 3: "Enhancing part"}
    with pytest.raises(BadCard, match=r"the label map has the values \[4\]"):
        registry.load(
            bundles.card(folder, ("[runtime.options]", "[runtime.options]\nchannels = { 1 = 0, 2 = 1, 3 = 2 }"), labels=names), "cpu"
        )
    said = ("[runtime.options]", "[runtime.options]\nvalues = { 1 = 1, 2 = 2, 3 = 4 }")
    labels = predict(bundles.card(folder, said, labels=names), volume).labels
    expected = of_monai(folder, volume, inference)[0]
    assert set(np.unique(expected)) == {0, 1, 2, 4}
    assert np.array_equal(labels, np.where(expected == 4, 3, expected))
    kept = (
        "[runtime.options]",
        '[runtime.options]\nchannels = { 1 = 0, 2 = 1, 3 = 2 }\noverrides = { "postprocessing::transforms::3::_disabled_" = true }',
    )
    masks = predict(bundles.card(folder, kept, MASKS, labels=names), volume).masks
    assert np.array_equal(masks[3], expected == 4)


def test_many_classes_return_a_few_at_a_time(tmp_path: Path) -> None:
    """Of more classes than return at once the labels are MONAI's own, and the steps after the cut are done."""
    volume, _ = scene(grid("sagittal", SHAPE, SPACING_MM))
    steps = [SOFTMAX, INVERT, ARGMAX, {"_target_": "KeepLargestConnectedComponentd", "keys": "pred", "applied_labels": [3]}]
    inference = changed(INFERENCE, network_def__out_channels=10, postprocessing__transforms=steps)
    names = {"0": "background", **{str(index): f"part {index}" for index in range(1, 10)}}
    folder = bundles.write(tmp_path, inference, metadata(network_data_format__outputs__pred={"num_channels": 10, "channel_def": names}))
    labels = predict(bundles.card(folder, labels={index: names[str(index)] for index in range(1, 10)}), volume).labels
    assert len(np.unique(labels)) > 6
    assert np.array_equal(labels, of_monai(folder, volume, inference)[0])


@pytest.mark.parametrize(
    "parts",
    [
        {"preprocessing__transforms__5": {"_target_": "CropForegroundd", "keys": "image", "source_key": "image", "margin": 2}},
        {"preprocessing__transforms__5": {"_target_": "NormalizeIntensityd", "keys": "image", "nonzero": True, "channel_wise": True}},
        {"preprocessing__transforms__3": {"_target_": "Resized", "keys": "image", "spatial_size": [40, 36, 28]}},
        {
            "inferer": {
                "_target_": "SlidingWindowInferer",
                "roi_size": [32, 24, 16],
                "overlap": 0.25,
                "mode": "gaussian",
                "padding_mode": "replicate",
            }
        },
        {"inferer": {"_target_": "SimpleInferer"}, "preprocessing__transforms__5": {"_target_": "DivisiblePadd", "keys": "image", "k": 4}},
        {"network_def__norm": "$monai.networks.layers.Norm.BATCH"},
        {"spacing": "$[@bundle_size * 0.5, 1.5, 2.0]", "bundle_size": 3},
    ],
    ids=["crop", "normalise", "resize", "gaussian", "whole image", "name of MONAI", "expression"],
)
def test_preprocessing_and_inferer_are_honoured(tmp_path: Path, parts: dict[str, Any]) -> None:
    """What a bundle does before its network, and how it cuts windows, gives what MONAI gives."""
    volume, _ = scene(grid("sagittal", SHAPE, SPACING_MM))
    inference = changed(INFERENCE, **parts)
    folder = bundles.write(tmp_path, inference)
    labels = predict(bundles.card(folder), volume).labels
    assert np.array_equal(labels, of_monai(folder, volume, inference)[0])


def test_several_roles_become_channels_in_their_order(tmp_path: Path) -> None:
    """A bundle whose image is a list of files gets one channel a role, in the order of the options, as MONAI stacks them."""
    of = grid("oblique", SHAPE, SPACING_MM)
    one, _ = scene(of)
    flipped = replace(one, modality="MR", unit="1", array=np.ascontiguousarray(one.array[::-1]))
    one = replace(one, modality="MR", unit="1")
    inference = changed(INFERENCE, network_def__in_channels=2)
    folder = bundles.write(tmp_path, inference, metadata(network_data_format__inputs__image__num_channels=2))
    keys = ("[runtime.options]", '[runtime.options]\nkeys = { image = ["flair", "t1"] }')
    prediction = predict(bundles.card(folder, keys, roles=(("t1", "MR"), ("flair", "MR"))), one, flipped)
    files = [str(bundles.nifti(folder / f"{name}.nii", volume)) for name, volume in (("flair", flipped), ("t1", one))]
    expected = np.transpose(np.asarray(bundles.reference(folder, {"image": files}, inference)), (0, 3, 2, 1))
    assert np.array_equal(prediction.labels, expected[0])
    swapped = np.transpose(np.asarray(bundles.reference(folder, {"image": files[::-1]}, inference)), (0, 3, 2, 1))
    assert not np.array_equal(prediction.labels, swapped[0])


def test_roles_on_different_voxels_are_unfit(tmp_path: Path) -> None:
    """Contrasts that do not lie on each other's voxels are not stacked; the reason names the role."""
    inference = changed(INFERENCE, network_def__in_channels=2)
    folder = bundles.write(tmp_path, inference, metadata(network_data_format__inputs__image__num_channels=2))
    shelved = bundles.card(folder, roles=(("t1", "MR"), ("flair", "MR")))
    one, other = (replace(scene(grid(name, SHAPE, SPACING_MM))[0], modality="MR", unit="1") for name in ("axial", "oblique"))
    with pytest.raises(Unfit, match="The series for flair does not lie on the voxels"):
        predict(shelved, one, other)


def test_a_role_of_the_same_frame_is_laid_on_the_reference(tmp_path: Path) -> None:
    """A contrast on a grid of its own is resampled through the patient where the card says that it lies in the same frame."""
    inference = changed(INFERENCE, network_def={**POINT, "in_channels": 2})
    weights = bundles.lines(inference, ((0.0, 0.0), (40.0, -12.0), (80.0, -44.0)), channel=1)
    about = metadata(network_data_format__inputs__image__num_channels=2)
    folder = bundles.write(tmp_path, inference, about, weights)
    frame = ('role = "flair"', 'role = "flair"\nsame_frame = true')
    shelved = bundles.card(folder, frame, roles=(("t1", "MR"), ("flair", "MR")))
    of = grid("axial", SHAPE, SPACING_MM)
    where = np.array(middle_mm(of))
    centre = np.array(middle_mm(grid("oblique", (40, 50, 60), (1.1, 1.2, 0.9)))) - grid("oblique").origin_mm
    other = replace(grid("oblique", (40, 50, 60), (1.1, 1.2, 0.9)), origin_mm=tuple(where - centre))
    truth = {"one": ball(other, tuple(where + np.array([6, 0, 2])), 9.0), "two": ball(other, tuple(where - np.array([9, 0, 2])), 8.0)}
    flair = replace(bundles.organs(other, truth), modality="MR", unit="1")
    blank = Volume(array=np.zeros(of.shape, dtype=np.int16), grid=of, unit="1", modality="MR")
    labels = predict(shelved, blank, flair).labels
    drawn = ball(of, tuple(where - np.array([9, 0, 2])), 8.0)
    assert 2 * np.count_nonzero((labels == 2) & drawn) / (np.count_nonzero(labels == 2) + np.count_nonzero(drawn)) > 0.8


def test_grids_that_drift_apart_from_voxel_to_voxel_are_not_the_same(tmp_path: Path) -> None:
    """A step that differs by 0.009 mm is 2.7 mm at the 300th voxel: such a contrast is laid over the reference, not taken as it is."""
    inference = changed(INFERENCE, network_def__in_channels=2)
    folder = bundles.write(tmp_path, inference, metadata(network_data_format__inputs__image__num_channels=2))
    shelved = bundles.card(folder, roles=(("t1", "MR"), ("flair", "MR")))
    one, other = (
        Volume(array=np.zeros((4, 4, 300), dtype=np.int16), grid=grid("axial", (4, 4, 300), (1.0, 1.0, wide)), unit="1", modality="MR")
        for wide in (1.0, 1.009)
    )
    with pytest.raises(Unfit, match="The series for flair does not lie on the voxels"):
        predict(shelved, one, other)
