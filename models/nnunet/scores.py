"""The sliding window as nnU-Net steps it, its scores added up in half precision as nnU-Net adds them, slab by slab.

Half precision is what its labels come from: where two classes are near, its rounding decides. So the same sums are made in the
same order. Along the first axis a slab is finished as soon as no later window reaches it, so that only one window's depth of
scores exists at once; the numbers are the same.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy import ndimage
from torch import nn
from torch.nn import functional

from models.execution import Execution
from models.grids.windows import running
from models.vocabulary import Broken, Progress

SIGMA = 1 / 8
PEAK = 10  # of the weights, so that they do not vanish in half precision


@dataclass(frozen=True, slots=True, kw_only=True)
class Passes:
    """How the network is run on a volume.

    networks  one a fold; their scores are averaged
    outputs   channels that each gives
    patch     voxels a network sees at once: three, or two for one that sees slices
    step      of the windows, as a share of the patch, 0 (excluded) to 1
    axes      of the patch along which it is also run mirrored, every combination
    """

    networks: tuple[nn.Module, ...]
    outputs: int
    patch: tuple[int, ...]
    step: float
    axes: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Slab:
    """Finished scores (classes, planes, y, x), float16, of the planes from `start`."""

    start: int
    scores: torch.Tensor


def starts(size: int, patch: int, step: float) -> list[int]:
    """Give where windows begin along an axis at least as long as the patch: evenly, the last at the end.

    Example: 110 voxels, patch 64, step 0.5: 0, 23, 46.
    Ref: nnunetv2.inference.sliding_window_prediction.compute_steps_for_sliding_window
    """
    count = int(np.ceil((size - patch) / (patch * step))) + 1
    each = (size - patch) / (count - 1) if count > 1 else 0
    return [int(np.round(each * index)) for index in range(count)]


def importance(patch: Sequence[int]) -> torch.Tensor:
    """Give the weights of a window's voxels: a Gaussian of a standard deviation of patch / 8, in half precision, nowhere 0.

    Ref: nnunetv2.inference.sliding_window_prediction.compute_gaussian
    """
    point = np.zeros(tuple(patch))
    point[tuple(size // 2 for size in patch)] = 1
    weights = ndimage.gaussian_filter(point, [size * SIGMA for size in patch], 0, mode="constant", cval=0)
    weights /= np.max(weights) / PEAK
    half = torch.from_numpy(weights).to(torch.float16)
    half[half == 0] = half[half > 0].min()
    return half


def slabs(array: torch.Tensor, passes: Passes, execution: Execution, progress: Progress) -> Iterator[Slab]:
    """Give the scores of an array (channels, *shape) slab by slab along the first axis; raises Broken for scores that are no numbers.

    The array lies where windows are cut out of; the networks' device is asked of the first.
    """
    patch = passes.patch if len(passes.patch) == 3 else (1, *passes.patch)
    below = [max(0, size - count) // 2 for size, count in zip(patch, array.shape[1:], strict=True)]
    above = [max(0, size - count) - low for size, count, low in zip(patch, array.shape[1:], below, strict=True)]
    padded = functional.pad(array, [pad for low, high in zip(reversed(below), reversed(above), strict=True) for pad in (low, high)])
    places = [starts(size, seen, passes.step if seen > 1 else 1) for size, seen in zip(padded.shape[1:], patch, strict=True)]
    rows, columns = (slice(low, low + count) for low, count in zip(below[1:], array.shape[2:], strict=True))
    device = next(passes.networks[0].parameters()).device
    stack = _Stack(padded, passes, device if execution.stitch == "device" else torch.device("cpu"))
    for number, place in enumerate(places[0]):
        grid = list(itertools.product([place], *places[1:]))
        for begin in range(0, len(grid), execution.batch):
            some = grid[begin : begin + execution.batch]
            stack.add(_windows(padded, some, passes).to(device), some, execution)
            progress((number + (begin + len(some)) / len(grid)) / len(places[0]))
        stop = places[0][number + 1] if number + 1 < len(places[0]) else padded.shape[1]
        finished = stack.finish(place, stop)
        first, last = max(place, below[0]), min(stop, below[0] + array.shape[1])
        if first < last:
            yield Slab(start=first - below[0], scores=finished[:, first - place : last - place, rows, columns])


def _windows(array: torch.Tensor, places: Sequence[tuple[int, ...]], passes: Passes) -> torch.Tensor:
    """Cut windows (batch, channels, *patch) out."""
    if len(passes.patch) == 2:
        height, width = passes.patch
        return torch.stack([array[:, z, y : y + height, x : x + width] for z, y, x in places])
    depth, height, width = passes.patch
    return torch.stack([array[:, z : z + depth, y : y + height, x : x + width] for z, y, x in places])


class _Stack:
    """Sums of windows' scores, one a fold, over as many planes as a window has; `start` is the first plane that is not finished."""

    def __init__(self, array: torch.Tensor, passes: Passes, device: torch.device) -> None:
        depth = passes.patch[0] if len(passes.patch) == 3 else 1
        shape = (depth, *array.shape[2:])
        self._passes = passes
        self._device = device
        self._sums = [torch.zeros((passes.outputs, *shape), dtype=torch.float16, device=device) for _ in passes.networks]
        self._weights = torch.zeros(shape, dtype=torch.float16, device=device)
        self._importance = importance(passes.patch).to(device)

    def add(self, windows: torch.Tensor, places: Sequence[tuple[int, ...]], execution: Execution) -> None:
        """Run every fold's network on windows and add their scores up."""
        size = self._passes.patch[-2:]
        for network, sums in zip(self._passes.networks, self._sums, strict=True):
            found = _mirrored(network, windows, self._passes.axes, execution).to(self._device)
            for scores, (_, y, x) in zip(found, places, strict=True):
                weighted = scores * self._importance
                sums[:, :, y : y + size[0], x : x + size[1]] += weighted if weighted.dim() == 4 else weighted[:, None]
        for _, y, x in places:
            self._weights[:, y : y + size[0], x : x + size[1]] += self._importance

    def finish(self, start: int, stop: int) -> torch.Tensor:
        """Give the mean scores of the planes that are finished, and go on with what is left; raises Broken."""
        count = stop - start
        mean = self._sums[0][:, :count] / self._weights[:count]
        for sums in self._sums[1:]:
            mean += sums[:, :count] / self._weights[:count]
        if len(self._sums) > 1:
            mean /= len(self._sums)
        if not bool(torch.isfinite(mean).all()):
            raise Broken("The network gave scores that are no finite numbers.")
        for sums in (*self._sums, self._weights[None]):
            kept = sums[:, count:].clone()
            sums.zero_()
            sums[:, : kept.shape[1]] = kept
        return mean


def _mirrored(network: nn.Module, windows: torch.Tensor, axes: Sequence[int], execution: Execution) -> torch.Tensor:
    """Give a network's scores, averaged over every mirroring of the windows."""
    with running(windows.device, execution.precision):
        scores: torch.Tensor = network(windows)
        flips = [tuple(axis + 2 for axis in some) for count in range(len(axes)) for some in itertools.combinations(axes, count + 1)]
        for flip in flips:
            scores += torch.flip(network(torch.flip(windows, flip)), flip)
        if flips:
            scores /= len(flips) + 1
    return scores
