"""A loaded network, whatever file it came from, and the proof that it takes and gives what its card says."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

Outputs = tuple[torch.Tensor, ...]
Run = Callable[[torch.Tensor], Outputs]


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """A network that can be run.

    run     (batch, roles, *window) float32 on `device` to the network's outputs there; of a 2-D network the window is (rows, columns)
    device  where the windows must lie
    single  it takes one window at a time, because it was written down for one
    facts   what made it, for Prediction.variant
    proved  that it fits its card was shown already, without running it
    window_bytes  what one window takes on its way through; 0: not known
    module  the network itself, of which another library may make a faster run (models.networks.acceleration); None: not to be had
    """

    run: Run
    device: str
    single: bool = False
    facts: Mapping[str, str]
    proved: bool = False
    window_bytes: int = 0
    module: torch.nn.Module | None = None

    def __call__(self, windows: torch.Tensor) -> Outputs:
        """Run windows, one by one where it must be."""
        if not self.single or len(windows) == 1:
            return self.run(windows)
        each = [self.run(window[None]) for window in windows]
        return tuple(torch.cat(parts) for parts in zip(*each, strict=True))


def outputs_of(result: object) -> Outputs:
    """Give a network's outputs as a tuple of tensors, in their order; raises ValueError for anything else.

    A dictionary gives its values in its own order (a detector's boxes, labels and scores, for instance).
    """
    if isinstance(result, torch.Tensor):
        return (result,)
    if isinstance(result, list | tuple) and len(result) == 1 and isinstance(result[0], dict | list | tuple):
        return outputs_of(result[0])
    parts = list(result.values()) if isinstance(result, dict) else result
    if isinstance(parts, list | tuple) and parts and all(isinstance(part, torch.Tensor) for part in parts):
        return tuple(parts)
    raise ValueError("the network gives no tensor, and no row of them")


def probe(program: Program, roles: int, window: Sequence[int]) -> Outputs:
    """Run one window of zeros; raises ValueError where the network does not take it, with the cause: memory may have run out."""
    try:
        with torch.inference_mode():
            return program(torch.zeros((1, roles, *window), device=program.device))
    except torch.OutOfMemoryError:
        raise
    except Exception as error:
        told = " ".join(str(error).split()) or type(error).__name__  # torch says the reason last, ONNX Runtime before its advice
        raise ValueError(f"the network does not take {roles} channels of a window {tuple(window)}: {told[-300:]}") from error


def prove_dense(outputs: Outputs, channels: int, window: Sequence[int]) -> None:
    """Check that a window's first output has its size and that many channels; raises ValueError."""
    shape = tuple(outputs[0].shape)
    if shape != (1, channels, *window):
        raise ValueError(f"the network gives {shape[1:]}, the labels need channels {list(range(channels))} on the window {tuple(window)}")
    if not outputs[0].is_floating_point():
        raise ValueError(f"the network gives {outputs[0].dtype}, which are no scores")


def prove_vector(outputs: Outputs, channels: Sequence[int]) -> None:
    """Check that the first output is one vector with these channels; raises ValueError."""
    shape = tuple(outputs[0].shape)
    if len(shape) != 2 or shape[0] != 1 or max(channels) >= shape[1]:
        raise ValueError(f"the network gives {shape}, the labels need a vector with the channels {list(channels)}")
