"""The anatomy: an adult thorax as formulas in LPS millimetres, x to the patient's left, y to the back, z to the head.

The right lung is the larger one, the heart takes its notch from the left, the right diaphragm stands higher:
what a mirrored image would get wrong. Hounsfield values are those of a plain scan.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from overread.sample.shapes import Floats, Lattice, Triple, capsule, ellipsoid, norm, paint

Side = Literal["left", "right"]
Tube = tuple[Triple, Triple, float]  # start, end, radius
AIR_HU, LUNG_HU, FAT_HU, MUSCLE_HU, BLOOD_HU = -1000.0, -850.0, -100.0, 55.0, 42.0
LUNGS: dict[Side, tuple[Triple, Triple]] = {
    "right": ((-70.0, 5.0, -8.0), (66.0, 92.0, 135.0)),
    "left": ((66.0, 5.0, -10.0), (60.0, 88.0, 128.0)),
}
DOMES: dict[Side, tuple[Triple, float]] = {"right": ((-72.0, -5.0, -165.0), 86.0), "left": ((70.0, -5.0, -178.0), 84.0)}
HILA: dict[Side, Triple] = {"right": (-28.0, 10.0, -5.0), "left": (28.0, 10.0, -2.0)}
HEART: tuple[Triple, Triple] = ((30.0, -28.0, -62.0), (60.0, 54.0, 62.0))
SPINE_Y_MM, SPINE_RADIUS_MM, VERTEBRA_MM = 64.0, 19.0, 26.0
RIB_STEP_MM, RIB_SLOPE = 24.0, 0.35


@dataclass(frozen=True, slots=True, kw_only=True)
class Nodule:
    """A solid sphere in the lung."""

    centre_mm: Triple
    diameter_mm: float
    side: Side
    hu: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Vessel:
    """One straight piece of a lung's vessel tree."""

    start_mm: Triple
    end_mm: Triple
    radius_mm: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Thorax:
    """One patient: where the middle of the chest lies in LPS, how large it is, and what grows in the lungs."""

    seed: int
    centre_mm: Triple
    scale: float
    vessels: tuple[Vessel, ...] = ()
    nodules: tuple[Nodule, ...] = ()

    def local(self, points_mm: Floats) -> Floats:
        """Take LPS to the anatomy's own millimetres (scale 1, middle of the chest at 0)."""
        return np.asarray((np.asarray(points_mm, dtype=float) - np.asarray(self.centre_mm)) / self.scale)

    def lung_depth_mm(self, side: Side, points_mm: Floats) -> Floats:
        """Give how deep points lie inside a lung, vessels and nodules included; negative outside."""
        return lung(side, self.local(points_mm)) * self.scale

    def in_lung(self, side: Side, points_mm: Floats) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
        """Tell which points lie in a lung."""
        return np.asarray(self.lung_depth_mm(side, points_mm) > 0)


def lung(side: Side, points: Floats) -> Floats:
    """Give the depth inside one lung: an ellipsoid less mediastinum, hilum, heart, spine and diaphragm."""
    centre, radii = LUNGS[side]
    outward = points[..., 0] * (1.0 if side == "left" else -1.0)
    dome, dome_radius = DOMES[side]
    parts = [
        ellipsoid(points, centre, radii),
        outward - 15.0,
        -2.0 - ellipsoid(points, *HEART),
        -ellipsoid(points, HILA[side], (21.0, 22.0, 26.0)),
        -(SPINE_RADIUS_MM + 3.0 - np.hypot(points[..., 0], points[..., 1] - SPINE_Y_MM)),
        norm(points - np.asarray(dome, dtype=points.dtype)) - dome_radius,
    ]
    return np.asarray(np.minimum.reduce(parts))


def envelope(points: Floats) -> Floats:
    """Give the depth inside the rib cage; below the lungs' widest level it goes straight down."""
    level = points.copy()
    level[..., 2] = np.maximum(points[..., 2], -30.0)
    middle = ellipsoid(level, (0.0, 2.0, -10.0), (62.0, 78.0, 140.0))
    return np.asarray(np.maximum.reduce([middle, *(ellipsoid(level, *LUNGS[side]) for side in LUNGS)]))


def body(points: Floats) -> Floats:
    """Give the depth below the skin: a superellipse that narrows towards the neck."""
    rise = np.clip((points[..., 2] - 50.0) / 100.0, 0.0, 1.0)
    narrow = 1.0 - 0.25 * rise * rise * (3.0 - 2.0 * rise)
    across, deep = 168.0 * narrow, 122.0 * narrow
    radius = ((np.abs(points[..., 0]) / across) ** 2.5 + (np.abs(points[..., 1] - 5.0) / deep) ** 2.5) ** 0.4
    return np.asarray((1.0 - radius) * 122.0)


def background_hu(thorax: Thorax, points_mm: Floats, soft_mm: float) -> Floats:
    """Give the Hounsfield values of everything but the small structures that `details` adds."""
    # Single precision is 0.1 um here and half the time; truth is asked in double.
    everywhere, soft = thorax.local(points_mm).astype(np.float32), soft_mm / thorax.scale
    depth = body(everywhere)
    inside = depth > -soft
    image = np.full(depth.shape, AIR_HU, dtype=np.float32)
    image[inside] = _tissue_hu(everywhere[inside], depth[inside], soft)
    return image


def _tissue_hu(points: Floats, skin: Floats, soft: float) -> Floats:
    """Lay tissue upon tissue, from the skin inwards; points are (n, 3)."""
    hu = np.full(len(points), AIR_HU, dtype=points.dtype)
    if not len(points):
        return hu
    cage = envelope(points)
    paint(hu, 10.0, skin, soft)
    paint(hu, FAT_HU, skin - 2.0, soft)
    paint(hu, MUSCLE_HU, np.minimum(skin - 12.0, -cage + 30.0), soft)
    paint(hu, FAT_HU + 15.0, cage - 2.0, soft)
    _abdomen(hu, points, cage, soft)
    _cage(hu, points, (skin, cage), soft)
    paint(hu, BLOOD_HU, ellipsoid(points, *HEART), soft)
    for centre in HILA.values():
        paint(hu, BLOOD_HU - 10.0, ellipsoid(points, centre, (17.0, 18.0, 22.0)), soft)
    _great_vessels(hu, points, soft)
    for side in LUNGS:
        paint(hu, LUNG_HU + 0.25 * points[..., 1], lung(side, points), soft)
    _spine(hu, points, skin, soft)
    _airways(hu, points, soft)
    return hu


def _abdomen(hu: Floats, points: Floats, cage: Floats, soft: float) -> None:
    below = np.minimum(cage - 2.0, -95.0 - points[..., 2])
    paint(hu, MUSCLE_HU - 10.0, below, soft)
    for side, (centre, radius) in DOMES.items():
        organ_hu = 60.0 if side == "right" else 48.0
        paint(hu, organ_hu, np.minimum(cage - 1.0, radius + 0.5 - norm(points - np.asarray(centre, dtype=points.dtype))), soft)


def _cage(hu: Floats, points: Floats, depths: tuple[Floats, Floats], soft: float) -> None:
    """Lay ribs (rings that fall towards the front), breastbone and shoulder blades."""
    skin, cage = depths
    fall = points[..., 2] - RIB_SLOPE * (points[..., 1] - 60.0)
    off = (fall + RIB_STEP_MM / 2) % RIB_STEP_MM - RIB_STEP_MM / 2
    rib = (1.0 - np.sqrt(((cage + 7.0) / 4.5) ** 2 + (off / 6.5) ** 2)) * 4.5
    rib = np.minimum(rib, np.minimum(np.abs(points[..., 0]) - 22.0, 112.0 - points[..., 2]))
    paint(hu, 420.0, rib, soft)
    paint(hu, 180.0, rib - 2.0, soft)
    paint(hu, 220.0, ellipsoid(points, (0.0, -92.0, -10.0), (18.0, 6.0, 80.0)), soft)
    for sign in (-1.0, 1.0):
        blade = ellipsoid(points, (sign * 92.0, 96.0, 45.0), (38.0, 5.0, 62.0))
        paint(hu, 300.0, np.minimum.reduce([blade, -cage - 13.0, skin - 14.0]), soft)


def _great_vessels(hu: Floats, points: Floats, soft: float) -> None:
    arch: tuple[Tube, ...] = (
        ((-8.0, -22.0, -15.0), (-4.0, -16.0, 48.0), 14.0),
        ((-4.0, -16.0, 48.0), (20.0, 34.0, 52.0), 13.0),
        ((20.0, 34.0, 52.0), (22.0, 44.0, -160.0), 12.0),
        ((-26.0, -12.0, 95.0), (-26.0, -8.0, -20.0), 9.0),
        ((0.0, -14.0, 8.0), (-30.0, 8.0, 2.0), 10.0),
        ((0.0, -14.0, 8.0), (30.0, 8.0, 4.0), 10.0),
    )
    for piece in arch:
        _tube(hu, points, BLOOD_HU, piece, soft)


def _spine(hu: Floats, points: Floats, skin: Floats, soft: float) -> None:
    across = np.hypot(points[..., 0], points[..., 1] - SPINE_Y_MM)
    disc = np.abs((points[..., 2] + VERTEBRA_MM / 2) % VERTEBRA_MM - VERTEBRA_MM / 2)
    paint(hu, 85.0, SPINE_RADIUS_MM - across, soft)
    paint(hu, 450.0, np.minimum(SPINE_RADIUS_MM - across, disc - 3.0), soft)
    paint(hu, 190.0, np.minimum(SPINE_RADIUS_MM - 2.5 - across, disc - 5.0), soft)
    arch = np.minimum(15.0 - np.hypot(points[..., 0], points[..., 1] - 92.0), disc - 4.0)
    paint(hu, 380.0, arch, soft)
    spinous = np.minimum(3.5 - np.abs(points[..., 0]), 14.0 - np.abs(points[..., 1] - 106.0))
    paint(hu, 380.0, np.minimum.reduce([spinous, disc - 6.0, skin - 8.0]), soft)
    paint(hu, 20.0, 8.5 - np.hypot(points[..., 0], points[..., 1] - 90.0), soft)


def _airways(hu: Floats, points: Floats, soft: float) -> None:
    pieces: tuple[Tube, ...] = (
        ((0.0, 2.0, 190.0), (0.0, 14.0, 28.0), 8.5),
        ((0.0, 14.0, 28.0), (-36.0, 12.0, -2.0), 6.0),
        ((0.0, 14.0, 28.0), (36.0, 12.0, 2.0), 5.5),
    )
    for start, end, radius in pieces:
        _tube(hu, points, MUSCLE_HU, (start, end, radius + 2.0), soft)
    for piece in pieces:
        _tube(hu, points, AIR_HU + 10.0, piece, soft)


def _tube(hu: Floats, points: Floats, value: float, piece: Tube, soft: float) -> None:
    """Paint a capsule where it can reach."""
    start, end, radius = piece
    low, high = np.minimum(start, end) - radius - soft, np.maximum(start, end) + radius + soft
    near = ((points > low.astype(points.dtype)) & (points < high.astype(points.dtype))).all(axis=-1)
    if near.any():
        part = hu[near]
        paint(part, value, capsule(points[near], start, end, radius), soft)
        hu[near] = part


def details(thorax: Thorax, hu: Floats, lattice: Lattice) -> None:
    """Add vessels and nodules in place, each only where it is."""
    soft = lattice.soft_mm
    for vessel in thorax.vessels:
        box = lattice.box(np.asarray([vessel.start_mm, vessel.end_mm]), vessel.radius_mm + soft)
        if box is not None:
            depth = capsule(lattice.points(box), vessel.start_mm, vessel.end_mm, vessel.radius_mm)
            share = min(1.0, np.pi * vessel.radius_mm**2 / soft**2)  # a vessel thinner than a voxel fills a part of it
            part = hu[box]
            part += share * np.clip(0.5 + depth / soft, 0.0, 1.0) * np.maximum(BLOOD_HU - part, 0.0)
    for nodule in thorax.nodules:
        radius = nodule.diameter_mm / 2
        box = lattice.box(np.asarray([nodule.centre_mm]), radius + soft)
        if box is not None:
            distance = norm(lattice.points(box) - np.asarray(nodule.centre_mm))
            paint(hu[box], nodule.hu, radius - distance, soft)
