"""A MONAI network by name, filled with a state dict from safetensors: nothing in a card or its weights is code."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors import torch as safetensors

from models.execution import PLAIN, Execution


def build(name: str, arguments: Mapping[str, Any], window: Sequence[int], channels: int) -> torch.nn.Module:
    """Build the network; raises ValueError unless it makes of one channel of a window that many channels of the same size."""
    from monai.networks import nets  # noqa: PLC0415 -- takes seconds to import, and workers fork before

    kind = getattr(nets, name, None)
    if not (isinstance(kind, type) and issubclass(kind, torch.nn.Module)):
        raise ValueError(f"monai.networks.nets has no network {name!r}")  # noqa: TRY004 -- a word in the card is wrong
    try:
        network: torch.nn.Module = kind(**arguments)
        with torch.device("meta"):
            shape = tuple(kind(**arguments).eval()(torch.zeros(1, 1, *window)).shape)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"the network {name!r} cannot be built or does not take its window: {error}") from None
    if shape != (1, channels, *window):
        raise ValueError(f"the network gives {shape[1:]}, the labels need channels {list(range(channels))} on the window {tuple(window)}")
    return network


def fill(network: torch.nn.Module, content: bytes) -> None:
    """Load the weights, every one of them; raises ValueError where they do not fit."""
    try:
        network.load_state_dict(safetensors.load(content), strict=True)
    except (RuntimeError, SafetensorError) as error:
        raise ValueError(f"the weights do not fit the network: {str(error).splitlines()[0]}") from None


def variant(runtime: str, network: torch.nn.Module, execution: Execution = PLAIN) -> dict[str, str]:
    """Say what makes a prediction."""
    import monai  # noqa: PLC0415 -- takes seconds to import, and workers fork before

    device = next(network.parameters()).device.type
    return {"runtime": runtime, "device": device, **execution.facts(), "torch": str(torch.__version__), "monai": str(monai.__version__)}
