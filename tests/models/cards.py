"""A card and weights of a network whose answer is known: each score is a straight line in the intensity."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from monai.networks import nets
from safetensors.torch import save

from models.card import ShelvedCard, read

# Intensities 0..1 stand for -1000..400 HU. Softmax: none below 0.25, organ 1 up to 0.75, organ 2 above; finding above 0.93.
LINES = ((0.0, 0.0), (40.0, -10.0), (80.0, -40.0), (40.0, -37.2))
AIR_HU, ONE_HU, TWO_HU, MARK_HU = -1000, -300, 170, 400

CARD = """
schema_version = 1
[model]
name = "lines"
version = "1"
title = "Lines"
licence = "Apache-2.0"
intended_use = "tests"
limits = ["tests only"]
[runtime]
format = "state-dict"
[runtime.files.weights]
path = "weights.safetensors"
sha256 = "SHA256"
[runtime.options]
network = "AutoEncoder"
spacing_mm = [1.5, 1.5, 1.5]
orientation = "SPL"
window = [32, 32, 32]
overlap = 0.25
organ_channels = [0, 1, 2]
require_ml = { "1" = 10.0 }
[runtime.options.arguments]
spatial_dims = 3
in_channels = 1
out_channels = 4
channels = [4]
strides = [1]
norm = "batch"
act = "relu"
[runtime.options.intensity]
low = -1000.0
high = 400.0
[runtime.options.findings]
channel = 3
label = 9
threshold = 0.5
min_volume_ml = 0.1
within_labels = [2]
within_mm = 4.0
[[inputs]]
role = "ct"
reference = true
[inputs.accept]
modality = ["CT"]
[output]
kind = "labels"
inverse = "scores-linear"
[[output.labels]]
index = 1
label = "First organ"
kind = "organ"
category = { scheme = "SCT", value = "123037004", meaning = "Anatomical Structure" }
type = { scheme = "SCT", value = "39607008", meaning = "Lung" }
cielab = [1, 1, 1]
[[output.labels]]
index = 2
label = "Second organ"
kind = "organ"
category = { scheme = "SCT", value = "123037004", meaning = "Anatomical Structure" }
type = { scheme = "SCT", value = "10200004", meaning = "Liver" }
cielab = [1, 1, 1]
[[output.labels]]
index = 9
label = "Nodule"
kind = "finding"
category = { scheme = "SCT", value = "49755003", meaning = "Morphologically Abnormal Structure" }
type = { scheme = "SCT", value = "27925004", meaning = "Nodule" }
cielab = [1, 1, 1]
threshold = 0.5
min_volume_ml = 0.1
"""


def weights() -> bytes:
    """Give the network's weights: every voxel's scores are LINES of its own intensity.

    A fresh batch norm passes values on as they are, and the rectifier too, because intensities are not negative.
    """
    network = nets.AutoEncoder(spatial_dims=3, in_channels=1, out_channels=4, channels=(4,), strides=(1,), norm="batch", act="relu")
    state = {name: torch.zeros_like(tensor) if "conv" in name else tensor.clone() for name, tensor in network.state_dict().items()}
    state["encode.encode_0.conv.weight"][0, 0, 1, 1, 1] = 1
    for channel, (slope, start) in enumerate(LINES):
        state["decode.decode_0.conv.conv.weight"][0, channel, 1, 1, 1] = slope
        state["decode.decode_0.conv.conv.bias"][channel] = start
    return bytes(save(state))


def write(folder: Path, content: bytes, text: str = CARD) -> Path:
    """Write the card and its weights."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "weights.safetensors").write_bytes(content)
    text = text.replace("SHA256", hashlib.sha256(content).hexdigest())
    path = folder / "card.toml"
    path.write_text(text)
    return path


def lines(folder: Path, old: str = "", new: str = "") -> ShelvedCard:
    """Give the card, with one part of its text replaced."""
    assert old in CARD
    return read(write(folder, weights(), CARD.replace(old, new) if old else CARD))
