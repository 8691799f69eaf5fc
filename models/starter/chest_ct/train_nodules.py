"""Train the nodule network of the chest CT starter on cubes from generated blocks of lung.

    python -m models.starter.chest_ct.train_nodules --out nodules.safetensors

Prints a line every 20 steps. A checkpoint is written every 100 steps, and a run that finds one goes on from there: blocks and
steps follow from (SEED, step), so that the end is that of one go on one kind of processor with as many threads. Where the
processor has matrix units for bfloat16 the forward pass uses them, five times as fast.
"""

from __future__ import annotations

import multiprocessing
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from models.chest.patchnet import PatchNet
from models.starter.chest_ct.course import Order, Rate, Run, begin, descend, forward, keep, order, report
from models.starter.chest_ct.lessons import Lessons, block, lessons_of
from models.starter.chest_ct.real import Texture, textures

SEED = 20_270
FIRST_BLOCK = 100_000
BLOCKS = 40
RENEW_EVERY = 5
AHEAD = 6
BATCH, RIGHT_SHARE = 32, 0.4
# Of a batch's wrong places BY_CHANCE are any; the rest are those the network thinks likeliest among EXTRA more: most are easy.
EXTRA, BY_CHANCE = 48, 7
STEPS = 6000
RATE = Rate(peak=2e-3, lowest=1e-6)

# Near and wide cubes, nodule voxels, (n, 1, SIDE, SIDE, SIDE) each, and answers (n,).
Batch: TypeAlias = tuple[Tensor, Tensor, Tensor, Tensor]


@dataclass(slots=True)
class Pool:
    """The blocks lessons are taken from: BLOCKS of them, the oldest replaced every RENEW_EVERY steps.

    A second process draws the next ones ahead; what it draws follows from their numbers alone.
    """

    known: tuple[Texture, ...]
    beside: Executor
    blocks: dict[int, Future[Lessons]] = field(default_factory=dict)

    def at(self, step: int) -> list[Lessons]:
        """Give the blocks of a step; at the start they are few, so that training begins at once."""
        last = step // RENEW_EVERY + 4
        wanted = range(max(0, last - BLOCKS), last)
        self.blocks = {number: kept for number, kept in self.blocks.items() if number >= wanted.start}
        for number in range(wanted.start, last + AHEAD):
            if number not in self.blocks:
                self.blocks[number] = self.beside.submit(_lessons, FIRST_BLOCK + number, self.known)
        return [self.blocks[number].result() for number in wanted]


def _lessons(seed: int, known: tuple[Texture, ...]) -> Lessons:
    torch.set_num_threads(1)
    return lessons_of(block(seed, known), seed)


def batch_of(blocks: list[Lessons], step: int, extra: int = 0) -> Batch:
    """Draw a batch: near and wide cubes in 0..1, nodule voxels, answers; turned and mirrored, brighter or noisier.

    Right places come first, then wrong ones, `extra` of which are more than a batch holds.
    """
    rng = np.random.default_rng([SEED, step])
    picked: list[tuple[Tensor, Tensor, Tensor, float]] = []
    while len(picked) < BATCH + extra:
        lessons = blocks[int(rng.integers(len(blocks)))]
        wanted = 1.0 if len(picked) < BATCH * RIGHT_SHARE else 0.0
        choices = torch.nonzero(lessons.answer == wanted).squeeze(1)
        if len(choices):
            index = int(choices[int(rng.integers(len(choices)))])
            picked.append((lessons.near[index], lessons.wide[index], lessons.voxels[index], wanted))
    near, wide, voxels = (torch.stack(cubes)[:, None].float() for cubes in list(zip(*picked, strict=True))[:3])
    near, wide, voxels = _turned(rng, (near / 255, wide / 255, voxels))
    gain = torch.from_numpy(rng.uniform(0.92, 1.08, (len(picked), 1, 1, 1, 1))).float()
    shift = torch.from_numpy(rng.uniform(-0.02, 0.02, (len(picked), 1, 1, 1, 1))).float()
    grain = torch.from_numpy(rng.uniform(0, 0.02, (len(picked), 1, 1, 1, 1))).float()
    noise = torch.from_numpy(rng.standard_normal(near.shape, dtype=np.float32))
    near = (near * gain + shift + noise * grain).clamp(0, 1)
    return near, (wide * gain + shift).clamp(0, 1), voxels, torch.tensor([entry[3] for entry in picked])


def hardest(network: nn.Module, batch: Batch) -> Batch:
    """Keep of a batch with extra wrong places as many as a batch holds: the right ones, some wrong by chance, and the likeliest wrong."""
    near, wide, voxels, answers = batch
    start = min(BATCH, int(answers.sum()) + BY_CHANCE)
    network.eval()
    with torch.no_grad(), forward():
        logits, _ = network(near[start:].contiguous(), wide[start:].contiguous())
    likeliest = torch.sort(logits.float(), descending=True, stable=True).indices[: BATCH - start]
    kept = torch.cat([torch.arange(start), start + likeliest])
    return near[kept], wide[kept], voxels[kept], answers[kept]


def _turned(rng: np.random.Generator, cubes: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Mirror the cubes of a batch along any axes, and exchange rows and columns half the time."""
    axes = [axis for axis in (2, 3, 4) if rng.random() < 0.5]
    swap = rng.random() < 0.5
    near, wide, voxels = (torch.flip(cube, axes) for cube in cubes)
    return (near.transpose(3, 4), wide.transpose(3, 4), voxels.transpose(3, 4)) if swap else (near, wide, voxels)


def loss_of(logits: Tensor, masks: Tensor, voxels: Tensor, answers: Tensor) -> tuple[Tensor, Tensor]:
    """Give the loss of the answers, in which what is nearly right counts less, and that of the voxels where there is a nodule."""
    entropy = functional.binary_cross_entropy_with_logits(logits, answers, reduction="none")
    judged = (entropy * (1 - torch.exp(-entropy.detach())).sqrt()).mean()
    right = answers > 0
    said, true = masks[right], voxels[right]
    shares = torch.sigmoid(said)
    overlap = (2 * (shares * true).sum((1, 2, 3, 4)) + 5) / (shares.sum((1, 2, 3, 4)) + true.sum((1, 2, 3, 4)) + 5)
    painted = functional.binary_cross_entropy_with_logits(masks, voxels) + (1 - overlap).mean()
    return judged, painted


def train_step(run: Run, batch: Batch) -> tuple[float, float, float]:
    """Take one step; give the two losses before it, and the share of right answers."""
    near, wide, voxels, answers = batch
    run.network.train()
    with forward():
        logits, masks = run.network(near.contiguous(), wide.contiguous())
    judged, painted = loss_of(logits.float(), masks.float(), voxels, answers)
    descend(run.network, run.optimiser, judged + 0.5 * painted)
    right = ((logits > 0) == (answers > 0)).float().mean()
    return float(judged.detach()), float(painted.detach()), float(right)


def train(what: Order) -> None:
    """Run the recipe and write the weights."""
    torch.manual_seed(SEED)
    run = begin(PatchNet(), what.checkpoint, what.start)
    known = () if what.real is None else textures(what.real)
    with _beside() as beside:
        _steps(run, Pool(known=known, beside=beside), what)


def _beside() -> Executor:
    return ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))


def _steps(run: Run, pool: Pool, what: Order) -> None:
    recent = []
    for step in range(run.done, what.until):
        run.rate(RATE.at(step, STEPS))
        torch.manual_seed(SEED + step)
        recent.append(train_step(run, hardest(run.network, batch_of(pool.at(step), step, EXTRA))))
        run.stepped()
        judged, painted, right = np.mean(recent[-100:], axis=0)
        report(run, STEPS, {"judged": float(judged), "painted": float(painted), "right": float(right)})
        if run.done % 100 == 0 or run.done == what.until:
            keep(run, what.out, what.checkpoint)


if __name__ == "__main__":
    train(order(str(__doc__), Path(__file__).with_name("nodules.safetensors"), STEPS))
