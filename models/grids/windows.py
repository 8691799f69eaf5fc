"""The sliding window engine: a network over a volume window by window, its scores put together piece by piece.

What is finished is handed out at once, so that an array of classes x volume need never exist; `scores` puts the pieces together
where the whole is wanted. Where windows lie and how they are weighted is a Layout; `regular` gives the one that MONAI's
sliding_window_inference uses.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from itertools import chain, pairwise, product
from pathlib import Path
from typing import Literal

import torch
from torch.nn import functional

from models.execution import Execution, Need, Precision
from models.vocabulary import Broken, Progress

Index = tuple[int, int, int]
Blend = Literal["gaussian", "constant"]
Range = tuple[int, int]
Forward = Callable[[torch.Tensor], torch.Tensor]
"""(batch, channels, *window) -> (batch, classes, *window)"""

SIGMA = 0.125
"""Of a window's size: the spread of its Gaussian. Ref: monai.data.utils.compute_importance_map"""
FAINTEST = 1e-3


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Layout:
    """Where windows lie on a volume, and how much each of their voxels counts.

    shape       of the volume (z, y, x)
    window      voxels the network sees at once (z, y, x)
    starts      where windows begin along each axis of the volume, padded on both sides to at least the window; every combination
                is a window, and they leave no gap
    importance  float32 of the window's shape, above 0: weights of the mean where windows overlap
    padding     how a volume smaller than the window is padded (torch.nn.functional.pad), with `fill` where it is "constant"
    """

    shape: Index
    window: Index
    starts: tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]
    importance: torch.Tensor
    padding: str = "constant"
    fill: float = 0.0

    def __post_init__(self) -> None:
        """Raise ValueError for windows that leave a gap or reach over the end, and for weights that could divide by 0."""
        for starts, size, window in zip(self.starts, self.padded, self.window, strict=True):
            steps = [later - start for start, later in pairwise(starts)]
            if not starts or starts[0] != 0 or starts[-1] + window != size or not all(0 < step <= window for step in steps):
                raise ValueError(f"windows of {window} voxels at {list(starts)} do not cover an axis of {size}")
        if tuple(self.importance.shape) != self.window or not bool((self.importance > 0).all()):
            raise ValueError("the importance map must have the window's shape and be above 0 everywhere")

    @property
    def padded(self) -> Index:
        """Give the volume's shape where every axis has at least one window."""
        z, y, x = (max(size, window) for size, window in zip(self.shape, self.window, strict=True))
        return z, y, x

    @property
    def before(self) -> Index:
        """Give how much of the padding lies before the volume: half, rounded down.

        Example: 7 voxels, window 12: 2 before and 3 behind.
        """
        z, y, x = ((padded - size) // 2 for size, padded in zip(self.shape, self.padded, strict=True))
        return z, y, x

    @property
    def count(self) -> int:
        """Count the windows."""
        return math.prod(len(starts) for starts in self.starts)


def regular(
    shape: Sequence[int], window: Sequence[int], overlap: float | Sequence[float], blend: Literal["gaussian", "constant"]
) -> Layout:
    """Lay windows as MONAI does: evenly from the start, the last one moved back to the volume's end.

    overlap  share of a window its neighbour sees again, 0 up to 1, for all axes or each
    Example: 200 voxels, window 96, overlap 0.25: every 72 voxels, so at 0, 72 and 104.
    Ref: monai.inferers.utils.sliding_window_inference
    """
    shares = [overlap] * 3 if isinstance(overlap, int | float) else list(overlap)
    if not all(0 <= share < 1 for share in shares):
        raise ValueError(f"overlap must be at least 0 and below 1, not {overlap}")
    z, y, x = (_starts(size, seen, share) for size, seen, share in zip(shape, window, shares, strict=True))
    seen = (window[0], window[1], window[2])
    importance = gaussian(seen) if blend == "gaussian" else torch.ones(seen)
    return Layout(shape=(shape[0], shape[1], shape[2]), window=seen, starts=(z, y, x), importance=importance)


def _starts(size: int, window: int, overlap: float) -> tuple[int, ...]:
    step = max(1, int(window * (1 - overlap)))
    last = max(0, size - window)
    return (*range(0, last, step), last)


def gaussian(window: Index, sigma: float = SIGMA) -> torch.Tensor:
    """Give MONAI's Gaussian weights: 1 in the middle of a window, nowhere below 0.001, with a spread of sigma window sizes."""
    weights = torch.ones(1)
    for size in window:
        places = torch.arange(size, dtype=torch.float32) - (size - 1) / 2
        weights = weights[..., None] * torch.exp(places**2 / (-2 * (size * sigma) ** 2))
    return weights[0].clamp(min=max(float(weights.min()), FAINTEST))


def planar(forward: Forward) -> Forward:
    """Make of a 2-D network one that takes windows of one slice: (batch, channels, 1, y, x)."""
    return lambda windows: forward(windows[:, :, 0])[:, :, None]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Piece:
    """Finished scores of a part of the volume; along x it always has the whole.

    scores  (classes, z, y, x) raw scores, float32. Valid until the next piece is asked for
    low     where it begins in the volume. A piece begins one plane and one line before what is new in it, so that every
            cell of eight neighbours lies wholly in a piece
    """

    scores: torch.Tensor
    low: Index

    def within(self, whole: torch.Tensor) -> torch.Tensor:
        """Give this piece's view of an array (..., *volume's shape)."""
        for axis, (low, size) in enumerate(zip(self.low, self.scores.shape[1:], strict=True)):
            whole = whole.narrow(whole.dim() - 3 + axis, low, size)
        return whole


def scores(forward: Forward, tensor: torch.Tensor, layout: Layout, execution: Execution, progress: Progress) -> torch.Tensor:
    """Give the scores of the whole volume (classes, *shape), float32; runs and raises as `pieces` does."""
    whole: torch.Tensor | None = None
    for piece in pieces(forward, tensor, layout, execution, progress):
        if whole is None:
            whole = torch.empty((len(piece.scores), *layout.shape), dtype=torch.float32, device=piece.scores.device)
        piece.within(whole).copy_(piece.scores)
    assert whole is not None  # a layout has at least one window
    return whole


def pieces(forward: Forward, tensor: torch.Tensor, layout: Layout, execution: Execution, progress: Progress) -> Iterator[Piece]:
    """Run the network over a volume (channels, *shape) and give its scores piece by piece as they are finished.

    Windows go along x, then y, then z; what no later window touches is finished. Scores lie on the tensor's device, or in the
    host's memory with `execution.stitch`. Raises Broken where a score is no finite number, ValueError for a precision that the
    device does not have and for a network that does not keep the window's shape.
    """
    results = _results(forward, tensor, layout, execution, progress)
    first = next(results)
    results = chain((first,), results)
    sums = _Sums(layout, len(first), torch.device("cpu") if execution.stitch == "host" else tensor.device)
    for planes, lines in product(*(_steps(*axis) for axis in zip(layout.starts[:2], layout.window[:2], strict=True))):
        sums.enter(lines)
        for start in layout.starts[2]:
            sums.add(next(results), start)
        yield sums.finish(planes, lines)
        sums.leave(planes, lines)


def need(layout: Layout, channels: Range, execution: Execution, forward_bytes: int = 0) -> Need:
    """Estimate what `pieces` takes: the volume, the windows in the network, and the scores that are not finished.

    channels       of the volume and of the network's scores
    forward_bytes  what the network takes besides for one window
    """
    seen, classes = channels
    depth, height, _ = layout.window
    padded, window = math.prod(layout.padded), math.prod(layout.window)
    shared = max(depth - (stop - start) for start, stop in _steps(layout.starts[0], depth))
    _, lines, columns = layout.padded
    sums = (classes + 1) * columns * ((1 + depth) * (1 + height) * 3 // 2 + (1 + shared) * lines)
    run = (
        execution.batch * int(4 * window * (seen + classes) + execution.activations * forward_bytes)
        + 4 * window * classes
        + 8 * seen * padded
    )
    stitched = 4 * sums
    return Need(device=run, host=stitched) if execution.stitch == "host" else Need(device=run + stitched, host=0)


def _steps(starts: Sequence[int], window: int) -> list[Range]:
    """Give, for each start, the range that is finished with its window.

    Example: windows of 96 at 0, 72 and 104: 0..72, 72..104, 104..200.
    """
    return list(zip(starts, (*starts[1:], starts[-1] + window), strict=True))


def padded(tensor: torch.Tensor, layout: Layout) -> torch.Tensor:
    """Give a volume (channels, *shape) with what the layout adds on all sides: (channels, *padded), the same where nothing is."""
    pads = [(before, whole - size - before) for before, whole, size in zip(layout.before, layout.padded, layout.shape, strict=True)]
    if not any(chain(*pads)):
        return tensor
    value = layout.fill if layout.padding == "constant" else None
    return functional.pad(tensor[None], list(chain(*reversed(pads))), mode=layout.padding, value=value)[0]


def _results(forward: Forward, tensor: torch.Tensor, layout: Layout, execution: Execution, progress: Progress) -> Iterator[torch.Tensor]:
    """Give the network's scores (classes, *window) of each window, float32."""
    tensor = padded(tensor, layout)
    depth, height, width = layout.window
    places = list(product(*layout.starts))
    for begin in range(0, len(places), execution.batch):
        some = places[begin : begin + execution.batch]
        windows = torch.stack([tensor[:, z : z + depth, y : y + height, x : x + width] for z, y, x in some])
        with running(tensor.device, execution.precision):
            found = forward(windows)
        if found.dim() != 5 or (len(found), *found.shape[2:]) != (len(some), *layout.window):
            raise ValueError(f"of windows {tuple(windows.shape)} the network makes {tuple(found.shape)}, which is not of their size")
        progress((begin + len(some)) / len(places))
        for window in found:
            yield window.float()


@contextmanager
def running(device: torch.device, precision: Precision) -> Iterator[None]:
    """Hold, while the network runs: no gradients, the same kernels every time, and the precision."""
    if not has(precision, device.type):
        raise ValueError(f"{precision} is not to be had on this machine's {device.type}")
    half = {"float16": torch.float16, "bfloat16": torch.bfloat16}.get(precision)
    with (
        torch.inference_mode(),
        torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False),
        torch.autocast(device.type, dtype=half, enabled=half is not None),
    ):
        yield


@cache
def has(precision: Precision, device: str) -> bool:
    """Tell whether a kind of device, "cuda" or "cpu", computes in a precision faster than in float32.

    A processor without bfloat16 of its own takes fifty times as long as with float32.
    """
    if precision == "float32" or device == "cuda":
        return True
    flags = Path("/proc/cpuinfo")
    return precision == "bfloat16" and flags.is_file() and bool({"avx512_bf16", "amx_bf16"} & set(flags.read_text().split()))


class _Sums:
    """Weighted sums of one row of windows along x, and what the rows before left for those to come.

    sums   (classes + 1, 1 + window z, 1 + window y, x): plane 0 and line 0 hold the finished neighbours; the last channel adds
           up the weights
    carry  (classes + 1, 1 + planes that two windows share, y, x): the last finished plane, and the sums that go on
    reached  how far along y the sums hold what the row of windows before left
    """

    def __init__(self, layout: Layout, classes: int, device: torch.device) -> None:
        depth, height, _ = layout.window
        _, lines, columns = layout.padded
        shared = max(depth - (stop - start) for start, stop in _steps(layout.starts[0], depth))
        self._layout = layout
        self._importance = layout.importance.to(device)
        self._sums = torch.zeros((classes + 1, 1 + depth, 1 + height, columns), device=device)
        self._carry = torch.zeros((classes + 1, 1 + shared, lines, columns), device=device)
        self._reached = 0

    def enter(self, lines: Range) -> None:
        """Take from the row of windows before, along z, the lines that this strip is the first to touch."""
        stop = lines[0] + self._layout.window[1]
        self._sums[:, : self._carry.shape[1], 1 + self._reached - lines[0] :] = self._carry[:, :, self._reached : stop]
        self._reached = stop

    def add(self, scores: torch.Tensor, start: int) -> None:
        """Add one window's scores (classes, *window)."""
        where = self._sums[:, 1:, 1:, start : start + scores.shape[-1]]
        where[:-1].addcmul_(scores.to(where.device), self._importance)
        where[-1] += self._importance

    def finish(self, planes: Range, lines: Range) -> Piece:
        """Divide the sums of what is finished by the weights, in place; raises Broken."""
        done = self._sums[:, 1 : 1 + planes[1] - planes[0], 1 : 1 + lines[1] - lines[0]]
        done[:-1] /= done[-1:]
        if not bool(torch.isfinite(done[:-1].sum())):
            raise Broken("The network gave scores that are no finite numbers.")
        layout = self._layout
        found, low = self._sums[:-1], []
        for axis, (start, stop) in enumerate((planes, lines, (0, layout.padded[2]))):
            first = max(start - 1, layout.before[axis]) if axis < 2 else layout.before[2]
            last = min(stop, layout.before[axis] + layout.shape[axis])
            found = found.narrow(1 + axis, first - start + (axis < 2), last - first)
            low.append(first - layout.before[axis])
        return Piece(scores=found, low=(low[0], low[1], low[2]))

    def leave(self, planes: Range, lines: Range) -> None:
        """Keep what the next strip and the next row of windows along z go on with."""
        depth, height = planes[1] - planes[0], lines[1] - lines[0]
        left = self._sums[:, depth:, 1 : 1 + height]
        self._carry[:, : left.shape[1], lines[0] : lines[1]] = left
        self._carry[:, left.shape[1] :, lines[0] : lines[1]] = 0
        kept = self._sums[:, :, height:]
        self._sums[:, :, : kept.shape[2]] = kept if kept.shape[2] <= height else kept.clone()
        self._sums[:, :, kept.shape[2] :] = 0
        if lines[1] == self._layout.padded[1]:
            self._reached = 0
