"""Branching trees of a generated lung: arteries, veins and bronchi that bend, give off side branches and thin out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from models.starter.chest_ct.body import Depths
from models.starter.chest_ct.shapes import Point, Tube

THINNEST_MM = 0.3
CLEAR_MM = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Bud:
    """Where a branch begins: the point, the direction, the radius."""

    start: Point
    heading: Point
    radius_mm: float


def grow(rng: np.random.Generator, bud: Bud, depths: Depths, limit: int) -> list[Tube]:
    """Grow a tree; a branch ends where the lung does or where it is thinner than THINNEST_MM.

    Beyond `limit` pieces what is still to grow tapers off: a blunt end would look like a nodule.
    """
    tubes: list[Tube] = []
    waiting = [bud]
    while waiting and len(tubes) < limit:
        end, pieces = _branch(rng, waiting.pop(0), depths, root=not tubes)
        tubes += pieces
        if end.radius_mm > THINNEST_MM and (len(tubes) < 8 or depths.at(end.start) > CLEAR_MM):
            waiting += _fork(rng, end)
    return tubes + [_tapered(entry) for entry in waiting]


def _branch(rng: np.random.Generator, bud: Bud, depths: Depths, *, root: bool) -> tuple[Bud, list[Tube]]:
    """Run one branch to its fork, bending; give where it ends and its pieces."""
    length = bud.radius_mm * rng.uniform(3, 8) + rng.uniform(3, 10)
    step = max(3.0, 1.5 * bud.radius_mm)
    at, heading, radius = bud.start, bud.heading, bud.radius_mm
    pieces: list[Tube] = []
    for _ in range(max(1, round(length / step))):
        heading = _turned(rng, heading, 0.16)
        to = at + heading * step
        if not root and depths.at(to) < CLEAR_MM:
            heading = _turned(rng, heading, 0.9)
            to = at + heading * step
            if depths.at(to) < 0:
                return Bud(start=at, heading=heading, radius_mm=0.0), [*pieces, _tapered(Bud(start=at, heading=heading, radius_mm=radius))]
        pieces.append(Tube(start=at, end=to, start_radius_mm=radius, end_radius_mm=radius * 0.97))
        at, radius = to, radius * 0.97
    return Bud(start=at, heading=heading, radius_mm=radius), pieces


def _fork(rng: np.random.Generator, end: Bud) -> list[Bud]:
    """Part a branch: a trunk with a thinner side branch, or two alike."""
    if rng.random() < 0.55:
        shares, angles = (rng.uniform(0.84, 0.95), rng.uniform(0.35, 0.75)), (rng.uniform(0.05, 0.4), rng.uniform(0.6, 1.4))
    else:
        shares, angles = (rng.uniform(0.7, 0.88), rng.uniform(0.65, 0.85)), (rng.uniform(0.3, 0.8), rng.uniform(0.3, 0.8))
    side = np.cross(end.heading, rng.standard_normal(3))
    side = side / (np.linalg.norm(side) + 1e-6)
    buds = []
    for share, angle, sign in zip(shares, angles, (1.0, -1.0), strict=True):
        heading = end.heading * np.cos(angle) + side * sign * np.sin(angle)
        buds.append(Bud(start=end.start, heading=heading, radius_mm=end.radius_mm * share))
    return buds


def _turned(rng: np.random.Generator, heading: Point, by: float) -> Point:
    turned: Point = heading + rng.standard_normal(3) * by
    return turned / (np.linalg.norm(turned) + 1e-9)


def _tapered(bud: Bud) -> Tube:
    end = bud.start + bud.heading * (4 + 3 * bud.radius_mm)
    return Tube(start=bud.start, end=end, start_radius_mm=bud.radius_mm, end_radius_mm=0.2)


def twigs(rng: np.random.Generator, trunks: list[Tube], points: NDArray[np.float64], rounds: int = 3) -> list[Tube]:
    """Fill the lung between trunks: each point gets a bent twig from the nearest vessel, in rounds, so that twigs bear twigs."""
    nodes = np.array([tube.end for tube in trunks])
    widths = np.array([tube.end_radius_mm for tube in trunks])
    found: list[Tube] = []
    for part in np.array_split(points, rounds):
        away, nearest = cKDTree(nodes).query(part)
        fresh = []
        for point, mm, at in zip(part, away, nearest, strict=True):
            if 4 < mm < 60:
                radius = min(0.85 * widths[at], rng.uniform(0.55, 1.6) * np.sqrt(mm / 15))
                fresh += _twig(rng, nodes[at], point, max(radius, 0.45))
        if fresh:
            nodes = np.concatenate([nodes, [tube.end for tube in fresh]])
            widths = np.concatenate([widths, [tube.end_radius_mm for tube in fresh]])
        found += fresh
    return found


def _twig(rng: np.random.Generator, start: Point, end: Point, radius: float) -> list[Tube]:
    """Lead three pieces from one point to another, thinning to nearly nothing."""
    length = float(np.linalg.norm(end - start))
    places = [start + (end - start) * share + rng.standard_normal(3) * length * 0.08 for share in (0.33, 0.67)]
    ends = [start, *places, end]
    radii = [radius, 0.85 * radius, 0.7 * radius, 0.45 * radius]
    return [Tube(start=ends[k], end=ends[k + 1], start_radius_mm=radii[k], end_radius_mm=radii[k + 1]) for k in range(3)]
