"""Train the chest CT starter from nothing but its generator.

    make train-chest-ct
    python -m models.starter.chest_ct.train --out weights.safetensors

Takes under 20 minutes of processor time, drawing the scans included; prints a line every 10 steps. `--checkpoint FILE` (by
default beside --out) is written every 50 steps, and a run that finds one goes on from there. Every step's patches follow from
(SEED, step), so that two runs with as many threads on one kind of processor end in the same weights, interrupted or not.
The network, its spacing and its intensity window are read from card.toml: what is trained is what the node runs.
"""

from __future__ import annotations

import argparse
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from time import process_time
from typing import Any

import monai.networks.nets
import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from models.starter.chest_ct.generator import Scan, draw, draw_other

SEED = 20260
POOL = 16
RENEW_EVERY = 16
PATCH = (48, 96, 160)
CLOSE_PATCH = (48, 64, 64)
CLOSE_MANY = 4
MOMENTUM = 0.03  # of the batch statistics: slow, for one step's patches differ much from the next one's
CARD = Path(__file__).with_name("card.toml")


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """A part of the recipe: its length and highest learning rate, nodules a scan, the chance of a scan below the lungs.

    close   share of steps taken on CLOSE_MANY small patches within the lungs, which teach nodules but cannot tell the side
    freeze  how far into the stage the batch statistics that inference uses are used in training too; 1: not at all
    """

    steps: int
    peak_rate: float
    nodules: tuple[int, int]
    belly: float
    close: float
    freeze: float


# First the lungs and their sides; then mostly nodules against vessels, twice over. Nodules are many, for each is a lesson.
STAGES = (
    Stage(steps=600, peak_rate=3e-3, nodules=(8, 20), belly=0.08, close=0.0, freeze=1.0),
    Stage(steps=600, peak_rate=2e-3, nodules=(8, 24), belly=0.08, close=0.8, freeze=0.75),
    Stage(steps=320, peak_rate=1.2e-3, nodules=(8, 24), belly=0.08, close=0.85, freeze=0.0),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """One patch: image (1, 1, z, y, x) in 0..1, organ classes (1, z, y, x), nodule 0/1 and its voxels' weights (1, 1, z, y, x)."""

    image: Tensor
    organs: Tensor
    nodule: Tensor
    weight: Tensor


def options() -> dict[str, Any]:
    """Read the runtime's options from the card."""
    loaded: dict[str, Any] = tomllib.loads(CARD.read_text(encoding="utf-8"))["runtime"]["options"]
    return loaded


def build(settings: Mapping[str, Any]) -> nn.Module:
    """Make the untrained network the card names."""
    network: nn.Module = getattr(monai.networks.nets, settings["network"])(**settings["arguments"])
    return network


def _expect_little(network: nn.Module) -> None:
    """Start from "no lung, no nodule", which most voxels are: saves the steps that would teach it."""
    last = [module for module in network.modules() if isinstance(module, nn.ConvTranspose3d)][-1]
    assert last.bias is not None
    with torch.no_grad():
        last.bias.copy_(torch.tensor([1.0, 0.0, 0.0, -4.0]))


def scale(hu: NDArray[Any], settings: Mapping[str, Any]) -> NDArray[np.float32]:
    """Take HU to the network's 0..1. Example: low -1000, high 400: -300 HU -> 0.5."""
    low, high = settings["intensity"]["low"], settings["intensity"]["high"]
    scaled: NDArray[np.float32] = np.clip((hu.astype(np.float32) - low) / (high - low), 0, 1)
    return scaled


@dataclass(slots=True)
class Pool:
    """The scans patches are cut from: POOL of them at a time, the oldest replaced every RENEW_EVERY steps, drawn when first asked for."""

    scans: dict[int, Scan] = field(default_factory=dict)

    def pick(self, rng: np.random.Generator, step: int) -> Scan:
        """Give one of the scans of a step."""
        first = step // RENEW_EVERY
        self.scans = {number: scan for number, scan in self.scans.items() if number >= first}
        number = first + int(rng.integers(POOL))
        if number not in self.scans:
            self.scans[number] = _scan(number)
        return self.scans[number]


def stage_at(step: int) -> tuple[Stage, float]:
    """Give the stage a step belongs to and how far it has come, 0..1; steps beyond the last belong to its end."""
    for stage in STAGES:
        if step < stage.steps:
            return stage, step / stage.steps
        step -= stage.steps
    return STAGES[-1], 1.0


def _scan(number: int) -> Scan:
    """Draw a scan of the pool, by the stage of the middle of the steps it serves."""
    if number % 12 == 11:
        return draw_other(SEED + number)
    stage, _ = stage_at(max(0, (number - POOL // 2) * RENEW_EVERY))
    return draw(SEED + number, nodules=stage.nodules, belly=stage.belly)


def cut(rng: np.random.Generator, scan: Scan, settings: Mapping[str, Any], patch: tuple[int, int, int] = PATCH) -> Example:
    """Cut one patch, half the time around a nodule; mirror it half the time, the lungs' names following their side."""
    low = _corner(rng, scan, patch)
    image = scale(_window(scan.volume.array, low, patch, fill=-1024), settings)
    organs = _window(scan.organs, low, patch, fill=0)
    numbers = _window(scan.instances, low, patch, fill=0)
    if rng.random() < 0.5:
        image, organs, numbers = image[..., ::-1], np.array([0, 2, 1])[organs[..., ::-1]], numbers[..., ::-1]
    image = image * rng.uniform(0.95, 1.05) + rng.uniform(-0.015, 0.015)
    voxels = np.array([n.diameter_mm**3 for n in scan.nodules]) * np.pi / 6 / scan.volume.grid.voxel_mm3
    weights = np.concatenate([[1], np.clip(np.sqrt(150 / voxels), 0.5, 4)])
    return Example(
        image=torch.from_numpy(np.clip(image, 0, 1).astype(np.float32).copy())[None, None],
        organs=torch.from_numpy(organs.astype(np.int64).copy())[None],
        nodule=torch.from_numpy((numbers > 0).astype(np.float32))[None, None],
        weight=torch.from_numpy(weights[numbers].astype(np.float32))[None, None],
    )


def _corner(rng: np.random.Generator, scan: Scan, patch: tuple[int, int, int]) -> list[int]:
    shape = scan.organs.shape
    spot: NDArray[np.float64] | None = None
    if scan.nodules and rng.random() < 0.6:
        spot = scan.volume.grid.to_index(np.array([scan.nodules[int(rng.integers(len(scan.nodules)))].centre_mm]))[0]
    elif patch == CLOSE_PATCH:
        for _ in range(40):
            spot = rng.integers(0, shape).astype(np.float64)
            if scan.organs[tuple(spot.astype(int))]:
                break
    if spot is None:
        return [int(rng.integers(min(-8, n - p - 8), max(9, n - p + 9))) for n, p in zip(shape, patch, strict=True)]
    low = [int(spot[k] - rng.integers(8, patch[k] - 8)) for k in range(3)]
    if patch[2] > CLOSE_PATCH[2]:
        low[2] = int(np.clip(low[2], min(-8, shape[2] - patch[2] - 8), max(8, shape[2] - patch[2] + 8)))
    return low


def together(examples: list[Example]) -> Example:
    """Make one batch of several patches of one size."""
    return Example(
        image=torch.cat([e.image for e in examples]),
        organs=torch.cat([e.organs for e in examples]),
        nodule=torch.cat([e.nodule for e in examples]),
        weight=torch.cat([e.weight for e in examples]),
    )


def _window(array: NDArray[Any], low: list[int], patch: tuple[int, int, int], fill: int) -> NDArray[Any]:
    out = np.full(patch, fill, dtype=array.dtype)
    into, of = [], []
    for start, size, whole in zip(low, patch, array.shape, strict=True):
        a, b = max(start, 0), min(start + size, whole)
        of.append(slice(a, max(a, b)))
        into.append(slice(a - start, max(a, b) - start))
    out[tuple(into)] = array[tuple(of)]
    return out


def loss_of(output: Tensor, example: Example) -> tuple[Tensor, Tensor]:
    """Give the lungs' loss and the nodules' loss: cross-entropy plus soft Dice each; a small nodule's voxels weigh more.

    On close patches, where nothing shows the side, left and right count as one class.
    """
    organs, wanted = output[:, :3], example.organs
    if tuple(wanted.shape[1:]) == CLOSE_PATCH:
        organs = torch.stack([organs[:, 0], torch.logsumexp(organs[:, 1:], dim=1)], dim=1)
        wanted = (wanted > 0).long()
    target = functional.one_hot(wanted, organs.shape[1]).movedim(-1, 1).float()
    shares = torch.softmax(organs, dim=1)
    axes = (0, 2, 3, 4)
    overlap = (2 * (shares * target).sum(axes) + 100) / (shares.sum(axes) + target.sum(axes) + 100)
    lungs = functional.cross_entropy(organs, wanted) + (1 - overlap[1:].mean())
    logits = output[:, 3:]
    weight = example.weight * (1 + 2 * example.nodule)
    entropy = (functional.binary_cross_entropy_with_logits(logits, example.nodule, reduction="none") * weight).mean()
    marked = torch.sigmoid(logits)
    hits = (marked * example.nodule * example.weight).sum()
    both = (marked * example.weight).sum() + (example.nodule * example.weight).sum()
    return lungs, 15 * entropy + (1 - (2 * hits + 20) / (both + 20))


def train_step(network: nn.Module, optimiser: torch.optim.Optimizer, example: Example) -> tuple[float, float]:
    """Take one step; give the two losses before it."""
    lungs, nodules = loss_of(network(example.image), example)
    optimiser.zero_grad()
    torch.autograd.backward(lungs + nodules)
    nn.utils.clip_grad_norm_(network.parameters(), 5.0)
    optimiser.step()
    return float(lungs.detach()), float(nodules.detach())


def _rate(step: int) -> float:
    """Give the learning rate: up over the first 8 % of a stage, then down along a cosine."""
    stage, done = stage_at(step)
    if done < 0.08:
        return stage.peak_rate * (done / 0.08 + 0.01)
    return stage.peak_rate * (0.5 + 0.5 * float(np.cos(np.pi * (done - 0.08) / 0.92))) + 1e-5


def _prepare(network: nn.Module, step: int) -> None:
    stage, done = stage_at(step)
    network.train()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm3d):
            module.momentum = MOMENTUM
            module.train(done < stage.freeze)


def batch_of(pool: Pool, step: int, settings: Mapping[str, Any]) -> Example:
    """Cut the patches of a step: one wide one, or several close ones."""
    rng = np.random.default_rng([SEED, step, 3])
    close = rng.random() < stage_at(step)[0].close
    patch, many = (CLOSE_PATCH, CLOSE_MANY) if close else (PATCH, 1)
    return together([cut(rng, pool.pick(rng, step), settings, patch) for _ in range(many)])


@dataclass(slots=True, kw_only=True)
class Run:
    """A training under way: network and optimiser, the steps done and the processor seconds earlier processes spent on them."""

    network: nn.Module
    optimiser: torch.optim.Optimizer
    done: int = 0
    spent_s: float = 0.0


def begin(checkpoint: Path) -> Run:
    """Start the recipe, or go on from the checkpoint where there is one."""
    torch.manual_seed(SEED)
    network = build(options())
    _expect_little(network)
    run = Run(network=network, optimiser=torch.optim.AdamW(network.parameters(), lr=STAGES[0].peak_rate, weight_decay=1e-4))
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        network.load_state_dict(state["network"])
        run.optimiser.load_state_dict(state["optimiser"])
        run.done, run.spent_s = int(state["step"]), float(state["spent_s"]) - process_time()
        print(f"going on from step {run.done}", flush=True)
    return run


def _keep(run: Run, out: Path, checkpoint: Path) -> None:
    save(run.network, out)
    state = {"network": run.network.state_dict(), "optimiser": run.optimiser.state_dict(), "step": run.done}
    torch.save(state | {"spent_s": run.spent_s + process_time()}, checkpoint)


def train(out: Path, checkpoint: Path, steps: int) -> None:
    """Run the recipe and write the weights; goes on from the checkpoint where there is one."""
    settings, pool, run = options(), Pool(), begin(checkpoint)
    recent: list[tuple[float, float]] = []
    for step in range(run.done, steps):
        for group in run.optimiser.param_groups:
            group["lr"] = _rate(step)
        _prepare(run.network, step)
        recent.append(train_step(run.network, run.optimiser, batch_of(pool, step, settings)))
        run.done = step + 1
        if run.done % 10 == 0:
            lungs, nodules = np.mean(recent[-30:], axis=0)
            spent = run.spent_s + process_time()
            print(f"step {run.done}/{steps}  lungs {lungs:.3f}  nodules {nodules:.3f}  {spent:.0f} CPU s", flush=True)
        if run.done % 50 == 0 or run.done == steps:
            _keep(run, out, checkpoint)


def save(network: nn.Module, out: Path) -> None:
    """Write the weights as safetensors."""
    save_file({name: value.contiguous() for name, value in network.state_dict().items()}, out)


def restore(weights: Path) -> nn.Module:
    """Load trained weights into the card's network, ready to judge."""
    network = build(options())
    network.load_state_dict(load_file(weights))
    return network.eval()


def main() -> None:
    """Read the command line and train."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=CARD.with_name("weights.safetensors"))
    parser.add_argument("--checkpoint", type=Path)
    parser.add_argument("--steps", type=int, default=sum(stage.steps for stage in STAGES))
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    train(given.out, given.checkpoint or given.out.with_suffix(".checkpoint"), given.steps)


if __name__ == "__main__":
    main()
