"""A model card of the tests' own: a very small network through the real runtime, for tests that move work and never judge it."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from monai.networks import nets
from safetensors.torch import save

ARGUMENTS = {"spatial_dims": 3, "in_channels": 1, "out_channels": 3, "channels": [4, 8], "strides": [2]}
CARD = """
schema_version = 1
[model]
name = "{name}"
version = "1"
title = "Two parts of a CT"
licence = "Apache-2.0"
intended_use = "Tests."
limits = ["Means nothing."]
[runtime]
format = "state-dict"
[runtime.files.weights]
path = "weights.safetensors"
sha256 = "{sha256}"
[runtime.options]
network = "UNet"
spacing_mm = [5.0, 5.0, 5.0]
orientation = "SPL"
window = [32, 32, 32]
overlap = {overlap}
organ_channels = [0, 1, 2]
arguments = {{ spatial_dims = 3, in_channels = 1, out_channels = 3, channels = [4, 8], strides = [2] }}
intensity = {{ low = -1000.0, high = 400.0 }}
[[inputs]]
role = "ct"
reference = true
accept = {{ modality = ["CT"], slices = [10, 2000] }}
[output]
kind = "labels"
inverse = "scores-linear"
[[output.labels]]
index = 1
label = "First part"
kind = "organ"
category = {{ scheme = "SCT", value = "123037004", meaning = "Anatomical Structure" }}
type = {{ scheme = "SCT", value = "39607008", meaning = "Lung" }}
cielab = [69, -24, -21]
[[output.labels]]
index = 2
label = "Second part"
kind = "organ"
category = {{ scheme = "SCT", value = "123037004", meaning = "Anatomical Structure" }}
type = {{ scheme = "SCT", value = "39607008", meaning = "Lung" }}
cielab = [78, -18, 48]
[[measurements]]
label = 1
what = ["volume"]
"""


def put(folder: Path, name: str = "two-parts", *, overlap: float = 0.25) -> Path:
    """Write the card and its weights below the folder, which then serves as [models] dir; more overlap takes more time."""
    home = folder / name
    home.mkdir(parents=True, exist_ok=True)
    with torch.random.fork_rng():
        torch.manual_seed(7)
        weights = save(nets.UNet(**ARGUMENTS).state_dict())  # type: ignore[attr-defined,arg-type]
    (home / "weights.safetensors").write_bytes(weights)
    card = CARD.format(name=name, sha256=hashlib.sha256(weights).hexdigest(), overlap=overlap)
    (home / "card.toml").write_text(card, encoding="utf-8")
    return folder
