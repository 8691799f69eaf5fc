"""A probability map to findings: connected parts that reach a threshold, each with its number, score and box."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage

from models.grids import inverse, transforms
from models.vocabulary import Box, Finding

Labels = NDArray[np.uint8]
Instances = NDArray[np.uint16]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """When a part of the map is a finding.

    label          the card's label index that findings get
    threshold      probability that a part must reach somewhere to be a finding
    extent         probability from which a voxel belongs to a part, at most the threshold: what is marked rarely is sure to
                   its edge, and a mask cut at a high threshold would measure too small
    min_volume_ml  smaller parts are dropped
    within_labels  organ labels a finding must lie in or beside; empty: anywhere
    within_mm      half of a finding's voxels must lie no farther than this from such an organ
    """

    label: int
    threshold: float
    extent: float
    min_volume_ml: float
    within_labels: tuple[int, ...] = ()
    within_mm: float = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Candidate:
    finding_key: tuple[float, ...]
    box: Box
    mask: NDArray[np.bool_]
    score: float


def find(probability: torch.Tensor, plan: transforms.Resampling, labels: Labels, rule: Rule) -> tuple[Instances, tuple[Finding, ...]]:
    """Give findings on the source grid, numbered by position; sets their voxels to 0 in `labels`.

    probability  (*model shape), 0..1; interpolated linearly to the source grid before it is cut
    labels       organs on the source grid; changed in place, so that no two segments overlap
    A finding's score is the highest probability among its voxels. Voxels that touch at a corner belong together.
    """
    above = inverse.labels_to_source(probability[None], plan, lambda values: (values[0] >= rule.extent).to(torch.uint8))
    instances: Instances = np.zeros(above.shape, dtype=np.uint16)
    around = _around(above)
    if around is None:
        return instances, ()
    parts, _ = ndimage.label(above[around], structure=np.ones((3, 3, 3)))
    candidates = []
    for number, where in enumerate(ndimage.find_objects(parts), start=1):
        mask = parts[where] == number
        low = [outer.start + inner.start for outer, inner in zip(around, where, strict=True)]
        if mask.sum() * plan.source.voxel_mm3 / 1000 >= rule.min_volume_ml and _lies_within(mask, low, labels, (plan, rule)):
            candidates.append(_candidate(mask, low, probability, plan))
    candidates = [candidate for candidate in candidates if candidate.score >= rule.threshold]
    candidates.sort(key=lambda candidate: candidate.finding_key)
    findings = []
    for number, candidate in enumerate(candidates[: np.iinfo(np.uint16).max], start=1):
        region = _region(candidate.box)
        instances[region][candidate.mask] = number
        labels[region][candidate.mask] = 0
        findings.append(Finding(number=number, label=rule.label, score=candidate.score, box=candidate.box))
    return instances, tuple(findings)


def _around(above: Labels) -> tuple[slice, ...] | None:
    """Give the box of everything that is set, or None."""
    box = []
    for axis in range(3):
        hits = np.flatnonzero(above.any(axis=tuple(other for other in range(3) if other != axis)))
        if len(hits) == 0:
            return None
        box.append(slice(int(hits[0]), int(hits[-1]) + 1))
    return tuple(box)


def _region(box: Box) -> tuple[slice, ...]:
    return tuple(slice(low, high) for low, high in zip(box.low, box.high, strict=True))


def _candidate(mask: NDArray[np.bool_], low: list[int], probability: torch.Tensor, plan: transforms.Resampling) -> _Candidate:
    voxels = np.argwhere(mask) + low
    values = inverse.scores_at_source(probability, plan, voxels)
    high = [start + count for start, count in zip(low, mask.shape, strict=True)]
    return _Candidate(
        finding_key=tuple(voxels.mean(axis=0).tolist()),
        box=Box(low=(low[0], low[1], low[2]), high=(high[0], high[1], high[2])),
        mask=mask,
        score=min(1.0, float(values.max())),
    )


def _lies_within(mask: NDArray[np.bool_], low: list[int], labels: Labels, asked: tuple[transforms.Resampling, Rule]) -> bool:
    """Tell whether half of a part lies in or near the organs it may lie in.

    Distances are between voxel centres, in mm, inside a box that reaches `within_mm` beyond the part.
    Example: a 4 mm part with its near half 5 mm from the lung and its far half 7 mm, within_mm 6: it counts.
    """
    plan, rule = asked
    if not rule.within_labels:
        return True
    reach = [int(np.ceil(rule.within_mm / spacing)) for spacing in plan.source.spacing_mm]
    wide = [max(0, start - more) for start, more in zip(low, reach, strict=True)]
    region = tuple(slice(first, start + count + more) for first, start, count, more in zip(wide, low, mask.shape, reach, strict=True))
    inside = np.isin(labels[region], rule.within_labels)
    if not inside.any():
        return False
    distance_mm: Any = ndimage.distance_transform_edt(~inside, sampling=plan.source.spacing_mm)
    part = tuple(slice(start - first, start - first + count) for first, start, count in zip(wide, low, mask.shape, strict=True))
    return bool((distance_mm[part][mask] <= rule.within_mm).mean() >= 0.5)
