"""Nodules in the lungs: candidates, the network's judgement of each, and the voxels of those that are accepted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage

from models.chest import cubes
from models.chest.patchnet import SIDE, PatchNet
from models.grids import cells
from models.grids.transforms import Resampling
from models.vocabulary import Box, Finding, Progress

Instances = NDArray[np.uint16]
Labels = NDArray[np.uint8]
FLIPS = ((), (4,), (3,), (2,))
"""Axes of a batch of cubes that are mirrored for a second opinion."""
SCALES = (0.9, 1.1)
"""How much larger the cubes' voxels are for a third: the nodule then looks that much smaller."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """When a candidate is a finding, and how it is judged.

    label          the card's label index that findings get
    threshold      least probability
    calibration    (a, b): probability = sigmoid(a * logit + b)
    doubt          candidates with at least this probability at the first look are judged three times more, mirrored
    batch          candidates that go through the network at once
    min_volume_ml  smaller findings are dropped
    """

    label: int
    threshold: float
    calibration: tuple[float, float]
    doubt: float
    batch: int
    min_volume_ml: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """One candidate: its voxel on the fine grid, its probability, and the probability of each voxel of its near cube.

    opinions  the probabilities it got: as it is, mirrored three times, and, where it is a finding, larger and smaller
    """

    voxel: tuple[int, int, int]
    probability: float
    voxels: NDArray[np.float32]
    opinions: tuple[float, ...] = ()

    @property
    def deviation(self) -> float | None:
        """Give the population standard deviation of the opinions; None where there is none."""
        return float(np.std(self.opinions)) if self.opinions else None


def judge(network: PatchNet, hu: torch.Tensor, places: NDArray[np.int64], rule: Rule, progress: Progress) -> list[Judged]:
    """Judge every place of a volume (z, y, x) in HU; give those that are at all likely, most likely first."""
    volume = cubes.scaled(hu)
    half = cubes.halved(volume)
    found: list[Judged] = []
    for begin in range(0, len(places), rule.batch):
        some = places[begin : begin + rule.batch]
        near, wide = (part[:, None] for part in cubes.both(volume, half, some))
        logits, _ = network(near, wide)
        likely = torch.nonzero(_calibrated(logits, rule) >= rule.doubt).squeeze(1)
        if len(likely):
            again = _again(network, (near[likely], wide[likely]), some[likely.cpu().numpy()], rule)
            found += _from_afar(network, (volume, half), again, rule)
        progress(min(1.0, (begin + rule.batch) / len(places)))
    return sorted(found, key=lambda entry: (-entry.probability, entry.voxel))


def _calibrated(logits: torch.Tensor, rule: Rule) -> torch.Tensor:
    scale, offset = rule.calibration
    return torch.sigmoid(logits.float() * scale + offset)


def _again(network: PatchNet, pair: tuple[torch.Tensor, torch.Tensor], places: NDArray[np.int64], rule: Rule) -> list[Judged]:
    """Judge some candidates as they are and mirrored along each axis; their logits and voxels are averaged."""
    near, wide = pair
    logits, voxels = [], torch.zeros_like(near)
    for axes in FLIPS:
        logit, marked = network(torch.flip(near, axes), torch.flip(wide, axes))
        logits.append(logit.float())
        voxels += torch.flip(torch.sigmoid(marked.float()), axes) / len(FLIPS)
    stacked = torch.stack(logits)
    probability, opinions = _calibrated(stacked.mean(0), rule), _calibrated(stacked, rule)
    return [
        Judged(
            voxel=(int(place[0]), int(place[1]), int(place[2])),
            probability=float(probability[index]),
            voxels=voxels[index, 0].cpu().numpy(),
            opinions=tuple(opinions[:, index].tolist()),
        )
        for index, place in enumerate(places)
    ]


def _from_afar(network: PatchNet, volumes: tuple[torch.Tensor, torch.Tensor], judged: list[Judged], rule: Rule) -> list[Judged]:
    """Add to what will be findings what the network says where they look larger and smaller; their probability stays."""
    found = [entry for entry in judged if entry.probability >= rule.threshold]
    if not found:
        return judged
    places = np.array([entry.voxel for entry in found])
    opinions = []
    for scale in SCALES:
        near, wide = (part[:, None] for part in cubes.both_scaled(*volumes, places, scale))
        opinions.append(_calibrated(network(near, wide)[0], rule).tolist())
    wider = {entry.voxel: (*entry.opinions, *more) for entry, more in zip(found, zip(*opinions, strict=True), strict=True)}
    return [replace(entry, opinions=wider.get(entry.voxel, entry.opinions)) for entry in judged]


def place(judged: Sequence[Judged], plan: Resampling, labels: Labels, rule: Rule) -> tuple[Instances, tuple[Finding, ...]]:
    """Give what is accepted as findings on the source grid, numbered by position; sets their voxels to 0 in `labels`.

    Of two candidates whose voxels overlap the more likely one stands.
    """
    instances: Instances = np.zeros(plan.source.shape, np.uint16)
    view = plan.turning.turn(instances)
    taken: list[Judged] = []
    for entry in judged:
        if entry.probability < rule.threshold:
            break
        region, mask = _on_source(entry, plan)
        lies = view[region]
        if mask.sum() * plan.source.voxel_mm3 / 1000 < rule.min_volume_ml or not mask.any() or (lies[mask] > 0).mean() > 0.2:
            continue
        mask &= lies == 0
        taken.append(entry)
        lies[mask] = len(taken)
    return _numbered(instances, taken, labels, rule)


def heat(judged: Sequence[Judged], plan: Resampling) -> NDArray[np.uint8]:
    """Give the probability of a nodule at each voxel of the source grid, in steps of 1/255.

    It is a candidate's probability times that of the voxel belonging to it, the highest of all candidates', also of those that are
    no findings; what was not likely at the first look (Rule.doubt) is 0.
    """
    levels: NDArray[np.uint8] = np.zeros(plan.source.shape, np.uint8)
    view = plan.turning.turn(levels)
    for entry in judged:
        region, values, _ = _sampled(entry, plan)
        found = np.rint(255 * min(1.0, entry.probability) * values.clip(0, 1)).astype(np.uint8)
        view[region] = np.maximum(view[region], found)
    return levels


def _numbered(instances: Instances, taken: list[Judged], labels: Labels, rule: Rule) -> tuple[Instances, tuple[Finding, ...]]:
    """Give findings numbers by the middle of their voxels (z, y, x)."""
    boxes = ndimage.find_objects(instances)
    middles = [np.argwhere(instances[box] == at + 1).mean(axis=0) + [part.start for part in box] for at, box in enumerate(boxes)]
    order = sorted(range(len(boxes)), key=lambda at: tuple(middles[at]))
    table = np.zeros(len(boxes) + 1, np.uint16)
    findings = []
    for number, at in enumerate(order, start=1):
        table[at + 1] = number
        low, high = [part.start for part in boxes[at]], [part.stop for part in boxes[at]]
        box = Box(low=(low[0], low[1], low[2]), high=(high[0], high[1], high[2]))
        score, deviation = min(1.0, taken[at].probability), taken[at].deviation
        findings.append(Finding(number=number, label=rule.label, score=score, box=box, deviation=deviation))
    for box in boxes:
        instances[box] = table[instances[box]]
        labels[box][instances[box] > 0] = 0
    return instances, tuple(findings)


def _on_source(entry: Judged, plan: Resampling) -> tuple[tuple[slice, ...], NDArray[np.bool_]]:
    """Give a candidate's box on the oriented source grid and which of its voxels belong to it."""
    region, values, middle = _sampled(entry, plan)
    return region, _middle_piece(values >= 0.5, middle)


def _sampled(entry: Judged, plan: Resampling) -> tuple[tuple[slice, ...], NDArray[np.float32], list[int]]:
    """Interpolate a candidate's voxels onto the oriented source grid; give the box there, their probabilities, and its middle there."""
    region, places = [], []
    for axis, middle in enumerate(entry.voxel):
        at = plan.model_places(axis) - (middle - SIDE // 2)
        inside = np.flatnonzero((at >= 0) & (at <= SIDE - 1))
        region.append(slice(int(inside[0]), int(inside[-1]) + 1))
        places.append(at[inside])
    mesh = np.stack([axis.ravel() for axis in np.meshgrid(*places, indexing="ij")])
    values = cells.sample(torch.from_numpy(entry.voxels)[None], mesh)[0].numpy()
    nearest = [int(np.abs(axis - SIDE // 2).argmin()) for axis in places]
    return tuple(region), values.reshape([len(axis) for axis in places]), nearest


def _middle_piece(mask: NDArray[np.bool_], middle: list[int]) -> NDArray[np.bool_]:
    """Keep the piece of a mask that holds its middle, or lies nearest to it."""
    pieces, count = ndimage.label(mask, structure=np.ones((3, 3, 3)))
    if not count:
        return mask
    number = pieces[tuple(middle)]
    if not number:
        nearest = ndimage.distance_transform_edt(pieces == 0, return_distances=False, return_indices=True)
        number = pieces[tuple(nearest[(slice(None), *middle)])]
    return np.asarray(pieces == number)
