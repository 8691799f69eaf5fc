"""Train the lung network of the chest CT starter on whole generated scans at 3 mm.

    python -m models.starter.chest_ct.train_lungs --out lungs.safetensors

The network, its spacing, its window and its intensities are read from card.toml: what is trained is what the node runs. Checkpoints
and resuming as in train_nodules.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import monai.networks.nets
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from models.starter.chest_ct import course
from models.starter.chest_ct.course import Order, Pool, Rate, Run, begin, descend, forward, keep, order, report, within
from models.starter.chest_ct.generator import Scan, draw, draw_other
from models.vocabulary import Triple

SEED = 20_280
FIRST_SCAN = 50_000
POOL, RENEW_EVERY, AT_ONCE, AHEAD = 16, 3, 3, 3
PATCH = (96, 112, 144)
LOWEST_RATE = 3e-6
# (steps, share of patches cut through the lungs, peak of the rate): first whole chests, then also small fields of view.
STAGES = ((400, 0.0, 3e-3), (300, 0.5, 3e-3), (750, 0.35, 2e-3))
CARD = Path(__file__).with_name("card.toml")


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """How much is trained: patches a step, and how many times as long each stage lasts."""

    batch: int
    longer: int

    @property
    def steps(self) -> int:
        """How many steps all stages have."""
        return self.longer * sum(steps for steps, _, _ in STAGES)


SETTINGS = {"small": Setting(batch=1, longer=1), "full": Setting(batch=4, longer=3)}


def options() -> dict[str, Any]:
    """Read the lung network's options from the card."""
    loaded: dict[str, Any] = tomllib.loads(CARD.read_text(encoding="utf-8"))["runtime"]["options"]["lungs"]
    return loaded


def build(settings: Mapping[str, Any]) -> nn.Module:
    """Make the untrained network the card names."""
    network: nn.Module = getattr(monai.networks.nets, settings["network"])(**settings["arguments"])
    for module in network.modules():
        if isinstance(module, nn.BatchNorm3d):
            module.momentum = 0.03  # slow, for one step's scans differ much from the next one's
    return network


def scan_at(spacing_mm: Triple, number: int) -> Scan:
    """Draw a whole scan; every tenth shows no lung."""
    seed = FIRST_SCAN + number
    return draw_other(seed, spacing_mm) if number % 10 == 9 else draw(seed, spacing_mm, belly=0.1)


def cut(rng: np.random.Generator, scan: Scan, settings: Mapping[str, Any], patch: tuple[int, int, int]) -> tuple[Tensor, Tensor]:
    """Cut a patch, image (1, z, y, x) in 0..1 and classes (z, y, x); mirrored half the time, the lungs' names following their side."""
    shape = scan.organs.shape
    low = [int(rng.integers(min(-6, n - p - 6), max(7, n - p + 7))) for n, p in zip(shape, patch, strict=True)]
    image = window(scan.volume.array, low, patch, fill=-1024).astype(np.float32)
    organs = window(scan.organs, low, patch, fill=0)
    if rng.random() < 0.5:
        image, organs = image[..., ::-1], np.array([0, 2, 1], np.uint8)[organs[..., ::-1]]
    bottom, top = settings["intensity"]["low"], settings["intensity"]["high"]
    image = (image - bottom) / (top - bottom) * rng.uniform(0.95, 1.05) + rng.uniform(-0.02, 0.02)
    scaled = torch.from_numpy(np.clip(image, 0, 1).astype(np.float32).copy())
    return scaled[None], torch.from_numpy(organs.astype(np.int64).copy())


def stage_at(step: int, longer: int = 1) -> tuple[float, float]:
    """Give the learning rate of a step, which rises and falls in each stage, and its share of cut patches."""
    stage, at = within(step, [longer * steps for steps, _, _ in STAGES])
    steps, share, peak = STAGES[stage]
    return Rate(peak=peak, lowest=LOWEST_RATE).at(at, longer * steps), share


def narrowed(rng: np.random.Generator, image: Tensor, organs: Tensor) -> None:
    """Cut a patch, in place, to a field of view whose sides may run through the lungs: what is beyond is as if never scanned."""
    lung = organs > 0
    if not bool(lung.any()):
        return
    for axis in range(3):
        planes = torch.nonzero(lung.movedim(axis, 0).flatten(1).any(dim=1)).squeeze(1)
        first, last = int(planes[0]), int(planes[-1])
        deep = (last - first) * rng.uniform(-0.3, 0.35, 2)
        low, high = max(0, round(first + deep[0])), max(1, round(last + 1 - deep[1]))
        for beyond in (slice(0, low), slice(high, None)):
            image[0].movedim(axis, 0)[beyond] = 0
            organs.movedim(axis, 0)[beyond] = 0


def window(array: NDArray[Any], low: list[int], patch: tuple[int, int, int], fill: int) -> NDArray[Any]:
    """Cut a box that may reach beyond the array."""
    out = np.full(patch, fill, dtype=array.dtype)
    into, of = [], []
    for start, size, whole in zip(low, patch, array.shape, strict=True):
        a, b = max(start, 0), min(start + size, whole)
        of.append(slice(a, max(a, b)))
        into.append(slice(a - start, max(a, b) - start))
    out[tuple(into)] = array[tuple(of)]
    return out


def loss_of(output: Tensor, wanted: Tensor) -> Tensor:
    """Give cross-entropy plus soft Dice of the two lungs."""
    target = functional.one_hot(wanted, 3).movedim(-1, 1).float()
    shares = torch.softmax(output, dim=1)
    axes = (0, 2, 3, 4)
    overlap = (2 * (shares * target).sum(axes) + 100) / (shares.sum(axes) + target.sum(axes) + 100)
    return functional.cross_entropy(output, wanted) + (1 - overlap[1:].mean())


def batch_of(scans: list[Scan], step: int, share: float, settings: Mapping[str, Any], count: int = 1) -> tuple[Tensor, Tensor]:
    """Cut patches of a step, images (n, 1, z, y, x) and classes (n, z, y, x), that share of them narrowed."""
    rng, cuts = np.random.default_rng([SEED, step]), []
    for _ in range(count):
        image, organs = cut(rng, scans[int(rng.integers(len(scans)))], settings, PATCH)
        if rng.random() < share:
            narrowed(rng, image, organs)
        cuts.append((image, organs))
    images, classes = zip(*cuts, strict=True)
    return torch.stack(images), torch.stack(classes)


def train_step(run: Run, images: Tensor, organs: Tensor) -> float:
    """Take one step; give the loss before it."""
    run.network.train()
    with forward(images.device.type):
        output = run.network(images.contiguous(memory_format=torch.channels_last_3d))
    loss = loss_of(output.float(), organs)
    descend(run.network, run.optimiser, loss)
    return float(loss.detach())


def train(what: Order) -> None:
    """Run the recipe and write the weights."""
    settings, setting, recent = options(), SETTINGS[what.setting], []
    torch.manual_seed(SEED)
    run, until = begin(build(settings), what, setting.steps), what.until or setting.steps
    with course.beside(what.setting) as (others, count):
        draw_at = partial(scan_at, tuple(settings["spacing_mm"]))
        pool = Pool(draw=draw_at, beside=others, size=POOL, renew_every=RENEW_EVERY, at_once=AT_ONCE, ahead=max(AHEAD, 2 * count))
        for step in range(run.done, until):
            rate, share = stage_at(step, setting.longer)
            run.rate(rate)
            images, organs = batch_of(pool.at(step), step, share, settings, setting.batch)
            recent.append(train_step(run, images.to(what.device), organs.to(what.device)))
            run.stepped()
            report(run, {"lungs": float(np.mean(recent[-50:]))})
            if run.done % 100 == 0 or run.done == until:
                keep(run, what.out, what.checkpoint)


if __name__ == "__main__":
    train(order(str(__doc__), CARD.with_name("lungs.safetensors")))
