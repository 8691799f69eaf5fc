"""What the chest CT starter must beat: lungs by threshold, nodules by a blob filter. No training, no parameters from data.

The blobs are the model's own first step on the closed threshold lungs, so that the difference is what the networks know.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from models.chest import candidates
from models.evaluation.froc import Mark
from models.starter.chest_ct.generator import LEFT, RIGHT
from models.vocabulary import Volume

GRID_MM = 2.0
AIR_HU = -400
LEAST_ML = 50.0
MOST_MARKS = 300
Floats = NDArray[np.float32]


def lungs(hu: Floats) -> NDArray[np.uint8]:
    """Give LEFT and RIGHT on GRID_MM: air that touches no side, in large pieces, closed; by side of their middle (+x is left)."""
    air = ndimage.gaussian_filter(hu, 0.7) < AIR_HU
    pieces, count = ndimage.label(air)
    sides = np.unique(np.concatenate([pieces[:, 0].ravel(), pieces[:, -1].ravel(), pieces[:, :, 0].ravel(), pieces[:, :, -1].ravel()]))
    voxels = np.bincount(pieces.ravel(), minlength=count + 1)
    large = voxels * GRID_MM**3 / 1000 > LEAST_ML
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
    closed = ndimage.binary_fill_holes(ndimage.binary_closing(labels > 0, iterations=3))
    nearest = ndimage.distance_transform_edt(labels == 0, return_distances=False, return_indices=True)
    return np.where(closed, labels[tuple(nearest)], 0).astype(np.uint8)


def judge(volume: Volume) -> tuple[NDArray[np.uint8], tuple[Mark, ...]]:
    """Give lung labels on the volume's own grid, and blobs as marks; their score is the response in HU, at most 1000, over 1000."""
    grid = volume.grid
    sizes = [max(1, int((n - 1) * s / GRID_MM) + 1) for n, s in zip(grid.shape, grid.spacing_mm, strict=True)]
    steps = [GRID_MM / s for s in grid.spacing_mm]
    at = np.meshgrid(*(np.arange(n) * step for n, step in zip(sizes, steps, strict=True)), indexing="ij")
    hu = ndimage.map_coordinates(volume.array.astype(np.float32), at, order=1, mode="nearest")
    labels = lungs(hu)
    blobs = candidates.find(hu, candidates.hull((labels > 0) & (hu < AIR_HU), GRID_MM), GRID_MM, MOST_MARKS)
    back = [np.rint(np.arange(n) / step).astype(int).clip(0, m - 1) for n, step, m in zip(grid.shape, steps, sizes, strict=True)]
    places = grid.to_world_mm(blobs.voxels * np.array(steps)).reshape(-1, 3)
    marks = [
        Mark(centre_mm=(float(x), float(y), float(z)), score=min(1.0, float(strength) / 1000))
        for (x, y, z), strength in zip(places, blobs.response, strict=True)
    ]
    return labels[np.ix_(*back)], tuple(marks)
