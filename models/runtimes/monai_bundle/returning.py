"""Postprocessing of many classes: where scores return to the source grid only to be cut to the best class, they return a few at a time.

MONAI's Invertd makes classes x source volume of float32: 104 classes of a 300 x 512 x 512 CT are 32 GB. Each channel is returned by
itself there, so the best class of each voxel can be kept as channels come back: the same labels from the memory of CHANNELS.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from monai.data.meta_tensor import MetaTensor
from monai.transforms.compose import Compose
from monai.transforms.post.dictionary import AsDiscreted, Invertd

CHANNELS = 4


def run(postprocessing: Compose, steps: Sequence[Any], data: Mapping[str, Any], key: str) -> Any:
    """Give what postprocessing, whose steps these are, makes of the key's scores."""
    where = _place(steps, key)
    if where is None or len(data[key]) <= CHANNELS:
        return postprocessing(dict(data))[key]
    before: Any = Compose(steps[:where])(dict(data))
    before[key] = _best(steps[where], before, key)
    return Compose(steps[where + 2 :])(before)[key]


def at_once(steps: Sequence[Any], classes: int, key: str) -> int:
    """Tell how many channels lie on the source grid at the same time."""
    back = next((index for index, step in enumerate(steps) if isinstance(step, Invertd)), len(steps))
    if any(isinstance(step, AsDiscreted) and any(step.argmax) for step in steps[:back]):
        return 1
    return classes if _place(steps, key) is None else min(classes, CHANNELS)


def _place(steps: Sequence[Any], key: str) -> int | None:
    """Find an Invertd that is followed by a cut to the best class and nothing else."""
    where = next((index for index, step in enumerate(steps[:-1]) if isinstance(step, Invertd)), None)
    if where is None or steps[where].keys != (key,):
        return None
    cut = steps[where + 1]
    return where if isinstance(cut, AsDiscreted) and _cuts_alone(cut, key) else None


def _cuts_alone(cut: AsDiscreted, key: str) -> bool:
    """Tell a step that takes the best class and does nothing else."""
    plain = tuple(cut.threshold) == (None,) and tuple(cut.rounding) == (None,) and tuple(cut.to_onehot) == (None,)
    return cut.keys == (key,) and tuple(cut.argmax) == (True,) and plain and not cut.converter.kwargs


def _best(back: Invertd, data: Mapping[Any, Any], key: str) -> MetaTensor:
    """Give the channel with the highest score of each voxel on the source grid, (1, x, y, z) float32; of equals the first."""
    scores = data[key]
    best: Any = None
    for first in range(0, len(scores), CHANNELS):
        some: Any = back({**data, key: scores[first : first + CHANNELS]})[key]
        values, classes = some.as_tensor().max(dim=0, keepdim=True)
        classes += first
        if best is None:
            best, chosen, meta = values, classes, some.meta
        else:
            chosen[values > best] = classes[values > best]
            torch.maximum(best, values, out=best)
    return MetaTensor(chosen.float(), meta=meta)
