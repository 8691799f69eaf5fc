"""A MONAI network by name, filled with a state dict from safetensors: nothing in a card or its weights is code."""

from __future__ import annotations

import copy
import weakref
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors import torch as safetensors
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from models.execution import PLAIN, Execution


def build(name: str, arguments: Mapping[str, Any], device: str) -> torch.nn.Module:
    """Build the network, ready to infer; raises ValueError. On "meta" it takes no memory and gives shapes only."""
    from monai.networks import nets  # noqa: PLC0415 -- takes seconds to import, and workers fork before

    kind = getattr(nets, name, None)
    if not (isinstance(kind, type) and issubclass(kind, torch.nn.Module)):
        raise ValueError(f"monai.networks.nets has no network {name!r}")  # noqa: TRY004 -- a word in the card is wrong
    try:
        with torch.device(device):
            network: torch.nn.Module = kind(**arguments).eval()
    except torch.OutOfMemoryError:
        raise  # a RuntimeError too, but of the device's room, not of the card
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"the network {name!r} cannot be built: {error}") from error
    return network


def fill(network: torch.nn.Module, content: bytes) -> None:
    """Load the weights, every one of them; raises ValueError where they do not fit."""
    try:
        network.load_state_dict(safetensors.load(content), strict=True)
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, SafetensorError) as error:
        raise ValueError(f"the weights do not fit the network: {str(error).splitlines()[0]}") from error


def forward_bytes(network: torch.nn.Module, window: Sequence[int], channels: int = 1) -> int:
    """Estimate what one window takes on its way through the network, its scores included; nothing is computed.

    Three times what torch's tensors hold at their most: libraries keep blocked copies of them (a UNet of 16 to 128 channels
    took 3.3 times as much on a processor).
    """
    live = _Live()
    with torch.no_grad(), live:
        copy.deepcopy(network).to("meta")(torch.zeros(1, channels, *window, device="meta"))
    return 3 * live.most


class _Live(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of the tensors that are alive, and their most."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.most = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, function: Any, _types: Any, arguments: Any = (), options: Any = None) -> Any:
        """Run one operation and count the new memory it gave."""
        result = function(*arguments, **(options or {}))
        for tensor in tree_leaves(result):
            storage = tensor.untyped_storage() if isinstance(tensor, torch.Tensor) else None
            if storage is not None and storage._cdata not in self._known:  # noqa: SLF001 -- its only identity
                self._known.add(storage._cdata)  # noqa: SLF001
                self.now += storage.nbytes()
                self.most = max(self.most, self.now)
                weakref.finalize(storage, self._gone, storage._cdata, storage.nbytes())  # noqa: SLF001
        return result

    def _gone(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.now -= size


def variant(runtime: str, network: torch.nn.Module, execution: Execution = PLAIN) -> dict[str, str]:
    """Say what makes a prediction."""
    return {**facts(runtime), "device": next(network.parameters()).device.type, **execution.facts()}


def facts(runtime: str) -> dict[str, str]:
    """Say what runs a network of MONAI's."""
    import monai  # noqa: PLC0415 -- takes seconds to import, and workers fork before

    return {"runtime": runtime, "torch": str(torch.__version__), "monai": str(monai.__version__)}
