"""What the chest CT starter must beat: lungs by threshold, nodules by a blob filter. No training, no parameters from data."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from models.starter.chest_ct.generator import LEFT, RIGHT
from models.vocabulary import Triple, Volume

GRID_MM = 2.0
BLOB_SIGMAS_MM = (2.0, 3.5, 6.0)


def lungs(hu: NDArray[np.float32], spacing_mm: Triple) -> NDArray[np.uint8]:
    """Give LEFT and RIGHT: air under -400 HU that does not touch the sides, in pieces over 50 ml, by side of their middle (+x is left)."""
    air = ndimage.gaussian_filter(hu, 0.7) < -400
    pieces, count = ndimage.label(air)
    sides = np.unique(np.concatenate([pieces[:, 0].ravel(), pieces[:, -1].ravel(), pieces[:, :, 0].ravel(), pieces[:, :, -1].ravel()]))
    voxels = np.bincount(pieces.ravel(), minlength=count + 1)
    large = voxels * float(np.prod(spacing_mm)) > 50_000
    large[sides] = False
    large[0] = False
    mask = large[pieces]
    labels = np.zeros(hu.shape, np.uint8)
    if not mask.any():
        return labels
    across = np.arange(hu.shape[2])[None, None, :]
    middle = float((mask * across).sum() / mask.sum())
    for piece in np.flatnonzero(large):
        here = pieces == piece
        if voxels[piece] > 0.85 * mask.sum():
            labels[here & (across > middle)] = LEFT
            labels[here & (across <= middle)] = RIGHT
        else:
            labels[here] = LEFT if float((here * across).sum() / voxels[piece]) > middle else RIGHT
    closed = ndimage.binary_closing(labels > 0, iterations=3)
    nearest = ndimage.distance_transform_edt(labels == 0, return_distances=False, return_indices=True)
    return np.where(closed, labels[tuple(nearest)], 0).astype(np.uint8)


def blobs(hu: NDArray[np.float32], labels: NDArray[np.uint8], spacing_mm: Triple) -> list[tuple[tuple[int, int, int], float]]:
    """Give bright blobs in the closed lungs as (voxel, response): peaks of the scale-normalised negative Laplacian."""
    image = np.clip(hu, -1000, 400) / 1400
    best = np.zeros(hu.shape, np.float32)
    for sigma in BLOB_SIGMAS_MM:
        widths = [sigma / s for s in spacing_mm]
        response = -sum(
            ndimage.gaussian_filter1d(ndimage.gaussian_filter(image, widths), w, axis=k, order=2) * w**2 for k, w in enumerate(widths)
        )
        np.maximum(best, response, out=best)
    peaks = (best == ndimage.maximum_filter(best, 5)) & (labels > 0) & (best > 0.05)
    return [((int(z), int(y), int(x)), float(best[z, y, x])) for z, y, x in np.argwhere(peaks)]


def judge(volume: Volume) -> tuple[NDArray[np.uint8], list[tuple[Triple, float]]]:
    """Give lung labels on the volume's own grid and blobs as (LPS mm, response); works at 2 mm."""
    grid = volume.grid
    picks = [np.arange(0, n, GRID_MM / s).round().astype(int).clip(0, n - 1) for n, s in zip(grid.shape, grid.spacing_mm, strict=True)]
    coarse = volume.array[np.ix_(*picks)].astype(np.float32)
    spacing = tuple(max(GRID_MM, s) if len(p) < n else s for p, n, s in zip(picks, grid.shape, grid.spacing_mm, strict=True))
    spacing = (spacing[0], spacing[1], spacing[2])
    labels = lungs(coarse, spacing)
    back = [np.abs(np.arange(n)[:, None] - p[None, :]).argmin(axis=1) for n, p in zip(grid.shape, picks, strict=True)]
    found = []
    for voxel, score in blobs(coarse, labels, spacing):
        fine = np.array([[p[i] for p, i in zip(picks, voxel, strict=True)]], dtype=float)
        x, y, z = (float(v) for v in grid.to_world_mm(fine)[0])
        found.append(((x, y, z), score))
    return labels[np.ix_(*back)], found
