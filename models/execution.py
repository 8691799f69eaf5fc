"""How a model is to run: chosen by the worker, obeyed by the runtime, recorded with the prediction. Standard library only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Precision = Literal["float32", "float16", "bfloat16"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Execution:
    """The room and the precision a prediction may use. What it leaves open changes no result but by rounding.

    batch      windows that go through the network at once
    stitch     where the windows' scores are put together: on the model's device, or in the host's memory
    precision  of the network's forward pass; scores are added up in float32
    """

    batch: int = 1
    stitch: Literal["device", "host"] = "device"
    precision: Precision = "float32"

    @property
    def activations(self) -> float:
        """Give the share of a forward pass's memory in float32 that it takes so: under autocast norms and sums stay in float32."""
        return 1.0 if self.precision == "float32" else 0.75

    def facts(self) -> dict[str, str]:
        """Say it as a prediction's variant does."""
        return {"batch": str(self.batch), "stitch": self.stitch, "precision": self.precision}


PLAIN = Execution()


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """The memory a prediction is thought to take above the loaded model, in bytes.

    It also says which ways a runtime has: what asks for no less than a way under which memory ran out is not tried after it.
    """

    device: int
    host: int
