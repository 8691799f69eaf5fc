"""A card and weights of a 2-D network whose answer is known: how bright a picture is over five pixels square."""

from __future__ import annotations

from pathlib import Path

import torch
from monai.networks import nets
from safetensors.torch import save

from models.card import ShelvedCard, read
from tests.models.cards import write

# sigmoid(GAIN * (mean over 5 x 5 pixels - HALF)): a picture's background of 0.15 to 0.35 is far below, an opacity of 0.9 far above,
# and a lead letter of three pixels never fills the square.
GAIN, HALF = 30.0, 0.575

CARD = """
schema_version = 1
[model]
name = "opacities"
version = "1"
title = "Chest opacities"
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
size = [220, 260]
suppress = { overlap = 0.3 }
findings = { channel = 0, label = 4, threshold = 0.8, extent = 0.5 }
[runtime.options.arguments]
spatial_dims = 2
in_channels = 1
out_channels = 1
channels = [1]
strides = [1]
kernel_size = 5
up_kernel_size = 3
num_res_units = 0
norm = "batch"
act = "relu"
[[inputs]]
role = "image"
reference = true
[inputs.accept]
modality = ["CR", "DX", "MG"]
image_type_none = []
slices = [1, 1]
[output]
kind = "boxes"
inverse = "runtime"
[[output.labels]]
index = 4
label = "Opacity"
kind = "finding"
category = { scheme = "SCT", value = "49755003", meaning = "Morphologically Abnormal Structure" }
type = { scheme = "SCT", value = "125154007", meaning = "Lesion of lung" }
cielab = [58, 66, 50]
threshold = 0.8
[[measurements]]
label = 4
what = ["diameters", "probability"]
"""


def weights() -> bytes:
    """Give the weights: the first layer takes the mean, the rectifier passes it on, the second one scales and shifts it."""
    network = nets.AutoEncoder(
        spatial_dims=2,
        in_channels=1,
        out_channels=1,
        channels=(1,),
        strides=(1,),
        kernel_size=5,
        up_kernel_size=3,
        num_res_units=0,
        norm="batch",
        act="relu",
    )
    state = {name: torch.zeros_like(tensor) if "conv" in name else tensor.clone() for name, tensor in network.state_dict().items()}
    state["encode.encode_0.conv.weight"][:] = 1 / 25
    state["decode.decode_0.conv.conv.weight"][0, 0, 1, 1] = GAIN
    state["decode.decode_0.conv.conv.bias"][0] = -GAIN * HALF
    return bytes(save(state))


def heat(folder: Path, old: str = "", new: str = "") -> ShelvedCard:
    """Give the card, with one part of its text replaced."""
    assert old in CARD
    return read(write(folder, weights(), CARD.replace(old, new) if old else CARD))
