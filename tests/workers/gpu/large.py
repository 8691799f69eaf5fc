"""A card with a network of some weight, for tests of memory."""

from __future__ import annotations

import hashlib
import zlib
from pathlib import Path

import torch
from monai.networks import nets
from safetensors.torch import save

from models.card import ShelvedCard, read
from tests import shelf

CHANNELS = [32, 64, 128, 256]


def put(folder: Path, name: str, *, window: int = 32, spacing_mm: float = 5.0) -> ShelvedCard:
    """Write a card and weights of 19 MB below the folder, and give it as it is on the shelf."""
    arguments = {"spatial_dims": 3, "in_channels": 1, "out_channels": 3, "channels": CHANNELS, "strides": [2, 2, 2], "num_res_units": 2}
    with torch.random.fork_rng():
        torch.manual_seed(zlib.crc32(name.encode()))
        weights = save(nets.UNet(**arguments).state_dict())
    home = folder / name
    home.mkdir(parents=True)
    (home / "weights.safetensors").write_bytes(weights)
    text = shelf.CARD.format(name=name, sha256=hashlib.sha256(weights).hexdigest(), overlap=0.25)
    changes = {
        "channels = [4, 8], strides = [2]": f"channels = {CHANNELS}, strides = [2, 2, 2], num_res_units = 2",
        "window = [32, 32, 32]": f"window = [{window}, {window}, {window}]",
        "spacing_mm = [5.0, 5.0, 5.0]": f"spacing_mm = [{spacing_mm}, {spacing_mm}, {spacing_mm}]",
    }
    for old, new in changes.items():
        assert old in text
        text = text.replace(old, new)
    path = home / "card.toml"
    path.write_text(text, encoding="utf-8")
    return read(path)
