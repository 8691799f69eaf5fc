"""Formats: each library's own file gives the labels that this library gives when MONAI's sliding window runs it directly."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from monai.inferers.utils import sliding_window_inference
from monai.networks import nets
from safetensors.torch import save

from models import registry
from models.card import BadCard
from models.execution import Execution
from models.vocabulary import Volume
from tests.models import programs
from tests.models.grids import grid
from tests.models.shelf import labels, shelve

SHAPE, WINDOW = (20, 26, 22), (12, 16, 12)
LOW, HIGH = -100.0, 300.0
OPTIONS = f"""
window = {list(WINDOW)}
overlap = 0.5
intensity = {{ low = {LOW}, high = {HIGH} }}
organ_channels = [0, 1, 2]
probabilities = [1]
"""
OUTPUT = "labels\n" + labels("organ", "organ")
MAKERS = {
    "torchscript traced": ("torchscript", programs.traced),
    "torchscript scripted": ("torchscript", programs.scripted),
    "exported-program": ("exported-program", programs.exported),
    "exported-program for one": ("exported-program", programs.exported_for_one),
    "onnx": ("onnx", programs.onnx),
    "onnx for one": ("onnx", programs.onnx_for_one),
}
Forward = Callable[[torch.Tensor], torch.Tensor]


def own(format_name: str, content: bytes) -> Forward:
    """Give the forward pass as the format's own library runs it."""
    if format_name == "torchscript":
        return torch.jit.load(io.BytesIO(content))
    if format_name == "exported-program":
        return torch.export.load(io.BytesIO(content)).module()
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    return lambda seen: torch.from_numpy(session.run(None, {"seen": seen.numpy()})[0])


def noise() -> np.ndarray:
    """Give random intensities, some outside of what the window cuts at."""
    return np.random.default_rng(3).normal(100, 150, SHAPE).astype(np.float32)


@pytest.mark.parametrize("name", MAKERS)
def test_labels_are_those_of_the_format_s_own_library(tmp_path: Path, name: str) -> None:
    """Voxel for voxel, on a grid that is the network's own; probabilities to a step of 1/255; whatever the batch."""
    format_name, make = MAKERS[name]
    files = make(programs.random(1, 3), torch.zeros(1, 1, *WINDOW))
    seen = torch.from_numpy(np.clip((noise() - LOW) / (HIGH - LOW), 0, 1))[None, None].float()
    with torch.inference_mode():
        scores: Any = sliding_window_inference(seen, WINDOW, 1, own(format_name, files["weights"][1]), overlap=0.5, mode="gaussian")
    wanted = scores[0].argmax(dim=0).numpy()
    assert all(np.count_nonzero(wanted == label) > 500 for label in range(3))
    model = registry.load(shelve(tmp_path, format_name, files, OPTIONS, OUTPUT), "cpu")
    volume = Volume(array=noise(), grid=grid("axial", SHAPE), unit="1", modality="MR")
    for execution in (Execution(), Execution(batch=3)):
        prediction = model.predict({"ct": volume}, lambda _: None, execution)
        assert np.array_equal(prediction.labels, wanted)
        levels = 255 * torch.softmax(scores[0], dim=0)[1].numpy()
        assert np.abs(prediction.probabilities[1].astype(float) - levels).max() <= 0.51
        assert (prediction.variant["runtime"], prediction.variant["batch"]) == (format_name, str(execution.batch))


def test_labels_of_a_state_dict_are_those_of_monai_s_own_network(tmp_path: Path) -> None:
    """A UNet built by MONAI and run by MONAI's sliding window, and the same weights by name: voxel for voxel."""
    arguments = {"spatial_dims": 3, "in_channels": 1, "out_channels": 3, "channels": [4, 8], "strides": [2], "num_res_units": 1}
    with torch.random.fork_rng():
        torch.manual_seed(11)
        network = nets.UNet(**arguments).eval()
    seen = torch.from_numpy(np.clip((noise() - LOW) / (HIGH - LOW), 0, 1))[None, None].float()
    with torch.inference_mode():
        network.model[-1][0].conv.bias -= network(seen).mean(dim=(0, 2, 3, 4))  # so that every class wins somewhere
        scores: Any = sliding_window_inference(seen, WINDOW, 1, network, overlap=0.5, mode="gaussian")
    wanted = scores[0].argmax(dim=0).numpy()
    assert all(np.count_nonzero(wanted == label) > 500 for label in range(3))
    told = ", ".join(f"{key} = {value}" for key, value in arguments.items())
    options = f'network = "UNet"\narguments = {{ {told} }}\n' + OPTIONS
    files = {"weights": ("w.safetensors", save(network.state_dict()))}
    model = registry.load(shelve(tmp_path, "state-dict", files, options, OUTPUT), "cpu")
    volume = Volume(array=noise(), grid=grid("axial", SHAPE), unit="1", modality="MR")
    assert np.array_equal(model.predict({"ct": volume}, lambda _: None).labels, wanted)


@pytest.mark.parametrize("name", ["torchscript traced", "exported-program", "onnx"])
def test_a_file_that_is_none_or_a_part_of_one_is_bad(tmp_path: Path, name: str) -> None:
    """Half a file, an empty one and another kind are refused at load, although their hashes are right."""
    format_name, make = MAKERS[name]
    whole = make(programs.random(1, 3), torch.zeros(1, 1, *WINDOW))["weights"][1]
    for number, content in enumerate((whole[: len(whole) // 2], b"", b"\x80\x04cos\nsystem\n." * 20)):
        with pytest.raises(BadCard, match="the file is no"):
            registry.load(shelve(tmp_path / str(number), format_name, {"weights": ("w", content)}, OPTIONS, OUTPUT), "cpu")


@pytest.mark.parametrize("name", ["torchscript traced", "exported-program", "onnx"])
@pytest.mark.parametrize(
    ("roles", "channels", "reason"),
    [
        (2, 3, r"does not take 1 channels .*(have 2 channels|Expected: 2\b|equal to 2\b|== 2\b)"),
        (1, 4, r"the labels need channels \[0, 1, 2\]"),
        (1, 2, r"the labels need channels \[0, 1, 2\]"),
    ],
)
def test_a_network_of_other_channels_is_bad(tmp_path: Path, name: str, roles: int, channels: int, reason: str) -> None:
    """A card whose roles or classes are not the network's is refused when it is loaded."""
    format_name, make = MAKERS[name]
    files = make(programs.random(roles, channels), torch.zeros(1, roles, *WINDOW))
    with pytest.raises(BadCard, match=reason):
        registry.load(shelve(tmp_path, format_name, files, OPTIONS, OUTPUT), "cpu")


@pytest.mark.parametrize("format_name", ["torchscript", "exported-program", "onnx", "state-dict"])
def test_another_hash_a_missing_file_and_an_unknown_key_are_bad(tmp_path: Path, format_name: str) -> None:
    """What the card pins is what is opened; nothing of the file is looked at before."""
    more = 'network = "UNet"\narguments = {}\n' if format_name == "state-dict" else ""
    shelved = shelve(tmp_path, format_name, {"weights": ("w", b"1")}, more + OPTIONS, OUTPUT)
    (tmp_path / "w").write_bytes(b"2")
    with pytest.raises(BadCard, match="has sha256"):
        registry.load(shelved, "cpu")
    with pytest.raises(BadCard, match=r"runtime\.files must be other"):
        registry.load(shelve(tmp_path, format_name, {"weights": ("w", b"1")}, more + OPTIONS + 'weights = "other"', OUTPUT), "cpu")
    with pytest.raises(BadCard, match="windows"):
        registry.load(shelve(tmp_path, format_name, {"weights": ("w", b"1")}, more + OPTIONS + "windows = 1", OUTPUT), "cpu")


def test_a_whole_volume_is_padded_to_what_the_network_takes(tmp_path: Path) -> None:
    """Without a window the network sees all at once, with 0 around it on both sides, and its answer is that of the whole."""
    network = programs.random(1, 3)
    options = OPTIONS.replace(f"window = {list(WINDOW)}\noverlap = 0.5", "multiple_of = [8, 8, 8]")
    model = registry.load(shelve(tmp_path, "torchscript", programs.scripted(network, torch.zeros(1)), options, OUTPUT), "cpu")
    seen = torch.from_numpy(np.clip((noise() - LOW) / (HIGH - LOW), 0, 1))[None, None].float()
    with torch.inference_mode():
        padded = torch.nn.functional.pad(seen, (1, 1, 3, 3, 2, 2))
        wanted = network(padded)[0, :, 2:22, 3:29, 1:23].argmax(dim=0).numpy()
    volume = Volume(array=noise(), grid=grid("axial", SHAPE), unit="1", modality="MR")
    assert np.array_equal(model.predict({"ct": volume}, lambda _: None).labels, wanted)


def test_a_two_dimensional_network_runs_slice_by_slice(tmp_path: Path) -> None:
    """A window of two numbers is one of a slice: each slice is labelled by itself, in the plane the card orders."""
    network = programs.random(1, 3, dims=2)
    options = OPTIONS.replace(f"window = {list(WINDOW)}", "window = [12, 12]") + 'orientation = "RIP"\n'
    model = registry.load(shelve(tmp_path, "torchscript", programs.scripted(network, torch.zeros(1)), options, OUTPUT), "cpu")
    volume = Volume(array=noise(), grid=grid("axial", SHAPE), unit="1", modality="MR")
    seen = np.clip((noise() - LOW) / (HIGH - LOW), 0, 1).astype(np.float32)
    wanted = np.zeros(SHAPE, dtype=int)
    with torch.inference_mode():
        for column in range(SHAPE[2]):  # seen from the left: rows from the head down, columns to the back
            plane = torch.from_numpy(seen[::-1, :, column].copy())[None, None]
            scores: Any = sliding_window_inference(plane, (12, 12), 1, network, overlap=0.5, mode="gaussian")
            wanted[::-1, :, column] = scores[0].argmax(dim=0).numpy()
    assert np.array_equal(model.predict({"ct": volume}, lambda _: None).labels, wanted)


def test_what_a_prediction_would_take_is_told_before_it_runs(tmp_path: Path) -> None:
    """A larger volume needs more, and putting scores together on the host less of the device."""
    files = programs.scripted(programs.random(1, 3), torch.zeros(1))
    model = registry.load(shelve(tmp_path, "torchscript", files, OPTIONS, OUTPUT), "cpu")
    small, large = (grid("axial", shape) for shape in (SHAPE, (60, 60, 60)))
    plain, host = Execution(), replace(Execution(), stitch="host")
    assert model.need({"ct": small}, plain).device < model.need({"ct": large}, plain).device
    assert model.need({"ct": large}, host).device < model.need({"ct": large}, plain).device
    assert model.need({"ct": large}, host).host > model.need({"ct": large}, plain).host


def test_a_sigmoid_in_the_network_is_not_taken_for_logits(tmp_path: Path) -> None:
    """Probabilities of masks would go through a second sigmoid: refused at load with what to say; said so, it loads, as logits do."""
    masks = OUTPUT.replace("labels", "masks", 1)
    options = OPTIONS.replace("organ_channels = [0, 1, 2]", "mask_channels = [0, 1]")
    bare = programs.random(1, 2)
    for network, said, fits in (
        (torch.nn.Sequential(bare, torch.nn.Sigmoid()), "logits", False),
        (torch.nn.Sequential(bare, torch.nn.Sigmoid()), "probabilities", True),
        (bare, "logits", True),
    ):
        files = programs.traced(network.eval(), torch.zeros(1, 1, *WINDOW))
        shelved = shelve(tmp_path / f"{said} {fits}", "torchscript", files, f'outputs = "{said}"\n{options}', masks)
        if fits:
            registry.load(shelved, "cpu")
        else:
            with pytest.raises(BadCard, match='sigmoid of its own: say outputs = "probabilities"'):
                registry.load(shelved, "cpu")
