"""What both trainings of the chest CT starter share: the course of the learning rate, checkpoints that resume, the report."""

from __future__ import annotations

import argparse
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import process_time

import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from models import whole
from models.grids import windows

REAL_HELP = "a folder of real chest CT without nodules (NIfTI, HU), whose texture is mixed in"
AVERAGED = 0.995
"""What the averaged weights keep of themselves at each step: they are those of about the last 200."""


@dataclass(slots=True, kw_only=True)
class Run:
    """A training under way: the steps done, and the processor seconds earlier processes spent on them."""

    network: nn.Module
    optimiser: torch.optim.Optimizer
    average: AveragedModel
    done: int = 0
    spent_s: float = 0.0

    def rate(self, rate: float) -> None:
        """Set the learning rate."""
        for group in self.optimiser.param_groups:
            group["lr"] = rate

    def stepped(self) -> None:
        """Count a step, and let the average follow the network."""
        self.average.update_parameters(self.network)
        self.done += 1


def begin(network: nn.Module, checkpoint: Path, start: Path | None = None) -> Run:
    """Start, from the weights in `start` where given, or go on from the checkpoint where there is one.

    The network's channels lie last, which bfloat16 wants.
    """
    network = network.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload] # torch's stubs leave it out
    if start is not None:
        network.load_state_dict(load_file(start))
    averaging = get_ema_multi_avg_fn(AVERAGED)  # type: ignore[no-untyped-call]
    average = AveragedModel(network, multi_avg_fn=averaging, use_buffers=True)
    run = Run(network=network, optimiser=torch.optim.AdamW(network.parameters(), weight_decay=0.02), average=average)
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        network.load_state_dict(state["network"])
        average.load_state_dict(state["average"])
        run.optimiser.load_state_dict(state["optimiser"])
        run.done, run.spent_s = int(state["step"]), float(state["spent_s"]) - process_time()
        print(f"going on from step {run.done}", flush=True)
    return run


def keep(run: Run, out: Path, checkpoint: Path) -> None:
    """Write averaged weights and checkpoint, each whole or not at all; kernels in half precision, which halves the file."""
    weights = {name: value.contiguous() for name, value in run.average.module.state_dict().items()}
    network = {name: value.contiguous() for name, value in run.network.state_dict().items()}
    state = {"network": network, "average": run.average.state_dict(), "optimiser": run.optimiser.state_dict(), "step": run.done}
    content = io.BytesIO()
    torch.save(state | {"spent_s": run.spent_s + process_time()}, content)
    whole.write(checkpoint, content.getvalue())
    whole.write(out, save({name: value.half() if value.dim() > 1 else value for name, value in weights.items()}))


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """The learning rate: up over 100 steps, even, and down to `lowest` over the last third, so that a run may be cut or prolonged."""

    peak: float
    lowest: float

    def at(self, step: int, steps: int) -> float:
        """Give the rate of a step. Example: peak 0.003 over 600 steps: 0.0015 at step 49, 0.003 from 100 to 400, 0.0015 at 500."""
        rising, falling = min(1.0, (step + 1) / 100), min(1.0, (steps - step) / (steps / 3))
        return self.peak * min(rising, falling) + self.lowest


def within(step: int, lengths: Sequence[int]) -> tuple[int, int]:
    """Give which stage a step lies in, and its place there; what is beyond the last counts on in it."""
    for stage, length in enumerate(lengths[:-1]):
        if step < length:
            return stage, step
        step -= length
    return len(lengths) - 1, step


def forward(kind: str = "cpu") -> torch.autocast:
    """Give the context of a forward pass on a kind of device: in bfloat16 where it multiplies that in hardware, five times as fast."""
    return torch.autocast(kind, torch.bfloat16, enabled=windows.has("bfloat16", kind))


def descend(network: nn.Module, optimiser: torch.optim.Optimizer, loss: Tensor) -> None:
    """Take one step down a loss, its gradient cut to a length of 5."""
    optimiser.zero_grad()
    torch.autograd.backward(loss)
    nn.utils.clip_grad_norm_(network.parameters(), 5.0)
    optimiser.step()


def report(run: Run, steps: int, losses: Mapping[str, float]) -> None:
    """Print a line every 20 steps."""
    if run.done % 20 == 0:
        said = "  ".join(f"{name} {value:.3f}" for name, value in losses.items())
        print(f"step {run.done}/{steps}  {said}  {run.spent_s + process_time():.0f} CPU s", flush=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What a training is asked to do: where the weights and the checkpoint lie, and before which step to stop.

    start  weights to begin from
    real   a folder of real CT scans (NIfTI) whose texture is mixed in
    """

    out: Path
    checkpoint: Path
    until: int
    start: Path | None = None
    real: Path | None = None


def order(about: str, out: Path, steps: int) -> Order:
    """Read a training's command line, and set the number of threads."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=out)
    parser.add_argument("--checkpoint", type=Path, help="by default beside --out")
    parser.add_argument("--until", type=int, default=steps, help="stop after this step; the next run goes on")
    parser.add_argument("--start", type=Path, help="weights to begin from")
    parser.add_argument("--real", type=Path, help=REAL_HELP)
    parser.add_argument("--threads", type=int, default=1, help="another number rounds sums differently")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    return Order(
        out=given.out,
        checkpoint=given.checkpoint or given.out.with_suffix(".checkpoint"),
        until=given.until,
        start=given.start,
        real=given.real,
    )
