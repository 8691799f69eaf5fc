"""Generated thoraxes with known lungs and nodules: what the chest CT starter is trained and tried on.

No patient's data enters. Everything is drawn at random from the seed: build, lung shapes and densities, vessel trees,
contrast medium, bones, bowel gas, arms, table, position, and what scanner.py adds. Left is at +x (LPS), where the heart
and the stomach lie.
Drawing the same seed on the same spacing twice gives the same bytes.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from models.starter.chest_ct.scanner import acquire
from models.starter.chest_ct.shapes import (
    Array,
    Frame,
    Lesion,
    Point,
    Tube,
    across,
    grow_tree,
    phase,
    smooth_noise,
    stamp_lesion,
    stamp_tubes,
)
from models.vocabulary import Grid, Triple, Volume

LEFT, RIGHT = 1, 2
AXES = ((0.0, 0.0, 1.0), (0.0, 1.0, 0.0), (1.0, 0.0, 0.0))


@dataclass(frozen=True, slots=True, kw_only=True)
class Nodule:
    """One drawn nodule. centre_mm is LPS (x, y, z); diameter_mm that of the sphere of its volume."""

    number: int
    centre_mm: Triple
    diameter_mm: float
    kind: str
    site: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Scan:
    """A generated scan and its truth: `organs` 0, LEFT or RIGHT lung (nodules inside count as lung), `instances` 0 or a nodule's number."""

    volume: Volume
    organs: NDArray[np.uint8]
    instances: NDArray[np.uint16]
    nodules: tuple[Nodule, ...] = ()


@dataclass(slots=True, kw_only=True)
class _Body:
    """A thorax being drawn: the dice, the sampling points, the bent coordinates and what is known so far."""

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

    def chance(self, share: float) -> bool:
        """Throw a coin that falls right in that share of throws."""
        return bool(self.rng.random() < share)

    def between(self, low: float, high: float) -> float:
        """Draw an even number."""
        return float(self.rng.uniform(low, high))


def draw(seed: int, spacing_mm: Triple = (2.0, 2.0, 2.0), *, nodules: tuple[int, int] = (0, 6), belly: float = 0.0) -> Scan:
    """Draw one thorax; `nodules` bounds how many, both ends included; `belly` is the chance that the scan lies below the lungs."""
    rng = np.random.default_rng([seed, 1])
    body = _begin(rng, spacing_mm, belly)
    inside = _plain_lungs(body) if body.chance(0.15) else _lungs(body)
    hu = _trunk(body, inside)
    _bones(body, hu, inside)
    airway = _airways(body, hu)
    lung = np.clip(inside / body.frame.edge_mm + 0.5, 0, 1) * (1 - airway)
    texture = _parenchyma(body, inside)
    instances, found = _nodules(body, texture, inside, int(rng.integers(nodules[0], nodules[1] + 1)))
    hu += (texture - hu) * lung
    truth = (lung > 0.5).astype(np.uint8) * np.where(body.x > 0, LEFT, RIGHT).astype(np.uint8)
    seen = acquire(rng, hu, body.frame.spacing_mm)
    return Scan(volume=_volume(seen, body.frame), organs=truth, instances=instances, nodules=found)


def draw_other(seed: int, spacing_mm: Triple = (2.0, 2.0, 2.0)) -> Scan:
    """Draw something without lungs: a head, a gas-filled belly or a test object; the model must mark nothing."""
    rng = np.random.default_rng([seed, 2])
    frame = _frame(spacing_mm, (float(rng.uniform(90, 150)), float(rng.uniform(100, 130)), float(rng.uniform(90, 170))))
    z, y, x = frame.z_mm[:, None, None], frame.y_mm[None, :, None], frame.x_mm[None, None, :]
    warp = smooth_noise(rng, frame, 60) * 0.06
    radius = np.sqrt((x / rng.uniform(70, 150)) ** 2 + (y / rng.uniform(80, 120)) ** 2 + (z / rng.uniform(90, 400)) ** 2) + warp
    hu = np.full(frame.shape, -1000, np.float32)
    hu[radius < 1] = rng.uniform(-110, 60)
    hu[radius < rng.uniform(0.8, 0.95)] = rng.uniform(0, 60)
    if rng.random() < 0.6:
        hu[(radius < 0.95) & (radius > rng.uniform(0.8, 0.9))] = rng.uniform(500, 1500)
    gas = (smooth_noise(rng, frame, float(rng.uniform(20, 60))) > rng.uniform(0.8, 1.8)) & (radius < 0.8)
    hu[gas] = rng.uniform(-1000, -900)
    hu += smooth_noise(rng, frame, 15) * rng.uniform(0, 15)
    seen = acquire(rng, hu, frame.spacing_mm)
    return Scan(volume=_volume(seen, frame), organs=np.zeros(frame.shape, np.uint8), instances=np.zeros(frame.shape, np.uint16))


def _frame(spacing_mm: Triple, half_mm: Triple, shift_mm: Triple = (0.0, 0.0, 0.0)) -> Frame:
    axes = [np.arange(-h, h, s) + d for h, s, d in zip(half_mm, spacing_mm, shift_mm, strict=True)]
    return Frame(z_mm=axes[0], y_mm=axes[1], x_mm=axes[2], spacing_mm=spacing_mm)


def _volume(hu: NDArray[np.int16], frame: Frame) -> Volume:
    origin = (float(frame.x_mm[0]), float(frame.y_mm[0]), float(frame.z_mm[0]))
    grid = Grid(shape=frame.shape, origin_mm=origin, axes=AXES, spacing_mm=frame.spacing_mm)
    return Volume(array=hu, grid=grid, unit="HU", modality="CT")


def _begin(rng: np.random.Generator, spacing_mm: Triple, belly: float) -> _Body:
    """Draw build, field of view and position, and bend the coordinates; `belly` is the chance of a scan below the lungs."""
    wide = float(rng.uniform(135, 200))
    deep = wide * float(rng.uniform(0.6, 0.8))
    tall = float(rng.uniform(190, 300)) / 2
    wall = float(rng.uniform(18, 50))
    below, above = float(rng.uniform(-20, 90)), float(rng.uniform(-30, 50))
    if rng.random() < belly:
        below, above = float(rng.uniform(80, 220)), -2 * tall * float(rng.uniform(0.8, 1.05))
    reach = wide + float(rng.uniform(-wall * 0.6, 70))
    half = ((2 * tall + below + above) / 2, deep + float(rng.uniform(4, 60)), reach)
    frame = _frame(spacing_mm, half, ((above - below) / 2, float(rng.uniform(0, 20)), float(rng.uniform(-15, 15))))
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
    return _Body(rng=rng, frame=frame, half=(tall, deep, wide), cavity=cavity, spine_y=spine, x=x, y=y, z=z, blood_hu=blood)


def _ellipsoid(body: _Body, centre: Triple, radii: Triple) -> Array:
    """Give about how many mm inside an ellipsoid (centre and radii x, y, z) each point lies; negative outside."""
    total = ((body.x - np.float32(centre[0])) / np.float32(radii[0])) ** 2 + ((body.y - np.float32(centre[1])) / np.float32(radii[1])) ** 2
    total += ((body.z - np.float32(centre[2])) / np.float32(radii[2])) ** 2
    depth: Array = (1 - np.sqrt(total)) * np.float32(min(radii))
    return depth


def _plain_lungs(body: _Body) -> Array:
    """Give lungs as a test object's maker draws them: two ellipsoids."""
    tall, deep, wide = body.cavity
    inside = np.full(body.frame.shape, -99, np.float32)
    for sign in (1.0, -1.0):
        radius = wide * body.between(0.33, 0.45)
        centre = (sign * (radius + body.between(6, 0.14 * wide)), body.between(-15, 15), body.between(-20, 20))
        radii = (radius, deep * body.between(0.6, 0.85), tall * body.between(0.7, 1.0))
        np.maximum(inside, _ellipsoid(body, centre, radii), out=inside)
        body.hilum.append(np.array([sign * (centre[0] * sign - radius * 0.7), centre[1], centre[2]]))
    return inside


def _lungs(body: _Body) -> Array:
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
    np.minimum(inside, -_ellipsoid(body, heart, (body.between(38, 66), body.between(34, 55), body.between(40, 62))), out=inside)
    spine = across(body.x, body.y - np.float32(body.spine_y)) - np.float32(body.between(22, 30))
    aorta = across(body.x - np.float32(body.between(14, 30)), body.y - np.float32(body.spine_y - body.between(12, 28)))
    np.minimum(inside, np.minimum(spine, aorta - np.float32(body.between(10, 17))), out=inside)
    for sign in (1.0, -1.0):
        point = np.array([sign * body.between(28, 42), body.between(-10, 18), tall * body.between(-0.2, 0.25)])
        body.hilum.append(point)
        hole = body.between(6, 15)
        np.minimum(inside, -_ellipsoid(body, (point[0], point[1], point[2]), (hole, hole, hole * 1.6)), out=inside)
        dome = 1 - ((body.x - np.float32(sign * wide * 0.5)) / np.float32(wide * 0.6)) ** 2
        dome -= ((body.y + np.float32(body.between(0, 20))) / np.float32(deep * 1.1)) ** 2
        floor = -tall + dome * np.float32(body.between(25, 75)) + np.float32(body.between(-10, 15))
        np.minimum(inside, np.where(on_left == (sign > 0), (body.z - floor) * np.float32(0.75), 99), out=inside)
    return inside


def _trunk(body: _Body, inside: Array) -> Array:
    """Give HU of skin, fat, muscle, mediastinum, upper belly, bowel gas, arms and table; lungs still hold soft tissue."""
    tall, deep, wide = body.half
    soft, fat = body.between(25, 75), body.between(-125, -80)
    narrow = 1 - np.clip((body.z - np.float32(tall * body.between(0.75, 1.1))) / 60, 0, body.between(0.2, 0.6))
    power = np.float32(body.between(2, 2.8))
    depth = (np.abs(body.x) / (wide * narrow)) ** power + (np.abs(body.y) / (deep * np.sqrt(narrow))) ** power
    depth = (1 - depth ** (1 / power)) * np.float32(min(deep, wide))
    trunk = np.clip(depth / body.frame.edge_mm + 0.5, 0, 1)
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
        gas = _ellipsoid(body, (body.between(25, 85), -deep * body.between(0, 0.5), -tall * 1.0), tuple(body.rng.uniform(12, 48, 3)))
        bowel = smooth_noise(body.rng, body.frame, body.between(30, 60)) - body.between(1.2, 2.2)
        below = np.minimum(body.z < -body.cavity[0] * 0.6, depth > thick + 6)
        gas = np.where(below, np.maximum(gas, bowel * 10), -9)
        tissue += (np.float32(body.between(-1000, -880)) - tissue) * np.clip(gas / 2 + 0.5, 0, 1)
    hu = np.full(body.frame.shape, -1000, np.float32)
    _surroundings(body, hu)
    drawn: Array = hu + (tissue + smooth_noise(body.rng, body.frame, 12) * np.float32(body.between(0, 12)) - hu) * np.maximum(
        trunk, inside > 0
    )
    return drawn


def _surroundings(body: _Body, hu: Array) -> None:
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


def _bones(body: _Body, hu: Array, inside: Array) -> None:
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


def _airways(body: _Body, hu: Array) -> Array:
    """Draw trachea and main bronchi into the mediastinum and give their occupancy: air that is not lung."""
    occupancy = np.zeros(body.frame.shape, np.float32)
    if not body.chance(0.9) or len(body.hilum) < 2:
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


def _parenchyma(body: _Body, inside: Array) -> Array:
    """Give HU within the lungs: density with its gravity gradient, mottling, fissures, vessel trees and bronchi."""
    rng, frame = body.rng, body.frame
    texture = np.full(frame.shape, body.between(-900, -710), np.float32)
    texture += body.y * np.float32(body.between(-0.1, 0.7))
    texture += smooth_noise(rng, frame, body.between(25, 80)) * np.float32(body.between(0, 30))
    texture += smooth_noise(rng, frame, body.between(4, 12)) * np.float32(body.between(0, 30))
    if body.chance(0.25):
        texture -= 80 * (smooth_noise(rng, frame, body.between(8, 25)) > 1.3)
    if body.chance(0.25):
        texture += np.clip(8 - inside, 0, 8) * (body.y > body.cavity[1] * 0.4) * np.float32(body.between(5, 35))
    np.clip(texture, -990, -300, out=texture)
    if body.chance(0.8):
        for side, tilt in ((body.x > 0, body.between(0.5, 1.5)), (body.x <= 0, body.between(0.5, 1.5))):
            sheet = np.abs(body.z * np.float32(0.7) - body.y * np.float32(tilt) + np.float32(body.between(-25, 25)))
            texture += np.float32(body.between(40, 250)) * np.clip(1.2 - sheet, 0, 1) * side
    occupancy = np.zeros(frame.shape, np.float32)
    lumen = np.zeros(frame.shape, np.float32)
    if body.chance(0.93):
        for sign, hilum in zip((1.0, -1.0), body.hilum, strict=True):
            for _ in range(int(rng.integers(3, 10))):
                _tree(body, inside, hilum, sign)
        stamp_tubes(occupancy, frame, body.vessels)
        bronchi = [tube for tube in body.vessels if tube.start_radius_mm > 1.6]
        moved = [
            Tube(start=t.start + 4, end=t.end + 4, start_radius_mm=t.start_radius_mm * 0.8, end_radius_mm=t.end_radius_mm * 0.8)
            for t in bronchi
        ]
        if body.chance(0.7):
            stamp_tubes(occupancy, frame, moved, grow_mm=1.0)
            stamp_tubes(lumen, frame, moved)
    texture += (np.float32(body.blood_hu * body.between(0.7, 1.0)) - texture) * occupancy
    return texture + (np.float32(-960) - texture) * lumen


def _tree(body: _Body, inside: Array, hilum: Point, sign: float) -> None:
    heading = body.rng.standard_normal(3) * np.array([0.4, 0.7, 1.0]) + np.array([sign * 0.9, 0, 0])
    radius = body.between(2.2, 6.5) if body.chance(0.75) else body.between(6, 10)
    end = hilum + heading / np.linalg.norm(heading) * body.between(12, 30)
    root = Tube(start=hilum, end=end, start_radius_mm=radius, end_radius_mm=radius * 0.9)
    body.vessels.extend(grow_tree(body.rng, root, inside, body.frame, limit=int(body.rng.integers(50, 240))))


def _site(body: _Body, inside: Array, radius: float, lung: NDArray[np.int64]) -> tuple[Point, str]:
    """Choose where a nodule sits: on a vessel, on the pleura, or anywhere in the lungs."""
    frame = body.frame
    throw = body.rng.random()
    if throw < 0.25 and body.vessels:
        for _ in range(20):
            tube = body.vessels[int(body.rng.integers(len(body.vessels)))]
            at = frame.index(tube.end)
            if at is not None and inside[at] > 1 and tube.end_radius_mm < 0.7 * radius:
                return tube.end, "vessel"
    wanted = (-0.3 * radius, 0.7 * radius, "pleura") if throw < 0.5 else (radius, 1e9, "free")
    at = (0, 0, 0)
    for _ in range(60):
        choice = lung[int(body.rng.integers(len(lung)))]
        at = (int(choice[0]), int(choice[1]), int(choice[2]))
        if wanted[0] < inside[at] < wanted[1]:
            break
    return np.array([frame.x_mm[at[2]], frame.y_mm[at[1]], frame.z_mm[at[0]]]), wanted[2]


def _nodules(body: _Body, texture: Array, inside: Array, count: int) -> tuple[NDArray[np.uint16], tuple[Nodule, ...]]:
    """Draw nodules into the lungs' texture; give their masks and what they are. One that falls on another is left out."""
    instances = np.zeros(body.frame.shape, np.uint16)
    found: list[Nodule] = []
    lung = np.argwhere(inside > -1)
    voxel = float(np.prod(body.frame.spacing_mm))
    for _ in range(count if len(lung) > 1000 else 0):
        radius = float(np.exp(body.rng.uniform(np.log(2.2), np.log(15))))
        centre, site = _site(body, inside, radius, lung)
        kind = str(body.rng.choice(["solid", "part-solid", "ground-glass"], p=[0.7, 0.18, 0.12]))
        rough = body.between(0.02, 0.25) if body.chance(0.3) else 0.0
        core = {"solid": 1.0, "part-solid": body.between(0.35, 0.75), "ground-glass": 0.0}[kind]
        look = Lesion(
            centre=centre, radius_mm=radius, lumps=body.between(0, 0.18), spicules=rough, edge_mm=body.between(0.5, 2.5), core=core
        )
        box, whole, solid = stamp_lesion(body.rng, body.frame, look)
        whole = whole * (inside[box] > -0.5)
        mask = whole > 0.5
        if mask.sum() < 2 or (instances[box][mask] > 0).any() or mask.sum() * voxel < 15:
            continue
        haze = max(body.between(-680, -380), float(np.median(texture[box])) + 150)
        dense = body.between(-30, 120) if body.chance(0.85) else body.between(150, 800)
        level = haze + (dense - haze) * (solid if kind != "solid" else 1.0)
        texture[box] = np.maximum(texture[box], texture[box] + (level - texture[box]) * whole)
        instances[box][mask] = len(found) + 1
        size = (6 * float(whole.sum()) * voxel / np.pi) ** (1 / 3)
        middle = (float(centre[0]), float(centre[1]), float(centre[2]))
        found.append(Nodule(number=len(found) + 1, centre_mm=middle, diameter_mm=size, kind=kind, site=site))
    return instances, tuple(found)
