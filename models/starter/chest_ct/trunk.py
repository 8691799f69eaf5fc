"""What surrounds the lungs of a generated thorax: skin, fat, muscle, bones, belly, airways, arms and table."""

from __future__ import annotations

import numpy as np

from models.starter.chest_ct.body import Body, ellipsoid
from models.starter.chest_ct.shapes import Array, Tube, across, phase, smooth_noise, stamp_tubes


def trunk(body: Body, inside: Array) -> Array:
    """Give HU of skin, fat, muscle, mediastinum, upper belly, bowel gas, arms and table; lungs still hold soft tissue."""
    tall, deep, wide = body.half
    soft, fat = body.between(25, 75), body.between(-125, -80)
    narrow = 1 - np.clip((body.z - np.float32(tall * body.between(0.75, 1.1))) / 60, 0, body.between(0.2, 0.6))
    power = np.float32(body.between(2, 2.8))
    depth = (np.abs(body.x) / (wide * narrow)) ** power + (np.abs(body.y) / (deep * np.sqrt(narrow))) ** power
    depth = (1 - depth ** (1 / power)) * np.float32(min(deep, wide))
    solid = np.clip(depth / body.frame.edge_mm + 0.5, 0, 1)
    marbled = smooth_noise(body.rng, body.frame, body.between(14, 40)) > body.between(-0.5, 2.0)
    tissue = np.where(marbled, np.float32(fat), np.float32(soft))
    thick = body.between(1, 0.8 * (wide - body.cavity[2]))
    tissue = np.where(depth < thick + 4 * smooth_noise(body.rng, body.frame, 50), np.float32(fat), tissue)
    blood = smooth_noise(body.rng, body.frame, 45) > body.between(0.6, 1.4)
    centre = across(body.x - np.float32(15), body.y + np.float32(10)) < np.float32(body.between(45, 70))
    tissue = np.where(blood & centre, np.float32(body.blood_hu), tissue)
    belly = (body.z < -body.cavity[0] * 0.4) & (depth > thick + 8)
    tissue = np.where(belly & (body.x < body.between(-10, 60)), np.float32(body.between(40, 130)), tissue)
    if body.chance(0.7):
        gas = ellipsoid(body, (body.between(25, 85), -deep * body.between(0, 0.5), -tall * 1.0), tuple(body.rng.uniform(12, 48, 3)))
        bowel = smooth_noise(body.rng, body.frame, body.between(30, 60)) - body.between(1.2, 2.2)
        below = np.minimum(body.z < -body.cavity[0] * 0.6, depth > thick + 6)
        gas = np.where(below, np.maximum(gas, bowel * 10), -9)
        tissue += (np.float32(body.between(-1000, -880)) - tissue) * np.clip(gas / 2 + 0.5, 0, 1)
    hu = np.full(body.frame.shape, -1000, np.float32)
    _surroundings(body, hu)
    tissue = tissue + smooth_noise(body.rng, body.frame, 12) * np.float32(body.between(0, 12))
    drawn: Array = (hu + (tissue - hu) * np.maximum(solid, inside > 0)).astype(np.float32)
    for place, filling in body.airless:
        drawn += (np.float32(filling) - drawn) * np.clip(place / body.frame.edge_mm + 0.5, 0, 1).astype(np.float32)
    return drawn


def _surroundings(body: Body, hu: Array) -> None:
    """Draw arms and table into the air around the trunk."""
    _, deep, wide = body.half
    frame = body.frame
    if body.chance(0.3):
        for sign in (1.0, -1.0):
            radius, y = body.between(25, 50), body.between(-10, 40)
            arm = across(body.x - np.float32(sign * (wide + radius + body.between(-4, 10))), body.y - np.float32(y))
            hu[arm < radius] = body.between(-100, -70)
            hu[arm < radius * 0.75] = body.between(30, 70)
            hu[arm < body.between(8, 13)] = body.between(300, 1100)
    if body.chance(0.3):
        cushion = (smooth_noise(body.rng, frame, 60) > body.between(0.8, 1.8)) & (hu < -990)
        hu[cushion] = body.between(-980, -820)
    if body.chance(0.85):
        behind = frame.y_mm - deep - body.between(-2, 14)
        bent = behind[:, None] + (frame.x_mm[None, :] ** 2) * body.between(0, 2.2e-3)
        thick = body.between(15, 60)
        hu[:, (bent > 0) & (bent < thick)] = body.between(-1000, -750)
        hu[:, (np.abs(bent) < body.between(1.2, 3)) | (np.abs(bent - thick) < body.between(1.2, 3))] = body.between(-600, 150)


def bones(body: Body, hu: Array, inside: Array) -> None:
    """Draw ribs as slanted rings outside the lungs, vertebrae with discs and a canal, a sternum and shoulder blades."""
    _, deep, wide = body.cavity
    marrow, shell = body.between(80, 300), body.between(250, 1100)
    if body.chance(0.9):
        pitch, slant = body.between(20, 34), body.between(0.2, 0.7)
        ring = (np.abs(body.x) / np.float32(wide * 1.04)) ** 2 + (body.y / np.float32(deep * 1.04)) ** 2
        off = (np.sqrt(ring) - 1) * np.float32(min(wide, deep)) - np.float32(body.between(2, 8))
        along = phase(body.z + np.float32(slant) * body.y, pitch) - np.float32(pitch / 2)
        rib = across(off * np.float32(1.3), along * np.float32(body.between(0.5, 0.9))) - np.float32(body.between(2.5, 5))
        rib = np.where(np.abs(body.x) < 20, 9, rib)
        hu[rib < 0] = shell
        hu[rib < -2] = marrow
        hu[(rib < 0) & (body.y < -0.5 * deep)] = body.between(60, 400)
    axis = across(body.x * np.float32(0.85), body.y - np.float32(body.spine_y + 4))
    pitch, radius = body.between(20, 34), body.between(15, 22)
    disc = np.abs(phase(body.z, pitch) - np.float32(pitch / 2)) < np.float32(body.between(1.5, 4))
    vertebra = (axis < radius) & (inside < 0)
    hu[vertebra] = marrow
    hu[vertebra & ((axis > radius - 2) | (np.abs(phase(body.z, pitch) - pitch / 2) < 5))] = shell
    hu[vertebra & disc] = body.between(50, 120)
    process = (np.abs(body.x) < 4) & (np.abs(body.y - np.float32(body.spine_y + 38)) < 14) & ~disc
    hu[process & (hu > -300)] = shell
    sternum = (np.abs(body.x) < body.between(12, 20)) & (np.abs(body.y + np.float32(deep + 7)) < 5) & (inside < 0) & (hu > -300)
    hu[sternum] = marrow
    if body.chance(0.7):
        blade = np.abs(np.abs(body.x) * np.float32(0.5) + body.y - np.float32(deep + wide * 0.45 + 8)) < 2.5
        hu[blade & (np.abs(body.x) > 50) & (np.abs(body.x) < 130) & (body.z > 0) & (inside < 0) & (hu > -300)] = shell


def airways(body: Body, hu: Array) -> Array:
    """Draw trachea and main bronchi into the mediastinum and give their occupancy: air that is not lung."""
    occupancy = np.zeros(body.frame.shape, np.float32)
    if not body.chance(0.95) or len(body.hilum) < 2:
        return occupancy
    tall = body.cavity[0]
    fork = np.array([body.between(-8, 8), body.between(-5, 20), float(np.mean([h[2] for h in body.hilum])) + body.between(5, 35)])
    wide, narrow = body.between(6, 11), body.between(4.5, 8)
    start = fork + np.array([body.between(-8, 8), body.between(-25, 0), tall * 2])
    tubes = [Tube(start=start, end=fork, start_radius_mm=wide, end_radius_mm=wide)]
    tubes += [Tube(start=fork, end=h, start_radius_mm=narrow, end_radius_mm=narrow * 0.8) for h in body.hilum]
    stamp_tubes(occupancy, body.frame, tubes, grow_mm=1.5)
    hu += (np.float32(40) - hu) * occupancy
    lumen = np.zeros_like(occupancy)
    stamp_tubes(lumen, body.frame, tubes)
    hu += (np.float32(body.between(-1000, -930)) - hu) * lumen
    return occupancy
