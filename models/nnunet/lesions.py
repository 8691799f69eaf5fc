"""Labels that are findings: connected parts, each with its number, box and the network's own probability."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage

from models.card import Card, LabelPart
from models.nnunet import resampling
from models.nnunet.plans import Heads
from models.nnunet.scores import Slab
from models.vocabulary import Box, Finding, Grid

Labels = NDArray[np.uint8]
Levels = NDArray[np.float16]
TOUCH = np.ones((3, 3, 3))  # voxels that touch at a corner belong together


@dataclass(frozen=True, slots=True, kw_only=True)
class _Part:
    label: int
    where: tuple[slice, ...]
    mask: NDArray[np.bool_]
    score: float
    middle: tuple[float, ...]


def watch(slabs: Iterable[Slab], heads: Heads, values: Sequence[int], seen: list[torch.Tensor]) -> Iterator[Slab]:
    """Pass slabs on, and note in `seen` the probabilities (values, planes, y, x) of some labels, float16."""
    channels = [heads.values.index(value) for value in values]
    for slab in slabs:
        if channels:
            scores = slab.scores.float()
            levels = torch.sigmoid(scores[channels]) if heads.regions else torch.softmax(scores, dim=0)[channels]
            seen.append(levels.half().cpu())
        yield slab


def at_crop(levels: Levels, shape: Sequence[int]) -> Levels:
    """Give the probability of each of an image's voxels: that of the nearest voxel of the model's grid."""
    for axis, count in enumerate(shape):
        levels = np.take(levels, resampling.nearest(levels.shape[axis], count), axis=axis)
    return levels


def mark(labels: Labels, levels: Mapping[int, Levels], card: Card, grid: Grid) -> tuple[NDArray[np.uint16] | None, tuple[Finding, ...]]:
    """Give the parts of the card's findings numbers by position, and take their voxels out of `labels`; None where it has no findings.

    A part below its label's min_volume_ml, or whose highest probability is below the label's threshold, is none.
    """
    parts: list[_Part] = []
    for label in card.output.labels:
        if label.kind == "finding":
            parts += _parts(labels == label.index, levels[label.index], label, grid)
            labels[labels == label.index] = 0
    if not card.finds:
        return None, ()
    instances = np.zeros(labels.shape, dtype=np.uint16)
    findings = []
    for number, part in enumerate(sorted(parts, key=lambda entry: (entry.middle, entry.label))[: np.iinfo(np.uint16).max], start=1):
        instances[part.where][part.mask] = number
        low, high = (_corner([getattr(side, end) for side in part.where]) for end in ("start", "stop"))
        findings.append(Finding(number=number, label=part.label, score=part.score, box=Box(low=low, high=high)))
    return instances, tuple(findings)


def _parts(mask: NDArray[np.bool_], levels: Levels, label: LabelPart, grid: Grid) -> list[_Part]:
    around: Any = ndimage.find_objects(mask.astype(np.uint8))
    if not around:
        return []
    found: Any = ndimage.label(mask[around[0]], structure=TOUCH)[0]
    parts = []
    for number, where in enumerate(ndimage.find_objects(found), start=1):
        inside = found[where] == number
        whole = tuple(slice(one.start + outer.start, one.stop + outer.start) for one, outer in zip(where, around[0], strict=True))
        score = min(1.0, float(levels[whole][inside].max()))
        if inside.sum() * grid.voxel_mm3 / 1000 >= label.min_volume_ml and score >= (label.threshold or 0):
            middle = tuple(float(place.mean()) + side.start for place, side in zip(np.nonzero(inside), whole, strict=True))
            parts.append(_Part(label=label.index, where=whole, mask=inside, score=score, middle=middle))
    return parts


def _corner(ends: Sequence[int]) -> tuple[int, int, int]:
    return ends[0], ends[1], ends[2]
