"""TotalSegmentator's own steps around nnU-Net: images to its spacing before, labels back to the nearest voxel.

Both lay the centres of the first and of the last voxels on each other (scipy's zoom without grid_mode), which is not how nnU-Net
resamples: between them the grids differ by up to half a voxel. Values become whole numbers.
Ref: totalsegmentator 2.18, resampling.change_spacing
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage


def coarse(image: NDArray[np.float32], spacing_mm: Sequence[float], wanted_mm: float, order: int) -> NDArray[np.float32]:
    """Resample channels (c, z, y, x) to a spacing, the same array where they have it.

    Spacings in single precision, and axes taken x first, as a NIfTI file and its reader have them.
    Example: 300 planes of 1 mm to 1.5 mm: 200 planes, the first and the last at the places of the first and the last.
    """
    ratios = [float(np.float32(step)) / wanted_mm for step in spacing_mm]
    if all(ratio == 1 for ratio in ratios):
        return image
    parts = [ndimage.zoom(channel.T.astype(float), ratios[::-1], order=order, mode="nearest").astype(np.int32).T for channel in image]
    return np.stack(parts).astype(np.float32)


def back(labels: NDArray[np.uint8], shape: Sequence[int]) -> NDArray[np.uint8]:
    """Bring labels (z, y, x) to a shape, each voxel from the nearest."""
    if labels.shape == tuple(shape):
        return labels
    ratios = [count / given for count, given in zip(shape, labels.shape, strict=True)]
    found = ndimage.zoom(labels.T.astype(float), ratios[::-1], order=0, mode="nearest")
    return np.ascontiguousarray(found.T.astype(np.uint8))
