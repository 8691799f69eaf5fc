"""Nodules of a generated thorax: where they sit, what they are made of, and how they look."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from models.starter.chest_ct.body import Body
from models.starter.chest_ct.shapes import Array, Lesion, Point, stamp_lesion
from models.vocabulary import Triple

KINDS = ("solid", "part-solid", "ground-glass", "cavity")
SHARES = (0.46, 0.2, 0.24, 0.1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Nodule:
    """One drawn nodule. centre_mm is LPS (x, y, z); diameter_mm that of the sphere of its volume.

    kind, site  one of KINDS; where it lies: "free", "vessel", "pleura", "fissure"
    """

    number: int
    centre_mm: Triple
    diameter_mm: float
    kind: str
    site: str
    spiculated: bool = False
    calcified: bool = False


def sow(body: Body, texture: Array, inside: Array, count: int) -> tuple[NDArray[np.uint16], tuple[Nodule, ...]]:
    """Draw nodules into the lungs' texture; give their masks and what they are. One that falls on another is left out."""
    instances = np.zeros(body.frame.shape, np.uint16)
    found: list[Nodule] = []
    lung = np.argwhere(inside > -1)
    voxel = float(np.prod(body.frame.spacing_mm))
    for _ in range(count if len(lung) > 1000 else 0):
        radius = float(np.exp(body.rng.uniform(np.log(2.2), np.log(15))))
        centre, site = _site(body, inside, radius, lung)
        kind = str(body.rng.choice(KINDS, p=SHARES))
        look = _look(body, centre, radius, kind)
        box, whole, core = stamp_lesion(body.rng, body.frame, look)
        whole = whole * (inside[box] > -0.5)
        mask = whole > 0.5
        if mask.sum() < 2 or (instances[box][mask] > 0).any() or mask.sum() * voxel < 15:
            continue
        level, calcified = _level(body, float(np.median(texture[box])), kind, core)
        texture[box] = np.maximum(texture[box], texture[box] + (level - texture[box]) * whole)
        if kind == "cavity":
            texture[box] += (np.float32(-930) - texture[box]) * core * whole
        instances[box][mask] = len(found) + 1
        size = (6 * float(whole.sum()) * voxel / np.pi) ** (1 / 3)
        middle = (float(centre[0]), float(centre[1]), float(centre[2]))
        spiculated = look.spicules > 0
        number = len(found) + 1
        found.append(
            Nodule(number=number, centre_mm=middle, diameter_mm=size, kind=kind, site=site, spiculated=spiculated, calcified=calcified)
        )
    return instances, tuple(found)


def shown(instances: NDArray[np.uint16], found: tuple[Nodule, ...], columns: NDArray[np.bool_]) -> tuple[Nodule, ...]:
    """Give the nodules of which the field of view shows nearly all; the others are taken out of the masks.

    A nodule that nobody can see would be taught, and asked for, in vain.
    """
    voxels = np.bincount(instances.ravel(), minlength=len(found) + 1)
    inside = np.bincount(instances[:, columns].ravel(), minlength=len(found) + 1)
    kept = [nodule for nodule in found if inside[nodule.number] > 0.9 * voxels[nodule.number]]
    numbers = np.zeros(len(found) + 1, np.uint16)
    numbers[[nodule.number for nodule in kept]] = np.arange(1, len(kept) + 1)
    instances[:] = numbers[instances]
    return tuple(replace(nodule, number=int(numbers[nodule.number])) for nodule in kept)


def _site(body: Body, inside: Array, radius: float, lung: NDArray[np.int64]) -> tuple[Point, str]:
    """Choose where a nodule sits: on a vessel, on the pleura, on a fissure, or anywhere in the lungs."""
    frame = body.frame
    throw = body.rng.random()
    if throw < 0.3 and body.vessels:
        for _ in range(40):
            tube = body.vessels[int(body.rng.integers(len(body.vessels)))]
            off = body.rng.standard_normal(3)
            point = tube.end + off / np.linalg.norm(off) * radius * body.between(0, 1)
            at = frame.index(point)
            if at is not None and inside[at] > 1 and tube.end_radius_mm < 0.7 * radius:
                return point, "vessel"
    if 0.5 <= throw < 0.62 and body.fissures is not None:
        on = np.argwhere(body.fissures & (inside > radius))
        if len(on):
            at = tuple(on[int(body.rng.integers(len(on)))])
            off = np.array([body.between(-0.6, 0.6) * radius for _ in range(3)])
            return np.array([frame.x_mm[at[2]], frame.y_mm[at[1]], frame.z_mm[at[0]]]) + off, "fissure"
    wanted = (-0.3 * radius, 0.7 * radius, "pleura") if throw < 0.5 else (radius, 1e9, "free")
    at = (0, 0, 0)
    for _ in range(60):
        choice = lung[int(body.rng.integers(len(lung)))]
        at = (int(choice[0]), int(choice[1]), int(choice[2]))
        if wanted[0] < inside[at] < wanted[1]:
            break
    return np.array([frame.x_mm[at[2]], frame.y_mm[at[1]], frame.z_mm[at[0]]]), wanted[2]


def _look(body: Body, centre: Point, radius: float, kind: str) -> Lesion:
    """Draw a nodule's outline and how sharp its edge is."""
    rough = body.between(0.02, 0.25) if body.chance(0.3) else 0.0
    core = {"solid": 1.0, "part-solid": body.between(0.35, 0.75), "ground-glass": 0.0, "cavity": body.between(0.3, 0.65)}[kind]
    edge = body.between(0.5, 2.5)
    return Lesion(centre=centre, radius_mm=radius, lumps=body.between(0, 0.18), spicules=rough, edge_mm=edge, core=core)


def _level(body: Body, around_hu: float, kind: str, core: Array) -> tuple[Array, bool]:
    """Give HU of a nodule's points: haze, and its core dense; and whether that is calcified, as one in five is."""
    haze = max(body.between(-680, -380), around_hu + 150)
    soft = body.chance(0.8)
    dense = body.between(-30, 120) if soft else body.between(150, 800)
    share = np.ones_like(core) if kind in {"solid", "cavity"} else core
    level: Array = haze + (dense - haze) * share
    return level.astype(np.float32), not soft and kind != "ground-glass"
