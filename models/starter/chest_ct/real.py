"""Blocks of real lung with generated nodules in them: what vessels, fissures and bronchi look like that nobody drew.

A folder of chest CT without nodules (NIfTI) gives the texture. A block is bent, stretched, mirrored and scanned again, so that no two
show the same; all that lies in it but the generated nodules is none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from models.starter.chest_ct.body import Body, View, frame_of
from models.starter.chest_ct.generator import AXES, LEFT, RIGHT, Scan
from models.starter.chest_ct.nodules import shown, sow
from models.starter.chest_ct.scanner import acquire
from models.starter.chest_ct.shapes import Array, Frame, smooth_noise
from models.vocabulary import Grid, Triple, Volume

AIR_HU = -420.0
# Air around a patient is darker than lung in its median, also on a scanner that is off by some HU.
DARKEST_LUNG_HU, DARKEST_VOXEL_HU = -930.0, -985.0
LEAST_LUNG_ML = 50.0
OUTSIDE_HU = -1024.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Texture:
    """A real scan, (z, y, x) to the head, the back and the patient's left, and its spacing in mm.

    spline  cubic spline coefficients of the HU
    lung    which voxels are aerated lung
    """

    spline: Array
    lung: NDArray[np.bool_]
    spacing_mm: Triple


def textures(folder: Path) -> tuple[Texture, ...]:
    """Read every NIfTI of a folder; raises ValueError where there is none, or one shows no lung."""
    paths = sorted([*folder.glob("*.nii"), *folder.glob("*.nii.gz")])
    if not paths:
        raise ValueError(f"there is no NIfTI file in {folder.name}: give a folder of chest CTs in HU, or leave --real out")
    return tuple(texture(path) for path in paths)


def texture(path: Path) -> Texture:
    """Read one NIfTI of HU, laid along the patient's axes; raises ValueError where it shows no lung."""
    hu, spacing_mm = read_hu(path)
    spline = ndimage.spline_filter(hu, output=np.float32)
    return Texture(spline=spline, lung=lung_of(hu, spacing_mm, path.name), spacing_mm=spacing_mm)


def read_hu(path: Path) -> tuple[Array, Triple]:
    """Read one NIfTI of HU as (z, y, x) to the head, the back and the patient's left, and its spacing in mm."""
    image: Any = nibabel.as_closest_canonical(nibabel.load(path))  # type: ignore[no-untyped-call]
    # Canonical axes grow to the right, the front and the head; here x grows to the left and y to the back.
    hu = np.ascontiguousarray(np.asarray(image.dataobj, dtype=np.float32).transpose(2, 1, 0)[:, ::-1, ::-1])
    dx, dy, dz = (float(step) for step in image.header.get_zooms()[:3])
    return hu, (dz, dy, dx)


def lung_of(hu: Array, spacing_mm: Triple, name: str) -> NDArray[np.bool_]:
    """Give which voxels are aerated lung: what is airy and hangs together, but not the air around the patient. Raises ValueError."""
    smooth = ndimage.gaussian_filter(hu, [1.5 / step for step in spacing_mm])
    parts, count = ndimage.label(smooth < AIR_HU)
    ml = np.bincount(parts.ravel(), minlength=count + 1) * float(np.prod(spacing_mm)) / 1000
    large = np.flatnonzero(ml >= LEAST_LUNG_ML)
    medians = ndimage.median(smooth, parts, large)
    kept = [int(part) for part, median in zip(large, medians, strict=True) if part and median > DARKEST_LUNG_HU]
    if not kept:
        seen = f"nothing of {LEAST_LUNG_ML:.0f} ml between {DARKEST_LUNG_HU:.0f} and {AIR_HU:.0f} HU hangs together"
        raise ValueError(f"{name} shows no lung: {seen}")
    return np.asarray(np.isin(parts, kept) & (smooth > DARKEST_VOXEL_HU))


def real_block(seed: int, known: Sequence[Texture], view: View, nodules: tuple[int, int]) -> Scan:
    """Cut a block of real lung about a place drawn from the seed, bent and scanned again, and sow generated nodules in it.

    Raises ValueError for a view of a whole scan.
    """
    if view.box_mm is None:
        raise ValueError("a real scan is shown in blocks only: the view needs a box_mm")
    spacing_mm = view.spacing_mm
    rng = np.random.default_rng([seed, 21])
    seen = known[int(rng.integers(len(known)))]
    frame = frame_of(spacing_mm, (view.box_mm[0] / 2, view.box_mm[1] / 2, view.box_mm[2] / 2))
    at = _bent(rng, frame, seen)
    hu = ndimage.map_coordinates(seen.spline, at, order=3, mode="constant", cval=OUTSIDE_HU, prefilter=False)
    share = ndimage.map_coordinates(seen.lung.astype(np.float32), at, order=1, mode="constant")
    hu = hu * np.float32(rng.uniform(0.96, 1.04)) + np.float32(rng.uniform(-40, 40))
    lung = share > 0.5
    closed = ndimage.binary_closing(np.pad(lung, 5), iterations=5)[5:-5, 5:-5, 5:-5]
    inside = (ndimage.distance_transform_edt(closed) - ndimage.distance_transform_edt(~closed)).astype(np.float32) * np.float32(
        spacing_mm[0]
    )
    body = _body(rng, frame)
    instances, found = sow(body, hu, inside.astype(np.float32), int(rng.integers(nodules[0], nodules[1] + 1)))
    organs = closed.astype(np.uint8) * np.where(frame.x_mm[None, None, :] > 0, LEFT, RIGHT).astype(np.uint8)
    origin = (float(frame.x_mm[0]), float(frame.y_mm[0]), float(frame.z_mm[0]))
    grid = Grid(shape=frame.shape, origin_mm=origin, axes=AXES, spacing_mm=spacing_mm)
    acquired = acquire(rng, hu, spacing_mm)
    volume = Volume(array=acquired.hu, grid=grid, unit="HU", modality="CT")
    return Scan(volume=volume, organs=organs, instances=instances, nodules=shown(instances, found, acquired.shown))


def _bent(rng: np.random.Generator, frame: Frame, seen: Texture) -> Array:
    """Give the texture's indices (3, z, y, x) at a frame's points: stretched by up to a fifth, mirrored, bent by some mm."""
    places = np.argwhere(seen.lung)
    middle = places[int(rng.integers(len(places)))].astype(float)
    reach = np.array([size * step / 2 for size, step in zip(seen.lung.shape, seen.spacing_mm, strict=True)])
    half = np.array([abs(axis[0]) for axis in frame.axes])
    # A block about a place at the scan's edge would be half empty: its middle is moved inwards.
    away = (middle + 0.5) * np.array(seen.spacing_mm) - reach
    away = np.clip(away, -np.maximum(reach - 0.7 * half, 0), np.maximum(reach - 0.7 * half, 0))
    stretch = np.exp(rng.normal(0, 0.09, 3)) * rng.choice([-1.0, 1.0], 3)
    bend = rng.uniform(1, 5)
    at = []
    for number, axis in enumerate(frame.axes):
        shape = [1, 1, 1]
        shape[number] = -1
        along = (axis * stretch[number]).reshape(shape) + smooth_noise(rng, frame, float(rng.uniform(40, 90))) * bend
        at.append((along + away[number] + reach[number]) / seen.spacing_mm[number] - 0.5)
    return np.stack(at).astype(np.float32)


def _body(rng: np.random.Generator, frame: Frame) -> Body:
    """Give what nodules are sown by; a real scan's vessels are not known, so that none is placed on one on purpose."""
    none = np.zeros(1, np.float32)
    return Body(rng=rng, frame=frame, half=(1.0, 1.0, 1.0), cavity=(1.0, 1.0, 1.0), spine_y=0.0, x=none, y=none, z=none, blood_hu=40.0)
