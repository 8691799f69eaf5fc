"""A site's labelled scan as what the starter's recipe learns from: a Scan on a network's grid, as if it had been generated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from safetensors.torch import save as to_bytes
from scipy import ndimage
from torch import Tensor

from models import whole
from models.grids import transforms
from models.starter.chest_ct.body import Mass
from models.starter.chest_ct.generator import LEFT, RIGHT, Scan
from models.starter.chest_ct.lessons import SPACING_MM, Lessons, lessons_of
from models.starter.chest_ct.nodules import Nodule
from models.vocabulary import Grid, Triple, Volume

ORIENTATION = "SPL"
LARGEST_MM = 30.0
"""What is larger is a mass: a mark there is neither right nor wrong."""
WRONG_MOST = 200
LUNGS_MM = (3.0, 3.0, 3.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """A scan and what its reader drew, on the scan's own grid.

    lungs    0, LEFT or RIGHT; None where no lungs were drawn
    nodules  0 or a nodule's number; None where nobody looked for nodules. All 0: there is none
    aside    places that are neither right nor wrong
    """

    volume: Volume
    lungs: NDArray[np.uint8] | None
    nodules: NDArray[np.uint16] | None
    aside: tuple[Mass, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Lesson:
    """What is kept of a scan: cubes for the nodule network, the whole scan at 3 mm for the lungs' one; None where it has no such labels."""

    cubes: Lessons | None
    whole: Scan | None


def sides_at_fault(example: Example) -> str:
    """Say in words what is wrong with the sides of the drawn lungs; nothing where both lie where they should.

    Left is at greater x in LPS. Ref: PS3.3 C.7.6.2.1.1
    """
    if example.lungs is None:
        return ""
    middles = {}
    for side in (LEFT, RIGHT):
        places = np.argwhere(example.lungs == side)
        if not len(places):
            return f"its labels have no voxel of the {'left' if side == LEFT else 'right'} lung"
        middles[side] = example.volume.grid.to_world_mm(places.mean(axis=0, keepdims=True))[0]
    if middles[LEFT][0] <= middles[RIGHT][0]:
        return "its left lung lies on the patient's right: left and right are exchanged in the labels, or the image is mirrored"
    return ""


def scan_of(example: Example, lungs: NDArray[np.uint8], spacing_mm: Triple) -> Scan:
    """Put a scan with its labels on a network's grid, as generated scans are; labels go to the nearest voxel.

    `lungs` are LEFT and RIGHT on the scan's own grid. What is drawn as nodule counts to the lung that is nearest.
    """
    plan = transforms.resampling(example.volume.grid, ORIENTATION, spacing_mm)
    hu = transforms.to_model(example.volume.array, plan, "cpu").numpy()
    instances = example.nodules if example.nodules is not None else np.zeros(example.volume.grid.shape, np.uint16)
    numbered, nodules, masses = _sizes(example, instances)
    sides = _nearest(_filled(lungs, instances), plan).astype(np.uint8)
    numbers = _nearest(numbered, plan)
    volume = replace(example.volume, array=np.rint(np.clip(hu, -1024, 3071)).astype(np.int16), grid=plan.model)
    return Scan(volume=volume, organs=sides, instances=numbers.astype(np.uint16), nodules=nodules, masses=masses)


def lesson_of(example: Example, lungs: NDArray[np.uint8], seed: int) -> Lesson:
    """Make of a scan what the networks learn from; `lungs` serve for the nodules' surroundings where none were drawn."""
    cubes = None
    if example.nodules is not None:
        cubes = lessons_of(scan_of(example, lungs, (SPACING_MM, SPACING_MM, SPACING_MM)), seed, WRONG_MOST)
    whole = scan_of(example, example.lungs, LUNGS_MM) if example.lungs is not None else None
    return Lesson(cubes=cubes, whole=whole)


def save(lesson: Lesson, path: Path) -> None:
    """Keep a lesson, whole or not at all; it holds voxels and no word. Raises OSError."""
    tensors: dict[str, Tensor] = {}
    if lesson.cubes is not None:
        tensors |= {name: getattr(lesson.cubes, name).contiguous() for name in ("near", "wide", "voxels", "answer")}
    if lesson.whole is not None:
        tensors |= {"hu": torch.from_numpy(lesson.whole.volume.array), "organs": torch.from_numpy(lesson.whole.organs)}
    whole.write(path, to_bytes(tensors))


def load(path: Path) -> Lesson:
    """Read a kept lesson."""
    tensors = load_file(path)
    cubes, whole = None, None
    if "near" in tensors:
        cubes = Lessons(near=tensors["near"], wide=tensors["wide"], voxels=tensors["voxels"], answer=tensors["answer"])
    if "hu" in tensors:
        whole = _whole(tensors["hu"].numpy(), tensors["organs"].numpy())
    return Lesson(cubes=cubes, whole=whole)


def _whole(hu: NDArray[np.int16], organs: NDArray[np.uint8]) -> Scan:
    """Make a scan of what was kept: where it lay in the patient is of no matter for learning."""
    shape = (hu.shape[0], hu.shape[1], hu.shape[2])
    axes = ((0.0, 0.0, 1.0), (0.0, 1.0, 0.0), (1.0, 0.0, 0.0))
    grid = Volume(array=hu, grid=_grid(shape, axes), unit="HU", modality="CT")
    return Scan(volume=grid, organs=organs, instances=np.zeros(shape, np.uint16))


def _grid(shape: tuple[int, int, int], axes: tuple[Triple, Triple, Triple]) -> Grid:
    return Grid(shape=shape, origin_mm=(0.0, 0.0, 0.0), axes=axes, spacing_mm=LUNGS_MM)


def _sizes(example: Example, instances: NDArray[np.uint16]) -> tuple[NDArray[np.uint16], tuple[Nodule, ...], tuple[Mass, ...]]:
    """Renumber the nodules from 1 without a gap; give their middles and the diameters of balls of their volumes.

    What is too large goes to the masses, and is no instance any more.
    """
    numbers = [int(number) for number in np.unique(instances) if number]
    middles = np.array(ndimage.center_of_mass(instances > 0, instances, numbers)).reshape(-1, 3)
    nodules: list[Nodule] = []
    masses, renumbered = list(example.aside), np.zeros_like(instances)
    for number, centre in zip(numbers, example.volume.grid.to_world_mm(middles), strict=True):
        size = (6 * float((instances == number).sum()) * example.volume.grid.voxel_mm3 / np.pi) ** (1 / 3)
        at = (float(centre[0]), float(centre[1]), float(centre[2]))
        if size > LARGEST_MM:
            masses.append(Mass(centre_mm=at, radius_mm=size / 2 + 6))
        else:
            renumbered[instances == number] = len(nodules) + 1
            nodules.append(Nodule(number=len(nodules) + 1, centre_mm=at, diameter_mm=size, kind="", site=""))
    return renumbered, tuple(nodules), tuple(masses)


def _filled(lungs: NDArray[np.uint8], instances: NDArray[np.uint16]) -> NDArray[np.uint8]:
    """Give nodules that were drawn in place of lung to the nearest lung."""
    lacking = (instances > 0) & (lungs == 0)
    if not lacking.any() or not (lungs > 0).any():
        return lungs
    near = ndimage.distance_transform_edt(lungs == 0, return_distances=False, return_indices=True)
    return np.where(lacking, lungs[tuple(near)], lungs)


def _nearest(labels: NDArray[np.uint8] | NDArray[np.uint16], plan: transforms.Resampling) -> NDArray[np.uint8] | NDArray[np.uint16]:
    turned = plan.turning.turn(labels)
    picks = []
    for n, m, s, t in zip(plan.oriented.shape, plan.model.shape, plan.oriented.spacing_mm, plan.model.spacing_mm, strict=True):
        places = (np.arange(m) - (m - 1) / 2) * t / s + (n - 1) / 2
        picks.append(np.clip(np.rint(places).astype(int), 0, n - 1))
    found: NDArray[np.uint8] | NDArray[np.uint16] = np.ascontiguousarray(turned[np.ix_(*picks)])
    return found


def with_nodules(lessons: Sequence[Lesson]) -> int:
    """Count the scans that show the nodule network at least one nodule."""
    return sum(lesson.cubes is not None and bool(lesson.cubes.answer.any()) for lesson in lessons)
