"""The scans that are judged, and what is true of them.

A scan with thicker slices or more noise is made of the one that was drawn, so that its nodules lie where they lay.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from models.evaluation.froc import Lesion
from models.starter.chest_ct.generator import AXES, Scan, draw
from models.starter.chest_ct.nodules import Nodule
from models.starter.chest_ct.real import lung_of, read_hu
from models.vocabulary import Grid, Triple, Volume

FIRST_SEED = 900_000  # training's seeds lie below 200,000
NATIVE_MM = (1.25, 2.0, 2.5, 3.0, 5.0)
LEAST_MM = 4.0
# (diameter in mm, HU) of the balls that are drawn into real scans: soft tissue, and haze.
BALLS = ((5.0, 30.0), (6.0, 30.0), (7.0, 30.0), (8.0, 30.0), (10.0, 30.0), (12.0, 30.0), (15.0, 30.0), (10.0, -500.0), (15.0, -500.0))
BALL_NOISE_HU = 8.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One scan and its truth.

    lungs    LEFT and RIGHT, None where nobody knows them
    nodules  which voxels are nodule: these count neither way for the lungs
    lesions  their kinds are words, the kind itself first: "solid free spiculated"
    """

    volume: Volume
    lungs: NDArray[np.uint8] | None
    nodules: NDArray[np.bool_]
    lesions: tuple[Lesion, ...]


def native_mm(number: int) -> Triple:
    """Give the spacing that generated scan `number` is drawn with."""
    rng = np.random.default_rng([FIRST_SEED, number])
    plane = float(rng.uniform(0.8, 1.2))
    return float(rng.choice(NATIVE_MM)), plane, plane


def generated(number: int, spacing_mm: Triple) -> Case:
    """Draw evaluation scan `number`."""
    return case_of(draw(FIRST_SEED + number, spacing_mm))


def case_of(scan: Scan) -> Case:
    """Make a case of a generated scan; its masses are lesions that do not count."""
    numbers = [nodule.number for nodule in scan.nodules]
    middles = np.array(ndimage.center_of_mass(scan.instances > 0, scan.instances, numbers)).reshape(-1, 3)
    centres = scan.volume.grid.to_world_mm(middles)
    lesions = [
        Lesion(centre_mm=_triple(centre), size_mm=nodule.diameter_mm, kind=words(nodule), counts=nodule.diameter_mm >= LEAST_MM)
        for nodule, centre in zip(scan.nodules, centres, strict=True)
    ]
    lesions += [Lesion(centre_mm=mass.centre_mm, size_mm=2 * mass.radius_mm, kind="mass", counts=False) for mass in scan.masses]
    return Case(volume=scan.volume, lungs=scan.organs, nodules=scan.instances > 0, lesions=tuple(lesions))


def words(nodule: Nodule) -> str:
    """Say what a nodule is. Example: "part-solid vessel spiculated"."""
    looks = (("spiculated", nodule.spiculated), ("calcified", nodule.calcified))
    return " ".join([nodule.kind, nodule.site, *(name for name, there in looks if there)])


def thicker(case: Case, slices: int) -> Case:
    """Average that many neighbouring slices to one, as thicker collimation would; what is left over at the end is cut off."""
    if slices == 1:
        return case
    grid, count = case.volume.grid, len(case.volume.array) // slices

    def averaged(array: NDArray[Any]) -> NDArray[np.float64]:
        return np.asarray(array[: count * slices].reshape(count, slices, *array.shape[1:]).mean(axis=1))

    middle = grid.to_world_mm(np.array([[(slices - 1) / 2, 0.0, 0.0]]))[0]
    z, y, x = grid.spacing_mm
    placed = replace(grid, shape=(count, *grid.shape[1:]), origin_mm=_triple(middle), spacing_mm=(z * slices, y, x))
    hu = np.rint(averaged(case.volume.array)).astype(np.int16)
    lungs = None
    if case.lungs is not None:
        lungs = np.zeros(placed.shape, np.uint8)
        for side in np.unique(case.lungs[case.lungs > 0]):
            lungs[averaged(case.lungs == side) > 0.5] = side
    return replace(case, volume=replace(case.volume, array=hu, grid=placed), lungs=lungs, nodules=averaged(case.nodules) > 0.5)


def noisier(case: Case, sigma_hu: float, seed: int) -> Case:
    """Add white noise of that standard deviation."""
    if not sigma_hu:
        return case
    noise = np.random.default_rng([seed, 31]).normal(scale=sigma_hu, size=case.volume.array.shape)
    hu = np.clip(np.rint(case.volume.array + noise), -1024, 3071).astype(np.int16)
    return replace(case, volume=replace(case.volume, array=hu))


def real(path: Path, number: int) -> Case:
    """Read a real chest CT without nodules (NIfTI, HU); draws BALLS at places by chance into it, but into number 0 none.

    Balls lie in aerated lung, apart from each other and from the volume's edge. Of the lungs no outline is known.
    Raises ValueError where the file shows no lung, or the balls find no room.
    """
    hu, spacing_mm = read_hu(path)
    nodules = np.zeros(hu.shape, bool)
    lesions = _draw_balls(hu, grid_of(hu, spacing_mm), np.random.default_rng([number, 41]), nodules, path.name) if number else ()
    return Case(volume=volume_of(hu, spacing_mm), lungs=None, nodules=nodules, lesions=lesions)


def volume_of(hu: NDArray[np.float32], spacing_mm: Triple) -> Volume:
    """Give a real scan's HU, (z, y, x) to the head, the back and the patient's left, as the node would hold it."""
    return Volume(array=np.clip(np.rint(hu), -1024, 3071).astype(np.int16), grid=grid_of(hu, spacing_mm), unit="HU", modality="CT")


def grid_of(hu: NDArray[np.float32], spacing_mm: Triple) -> Grid:
    """Give the grid of a real scan, whose place in the room nobody needs to know."""
    return Grid(shape=(hu.shape[0], hu.shape[1], hu.shape[2]), origin_mm=(0.0, 0.0, 0.0), axes=AXES, spacing_mm=spacing_mm)


def _draw_balls(hu: NDArray[np.float32], grid: Grid, rng: np.random.Generator, nodules: NDArray[np.bool_], name: str) -> tuple[Lesion, ...]:
    lung = lung_of(hu, grid.spacing_mm, name)
    deep = ndimage.distance_transform_edt(np.pad(lung, 1), sampling=grid.spacing_mm)[1:-1, 1:-1, 1:-1]
    lesions: list[Lesion] = []
    for diameter, level in sorted(BALLS, reverse=True):
        free = deep.copy()
        for lesion in lesions:
            free[_distance(grid, lesion.centre_mm) < lesion.size_mm / 2 + diameter / 2 + 10] = 0
        places = np.argwhere(free > min(diameter / 2, 4.0))
        if not len(places):
            raise ValueError(f"{name}: no room in the lungs for a ball of {diameter:g} mm")
        centre = _triple(grid.to_world_mm(places[int(rng.integers(len(places)))][None].astype(float))[0])
        share = np.clip((diameter / 2 - _distance(grid, centre)) / min(grid.spacing_mm) + 0.5, 0, 1)
        hu += (np.maximum(level, hu) - hu) * share
        nodules |= share > 0.5
        kind = "solid" if level > -200 else "ground-glass"
        lesions.append(Lesion(centre_mm=centre, size_mm=diameter, kind=f"{kind} drawn"))
    hu += rng.normal(scale=BALL_NOISE_HU, size=hu.shape).astype(np.float32)
    return tuple(lesions)


def _distance(grid: Grid, centre_mm: Triple) -> NDArray[np.float32]:
    """Give each voxel's distance from a point, in mm; the axes are the patient's."""
    x, y, z = centre_mm
    at = [np.arange(n) * s + o for n, s, o in zip(grid.shape, grid.spacing_mm, grid.origin_mm[::-1], strict=True)]
    squares = (at[0][:, None, None] - z) ** 2 + (at[1][None, :, None] - y) ** 2 + (at[2][None, None, :] - x) ** 2
    return np.asarray(np.sqrt(squares), dtype=np.float32)


def _triple(values: NDArray[np.float64]) -> Triple:
    x, y, z = (float(value) for value in values)
    return x, y, z
