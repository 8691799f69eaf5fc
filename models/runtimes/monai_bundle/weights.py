"""A bundle's network, filled: a state dict in safetensors or in torch's own format, or TorchScript in its place."""

from __future__ import annotations

import io
import warnings
import zipfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from monai.bundle.config_parser import ConfigParser

from models.networks import network as filling
from models.runtimes.monai_bundle import chain
from models.shelving import conversion


def is_script(content: bytes) -> bool:
    """Tell TorchScript, a zip that has code, from a state dict."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            return any("/code/" in name for name in archive.namelist())
    except zipfile.BadZipFile:
        return False


def network(parser: ConfigParser, content: bytes) -> torch.nn.Module:
    """Give the network with its weights: TorchScript as it is, else what the configuration builds; raises ValueError."""
    if is_script(content):
        return script(content)
    built = chain.part(parser, "network_def")
    moved = chain.part(parser, "network") if "network" in parser else built
    if not isinstance(moved, torch.nn.Module):
        raise ValueError("network_def: is missing or builds no network")  # noqa: TRY004 -- what the file says is wrong
    fill(moved, content)
    return moved


def probe(kept: Mapping[str, Any], bound: Mapping[str, str], built: torch.nn.Module, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Give the shape that the network makes of an input of a shape, without its content where that can be told; raises ValueError."""
    found = None
    if "network_def" in kept:
        with suppress(Exception), torch.device("meta"), torch.no_grad():  # what a network cannot do without content is tried with it
            found = chain.part(chain.parsed(kept, bound), "network_def").eval()(torch.zeros(shape))
    if found is None:
        found = _run(built, shape)
    if not isinstance(found, torch.Tensor):
        raise ValueError("the network gives several outputs; one is needed")  # noqa: TRY004 -- of the bundle
    return tuple(found.shape)


def _run(built: torch.nn.Module, shape: tuple[int, ...]) -> Any:
    try:
        with torch.no_grad():
            return built.cpu().eval()(torch.zeros(shape))
    except Exception as error:
        raise ValueError(f"the network does not take {shape[1:]}: {type(error).__name__}: {' '.join(str(error).split())[-200:]}") from error


def script(content: bytes) -> torch.nn.Module:
    """Load TorchScript; raises ValueError."""
    try:
        with warnings.catch_warnings():
            # torch 2.13 deprecates TorchScript; bundles are published in it.
            warnings.filterwarnings("ignore", message=r".*torch\.jit\..*", category=DeprecationWarning)
            loaded: torch.nn.Module = torch.jit.load(io.BytesIO(content), map_location="cpu")  # type: ignore[no-untyped-call]
    except RuntimeError as error:
        raise ValueError(f"the weights cannot be read as TorchScript: {str(error).splitlines()[0]}") from error
    return loaded


def fill(built: torch.nn.Module, content: bytes) -> None:
    """Load every weight; nothing in the file is run. Raises ValueError where they do not fit, BadCard where the file holds code."""
    if content.startswith((b"PK", b"\x80")):
        content = conversion.convert_bytes(content, Path("the weights")).safetensors()
    filling.fill(built, content)
