"""What the nodule network learns from: cubes around places of generated blocks of lung, each with its answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from models.chest import candidates, cubes
from models.starter.chest_ct.body import View
from models.starter.chest_ct.generator import Scan, draw_view
from models.starter.chest_ct.real import Texture, real_block

SPACING_MM = 1.25
BLOCK_MM = (150.0, 150.0, 150.0)
MARGIN_MM = 20.0
NODULES = (5, 10)
LEAST_MM = 3.8
WRONG, RIGHT, SKIP = 0, 1, -1


@dataclass(frozen=True, slots=True, kw_only=True)
class Lessons:
    """Cubes in steps of 1/255, (n, 32, 32, 32) each: what is near, what is wide, which voxels are nodule; and the answers (n,)."""

    near: Tensor
    wide: Tensor
    voxels: Tensor
    answer: Tensor


def block(seed: int, known: Sequence[Texture] = ()) -> Scan:
    """Draw one block of lung on the network's grid; every third is of real texture where there is any."""
    spacing_mm = (SPACING_MM, SPACING_MM, SPACING_MM)
    if known and seed % 3 == 0:
        return real_block(seed, known, View(spacing_mm=spacing_mm, box_mm=BLOCK_MM), NODULES)
    return draw_view(seed, View(spacing_mm=spacing_mm, box_mm=BLOCK_MM), NODULES)


def lessons_of(scan: Scan, seed: int, most: int = 70) -> Lessons:
    """Take the lessons of one block: its nodules three times each, slightly off, and at most that many candidates that are none."""
    rng = np.random.default_rng([seed, 11])
    hu = scan.volume.array.astype(np.float32)
    lungs = scan.organs > 0
    found = candidates.find(hu, candidates.hull(lungs & (hu < -400), SPACING_MM), SPACING_MM, 300)
    found_voxels = found.voxels[_clear(found.voxels, hu.shape)]
    answers = judge(scan, found_voxels)
    wrong = np.flatnonzero(answers == WRONG)
    if len(wrong) > most:
        wrong = np.concatenate([wrong[: most // 2], rng.choice(wrong[most // 2 :], most - most // 2, replace=False)])
    hits = np.flatnonzero(answers == RIGHT)
    aimed = _aimed(scan, rng)
    places = np.concatenate([found_voxels[wrong], found_voxels[hits], aimed])
    right = torch.cat([torch.zeros(len(wrong)), torch.ones(len(hits) + len(aimed))])
    volume = (cubes.scaled(torch.from_numpy(hu)) * 255).round()
    near, wide = cubes.both(volume, cubes.halved(volume), places)
    voxels = cubes.cut(torch.from_numpy((scan.instances > 0).astype(np.uint8)), places)
    return Lessons(near=near.to(torch.uint8), wide=wide.round().to(torch.uint8), voxels=voxels.to(torch.uint8), answer=right)


def judge(scan: Scan, places: NDArray[np.int64]) -> NDArray[np.int64]:
    """Say of each place whether it lies in a nodule: RIGHT, WRONG, or SKIP for its rim, for tiny ones and for masses."""
    answers = np.full(len(places), WRONG)
    if not len(places):
        return answers
    spacing = scan.volume.grid.spacing_mm
    away, nearest = ndimage.distance_transform_edt(scan.instances == 0, sampling=spacing, return_indices=True)
    at = tuple(places.T)
    if scan.nodules:
        number = scan.instances[tuple(nearest[(slice(None), *at)])]
        sizes = np.array([0.0, *(nodule.diameter_mm for nodule in scan.nodules)])[number]
        answers[away[at] <= 4.0] = SKIP
        answers[(away[at] <= 1.5) & (sizes >= LEAST_MM)] = RIGHT
    world = scan.volume.grid.to_world_mm(places.astype(float))
    for mass in scan.masses:
        answers[np.linalg.norm(world - np.array(mass.centre_mm), axis=1) <= mass.radius_mm] = SKIP
    return answers


def _aimed(scan: Scan, rng: np.random.Generator) -> NDArray[np.int64]:
    """Give three places in or near the middle of every nodule."""
    places = []
    for nodule in scan.nodules:
        voxels = np.argwhere(scan.instances == nodule.number)
        if nodule.diameter_mm >= LEAST_MM and len(voxels):
            off = rng.normal(0, 0.15 * nodule.diameter_mm / SPACING_MM, (3, 3))
            places.append(np.rint(voxels.mean(axis=0) + off).astype(np.int64))
    if not places:
        return np.zeros((0, 3), np.int64)
    aimed = np.concatenate(places)
    return aimed[_clear(aimed, scan.instances.shape)]


def _clear(places: NDArray[np.int64], shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """Tell which places have their near cube inside the block."""
    margin = round(MARGIN_MM / SPACING_MM)
    return np.asarray(((places >= margin) & (places <= np.array(shape) - margin)).all(axis=1))
