"""Every kind of bundle: classifiers, pictures, slices, findings; every form of its files; every way to run it."""

from __future__ import annotations

import copy
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import save

from models import registry
from models.card import BadCard
from models.execution import Execution
from models.runtimes.monai_bundle import outputs
from models.vocabulary import Broken, Grid, Unfit, Volume
from tests.models.grids import grid
from tests.models.runtimes import bundles
from tests.models.runtimes.bundles import (
    CUT,
    INFERENCE,
    INVERT,
    MASKS,
    POINT,
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


def test_yaml_is_read_as_json_is(tmp_path: Path) -> None:
    """The same configuration in YAML gives the same labels."""
    volume, _ = scene(grid("axial", SHAPE, SPACING_MM))
    folder = bundles.write(tmp_path)
    expected = predict(bundles.card(folder), volume).labels
    (folder / "configs/inference.yaml").write_text(yaml.safe_dump(copy.deepcopy(INFERENCE), sort_keys=False))
    assert np.array_equal(predict(bundles.card(folder, ("inference.json", "inference.yaml")), volume).labels, expected)


def test_overrides_of_the_card_are_used(tmp_path: Path) -> None:
    """A value that the card sets by its id in the configuration is what is run, as on MONAI's command line."""
    volume, _ = scene(grid("axial", SHAPE, SPACING_MM))
    folder = bundles.write(tmp_path)
    given = ("[runtime.options]", '[runtime.options]\noverrides = { spacing = [3.0, 3.0, 3.0], "inferer::overlap" = 0.25 }')
    labels = predict(bundles.card(folder, given), volume).labels
    assert np.array_equal(labels, of_monai(folder, volume, changed(INFERENCE, spacing=[3.0, 3.0, 3.0], inferer__overlap=0.25))[0])
    assert not np.array_equal(labels, of_monai(folder, volume, INFERENCE)[0])


def test_scores_are_monais_own(tmp_path: Path) -> None:
    """A classifier's probabilities equal MONAI's to 1e-4, each under the label of its channel."""
    volume, _ = scene(grid("sagittal", SHAPE, SPACING_MM))
    inference = changed(
        INFERENCE,
        network_def={"_target_": "Classifier", "in_shape": [1, 32, 32, 32], "classes": 3, "channels": [4, 8], "strides": [2, 2]},
        preprocessing__transforms__3={"_target_": "Resized", "keys": "image", "spatial_size": [32, 32, 32]},
        inferer={"_target_": "SimpleInferer"},
        postprocessing__transforms=[SOFTMAX],
    )
    folder = bundles.write(tmp_path, inference)
    prediction = predict(bundles.card(folder, ('kind = "labels"', 'kind = "scores"')), volume)
    expected = np.asarray(bundles.reference(folder, {"image": str(bundles.nifti(folder / "image.nii", volume))}, inference))
    assert [entry.label for entry in prediction.scores] == [1, 2]
    assert np.allclose([entry.score for entry in prediction.scores], expected[1:], atol=1e-4)


def test_a_radiograph_is_read_as_a_picture_is(tmp_path: Path) -> None:
    """A 2-D bundle sees a radiograph with its columns first, as MONAI's readers give a picture, and its masks lie on the picture."""
    of = Grid(shape=(1, 60, 44), origin_mm=(0, 0, 0), axes=((0, 0, 1), (0, 1, 0), (1, 0, 0)), spacing_mm=(1, 0.2, 0.2), space="image")
    array = np.zeros(of.shape, dtype=np.float32)
    array[0, 8:20, 30:40] = 1.0
    steps = [INFERENCE["preprocessing"]["transforms"][index] for index in (0, 1, 5)]
    inference = changed(
        INFERENCE,
        network_def={**POINT, "spatial_dims": 2, "out_channels": 1},
        preprocessing__transforms=[*steps, {"_target_": "Resized", "keys": "image", "spatial_size": [88, 120]}],
        inferer={"_target_": "SimpleInferer"},
        postprocessing__transforms=[SIGMOID, INVERT, CUT],
    )
    built = bundles.network(inference)
    state = {name: torch.zeros_like(tensor) if "conv" in name else tensor for name, tensor in built.state_dict().items()}
    state["encode.encode_0.conv.weight"][0, 0, 1, 1] = 1
    state["decode.decode_0.conv.conv.weight"][0, 0, 1, 1] = 40
    state["decode.decode_0.conv.conv.bias"][0] = -20
    built.load_state_dict(state)
    about = metadata(
        network_data_format__inputs__image__spatial_shape=[88, 120],
        network_data_format__outputs__pred={"num_channels": 1, "channel_def": {"0": "opacity"}},
    )
    folder = bundles.write(tmp_path, inference, about, built)
    options = ("[runtime.options]", "[runtime.options]\nchannels = { 1 = 0 }")
    shelved = bundles.card(folder, options, MASKS, labels={1: "Opacity"}, roles=(("xray", "DX"),))
    prediction = predict(shelved, Volume(array=array, grid=of, unit="1", modality="DX"))
    assert np.array_equal(prediction.masks[1], array > 0.5)


def test_a_two_dimensional_network_goes_through_the_slices(tmp_path: Path) -> None:
    """A SliceInferer's 2-D network gives of a volume what MONAI gives."""
    volume, _ = scene(grid("coronal", SHAPE, SPACING_MM))
    inference = changed(
        INFERENCE,
        network_def__spatial_dims=2,
        inferer={"_target_": "SliceInferer", "roi_size": [32, 32], "sw_batch_size": 2, "spatial_dim": 2},
    )
    folder = bundles.write(tmp_path, inference, metadata(network_data_format__inputs__image__spatial_shape=[32, 32]))
    assert np.array_equal(predict(bundles.card(folder), volume).labels, of_monai(folder, volume, inference)[0])


@pytest.mark.parametrize("form", ["safetensors", "checkpoint", "torchscript"])
def test_every_form_of_weights_gives_the_same(tmp_path: Path, form: str) -> None:
    """Safetensors, a trainer's checkpoint and TorchScript give the labels that the plain state dict gives."""
    volume, _ = scene(grid("axial", SHAPE, SPACING_MM))
    folder = bundles.write(tmp_path)
    expected = predict(bundles.card(folder), volume).labels
    built = bundles.network()
    if form == "safetensors":
        (folder / "models/other").write_bytes(save(built.state_dict()))
    elif form == "checkpoint":
        torch.save({"model": built.state_dict(), "epoch": 3}, folder / "models/other")
    else:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # tracing warns of every branch of the network
            torch.jit.save(torch.jit.trace(built, torch.zeros(1, 1, 32, 32, 32)), folder / "models/other")
    assert np.array_equal(predict(bundles.card(folder, ("models/model.pt", "models/other")), volume).labels, expected)


def test_batch_and_stitching_change_no_label(tmp_path: Path) -> None:
    """Four windows at once, put together in the host's memory, give the same labels, and the prediction says how it was run."""
    volume, _ = scene(grid("axial", SHAPE, SPACING_MM))
    shelved = bundles.card(bundles.write(tmp_path))
    plain = predict(shelved, volume)
    other = predict(shelved, volume, execution=Execution(batch=4, stitch="host"))
    assert np.array_equal(plain.labels, other.labels)
    assert {"batch": "4", "stitch": "host", "precision": "float32"}.items() <= other.variant.items()
    assert plain.variant["bundle"] == "Lines 0.3.1"


def test_need_grows_with_classes_and_batch(tmp_path: Path) -> None:
    """A larger volume, a larger batch and stitching on the host are told before anything is run."""
    model = registry.load(bundles.card(bundles.write(tmp_path)), "cpu")
    small, large = ({"ct": grid("axial", shape, SPACING_MM)} for shape in (SHAPE, (60, 88, 72)))
    assert model.need(large, Execution()).device > model.need(small, Execution()).device
    assert model.need(small, Execution(batch=4)).device > model.need(small, Execution()).device
    assert model.need(small, Execution(stitch="host")).device < model.need(small, Execution()).device
    assert model.need(small, Execution(stitch="host")).host > model.need(small, Execution()).host


def test_progress_rises_to_one(tmp_path: Path) -> None:
    """Progress never falls and ends at 1."""
    told: list[float] = []
    volume, _ = scene(grid("axial", SHAPE, SPACING_MM))
    folder = bundles.write(tmp_path, changed(INFERENCE, spacing=[1.0, 1.0, 1.0]))
    registry.load(bundles.card(folder), "cpu").predict({"ct": volume}, told.append)
    assert told == sorted(told)
    assert told[-1] == 1.0
    assert len(told) > 10


def test_a_bundle_without_orientation_must_say_how_its_images_were_stored(tmp_path: Path) -> None:
    """Without Orientationd a card says how training images were stored; "SAR" gives what MONAI gives of the file in RAS."""
    volume, _ = scene(grid("sagittal", SHAPE, SPACING_MM))
    steps = [step for step in INFERENCE["preprocessing"]["transforms"] if step["_target_"] != "Orientationd"]
    inference = changed(INFERENCE, preprocessing__transforms=steps)
    folder = bundles.write(tmp_path, inference)
    with pytest.raises(BadCard, match="has no Orientationd"):
        registry.load(bundles.card(folder), "cpu")
    labels = predict(bundles.card(folder, ("[runtime.options]", '[runtime.options]\norientation = "SAR"')), volume).labels
    # INFERENCE itself turns to RAS first, and is the same bundle otherwise.
    assert np.array_equal(labels, of_monai(folder, volume, INFERENCE)[0])
    stored = predict(bundles.card(folder, ("[runtime.options]", '[runtime.options]\norientation = "as-stored"')), volume).labels
    assert np.array_equal(stored, of_monai(folder, volume, inference)[0])
    assert not np.array_equal(labels, stored)


def test_a_finding_gets_its_number_and_probability(tmp_path: Path) -> None:
    """Of a bundle that ends in probabilities a finding is numbered and scored, and lies where it was drawn."""
    volume, truth = scene(grid("oblique", SHAPE, SPACING_MM))
    inference = changed(INFERENCE, network_def={**POINT, "out_channels": 2}, postprocessing__transforms=[SOFTMAX, INVERT])
    about = metadata(network_data_format__outputs__pred={"num_channels": 2, "channel_def": {"0": "background", "1": "nodule"}})
    folder = bundles.write(tmp_path, inference, about, bundles.lines(inference, ((0.0, 0.0), (80.0, -68.0))))
    marked = (('kind = "organ"', 'kind = "finding"'), ("cielab = [1, 1, 1]", "cielab = [1, 1, 1]\nthreshold = 0.6\nmin_volume_ml = 0.5"))
    prediction = predict(bundles.card(folder, *marked, labels={1: "Nodule"}), volume)
    (finding,) = prediction.findings
    assert (finding.number, finding.label) == (1, 1)
    assert 0.9 < finding.score <= 1
    found = prediction.instances == 1
    assert 2 * np.count_nonzero(found & truth["two"]) / (np.count_nonzero(found) + np.count_nonzero(truth["two"])) > 0.85


@pytest.mark.parametrize("inferer", [INFERENCE["inferer"], {"_target_": "SimpleInferer"}], ids=["engine", "MONAI's"])
def test_scores_that_are_no_numbers_are_broken(tmp_path: Path, inferer: dict[str, object]) -> None:
    """A network that gives NaN gives no result but a reason, whoever runs its windows."""
    volume, _ = scene(grid("axial", SHAPE, SPACING_MM))
    inference = changed(INFERENCE, inferer=inferer, network_def=POINT)
    weights = bundles.lines(inference, ((0.0, 0.0), (float("nan"), 0.0), (1.0, 0.0)))
    with pytest.raises(Broken, match="no finite numbers"):
        predict(bundles.card(bundles.write(tmp_path, inference, weights=weights)), volume)


def test_values_that_postprocessing_spoils_are_broken(tmp_path: Path) -> None:
    """One voxel that a step after the network made no number is no "nothing here": the study gets a reason instead."""
    of = grid("axial", SHAPE, SPACING_MM)
    card = bundles.card(bundles.write(tmp_path)).card
    labels = {label.index: label.index for label in card.output.labels}
    read = outputs.Reading(channels=labels, mapped=False, known=frozenset(), graded=True, sums=True)
    found = torch.zeros((1 + max(labels), *of.shape))
    found[0] = 1
    assert not outputs.prediction(card, read, found, of, {}).labels.any()
    found[1, 3, 4, 5] = float("nan")
    with pytest.raises(Broken, match="postprocessing gave values that are no finite numbers"):
        outputs.prediction(card, read, found, of, {})


def test_a_ct_without_hounsfield_units_and_a_picture_are_unfit(tmp_path: Path) -> None:
    """A bundle for volumes declines a CT of unknown units and a single radiograph, each with its reason."""
    volume, _ = scene(grid("axial", SHAPE, SPACING_MM))
    shelved = bundles.card(bundles.write(tmp_path))
    with pytest.raises(Unfit, match="not Hounsfield units"):
        predict(shelved, replace(volume, unit="1"))
    flat = replace(volume.grid, shape=(1, 44, 36), space="image")
    with pytest.raises(Unfit, match="reads volumes, not single radiographs"):
        predict(shelved, Volume(array=volume.array[:1], grid=flat, unit="1", modality="DX"))
