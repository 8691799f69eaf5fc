"""Where in the lungs something round may lie: bright blobs of every size, found without training, so that few are missed.

Works on an isotropic grid in the orientation SPL. What lies outside the lungs' hull is replaced by lung before filtering, so that
a nodule on the chest wall is a blob too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

CLOSING_MM = 12.0
DARK_HU, BRIGHT_HU = -1000.0, 100.0
# Widths of the filters; a ball of diameter d answers most at d / (2 sqrt(3)): these fit 4.5 to 30 mm.
SIGMAS_MM = (1.3, 1.9, 2.8, 4.1, 6.0, 8.7)

Floats = NDArray[np.float32]
Mask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidates:
    """Places (n, 3) of voxels (z, y, x), and how blob-like each is, best first.

    response  the weakest curvature in HU, times its share of the strongest, times the filter's width as a share of the widest
    """

    voxels: NDArray[np.int64]
    response: Floats


def hull(lungs: Mask, spacing_mm: float) -> Mask:
    """Close the lungs over what is cut into them: vessels, nodules on the chest wall, the hila's edges.

    Done on every second voxel: the hull needs no sharp edge. A gap narrower than twice CLOSING_MM is filled.
    """
    coarse = lungs[::2, ::2, ::2]
    wide = int(np.ceil(CLOSING_MM / spacing_mm / 2)) + 1
    padded = np.pad(coarse, wide)
    if not padded.any():
        return np.zeros_like(lungs)
    grown = ndimage.distance_transform_edt(~padded) <= CLOSING_MM / spacing_mm / 2
    closed = ndimage.distance_transform_edt(grown) > CLOSING_MM / spacing_mm / 2
    closed = closed[wide:-wide, wide:-wide, wide:-wide]
    fine = closed.repeat(2, 0).repeat(2, 1).repeat(2, 2)[: lungs.shape[0], : lungs.shape[1], : lungs.shape[2]]
    return np.asarray(fine | lungs)


def find(hu: Floats, inside: Mask, spacing_mm: float, limit: int) -> Candidates:
    """Give at most `limit` blobs inside a hull.

    Peaks over space and scale of the scale-normalised negative Laplacian; ranked by the weakest curvature there, for which a
    vessel, flat along its axis, scores low and a ball high. It is weighted by its share of the strongest one and by the width:
    noise and vessels' forks give many peaks that are narrow or not round, which would else crowd out haze, however large.
    """
    none = Candidates(voxels=np.zeros((0, 3), np.int64), response=np.zeros(0, np.float32))
    box = _box(inside, round(12 / spacing_mm))
    if box is None:
        return none
    within = inside[box]
    image = np.clip(hu[box], DARK_HU, BRIGHT_HU)
    aerated = image[within & (image < -500)]
    background = float(np.median(aerated)) if len(aerated) else -850.0
    image = np.where(within, image, np.float32(background)).astype(np.float32)
    voxels, response = [], []
    for sigma_mm in SIGMAS_MM:
        step = 1 if sigma_mm / spacing_mm < 4 else 2
        places, strength = _peaks(image[::step, ::step, ::step], sigma_mm / spacing_mm / step)
        voxels.append(places * step)
        response.append(strength * np.float32(sigma_mm / SIGMAS_MM[-1]))
    places, strength = np.concatenate(voxels), np.concatenate(response)
    kept = _apart(places[within[tuple(places.T)]], strength[within[tuple(places.T)]], (limit, 3.0 / spacing_mm))
    low = np.array([part.start for part in box])
    return Candidates(voxels=kept.voxels + low, response=kept.response)


def _box(mask: Mask, margin: int) -> tuple[slice, slice, slice] | None:
    found: Any = ndimage.find_objects(mask.astype(np.uint8))
    if not found:
        return None
    parts = [slice(max(0, part.start - margin), min(size, part.stop + margin)) for part, size in zip(found[0], mask.shape, strict=True)]
    return parts[0], parts[1], parts[2]


def _peaks(image: Floats, sigma: float) -> tuple[NDArray[np.int64], Floats]:
    """Give the peaks of one scale (sigma in voxels), and at each the weakest curvature times its share of the strongest, in HU."""
    smooth = ndimage.gaussian_filter(image, sigma, mode="nearest", truncate=3)
    blob = -ndimage.laplace(smooth, mode="nearest")
    peaks = (blob == ndimage.maximum_filter(blob, 3)) & (blob * sigma**2 > 60)
    peaks[[0, -1]] = peaks[:, [0, -1]] = peaks[:, :, [0, -1]] = False
    places = np.argwhere(peaks)
    curvatures = _curvatures(smooth, places)
    weakest, strongest = curvatures[:, 0], curvatures[:, 2]
    # The three sum up to the Laplacian, which is positive at a peak: so is the strongest.
    return places, (weakest * np.abs(weakest) / strongest * sigma**2).astype(np.float32)


def _curvatures(smooth: Floats, places: NDArray[np.int64]) -> NDArray[np.float64]:
    """Give minus the Hessian's eigenvalues (n, 3) at each place, the weakest first: all positive only where all directions curve down."""
    near = {}
    for offset in np.ndindex(3, 3, 3):
        near[offset] = smooth[tuple((places + np.array(offset) - 1).T)].astype(np.float64)
    hessian = np.empty((len(places), 3, 3))
    for i in range(3):
        for j in range(i, 3):
            hessian[:, i, j] = hessian[:, j, i] = _second(near, i, j)
    return np.asarray(-np.linalg.eigvalsh(hessian)[:, ::-1], dtype=np.float64)


def _second(near: dict[tuple[int, ...], NDArray[np.float64]], i: int, j: int) -> NDArray[np.float64]:
    """Give the second difference along axes i and j from the 27 values around each place."""

    def at(*steps: tuple[int, int]) -> NDArray[np.float64]:
        index = [1, 1, 1]
        for axis, by in steps:
            index[axis] += by
        return near[index[0], index[1], index[2]]

    if i == j:
        return at((i, 1)) - 2 * at() + at((i, -1))
    return (at((i, 1), (j, 1)) - at((i, 1), (j, -1)) - at((i, -1), (j, 1)) + at((i, -1), (j, -1))) / 4


def _apart(places: NDArray[np.int64], strength: Floats, rule: tuple[int, float]) -> Candidates:
    """Keep the strongest; of two closer than a distance, the stronger. `rule` is how many, and the distance in voxels."""
    limit, distance = rule
    order = np.argsort(-strength, kind="stable")
    kept: list[int] = []
    for index in order:
        if len(kept) == limit or strength[index] <= 0:
            break
        if not kept or np.min(((places[kept] - places[index]) ** 2).sum(axis=1)) >= distance**2:
            kept.append(int(index))
    return Candidates(voxels=places[kept], response=strength[kept])
