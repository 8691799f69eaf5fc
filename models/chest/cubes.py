"""Cubes cut from a volume around places, as the patch network sees them: near, and twice as wide at half the resolution."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.chest.patchnet import SIDE

LOW_HU, HIGH_HU = -1000.0, 400.0


def scaled(hu: Tensor) -> Tensor:
    """Take HU to 0..1. Example: -300 HU -> 0.5."""
    return ((hu - LOW_HU) / (HIGH_HU - LOW_HU)).clamp(0, 1)


def halved(volume: Tensor) -> Tensor:
    """Give the means of 2 x 2 x 2 voxels; an odd end is doubled first."""
    for axis in range(3):
        if volume.shape[axis] % 2:
            volume = torch.cat([volume, volume.narrow(axis, volume.shape[axis] - 1, 1)], dim=axis)
    return torch.nn.functional.avg_pool3d(volume[None, None], 2)[0, 0]


def cut(volume: Tensor, middles: NDArray[np.int64]) -> Tensor:
    """Cut cubes of SIDE voxels (n, SIDE, SIDE, SIDE); voxel SIDE / 2 of each is its middle. Beyond the ends the end voxels go on."""
    ranges = torch.arange(SIDE) - SIDE // 2
    cubes = []
    for middle in middles:
        z, y, x = ((ranges + int(at)).clamp(0, size - 1) for at, size in zip(middle, volume.shape, strict=True))
        cubes.append(volume[z][:, y][:, :, x])
    return torch.stack(cubes) if cubes else torch.zeros((0, SIDE, SIDE, SIDE))


def both(volume: Tensor, half: Tensor, middles: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
    """Give near and wide cubes around places of the full-resolution volume."""
    return cut(volume, middles), cut(half, middles // 2)
