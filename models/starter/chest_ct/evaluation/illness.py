"""A tumour at a hilum of a real chest with the lobe beyond it collapsed, drawn in: which lung is left is then known.

The lungs of the scan as it came are a rule's (air that hangs together, closed over its vessels), with the main bronchi in them; a model
that draws them otherwise shows that as an error too.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from models.evaluation.froc import Lesion
from models.starter.chest_ct.evaluation.cases import Case, volume_of
from models.starter.chest_ct.generator import LEFT, RIGHT
from models.starter.chest_ct.real import lung_of, read_hu
from models.vocabulary import Triple

RADIUS_MM = (18.0, 38.0)
CLOSING_MM = 6.0
HILUM = 0.6
"""Share of the lung's height at which its tumour lies."""
KEPT_HU = 150.0
Mask = NDArray[np.bool_]
Floats = NDArray[np.float32]


def ill(path: Path, number: int) -> Case:
    """Read a real chest CT (NIfTI, HU) and draw tumour and collapse into it.

    Number 0 fills the left upper lobe, 1 the right upper, 2 the left lower, 3 the right lower one, and so on, each with a tumour of its
    own. What is denser than contrast medium stays. The tumour is a lesion that does not count, for it is no nodule. Raises ValueError
    where the file shows no lung.
    """
    hu, spacing_mm = read_hu(path)
    rng = np.random.default_rng([number, 43])
    lungs = _lungs(lung_of(hu, spacing_mm, path.name), spacing_mm)
    side, radius = (LEFT, RIGHT)[number % 2], float(rng.uniform(*RADIUS_MM))
    outward = 1.0 if side == LEFT else -1.0
    centre = _hilum(lungs == side, spacing_mm, outward) + np.array([0.0, 0.0, outward * radius / 3])
    z, y, x = (_axis(size, spacing_mm, k) - np.float32(centre[k]) for k, size in enumerate(hu.shape))
    lumps = ndimage.gaussian_filter(rng.standard_normal(hu.shape, dtype=np.float32), [8 / step for step in spacing_mm])
    tumour = np.sqrt(z * z + y * y + x * x) < radius * (1 + 0.1 * lumps / lumps.std())
    up = number % 4 < 2
    lobe = (z > -5) & (0.6 * y < 15) if up else (z < 5) & (0.6 * y > -5)
    _fill(hu, lobe & (lungs == side), rng.uniform(40, 90), rng)
    _fill(hu, tumour, rng.uniform(20, 60), rng)
    lungs[tumour | (lobe & (lungs == side))] = 0
    mass = Lesion(centre_mm=(float(centre[2]), float(centre[1]), float(centre[0])), size_mm=2 * radius, kind="mass", counts=False)
    return Case(volume=volume_of(hu, spacing_mm), lungs=lungs, nodules=np.zeros(hu.shape, bool), lesions=(mass,))


def _lungs(aerated: Mask, spacing_mm: Triple) -> NDArray[np.uint8]:
    """Close aerated lung over its vessels, and part it where the fewest of its voxels lie between left and right."""
    wide = round(CLOSING_MM / min(spacing_mm))
    closed = ndimage.binary_closing(np.pad(aerated, wide), iterations=wide)[(slice(wide, -wide),) * 3]
    columns, third = closed.sum(axis=(0, 1)), closed.shape[2] // 3
    middle = third + int(np.argmin(columns[third:-third]))
    sides = np.where(np.arange(closed.shape[2]) > middle, LEFT, RIGHT)
    return np.asarray(sides * closed, dtype=np.uint8)


def _hilum(lung: Mask, spacing_mm: Triple, outward: float) -> NDArray[np.float64]:
    """Give (z, y, x) in mm where a lung comes nearest to the body's middle, at HILUM of its height and half its depth."""
    planes = np.flatnonzero(lung.any(axis=(1, 2)))
    z = int(planes[0] + HILUM * (planes[-1] - planes[0]))
    y = int(np.median(np.nonzero(lung[z])[0]))
    columns = np.flatnonzero(lung[z, y])
    return np.asarray(np.array([z, y, columns[0] if outward > 0 else columns[-1]]) * np.array(spacing_mm), dtype=np.float64)


def _axis(size: int, spacing_mm: Triple, axis: int) -> Floats:
    shape = [1, 1, 1]
    shape[axis] = size
    return (np.arange(size, dtype=np.float32) * np.float32(spacing_mm[axis])).reshape(shape)


def _fill(hu: Floats, where: Mask, level_hu: float, rng: np.random.Generator) -> None:
    """Turn a part into soft tissue, in place, with an edge about a voxel wide."""
    share = ndimage.gaussian_filter(where.astype(np.float32), 0.6) * (hu < KEPT_HU)
    hu += (np.float32(level_hu) + rng.normal(scale=12, size=hu.shape).astype(np.float32) - hu) * share
