"""Generated thoraxes with known lungs and nodules: what the chest CT starter is trained and tried on.

No patient's data enters. Everything is drawn at random from the seed: build, lung shapes and densities, vessel trees,
contrast medium, bones, bowel gas, arms, table, position, disease, and what artefacts.py and scanner.py add. Left is at +x (LPS),
where the heart and the stomach lie.
Drawing the same seed on the same spacing twice gives the same bytes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.starter.chest_ct.artefacts import disturb
from models.starter.chest_ct.body import Body, Depths, Mass, View, airless, begin, frame_of, lungs, plain_lungs
from models.starter.chest_ct.nodules import Nodule, shown, sow
from models.starter.chest_ct.parenchyma import parenchyma
from models.starter.chest_ct.scanner import acquire
from models.starter.chest_ct.shapes import Array, Frame, smooth_noise
from models.starter.chest_ct.trunk import airways, bones, trunk
from models.vocabulary import Grid, Triple, Volume

LEFT, RIGHT = 1, 2
AXES = ((0.0, 0.0, 1.0), (0.0, 1.0, 0.0), (1.0, 0.0, 0.0))
COARSE_MM = (5.0, 5.0, 5.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scan:
    """A generated scan and its truth.

    organs     0, LEFT or RIGHT lung: vessels, nodules and consolidation inside count as lung; masses, collapse and fluid do not
    instances  0 or a nodule's number
    masses     tumours too large for nodules: a mark there is neither right nor wrong
    """

    volume: Volume
    organs: NDArray[np.uint8]
    instances: NDArray[np.uint16]
    nodules: tuple[Nodule, ...] = ()
    masses: tuple[Mass, ...] = ()


def draw(seed: int, spacing_mm: Triple = (2.0, 2.0, 2.0), *, nodules: tuple[int, int] = (0, 6), belly: float = 0.0) -> Scan:
    """Draw one thorax; `nodules` bounds how many, both ends included; `belly` is the chance that the scan lies below the lungs."""
    return draw_view(seed, View(spacing_mm=spacing_mm, belly=belly), nodules)


def draw_view(seed: int, view: View, nodules: tuple[int, int]) -> Scan:
    """Draw what a view shows of one thorax.

    The body is begun twice with the same dice: coarse and whole, so that trees grow through all of it, and as it is seen.
    """
    coarse = begin(np.random.default_rng([seed, 1]), View(spacing_mm=COARSE_MM, belly=view.belly), np.random.default_rng(0))
    _, room = _room(coarse)
    depths = Depths(frame=coarse.frame, mm=room)
    body = begin(np.random.default_rng([seed, 1]), view, np.random.default_rng([seed, 3]))
    before, inside = _room(body)
    hu = trunk(body, before)
    bones(body, hu, before)
    airway = airways(body, hu)
    lung = np.clip(inside / body.frame.edge_mm + 0.5, 0, 1) * (1 - airway)
    texture = parenchyma(body, inside, depths)
    instances, found = sow(body, texture, inside, int(body.rng.integers(nodules[0], nodules[1] + 1)))
    hu += (texture - hu) * lung
    truth = (lung > 0.5).astype(np.uint8) * np.where(body.x > 0, LEFT, RIGHT).astype(np.uint8)
    hu = disturb(np.random.default_rng([seed, 4]), body, hu)
    seen = acquire(body.rng, hu, body.frame.spacing_mm)
    found = shown(instances, found, seen.shown)
    return Scan(volume=_volume(seen.hu, body.frame), organs=truth, instances=instances, nodules=found, masses=tuple(body.masses))


def _room(body: Body) -> tuple[Array, Array]:
    """Give mm inside the lungs' room, and inside what of it is lung."""
    if body.chance(0.15):
        plain = plain_lungs(body)
        return plain, plain
    room = lungs(body)
    return room, airless(body, room.copy())


def draw_other(seed: int, spacing_mm: Triple = (2.0, 2.0, 2.0)) -> Scan:
    """Draw something without lungs: a head, a gas-filled belly or a test object; the model must mark nothing."""
    rng = np.random.default_rng([seed, 2])
    frame = frame_of(spacing_mm, (float(rng.uniform(90, 150)), float(rng.uniform(100, 130)), float(rng.uniform(90, 170))))
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
    return Scan(volume=_volume(seen.hu, frame), organs=np.zeros(frame.shape, np.uint8), instances=np.zeros(frame.shape, np.uint16))


def _volume(hu: NDArray[np.int16], frame: Frame) -> Volume:
    origin = (float(frame.x_mm[0]), float(frame.y_mm[0]), float(frame.z_mm[0]))
    grid = Grid(shape=frame.shape, origin_mm=origin, axes=AXES, spacing_mm=frame.spacing_mm)
    return Volume(array=hu, grid=grid, unit="HU", modality="CT")
