"""TorchScript: a file that torch.jit.save wrote. It is code: the card pins its hash, and who installs it answers for it."""

from __future__ import annotations

import io
import warnings
from typing import Any

import torch

from models.card import ShelvedCard
from models.networks.program import Program, outputs_of
from models.pipelines import pipeline, stages


def load(shelved: ShelvedCard, device: str) -> pipeline.Pipeline:
    """Load the card's programs and prove that they fit it; raises BadCard."""
    return pipeline.load(shelved, device, stages.Stage, program)


def program(asked: stages.Asked) -> Program:
    """Open one file; raises ValueError."""
    if len(asked.files) != 1:
        raise ValueError("a TorchScript program is one file")
    module = opened(next(iter(asked.files.values())), asked.device)
    return Program(
        run=lambda windows: outputs_of(module(windows)),
        device=asked.device,
        facts={"runtime": "torchscript", "torch": str(torch.__version__)},
        module=module,
    )


def opened(content: bytes, device: str) -> Any:
    """Give the module; raises ValueError for what is none, a part of one, or another torch's."""
    try:
        with warnings.catch_warnings():
            # torch 2.13 deprecates TorchScript; models that exist in no other form are still met.
            warnings.filterwarnings("ignore", message=r".*torch\.jit\..*", category=DeprecationWarning)
            return torch.jit.load(io.BytesIO(content), map_location=device).eval()  # type: ignore[no-untyped-call]
    except (RuntimeError, ValueError, OSError) as error:
        raise ValueError(f"the file is no TorchScript program that can be read: {str(error).strip().splitlines()[0]}") from error
