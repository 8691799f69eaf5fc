"""The scanner of the generated thoraxes: kernel, soft or sharp, slices and their thickness, noise, calibration, the round field of view."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from models.starter.chest_ct.shapes import Array
from models.vocabulary import Triple


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What a scanner gives of tissue, on the same voxels: HU, and which columns (y, x) of voxels lie in its field of view."""

    hu: NDArray[np.int16]
    shown: NDArray[np.bool_]


def acquire(rng: np.random.Generator, hu: Array, spacing_mm: Triple) -> Seen:
    """Turn tissue into what a scanner would give of it.

    On a grid finer along z than the drawn slice thickness, slices are taken that far apart and interpolated back.
    """
    dz, dy, dx = spacing_mm
    kernel = float(rng.uniform(0.2, 1.2)) / dy
    thick = float(rng.uniform(1, 5))
    if kernel > 0.25:
        hu = ndimage.gaussian_filter(hu, (0, kernel, kernel), mode="nearest")
    if thick > dz:
        hu = ndimage.gaussian_filter1d(hu, 0.3 * thick / dz, axis=0, mode="nearest")
    if rng.random() < 0.25:  # a sharp kernel overdraws edges
        wide = float(rng.uniform(0.8, 1.6)) / dy
        hu = hu + (hu - ndimage.gaussian_filter(hu, (0, wide, wide), mode="nearest")) * np.float32(rng.uniform(0.3, 1.2))
    noise = rng.standard_normal(hu.shape, dtype=np.float32)
    grain = float(rng.uniform(0, 0.8)) * min(1.0, 2 / dy)
    if grain > 0.3:
        noise = ndimage.gaussian_filter(noise, (0, grain, grain))
    hu = hu + noise * np.float32(np.exp(rng.uniform(np.log(5), np.log(60))) / noise.std())
    if thick > dz:
        hu = _through_slices(hu, dz, thick, float(rng.random()))
    hu = hu * np.float32(rng.uniform(0.97, 1.03)) + np.float32(rng.uniform(-20, 20))
    ny, nx = hu.shape[1:]
    shown = np.ones((ny, nx), dtype=bool)
    if rng.random() < 0.4:
        y, x = (np.arange(ny)[:, None] - ny / 2) * dy, (np.arange(nx)[None, :] - nx / 2) * dx
        shown = np.hypot(y, x) <= max(nx, ny) * dy / 2 * rng.uniform(1.0, 1.1)
        hu[:, ~shown] = rng.choice([-1024.0, -1000.0])
    return Seen(hu=np.clip(np.rint(hu), -1024, 3071).astype(np.int16), shown=shown)


def _through_slices(hu: Array, dz: float, thick: float, phase: float) -> Array:
    """Sample z at slices `thick` apart and interpolate back, as a resampled thick-slice scan looks."""
    at = np.arange(len(hu)) * dz
    slices = np.arange(-phase * thick, at[-1] + thick, thick)
    rows = np.clip(slices / dz, 0, len(hu) - 1)
    weights = np.stack([np.interp(at, slices, np.eye(len(slices))[k]) for k in range(len(slices))], axis=1)
    low = np.floor(rows).astype(int)
    part = (rows - low).astype(np.float32)[:, None, None]
    taken = hu[low] * (1 - part) + hu[np.minimum(low + 1, len(hu) - 1)] * part
    spread: Array = np.tensordot(weights.astype(np.float32), taken, axes=(1, 0))
    return spread
