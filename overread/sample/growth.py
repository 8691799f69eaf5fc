"""What differs from patient to patient: size, position, the vessel trees, and where the nodules sit. All from a seed."""

from __future__ import annotations

import numpy as np

from overread.sample.shapes import Floats, Triple, capsule
from overread.sample.thorax import HILA, LUNGS, Nodule, Side, Thorax, Vessel

LEAVES, LEAF_RADIUS_MM = 260, 0.65


def grow(seed: int, diameters_mm: tuple[float, ...]) -> Thorax:
    """Make the patient of a seed, with one nodule for each diameter.

    The nodules of a shorter tuple are those of a longer one's start: adding one moves no other.
    """
    rng = np.random.default_rng([seed, 1])
    centre = (float(rng.uniform(-12, 12)), float(rng.uniform(-190, -150)), float(rng.uniform(-1300, -900)))
    thorax = Thorax(seed=seed, centre_mm=centre, scale=float(rng.uniform(0.95, 1.0)))
    vessels = tuple(vessel for side in LUNGS for vessel in _tree(thorax, side, np.random.default_rng([seed, 2, len(side)])))
    nodules: list[Nodule] = []
    for number, diameter in enumerate(diameters_mm):
        nodules.append(_nodule(thorax, vessels, nodules, (number, diameter)))
    return Thorax(seed=seed, centre_mm=centre, scale=thorax.scale, vessels=vessels, nodules=tuple(nodules))


def _inside(thorax: Thorax, side: Side, rng: np.random.Generator, margin_mm: float) -> Floats:
    """Draw points of a lung that keep a margin to its surface."""
    centre, radii = LUNGS[side]
    points = np.asarray(centre) + rng.uniform(-1, 1, size=(4000, 3)) * np.asarray(radii)
    points = points * thorax.scale + np.asarray(thorax.centre_mm)
    return np.asarray(points[thorax.lung_depth_mm(side, points) > margin_mm])


def _tree(thorax: Thorax, side: Side, rng: np.random.Generator) -> list[Vessel]:
    """Grow a tree from the hilum: each leaf joins the nearest node; radii follow Murray's cube law."""
    root = np.asarray(HILA[side]) * thorax.scale + np.asarray(thorax.centre_mm)
    leaves = _inside(thorax, side, rng, 5.0)[:LEAVES]
    leaves = leaves[np.argsort(np.linalg.norm(leaves - root, axis=1))]
    nodes, parents = [root], [-1]
    for leaf in leaves:
        known = np.asarray(nodes)
        # A detour over a far node costs: otherwise every tree is a string of near neighbours.
        cost = np.linalg.norm(known - leaf, axis=1) + 0.35 * np.linalg.norm(known - root, axis=1)
        parents.append(int(np.argmin(cost)))
        nodes.append(leaf)
    carried = np.ones(len(nodes))
    for index in range(len(nodes) - 1, 0, -1):
        carried[parents[index]] += carried[index]
    return [
        Vessel(start_mm=_triple(nodes[parents[i]]), end_mm=_triple(nodes[i]), radius_mm=float(LEAF_RADIUS_MM * carried[i] ** (1 / 3)))
        for i in range(1, len(nodes))
    ]


def _nodule(thorax: Thorax, vessels: tuple[Vessel, ...], others: list[Nodule], wanted: tuple[int, float]) -> Nodule:
    """Find a place in the parenchyma: clear of the lung's surface, of larger vessels and of the other nodules."""
    number, diameter = wanted
    rng = np.random.default_rng([thorax.seed, 3, number])
    sides: tuple[Side, Side] = ("right", "left")
    side = sides[(thorax.seed + number) % 2]
    radius = diameter / 2
    for point in _inside(thorax, side, rng, radius + 6.0):
        clear = all(capsule(point, v.start_mm, v.end_mm, v.radius_mm) < -(radius + 1.5) for v in vessels if v.radius_mm > 1.1)
        apart = all(np.linalg.norm(point - other.centre_mm) > radius + other.diameter_mm / 2 + 12.0 for other in others)
        if clear and apart:
            return Nodule(centre_mm=_triple(point), diameter_mm=diameter, side=side, hu=float(rng.uniform(25, 50)))
    raise ValueError(f"no room in the {side} lung for a nodule of {diameter:g} mm")


def _triple(point: Floats) -> Triple:
    return float(point[0]), float(point[1]), float(point[2])
