"""What is within the lungs of a generated thorax: density, fissures, arteries, veins, bronchi, and disease that is no nodule."""

from __future__ import annotations

import numpy as np

from models.starter.chest_ct.body import Body, Depths
from models.starter.chest_ct.shapes import Array, Point, Tube, smooth_noise, stamp_tubes
from models.starter.chest_ct.vessels import Bud, grow, twigs

BRONCHUS_FROM_MM = 1.1


def parenchyma(body: Body, inside: Array, depths: Depths) -> Array:
    """Give HU within the lungs, before nodules."""
    rng, frame = body.rng, body.frame
    texture = np.full(frame.shape, body.between(-900, -710), np.float32)
    texture += body.y * np.float32(body.between(-0.1, 0.7))
    texture += smooth_noise(rng, frame, body.between(25, 80)) * np.float32(body.between(0, 30))
    texture += smooth_noise(rng, frame, body.between(4, 12)) * np.float32(body.between(0, 30))
    if body.chance(0.25):
        texture -= 80 * (smooth_noise(rng, frame, body.between(8, 25)) > 1.3)
    if body.chance(0.25):
        texture += np.clip(8 - inside, 0, 8) * (body.y > body.cavity[1] * 0.4) * np.float32(body.between(5, 35))
    if body.chance(0.12):
        haze = np.clip(smooth_noise(rng, frame, body.between(25, 70)) - body.between(0.3, 1.5), 0, 1)
        texture += haze * np.float32(body.between(60, 300))
    np.clip(texture, -990, -300, out=texture)
    _fissures(body, texture)
    _bands(body, texture, inside)
    _consolidation(body, texture)
    if body.chance(0.93):
        _trees(body, texture, depths)
    return texture


def _fissures(body: Body, texture: Array) -> None:
    """Draw a thin sheet or two across each lung, bent, and note where they lie."""
    if not body.chance(0.85):
        return
    body.fissures = np.zeros(body.frame.shape, bool)
    bend = smooth_noise(body.rng, body.frame, 70) * np.float32(body.between(0, 4))
    for side in (body.x > 0, body.x <= 0):
        tilt, level, dense = body.between(0.5, 1.5), body.between(-25, 25), np.float32(body.between(40, 350))
        sheet = np.abs(body.z * np.float32(0.7) - body.y * np.float32(tilt) + bend + np.float32(level))
        texture += dense * np.clip(1.2 - sheet, 0, 1) * side
        body.fissures |= (sheet < 1) & side
    if body.chance(0.6):
        sheet = np.abs(body.z + bend + np.float32(body.between(-10, 40)))
        dense, before = np.float32(body.between(40, 250)), (body.x < 0) & (body.y < body.between(-10, 20))
        texture += dense * np.clip(1.2 - sheet, 0, 1) * before
        body.fissures |= (sheet < 1) & before


def _bands(body: Body, texture: Array, inside: Array) -> None:
    """Draw scars and plates of collapsed lung: sheets of 1-4 mm that end after some centimetres."""
    count = int(body.rng.integers(0, 4)) if body.chance(0.5) else 0
    tall, deep, wide = body.cavity
    for _ in range(count):
        middle = body.rng.uniform(-0.8, 0.8, 3) * np.array([wide, deep, tall])
        normal = body.rng.standard_normal(3) * np.array([0.5, 0.5, 1.0])
        normal /= np.linalg.norm(normal)
        off = [axis - np.float32(m) for axis, m in zip((body.x, body.y, body.z), middle, strict=True)]
        along = off[0] * np.float32(normal[0]) + off[1] * np.float32(normal[1]) + off[2] * np.float32(normal[2])
        size, half = body.between(8, 40), body.between(0.5, 2.0)
        reach = np.clip((size - np.sqrt(off[0] ** 2 + off[1] ** 2 + off[2] ** 2)) / 4, 0, 1)
        share = np.clip((half - np.abs(along)) / body.frame.edge_mm + 0.5, 0, 1) * reach * (inside > -1) * np.float32(body.between(0.4, 1))
        texture += (np.float32(body.between(-300, 30)) - texture) * share


def _consolidation(body: Body, texture: Array) -> None:
    """Fill patches of lung with dense, airless tissue that has a hazy rim; it still is lung."""
    if not body.chance(0.12):
        return
    patch = smooth_noise(body.rng, body.frame, body.between(40, 90)) + 0.3 * smooth_noise(body.rng, body.frame, 12)
    cut = body.between(1.5, 2.3)
    share = np.clip((patch - cut) / body.between(0.1, 0.5), 0, 1) * np.float32(body.between(0.5, 1))
    texture += (np.float32(body.between(-150, 60)) - texture) * share


def _trees(body: Body, texture: Array, depths: Depths) -> None:
    """Draw arteries with the bronchi beside them, and veins, each with a contrast of its own."""
    frame = body.frame
    limit = int(body.rng.integers(80, 420))
    arteries, veins, bronchi = [], [], []
    for sign, hilum in zip((1.0, -1.0), body.hilum, strict=True):
        for _ in range(int(body.rng.integers(2, 7))):
            tree = _tree(body, hilum, sign, (depths, limit))
            arteries += tree
            bronchi += _beside(body, tree)
        low = hilum + np.array([0.0, body.between(-25, 0), body.between(-35, -5)])
        for _ in range(int(body.rng.integers(1, 5))):
            veins += _tree(body, low, sign, (depths, limit))
    arteries += _fine(body, arteries, depths)
    veins += _fine(body, veins, depths)
    body.vessels += arteries + veins
    shown = body.chance(0.8)
    for tubes, share in ((arteries, body.between(0.75, 1.0)), (veins, body.between(0.5, 1.0))):
        occupancy = np.zeros(frame.shape, np.float32)
        stamp_tubes(occupancy, frame, tubes)
        texture += (np.float32(body.blood_hu * share) - texture) * occupancy
    if shown:
        wall, lumen = np.zeros(frame.shape, np.float32), np.zeros(frame.shape, np.float32)
        stamp_tubes(wall, frame, bronchi, grow_mm=body.between(0.4, 1.1))
        stamp_tubes(lumen, frame, bronchi)
        texture += (np.maximum(texture, np.float32(body.between(-150, 50))) - texture) * np.maximum(wall - lumen, 0)
        texture += (np.float32(-970) - texture) * lumen


def _tree(body: Body, hilum: Point, sign: float, given: tuple[Depths, int]) -> list[Tube]:
    heading = body.rng.standard_normal(3) * np.array([0.4, 0.7, 1.0]) + np.array([sign * 0.9, 0, 0])
    radius = body.between(2.0, 5.5) if body.chance(0.7) else body.between(5, 9)
    bud = Bud(start=hilum, heading=heading / np.linalg.norm(heading), radius_mm=radius)
    return grow(body.rng, bud, *given)


def _fine(body: Body, trunks: list[Tube], depths: Depths) -> list[Tube]:
    """Draw the many small vessels that fill a lung; patients and scanners show more or fewer."""
    inside = np.argwhere(depths.mm > 3)
    if not trunks or len(inside) < 50:
        return []
    per_litre = body.between(40, 450)
    count = int(per_litre * len(inside) * float(np.prod(depths.frame.spacing_mm)) / 1e6)
    chosen = inside[body.rng.integers(len(inside), size=count)] + body.rng.uniform(-0.5, 0.5, (count, 3))
    low = np.array([axis[0] for axis in depths.frame.axes])
    return twigs(body.rng, trunks, (low + chosen * np.array(depths.frame.spacing_mm))[:, ::-1])


def _beside(body: Body, tree: list[Tube]) -> list[Tube]:
    """Lay a bronchus beside each thick enough piece of an artery."""
    turn = body.rng.standard_normal(3)
    share = body.between(0.6, 1.0)
    found = []
    for tube in tree:
        if tube.start_radius_mm < BRONCHUS_FROM_MM:
            continue
        across = np.cross(tube.end - tube.start, turn)
        off = across / (np.linalg.norm(across) + 1e-6) * (tube.start_radius_mm * (1 + share) + 0.8)
        radii = (tube.start_radius_mm * share, tube.end_radius_mm * share)
        found.append(Tube(start=tube.start + off, end=tube.end + off, start_radius_mm=radii[0], end_radius_mm=radii[1]))
    return found
