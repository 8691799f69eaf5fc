"""Small networks with known or random weights, written by each format's own library."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable

import torch
from torch import nn

Files = dict[str, tuple[str, bytes]]


def random(roles: int, channels: int, seed: int = 1, dims: int = 3) -> nn.Module:
    """Give a network whose classes change from place to place: two convolutions with random weights, large ones."""
    convolution, norm = (nn.Conv3d, nn.BatchNorm3d) if dims == 3 else (nn.Conv2d, nn.BatchNorm2d)
    generator = torch.Generator().manual_seed(seed)
    network = nn.Sequential(convolution(roles, 6, 3, padding=1), norm(6), nn.ReLU(), convolution(6, channels, 3, padding=1)).eval()
    with torch.no_grad():
        for layer in (network[0], network[3]):
            layer.weight.copy_(torch.randn(layer.weight.shape, generator=generator))
            layer.bias.zero_()  # no class may win everywhere
    return network


def traced(network: nn.Module, example: torch.Tensor) -> Files:
    """Write TorchScript by tracing."""
    return {"weights": ("network.ts", _script(lambda: torch.jit.trace(network, example)))}


def scripted(network: nn.Module, _example: torch.Tensor) -> Files:
    """Write TorchScript by compiling the source."""
    return {"weights": ("network.ts", _script(lambda: torch.jit.script(network)))}


def _script(make: Callable[[], torch.jit.ScriptModule]) -> bytes:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        buffer = io.BytesIO()
        torch.jit.save(make(), buffer)
    return buffer.getvalue()


def exported(network: nn.Module, example: torch.Tensor) -> Files:
    """Write an exported program whose batch may change."""
    shapes = ({0: torch.export.Dim("batch", min=1, max=64)},)
    program = torch.export.export(network, (example.repeat(2, *[1] * (example.dim() - 1)),), dynamic_shapes=shapes)
    return {"weights": ("network.pt2", saved(program))}


def exported_for_one(network: nn.Module, example: torch.Tensor) -> Files:
    """Write an exported program for a batch of one."""
    return {"weights": ("network.pt2", saved(torch.export.export(network, (example,))))}


def saved(program: torch.export.ExportedProgram) -> bytes:
    """Give the archive of an exported program."""
    buffer = io.BytesIO()
    torch.export.save(program, buffer)
    return buffer.getvalue()


def onnx(network: nn.Module, example: torch.Tensor) -> Files:
    """Write an ONNX graph whose batch may change."""
    return {"weights": ("network.onnx", graph(network, example, {"seen": {0: "batch"}}))}


def onnx_for_one(network: nn.Module, example: torch.Tensor) -> Files:
    """Write an ONNX graph for a batch of one."""
    return {"weights": ("network.onnx", graph(network, example, {}))}


def graph(network: nn.Module, example: torch.Tensor, axes: dict[str, dict[int, str]]) -> bytes:
    """Give the bytes of an ONNX graph."""
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        torch.onnx.export(network, (example,), buffer, dynamo=False, input_names=["seen"], output_names=["scores"], dynamic_axes=axes)
    return buffer.getvalue()
