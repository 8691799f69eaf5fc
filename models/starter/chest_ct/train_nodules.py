"""Train the nodule network of the chest CT starter on cubes from generated blocks of lung.

    python -m models.starter.chest_ct.train_nodules --out nodules.safetensors

Prints a line every 20 steps. A checkpoint is written every 100 steps, and a run that finds one goes on from there: blocks follow
from their numbers, and what a step takes of them from (SEED, step) and the network, so that on one kind of processor with as many
threads the end is that of one go; a GPU adds up in no fixed order. Where the processor has matrix units for bfloat16 the forward
pass uses them, five times as fast.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from models.chest.patchnet import PatchNet
from models.starter.chest_ct import course
from models.starter.chest_ct.course import Order, Pool, Rate, Run, begin, descend, forward, keep, order, report
from models.starter.chest_ct.lessons import Lessons, block, lessons_of
from models.starter.chest_ct.real import Texture, textures

SEED = 20_270
FIRST_BLOCK = 100_000
BLOCKS, AT_ONCE, AHEAD = 40, 4, 6
RATE = Rate(peak=2e-3, lowest=1e-6)


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """How much is trained: steps, places a batch, and by how many steps a block is replaced.

    Of a batch's wrong places `by_chance` are any; the others are those the network thinks likeliest among `extra` more: most are easy.
    """

    steps: int
    batch: int
    extra: int
    by_chance: int
    renew_every: int


SETTINGS = {
    "small": Setting(steps=6000, batch=32, extra=48, by_chance=7, renew_every=5),
    "full": Setting(steps=10_000, batch=96, extra=144, by_chance=21, renew_every=1),
}
RIGHT_SHARE = 0.4

# Near and wide cubes, nodule voxels, (n, 1, SIDE, SIDE, SIDE) each, and answers (n,).
Batch: TypeAlias = tuple[Tensor, Tensor, Tensor, Tensor]


@cache
def _known(folder: Path) -> tuple[Texture, ...]:
    return textures(folder)  # read once in each process that draws


def lessons_at(real: Path | None, number: int) -> Lessons:
    """Draw a block, some of them of a folder's real texture, and take its lessons."""
    seed = FIRST_BLOCK + number
    return lessons_of(block(seed, () if real is None else _known(real)), seed)


def batch_of(blocks: list[Lessons], step: int, batch: int = SETTINGS["small"].batch, extra: int = 0) -> Batch:
    """Draw a batch: near and wide cubes in 0..1, nodule voxels, answers; turned and mirrored, brighter or noisier.

    Right places come first, then wrong ones, `extra` of which are more than a batch holds.
    """
    rng = np.random.default_rng([SEED, step])
    picked: list[tuple[Tensor, Tensor, Tensor, float]] = []
    while len(picked) < batch + extra:
        lessons = blocks[int(rng.integers(len(blocks)))]
        wanted = 1.0 if len(picked) < batch * RIGHT_SHARE else 0.0
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


def hardest(network: nn.Module, batch: Batch, setting: Setting) -> Batch:
    """Keep of a batch with extra wrong places as many as it should hold: the right ones, some wrong by chance, and the likeliest wrong."""
    near, wide, voxels, answers = batch
    start = min(setting.batch, int(answers.sum()) + setting.by_chance)
    network.eval()
    with torch.no_grad(), forward(near.device.type):
        logits, _ = network(near[start:].contiguous(), wide[start:].contiguous())
    likeliest = torch.sort(logits.float(), descending=True, stable=True).indices[: setting.batch - start]
    kept = torch.cat([torch.arange(start, device=near.device), start + likeliest])
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
    with forward(near.device.type):
        logits, masks = run.network(near.contiguous(), wide.contiguous())
    judged, painted = loss_of(logits.float(), masks.float(), voxels, answers)
    descend(run.network, run.optimiser, judged + 0.5 * painted)
    right = ((logits > 0) == (answers > 0)).float().mean()
    return float(judged.detach()), float(painted.detach()), float(right)


def train(what: Order) -> None:
    """Run the recipe and write the weights."""
    torch.manual_seed(SEED)
    setting = SETTINGS[what.setting]
    run = begin(PatchNet(), what, setting.steps)
    with course.beside(what.setting) as (others, count):
        blocks = Pool(
            draw=partial(lessons_at, what.real),
            beside=others,
            size=BLOCKS,
            renew_every=setting.renew_every,
            at_once=AT_ONCE,
            ahead=max(AHEAD, 2 * count),
        )
        _steps(run, blocks, what, setting)


def _steps(run: Run, blocks: Pool[Lessons], what: Order, setting: Setting) -> None:
    recent, until = [], what.until or setting.steps
    for step in range(run.done, until):
        run.rate(RATE.at(step, setting.steps))
        torch.manual_seed(SEED + step)
        drawn = batch_of(blocks.at(step), step, setting.batch, setting.extra)
        near, wide, voxels, answers = (part.to(what.device) for part in drawn)
        recent.append(train_step(run, hardest(run.network, (near, wide, voxels, answers), setting)))
        run.stepped()
        judged, painted, right = np.mean(recent[-100:], axis=0)
        report(run, {"judged": float(judged), "painted": float(painted), "right": float(right)})
        if run.done % 100 == 0 or run.done == until:
            keep(run, what.out, what.checkpoint)


if __name__ == "__main__":
    train(order(str(__doc__), Path(__file__).with_name("nodules.safetensors")))
