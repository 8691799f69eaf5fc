"""Very small networks saved in each format a site may bring, by that format's own library."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch
from monai.networks import nets
from safetensors.torch import save_file

ARGUMENTS = {"spatial_dims": 3, "in_channels": 1, "out_channels": 3, "channels": (4, 8), "strides": (2,)}
WINDOW = (16, 16, 16)


def network(seed: int = 7) -> torch.nn.Module:
    """Give an untrained UNet of one input and three output channels, the same for the same seed."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nets.UNet(**ARGUMENTS).eval()


def save(path: Path, built: torch.nn.Module | None = None) -> Path:
    """Save the network as its name's ending says: .ts, .pt2, .onnx, .safetensors, or a state dict as .pt or .pth."""
    built = network() if built is None else built
    sample = torch.zeros(1, 1, *WINDOW)
    if path.suffix == ".ts":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # MONAI's blocks ask sizes in Python, which tracing fixes
            traced = torch.jit.trace(built, sample)  # type: ignore[no-untyped-call]
        traced.save(str(path))
    elif path.suffix == ".pt2":
        torch.export.save(torch.export.export(built, (sample,)), path)
    elif path.suffix == ".onnx":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the exporter without onnxscript's optimiser is deprecated, and an order of magnitude faster
            torch.onnx.export(built, (sample,), str(path), dynamo=False, input_names=["image"], output_names=["scores"])
    elif path.suffix == ".safetensors":
        save_file(built.state_dict(), path)
    else:
        torch.save(built.state_dict(), path)
    return path
