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


def cut_scaled(volume: Tensor, middles: NDArray[np.float64], scale: float) -> Tensor:
    """Cut cubes whose voxels are `scale` times as large, interpolated linearly; voxel SIDE / 2 of each is its middle (z, y, x).

    Example: at 1.1 voxel 26 of a cube about 100 is what lies at 100 + 10 * 1.1 = 111.
    """
    offsets = (torch.arange(SIDE, dtype=torch.float32) - SIDE // 2) * scale
    cubes = []
    for middle in middles:
        cube = volume
        for axis, (at, size) in enumerate(zip(middle, volume.shape, strict=True)):
            places = (offsets + float(at)).clamp(0, size - 1)
            low = places.floor().long().clamp(max=max(size - 2, 0))
            shape = [-1 if axis == other else 1 for other in range(3)]
            part = (places - low).reshape(shape).to(volume.device)
            low = low.to(volume.device)
            first, second = cube.index_select(axis, low), cube.index_select(axis, (low + 1).clamp(max=size - 1))
            cube = first + (second - first) * part
        cubes.append(cube)
    return torch.stack(cubes)


def both_scaled(volume: Tensor, half: Tensor, middles: NDArray[np.int64], scale: float) -> tuple[Tensor, Tensor]:
    """Give near and wide cubes around places of the full-resolution volume, their voxels `scale` times as large."""
    return cut_scaled(volume, middles.astype(np.float64), scale), cut_scaled(half, (middles // 2).astype(np.float64), scale)
