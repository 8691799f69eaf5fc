"""The body of a generated thorax: its build and position, the bent coordinates, and the room of the lungs."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from models.starter.chest_ct.shapes import Array, Frame, Point, Tube, across, smooth_noise
from models.vocabulary import Triple


@dataclass(frozen=True, slots=True, kw_only=True)
class Depths:
    """How many mm inside the lungs every point of a coarse frame over the whole body lies; negative outside."""

    frame: Frame
    mm: Array

    def at(self, point: Point) -> float:
        """Look one point up; -99 outside the frame."""
        index = self.frame.index(point)
        return -99.0 if index is None else float(self.mm[index])


@dataclass(frozen=True, slots=True, kw_only=True)
class Mass:
    """A tumour too large for a nodule: a ball about its centre (LPS mm)."""

    centre_mm: Triple
    radius_mm: float


@dataclass(slots=True, kw_only=True)
class Body:
    """A thorax being drawn: the dice, the sampling points, the bent coordinates and what is known so far.

    airless   what takes the lungs' room without being lung, fluid or collapsed lung: mm inside it, and its HU
    fissures  which points lie on a fissure, once the lungs' texture is drawn
    """

    rng: np.random.Generator
    frame: Frame
    half: Triple
    cavity: Triple
    spine_y: float
    x: Array
    y: Array
    z: Array
    blood_hu: float
    hilum: list[Point] = field(default_factory=list)
    vessels: list[Tube] = field(default_factory=list)
    airless: list[tuple[Array, float]] = field(default_factory=list)
    masses: list[Mass] = field(default_factory=list)
    fissures: NDArray[np.bool_] | None = None

    def chance(self, share: float) -> bool:
        """Throw a coin that falls right in that share of throws."""
        return bool(self.rng.random() < share)

    def between(self, low: float, high: float) -> float:
        """Draw an even number."""
        return float(self.rng.uniform(low, high))


def frame_of(spacing_mm: Triple, half_mm: Triple, shift_mm: Triple = (0.0, 0.0, 0.0)) -> Frame:
    """Give the sampling points of a box about `shift_mm`."""
    axes = [np.arange(-h, h, s) + d for h, s, d in zip(half_mm, spacing_mm, shift_mm, strict=True)]
    span = [(d - h, d + h) for h, d in zip(half_mm, shift_mm, strict=True)]
    return Frame(z_mm=axes[0], y_mm=axes[1], x_mm=axes[2], spacing_mm=spacing_mm, span=(span[0], span[1], span[2]))


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """What of a body is sampled: the spacing (z, y, x), and how large a box of the lungs, or the whole scan.

    belly  the chance that the scan lies below the lungs
    """

    spacing_mm: Triple
    box_mm: Triple | None = None
    belly: float = 0.0


def begin(rng: np.random.Generator, view: View, dice: np.random.Generator) -> Body:
    """Draw build, field of view and position, and bend the coordinates; `dice` choose the box of the lungs."""
    wide = float(rng.uniform(135, 200))
    deep = wide * float(rng.uniform(0.6, 0.8))
    tall = float(rng.uniform(190, 300)) / 2
    wall = float(rng.uniform(18, 50))
    below, above = float(rng.uniform(-20, 90)), float(rng.uniform(-30, 50))
    if rng.random() < view.belly:
        below, above = float(rng.uniform(80, 220)), -2 * tall * float(rng.uniform(0.8, 1.05))
    reach = wide + float(rng.uniform(-wall * 0.6, 70)) if rng.random() < 0.88 else wide * float(rng.uniform(0.6, 0.95))
    half = ((2 * tall + below + above) / 2, deep + float(rng.uniform(-20, 60)), reach)
    frame = frame_of(view.spacing_mm, half, ((above - below) / 2, float(rng.uniform(0, 20)), float(rng.uniform(-15, 15))))
    if view.box_mm is not None:
        side = dice.choice([-1.0, 1.0]) * dice.uniform(0.2, 0.75) * (wide - wall)
        frame = frame.part(np.array([side, dice.uniform(-0.5, 0.5) * deep, dice.uniform(-0.7, 0.8) * tall]), view.box_mm)
    turn = float(rng.normal(0, 0.08))
    x0, y0 = frame.x_mm[None, None, :], frame.y_mm[None, :, None]
    bend = 0.0 if rng.random() < 0.15 else float(rng.uniform(2, 7))
    x, y, z = (smooth_noise(rng, frame, float(rng.uniform(50, 110))) * np.float32(bend * f) for f in (1.0, 1.0, 1.3))
    x += (np.cos(turn) * x0 - np.sin(turn) * y0).astype(np.float32)
    y += (np.sin(turn) * x0 + np.cos(turn) * y0).astype(np.float32)
    z += frame.z_mm[:, None, None].astype(np.float32)
    cavity = (tall, deep - wall * float(rng.uniform(0.6, 1.0)), wide - wall)
    blood = float(rng.uniform(100, 420) if rng.random() < 0.5 else rng.uniform(30, 60))
    spine = cavity[1] * float(rng.uniform(0.72, 1.0))
    return Body(rng=rng, frame=frame, half=(tall, deep, wide), cavity=cavity, spine_y=spine, x=x, y=y, z=z, blood_hu=blood)


def ellipsoid(body: Body, centre: Triple, radii: Triple) -> Array:
    """Give about how many mm inside an ellipsoid (centre and radii x, y, z) each point lies; negative outside."""
    total = ((body.x - np.float32(centre[0])) / np.float32(radii[0])) ** 2 + ((body.y - np.float32(centre[1])) / np.float32(radii[1])) ** 2
    total += ((body.z - np.float32(centre[2])) / np.float32(radii[2])) ** 2
    depth: Array = (1 - np.sqrt(total)) * np.float32(min(radii))
    return depth


def plain_lungs(body: Body) -> Array:
    """Give lungs as a test object's maker draws them: two ellipsoids."""
    tall, deep, wide = body.cavity
    inside = np.full(body.frame.shape, -99, np.float32)
    for sign in (1.0, -1.0):
        radius = wide * body.between(0.33, 0.45)
        centre = (sign * (radius + body.between(6, 0.14 * wide)), body.between(-15, 15), body.between(-20, 20))
        radii = (radius, deep * body.between(0.6, 0.85), tall * body.between(0.7, 1.0))
        np.maximum(inside, ellipsoid(body, centre, radii), out=inside)
        body.hilum.append(np.array([sign * (centre[0] * sign - radius * 0.7), centre[1], centre[2]]))
    return inside


def lungs(body: Body) -> Array:
    """Give mm inside the lungs: the rib cage's room less mediastinum, heart, spine, aorta, hila and the domes of the diaphragm."""
    tall, deep, wide = body.cavity
    on_left = body.x > 0
    top = body.between(-0.3, 0.2) * tall
    cap = np.maximum(body.z - np.float32(top), 0) / np.float32(tall - top)
    side = np.where(on_left, body.between(0.88, 1.04), body.between(0.92, 1.06)).astype(np.float32) * np.float32(wide)
    power = body.between(1.9, 2.7)
    room = (np.abs(body.x) / side) ** power + (np.abs(body.y) / np.float32(deep)) ** power + cap ** np.float32(body.between(1.8, 3))
    inside: Array = (1 - room ** np.float32(1 / power)) * np.float32(min(wide, deep))
    middle = body.between(6, 18) + body.between(6, 34) * np.exp(-(((body.y - body.between(-25, 15)) / body.between(25, 50)) ** 2))
    middle += np.clip((body.z - top) / tall, 0, 1) * body.between(0, 14)
    np.minimum(inside, np.abs(body.x - body.between(-6, 6)) - middle.astype(np.float32), out=inside)
    heart = (body.between(5, 40), body.between(-0.5, 0.0) * deep, -tall * body.between(0.3, 0.75))
    np.minimum(inside, -ellipsoid(body, heart, (body.between(38, 66), body.between(34, 55), body.between(40, 62))), out=inside)
    spine = across(body.x, body.y - np.float32(body.spine_y)) - np.float32(body.between(22, 30))
    aorta = across(body.x - np.float32(body.between(14, 30)), body.y - np.float32(body.spine_y - body.between(12, 28)))
    np.minimum(inside, np.minimum(spine, aorta - np.float32(body.between(10, 17))), out=inside)
    for sign in (1.0, -1.0):
        point = np.array([sign * body.between(28, 42), body.between(-10, 18), tall * body.between(-0.2, 0.25)])
        body.hilum.append(point)
        hole = body.between(6, 15)
        np.minimum(inside, -ellipsoid(body, (point[0], point[1], point[2]), (hole, hole, hole * 1.6)), out=inside)
        dome = 1 - ((body.x - np.float32(sign * wide * 0.5)) / np.float32(wide * 0.6)) ** 2
        dome -= ((body.y + np.float32(body.between(0, 20))) / np.float32(deep * 1.1)) ** 2
        floor = -tall + dome * np.float32(body.between(25, 75)) + np.float32(body.between(-10, 15))
        np.minimum(inside, np.where(on_left == (sign > 0), (body.z - floor) * np.float32(0.75), 99), out=inside)
    return inside


def airless(body: Body, inside: Array) -> Array:
    """Take from the lungs what disease fills: a tumour at a hilum, collapsed lung beyond it, fluid behind; give what is left."""
    tall, deep, _ = body.cavity
    ill = body.chance(0.25)
    sign = 1.0 if body.chance(0.5) else -1.0
    point = body.hilum[0 if sign > 0 else 1]
    radius = body.between(14, 38)
    collapse, fluid = body.chance(0.5), body.chance(0.4)
    slope, reach = body.between(0.3, 1.2), body.between(-10, 35)
    rise = body.between(-0.9, -0.1) * tall
    if ill and not fluid:
        away = np.array([sign * body.between(0, radius), body.between(-15, 15), body.between(-25, 30)])
        centre = point + away
        lumps = smooth_noise(body.rng, body.frame, 25) * np.float32(2)
        _fill(body, inside, ellipsoid(body, (centre[0], centre[1], centre[2]), (radius, radius, radius)) + lumps, body.between(20, 70))
        body.masses.append(Mass(centre_mm=(centre[0], centre[1], centre[2]), radius_mm=radius + 6))
        if collapse:
            _fill(body, inside, _collapsed(body, centre, sign, (slope, reach)), body.between(30, 110))
    if ill and fluid:
        level = np.minimum(body.y - np.float32(deep * body.between(0.2, 0.75)), np.float32(rise) - body.z + 0.5 * body.y)
        both = body.chance(0.4)
        level = level + smooth_noise(body.rng, body.frame, 60) * 3
        _fill(body, inside, np.where((body.x * sign > 0) | both, level, -99).astype(np.float32), body.between(0, 35))
    return inside


def _collapsed(body: Body, centre: Point, sign: float, cut: tuple[float, float]) -> Array:
    """Give mm inside the part of a lung that lies without air beyond a tumour: an upper or a lower lobe, seldom the whole lung."""
    wide = body.cavity[2]
    slope, reach = np.float32(cut[0]), np.float32(cut[1])
    throw = body.rng.random()
    above, behind = body.z - np.float32(centre[2]), body.y - np.float32(centre[1])
    part = np.full(body.frame.shape, 99, np.float32)
    if throw >= 0.1:
        upper = np.minimum(above + 5, reach - slope * behind)
        lower = np.minimum(5 - above + behind / 2, reach - 20 + behind / slope)
        part = np.minimum(upper if throw < 0.55 else lower, np.float32(wide * body.between(0.5, 1.0)) - np.abs(body.x))
    return np.where(body.x * sign > 0, part, -99).astype(np.float32)


def _fill(body: Body, inside: Array, depth: Array, hu: float) -> None:
    """Take a part of the lungs' room, in place, and note what fills it."""
    body.airless.append((np.minimum(depth, inside + 1), hu))
    np.minimum(inside, -depth, out=inside)
