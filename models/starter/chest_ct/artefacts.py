"""What goes wrong in some generated scans: a patient who breathes or whose heart beats, and metal with its streaks.

All is drawn in the millimetres of the whole scan, so that a part of a scan, or the same scan on another spacing, is disturbed alike.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from scipy import ndimage

from models.starter.chest_ct.body import Body
from models.starter.chest_ct.shapes import Array, Frame, Point, Tube, stamp_tubes

MOVING, WITH_METAL = 0.2, 0.15
METAL_HU = 3500.0
IMPLANTS = ("wires", "pacemaker", "screws", "port", "clips")


def disturb(rng: np.random.Generator, body: Body, hu: Array) -> Array:
    """Give the HU of a scan as they are with movement or metal, which a minority of scans have."""
    if rng.random() < MOVING:
        hu = moved(rng, body, hu)
    if rng.random() < WITH_METAL:
        tubes = implant(rng, body)
        occupancy = np.zeros_like(hu)
        stamp_tubes(occupancy, body.frame, tubes)
        hu = hu + (np.float32(METAL_HU) - hu) * occupancy
        for tube in tubes:
            _streak(rng, body.frame, tube, hu)
    return hu


def moved(rng: np.random.Generator, body: Body, hu: Array) -> Array:
    """Double the outlines of what moves: the lung's base with the breath, or what lies about the heart.

    The fainter of the two images is displaced, so that the truth stays where it was drawn.
    """
    frame = body.frame
    low, high = frame.span[0]
    tall, deep, _ = body.cavity
    share, beats = rng.uniform(0.2, 0.45), rng.random() < 0.4
    weight = np.exp(-(((frame.z_mm - rng.uniform(low, (low + high) / 2)) / rng.uniform(15, 60)) ** 2))[:, None, None]
    away = np.array([rng.uniform(2, 8), rng.uniform(-4, 4), rng.uniform(-1, 1)])
    if beats:
        x, y = frame.x_mm[None, None, :] - rng.uniform(10, 40), frame.y_mm[None, :, None] + rng.uniform(0, 0.4) * deep
        z = frame.z_mm[:, None, None] + tall * rng.uniform(0.2, 0.6)
        weight = np.exp(-(x**2 + y**2 + z**2) / 60.0**2)
        away = rng.uniform(-5, 5, 3)
    ghost = ndimage.shift(hu, away / np.array(frame.spacing_mm), order=1, mode="nearest")
    mixed: Array = hu + (ghost - hu) * (share * weight).astype(np.float32)
    return mixed


def implant(rng: np.random.Generator, body: Body) -> list[Tube]:
    """Give the metal of one kind of IMPLANTS as short straight pieces."""
    tall, deep, wide = body.cavity
    front, side = -deep - rng.uniform(4, 12), rng.choice([-1.0, 1.0])
    kind = str(rng.choice(IMPLANTS))
    top = np.array([side * rng.uniform(0.35, 0.65) * wide, front, tall * rng.uniform(0.5, 0.9)])
    if kind == "wires":
        heights = np.linspace(-0.3, 0.6, int(rng.integers(3, 8))) * tall
        ends = [(np.array([-half, front, z]), np.array([half, front, z])) for z in heights for half in [rng.uniform(6, 12)]]
        return [_tube(start, end, 0.6) for start, end in ends]
    if kind == "screws":
        levels = rng.uniform(-0.6, 0.4) * tall + np.arange(int(rng.integers(2, 5))) * 28.0
        back, radius = body.spine_y, rng.uniform(2, 3.5)
        return [_tube(np.array([s * 20.0, back + 28, z]), np.array([s * 8.0, back - 4, z]), radius) for z in levels for s in (1.0, -1.0)]
    if kind == "clips":
        about = body.hilum[0 if side > 0 else 1] + np.array([side * rng.uniform(0, 50), rng.uniform(-40, 40), rng.uniform(-50, 50)])
        starts = about + rng.normal(0, 8, (int(rng.integers(2, 8)), 3))
        return [_tube(start, start + rng.normal(0, 3, 3), 0.8) for start in starts]
    middle = np.array([rng.uniform(-20, 5), rng.uniform(-0.3, 0.1) * deep, tall * rng.uniform(0.5, 0.8)])
    below = middle + np.array([rng.uniform(-15, 30), rng.uniform(-15, 15), -tall * rng.uniform(0.5, 1.2)])
    radius = rng.uniform(5, 8) if kind == "port" else rng.uniform(6, 9)
    can = [_tube(top, top + np.array([side * 18.0, 0, 0]), radius)] if kind == "pacemaker" else [_tube(top, top + 1.0, radius)]
    return can + _along(top, middle, 1.0) + _along(middle, below, 1.0)


def _tube(start: Point, end: Point, radius_mm: float) -> Tube:
    return Tube(start=start, end=end, start_radius_mm=radius_mm, end_radius_mm=radius_mm)


def _along(start: Point, end: Point, radius_mm: float) -> list[Tube]:
    """Lead a wire from one point to another, in pieces short enough for each to cast its own streaks."""
    places = np.linspace(start, end, max(2, int(np.linalg.norm(end - start) / 12)))
    return [_tube(a, b, radius_mm) for a, b in pairwise(places)]


def _streak(rng: np.random.Generator, frame: Frame, tube: Tube, hu: Array) -> None:
    """Add to the slices about a piece of metal, in place, bright and dark rays that fade with the distance from it."""
    middle = (tube.start + tube.end) / 2
    half = abs(float(tube.end[2] - tube.start[2])) / 2 + tube.start_radius_mm + 1
    rays = [(rng.uniform(0, np.pi), rng.uniform(0.03, 0.15), rng.uniform(-1, 1)) for _ in range(int(rng.integers(3, 8)))]
    strength = rng.uniform(100, 400) * np.sqrt(tube.start_radius_mm)
    slices = np.flatnonzero(np.abs(frame.z_mm - middle[2]) < half)
    if not len(slices):
        return
    x, y = frame.x_mm[None, :] - middle[0], frame.y_mm[:, None] - middle[1]
    angle, away = np.arctan2(y, x), np.hypot(y, x)
    pattern = np.zeros(angle.shape)
    for toward, width, share in rays:
        off = np.abs((angle - toward + np.pi / 2) % np.pi - np.pi / 2)
        pattern += share * np.exp(-((off / width) ** 2))
    pattern *= strength * 25 / (away + 25)
    hu[slices] += pattern.astype(np.float32)
