"""One network's training: steps from a seed, a rate that ends low however the end is set, and checkpoints that go on."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Protocol

import torch
from torch import Tensor, nn

from models import whole
from models.starter.chest_ct.course import descend

KEEP_EVERY = 50
RISING = 0.05
"""The part of the course in which the rate rises; in its last third it falls to nothing."""


class Part(Protocol):
    """What is trained: the network, its highest rate, and the loss of a step, which follows from the step's number alone."""

    network: nn.Module
    peak: float

    def loss(self, step: int) -> Tensor:
        """Give the loss of one batch."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How long, from what, and where it is kept.

    limit_s   seconds after which the course ends though not all steps are done; None: all steps. Then the end depends on the machine
    identity  what a checkpoint must agree with: another base, other cases or another seed begin anew
    stopped   asked after each step; True keeps a checkpoint and ends
    """

    steps: int
    limit_s: float | None
    seed: int
    identity: str
    checkpoint: Path
    stopped: Callable[[], bool] = lambda: False


@dataclass(slots=True, kw_only=True)
class Course:
    """Steps done, the seconds they took in all runs, the loss of each, and whether it has ended."""

    done: int = 0
    spent_s: float = 0.0
    losses: list[float] = field(default_factory=list)
    ended: bool = False


def share(course: Course, plan: Plan) -> float:
    """Give how much of the course is done, 0..1, by steps or by seconds, whichever is further."""
    by_time = course.spent_s / plan.limit_s if plan.limit_s else 0.0
    return min(1.0, max(course.done / plan.steps, by_time))


def rate(peak: float, part: float) -> float:
    """Give the rate at a part of the course. Example: peak 1: 0.5 at 0.025, 1 from 0.05 to 2/3, 0.5 at 5/6."""
    return peak * min(1.0, (part + 1e-3) / RISING, (1.0 - part) * 3) + 1e-7


def follow(part: Part, plan: Plan, progress: Callable[[Course], None]) -> Course:
    """Train to the end of the plan, from its checkpoint where there is one that agrees; a stop leaves one."""
    optimiser = torch.optim.AdamW(part.network.parameters(), weight_decay=0.02)
    course = _resumed(part, optimiser, plan)
    while not course.ended and not plan.stopped():
        begun = perf_counter()
        for group in optimiser.param_groups:
            group["lr"] = rate(part.peak, share(course, plan))
        torch.manual_seed(plan.seed * 1_000_003 + course.done)
        part.network.train()
        loss = part.loss(course.done)
        descend(part.network, optimiser, loss)
        course.losses.append(float(loss.detach()))
        course.done += 1
        course.spent_s += perf_counter() - begun
        course.ended = share(course, plan) >= 1
        if course.ended or course.done % KEEP_EVERY == 0:
            _keep(part, optimiser, (course, plan))
        progress(course)
    if not course.ended and course.done:
        _keep(part, optimiser, (course, plan))
    return course


def _resumed(part: Part, optimiser: torch.optim.Optimizer, plan: Plan) -> Course:
    if not plan.checkpoint.exists():
        return Course()
    device = next(part.network.parameters()).device
    state = torch.load(plan.checkpoint, weights_only=True, map_location=device)
    if state["identity"] != plan.identity:
        return Course()
    part.network.load_state_dict(state["network"])
    optimiser.load_state_dict(state["optimiser"])
    course = Course(done=int(state["done"]), spent_s=float(state["spent_s"]), losses=list(state["losses"]))
    course.ended = share(course, plan) >= 1
    return course


def _keep(part: Part, optimiser: torch.optim.Optimizer, at: tuple[Course, Plan]) -> None:
    course, plan = at
    state = {"network": part.network.state_dict(), "optimiser": optimiser.state_dict(), "identity": plan.identity}
    content = io.BytesIO()  # torch's own error of a full disk says nothing of disks
    torch.save(state | {"done": course.done, "spent_s": course.spent_s, "losses": course.losses}, content)
    whole.write(plan.checkpoint, content.getvalue())
