"""The two networks as parts to train: half of what they see is the site's, half is generated, as the starter's recipe draws it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from models.chest.patchnet import PatchNet
from models.networks import network as networks
from models.starter.chest_ct import lessons, train_lungs, train_nodules
from models.starter.chest_ct.course import forward
from models.starter.chest_ct.generator import Scan, draw
from models.starter.chest_ct.lessons import Lessons
from models.tuning.examples import LUNGS_MM

FIRST_SEED = 300_000
"""Generated blocks and scans have seeds above those of the starter's training and below those of its calibration and evaluation."""
SEEDS = 400_000
POOL, RENEW_EVERY = 12, 8
SITE_SHARE = 0.5
NODULES_PEAK, LUNGS_PEAK = 5e-4, 5e-4
Thing = TypeVar("Thing")


@dataclass(slots=True, kw_only=True)
class Drawn(Generic[Thing]):
    """Generated things by step: POOL of them, the oldest replaced every RENEW_EVERY steps; they follow from seed and step alone."""

    draw: Callable[[int], Thing]
    seed: int
    known: dict[int, Thing] = field(default_factory=dict)

    def at(self, step: int) -> list[Thing]:
        """Give those of a step; at the start they are few, so that training begins at once."""
        last = step // RENEW_EVERY + 3
        wanted = range(max(0, last - POOL), last)
        self.known = {number: thing for number, thing in self.known.items() if number in wanted}
        for number in wanted:
            if number not in self.known:
                self.known[number] = self.draw(FIRST_SEED + (self.seed * 7919 + number) % SEEDS)
        return [self.known[number] for number in wanted]


def nodule_network(content: bytes, device: str) -> PatchNet:
    """Build the nodule network with a base's weights."""
    network = PatchNet()
    networks.fill(network, content)
    return network.to(device)


def lung_network(content: bytes, settings: Mapping[str, Any], device: str) -> nn.Module:
    """Build the lungs' network that the card names, with a base's weights."""
    network = train_lungs.build(settings)
    networks.fill(network, content)
    return network.to(device)


def _block(seed: int) -> Lessons:
    return lessons.lessons_of(lessons.block(seed), seed)


def _scan(seed: int) -> Scan:
    return draw(seed, LUNGS_MM, belly=0.1)


class NodulePart:
    """The nodule network and the cubes of the site's scans."""

    def __init__(self, network: PatchNet, site: Sequence[Lessons], seed: int) -> None:
        self.network: nn.Module = network
        self.peak = NODULES_PEAK
        self._site = list(site)
        self._seed = seed
        self._drawn = Drawn(draw=_block, seed=seed)

    def loss(self, step: int) -> Tensor:
        """Give the recipe's loss of a batch, half of which is the site's."""
        device = str(next(self.network.parameters()).device)
        drawn = self._drawn.at(step)
        # batch_of takes every block alike: each side is repeated as often as the other is long.
        blocks = self._site * len(drawn) + drawn * len(self._site)
        near, wide, voxels, answers = (part.to(device) for part in train_nodules.batch_of(blocks, self._seed * 1_000_003 + step))
        with forward(torch.device(device).type):
            logits, masks = self.network(near.contiguous(), wide.contiguous())
        judged, painted = train_nodules.loss_of(logits.float(), masks.float(), voxels, answers)
        return judged + 0.5 * painted


class LungPart:
    """The lungs' network and the site's whole scans."""

    def __init__(self, network: nn.Module, site: Sequence[Scan], settings: Mapping[str, Any], seed: int) -> None:
        self.network = network.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload] # torch's stubs leave it out
        self.peak = LUNGS_PEAK
        self._site = list(site)
        self._settings = settings
        self._seed = seed
        self._drawn = Drawn(draw=_scan, seed=seed)

    def loss(self, step: int) -> Tensor:
        """Give the recipe's loss of a patch, of the site's half the time."""
        device = str(next(self.network.parameters()).device)
        rng = np.random.default_rng([self._seed, step, 41])
        scans = self._site if rng.random() < SITE_SHARE else self._drawn.at(step)
        image, organs = train_lungs.cut(rng, scans[int(rng.integers(len(scans)))], self._settings, train_lungs.PATCH)
        if rng.random() < train_lungs.STAGES[-1][1]:
            train_lungs.narrowed(rng, image, organs)
        with forward(torch.device(device).type):
            output = self.network(image[None].to(device).contiguous(memory_format=torch.channels_last_3d))
        return train_lungs.loss_of(output.float(), organs[None].to(device))
