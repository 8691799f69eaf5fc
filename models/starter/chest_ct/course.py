"""What both trainings of the chest CT starter share: settings, what is drawn ahead, the course of the rate, checkpoints that resume.

There are two settings: "small" is about an hour of two processor cores, "full" more steps of larger batches for a GPU, which is
the default where there is one. What is drawn follows from its number alone, however many processes draw it.
"""

from __future__ import annotations

import argparse
import io
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from time import process_time
from typing import Any, Generic, TypeVar

import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from models import whole
from models.grids import windows

AVERAGED = 0.995
"""What the averaged weights keep of themselves at each step: they are those of about the last 200."""
DRAWERS = 16
Thing = TypeVar("Thing")


@dataclass(slots=True, kw_only=True)
class Run:
    """A training under way: the steps done of how many, and the processor seconds earlier processes spent on them, without drawing."""

    steps: int
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


def begin(network: nn.Module, what: Order, steps: int) -> Run:
    """Start on the order's device, from its weights where it names some, or go on from the checkpoint where there is one.

    The network's channels lie last, which bfloat16 wants. Raises ValueError where the checkpoint is of a course of other steps.
    """
    network = network.to(what.device).to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload] # torch's stubs leave it out
    if what.start is not None:
        network.load_state_dict(load_file(what.start))
    averaging = get_ema_multi_avg_fn(AVERAGED)  # type: ignore[no-untyped-call]
    average = AveragedModel(network, multi_avg_fn=averaging, use_buffers=True)
    optimiser = torch.optim.AdamW(network.parameters(), weight_decay=0.02)
    run = Run(steps=steps, network=network, optimiser=optimiser, average=average)
    if what.checkpoint.exists():
        state = torch.load(what.checkpoint, weights_only=True, map_location="cpu")
        if state.get("steps") != steps:
            told = f"{what.checkpoint.name} is of a course of {state.get('steps', 'other')} steps, this one has {steps}"
            raise ValueError(f"{told}: remove it, or name another with --checkpoint")
        network.load_state_dict(state["network"])
        average.load_state_dict(state["average"])
        run.optimiser.load_state_dict(state["optimiser"])
        run.done, run.spent_s = int(state["step"]), float(state["spent_s"]) - process_time()
        print(f"going on from step {run.done} of {steps}", flush=True)
    return run


def keep(run: Run, out: Path, checkpoint: Path) -> None:
    """Write averaged weights and checkpoint, each whole or not at all; kernels in half precision, which halves the file."""
    weights = {name: value.cpu().contiguous() for name, value in run.average.module.state_dict().items()}
    network = {name: value.contiguous() for name, value in run.network.state_dict().items()}
    state = {"network": network, "average": run.average.state_dict(), "optimiser": run.optimiser.state_dict(), "step": run.done}
    state["steps"] = run.steps
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


def report(run: Run, losses: Mapping[str, float]) -> None:
    """Print a line every 20 steps."""
    if run.done % 20 == 0:
        said = "  ".join(f"{name} {value:.3f}" for name, value in losses.items())
        print(f"step {run.done}/{run.steps}  {said}  {run.spent_s + process_time():.0f} CPU s", flush=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What a training is asked to do: where the weights and the checkpoint lie, on which device and how much is trained.

    until  before which step to stop; None for the setting's last
    start  weights to begin from
    real   a folder of real CT scans (NIfTI) whose texture is mixed in
    """

    out: Path
    checkpoint: Path
    device: str = "cpu"
    setting: str = "small"
    until: int | None = None
    start: Path | None = None
    real: Path | None = None


def order(about: str, out: Path) -> Order:
    """Read a training's command line, and set the number of threads."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=out)
    parser.add_argument("--checkpoint", type=Path, help="by default beside --out")
    parser.add_argument("--until", type=int, help="stop after this step; the next run goes on")
    parser.add_argument("--start", type=Path, help="weights to begin from")
    parser.add_argument("--threads", type=int, default=1, help="another number rounds sums differently")
    add_common(parser)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    return Order(
        out=given.out,
        checkpoint=given.checkpoint or given.out.with_suffix(".checkpoint"),
        until=given.until,
        start=given.start,
        **common(given),
    )


def add_common(parser: argparse.ArgumentParser) -> None:
    """Add what the command for both trainings takes too."""
    parser.add_argument("--real", type=Path, help="a folder of real chest CT without nodules (NIfTI, HU), whose texture is mixed in")
    parser.add_argument("--device", choices=("cpu", "cuda"), help="by default the GPU where there is one")
    parser.add_argument("--setting", choices=("small", "full"), help="by default full on a GPU, small elsewhere")


def common(given: argparse.Namespace) -> dict[str, Any]:
    """Give of a command line what `add_common` asked for, its defaults by the machine."""
    device = given.device or ("cuda" if torch.cuda.is_available() else "cpu")
    return {"real": given.real, "device": device, "setting": given.setting or ("full" if device == "cuda" else "small")}


@dataclass(slots=True, kw_only=True)
class Pool(Generic[Thing]):
    """What lessons are taken from: the last `size` things, the oldest replaced every `renew_every` steps.

    draw    draws the thing of a number, in another process; what it draws follows from the number alone
    at_once how many there are at the first step, so that training begins at once
    """

    draw: Callable[[int], Thing]
    beside: Executor
    size: int
    renew_every: int
    at_once: int
    ahead: int
    known: dict[int, Future[Thing]] = field(default_factory=dict)

    def at(self, step: int) -> list[Thing]:
        """Give the things of a step, and have the next ones drawn."""
        last = step // self.renew_every + self.at_once
        wanted = range(max(0, last - self.size), last)
        self.known = {number: kept for number, kept in self.known.items() if number >= wanted.start}
        for number in range(wanted.start, last + self.ahead):
            if number not in self.known:
                self.known[number] = self.beside.submit(self.draw, number)
        return [self.known[number].result() for number in wanted]


@contextmanager
def beside(setting: str) -> Iterator[tuple[Executor, int]]:
    """Give processes that draw, and how many: one for the small setting, all cores but one, DRAWERS at most, for the full one.

    They end with the training, also when it breaks off: what is not begun is not drawn.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 2
    count = min(DRAWERS, max(1, cores - 1)) if setting == "full" else 1
    found = ProcessPoolExecutor(count, multiprocessing.get_context("spawn"), initializer=alone)
    try:
        yield found, count
    finally:
        found.shutdown(cancel_futures=True)


def alone() -> None:
    """Prepare a process that works for another: one thread, and Ctrl-C is the other's to hear, which ends it."""
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
