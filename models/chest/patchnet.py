"""The network that judges one place of a CT: is there a nodule, and which voxels are it.

It sees a cube of SIDE voxels at the grid's spacing, and a cube twice as wide at half the resolution, which shows whether what
looks round here runs on as a vessel there. Both are folded (2 x 2 x 2 voxels to channels) before the first convolution.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

SIDE = 32
MIDDLE = slice(3, 5)


def fold(cube: Tensor) -> Tensor:
    """Take (n, 1, 2z, 2y, 2x) to (n, 8, z, y, x): no voxel is lost, and the convolutions see an eighth of the places."""
    n, _, z, y, x = cube.shape
    parts = cube.reshape(n, z // 2, 2, y // 2, 2, x // 2, 2)
    return parts.permute(0, 2, 4, 6, 1, 3, 5).reshape(n, 8, z // 2, y // 2, x // 2)


def unfold(folded: Tensor) -> Tensor:
    """Take (n, 8, z, y, x) back to (n, 1, 2z, 2y, 2x): the inverse of `fold`."""
    n, _, z, y, x = folded.shape
    parts = folded.reshape(n, 2, 2, 2, z, y, x)
    return parts.permute(0, 4, 1, 5, 2, 6, 3).reshape(n, 1, 2 * z, 2 * y, 2 * x)


class Block(nn.Module):
    """Convolution, batch norm, ReLU; with a shortcut where the shape stays."""

    def __init__(self, channels_in: int, channels: int, stride: int = 1) -> None:
        super().__init__()
        self.convolution = nn.Conv3d(channels_in, channels, 3, stride=stride, padding=1, bias=False)
        self.norm = nn.BatchNorm3d(channels)
        self.adds = stride == 1 and channels_in == channels

    def forward(self, x: Tensor) -> Tensor:
        """Give max(0, norm(conv(x)) + x)."""
        y = self.norm(self.convolution(x))
        return functional.relu(y + x if self.adds else y)


class PatchNet(nn.Module):
    """Near and wide cube in; a nodule's logit (n,) and the logits of its voxels (n, 1, SIDE, SIDE, SIDE) out."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        w = width
        self.near16 = nn.Sequential(Block(8, w), Block(w, w), Block(w, w))
        self.near8 = nn.Sequential(Block(w, 2 * w, 2), Block(2 * w, 2 * w), Block(2 * w, 2 * w))
        self.wide = nn.Sequential(Block(8, w, 2), Block(w, 2 * w), Block(2 * w, 2 * w, 2), Block(2 * w, 2 * w))
        self.deep = nn.Sequential(Block(4 * w, 4 * w), Block(4 * w, 4 * w))
        self.down = Block(2 * w, 2 * w, 2)
        self.judge = nn.Sequential(nn.Linear(10 * w, 2 * w), nn.ReLU(), nn.Dropout(0.2), nn.Linear(2 * w, 1))
        self.up8 = nn.Conv3d(4 * w, 2 * w, 1)
        self.back8 = Block(2 * w, 2 * w)
        self.up16 = nn.Conv3d(2 * w, w, 1)
        self.back16 = Block(w, w)
        self.voxels = nn.Conv3d(w, 8, 1)

    def forward(self, near: Tensor, wide: Tensor) -> tuple[Tensor, Tensor]:
        """Judge cubes of intensities in 0..1, (n, 1, SIDE, SIDE, SIDE) each."""
        at16 = self.near16(fold(near))
        at8 = self.near8(at16)
        deep = self.deep(torch.cat([self.down(at8), self.wide(fold(wide))], dim=1))
        middle = at8[:, :, MIDDLE, MIDDLE, MIDDLE].mean((2, 3, 4))
        seen = torch.cat([deep.mean((2, 3, 4)), deep.amax((2, 3, 4)), middle], dim=1)
        up = functional.interpolate(self.up8(deep), scale_factor=2.0, mode="nearest")
        up = self.back8(up + at8)
        up = functional.interpolate(self.up16(up), scale_factor=2.0, mode="nearest")
        return self.judge(seen).squeeze(1), unfold(self.voxels(self.back16(up + at16)))
