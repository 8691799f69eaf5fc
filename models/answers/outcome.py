"""A network's scores to a prediction on the source grid: organs, masks, findings, boxes, probabilities, as the card names them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage

from models.answers import boxes, detector, segmenter
from models.answers.heads import Heads, organs_of, thresholds
from models.card import Card
from models.grids import inverse, transforms, windows
from models.vocabulary import Box, Finding, Prediction, Score

HALF = 0.5
Reader = inverse.Linear | inverse.Nearest | inverse.Whole


class Outcome:
    """What is read off a network's scores as they are finished, piece by piece; `finish` gives the prediction.

    activated  the scores are probabilities already
    """

    def __init__(self, card: Card, heads: Heads, plan: transforms.Resampling, *, activated: bool) -> None:
        self._card, self._heads, self._plan = card, heads, plan
        as_is: dict[str, Any] = {"activate": lambda values: values} if activated else {}
        organs = organs_of(card)
        self._labels: inverse.Linear | inverse.Nearest | None = None
        self._shared = [entry.label for entry in heads.findings if entry.of == "softmax"]
        if heads.organ_channels and organs:
            decision = inverse.exclusive([0, *(label.index for label in organs), *self._shared], heads.softmax_channels)
            kind = inverse.Nearest if card.output.inverse == "labels-nearest" else inverse.Linear
            self._labels = kind(plan, replace(decision, **as_is))
        self._masks = {}
        for label, channel in zip(organs, heads.mask_channels, strict=bool(heads.mask_channels)):
            decision = inverse.above(HALF if label.threshold is None else label.threshold, channel)
            self._masks[label.index] = inverse.Linear(plan, replace(decision, **as_is))
        self._heat = {entry.label: inverse.Whole(plan, *_channel(heads, entry.channel, activated=activated)) for entry in heads.findings}
        self._peaks: inverse.Whole | None = None
        if heads.centres:
            count = len(heads.centres.channels)
            self._peaks = inverse.Whole(
                plan, (*heads.centres.channels, *heads.centres.size_channels), _heat_first(count, activated=activated)
            )
        channels = {index: heads.channel_of(card, index) for index in heads.probabilities}
        self._levels = {index: inverse.Whole(plan, *_channel(heads, each, activated=activated)) for index, each in channels.items()}

    def take(self, piece: windows.Piece) -> None:
        """Read one piece."""
        readers: list[Reader | None] = [self._labels, self._peaks, *self._masks.values(), *self._heat.values(), *self._levels.values()]
        for reader in readers:
            if reader is not None:
                reader.take(piece)

    def finish(self) -> Prediction:
        """Give what was read; raises Unfit where the card demands more of an organ than there is."""
        card, heads, plan = self._card, self._heads, self._plan
        labels = self._labels.finish() if self._labels is not None else np.zeros(plan.source.shape, dtype=np.uint8)
        for index in self._shared:
            labels[labels == index] = 0  # a finding's class excludes organs; its voxels are the instances
        masks = {index: reader.finish().astype(bool) for index, reader in self._masks.items()}
        segmenter.require(labels, plan.source, card, heads.require_ml, masks)
        segmenter.drop_small(labels, plan.source, card)
        for label in card.output.labels:
            if label.index in masks and masks[label.index].sum() * plan.source.voxel_mm3 / 1000 < label.min_volume_ml:
                del masks[label.index]
        levels = {index: levels_to_source(reader.finish()[0], plan) for index, reader in self._levels.items()}
        prediction = Prediction(grid=plan.source, labels=labels, masks=masks, probabilities=levels)
        if heads.centres and self._peaks is not None:
            candidates = heads.centres.decode(self._peaks.finish(), plan.model.spacing_mm, thresholds(card.output.labels))
            return replace(prediction, findings=of_boxes(heads, candidates, plan))
        if not heads.findings:
            return prediction
        maps = {index: reader.finish()[0] for index, reader in self._heat.items()}
        if card.output.kind != "boxes":
            instances, findings = _parts(heads, maps, plan, labels)
            return replace(prediction, instances=instances, findings=findings)
        # A box marks a whole place: parts of two labels may share voxels, and nothing is taken from either.
        found = [detector.find(maps[entry.label], plan, labels.copy(), entry.rule)[1] for entry in heads.findings]
        return replace(prediction, findings=_apart(heads, [finding for some in found for finding in some], plan))


def _heat_first(count: int, *, activated: bool) -> inverse.Activate:
    """Give what makes heat of the first channels and leaves the sizes behind them as they are."""
    return lambda scores: scores if activated else torch.cat([torch.sigmoid(scores[:count]), scores[count:]])


def _channel(heads: Heads, channel: int, *, activated: bool) -> tuple[tuple[int, ...], inverse.Activate]:
    """Give the channels from which the probability of one of them comes, and how."""
    if channel in heads.softmax_channels:
        place = heads.softmax_channels.index(channel)
        return heads.softmax_channels, lambda scores: (scores if activated else torch.softmax(scores, dim=0))[place : place + 1]
    return (channel,), lambda scores: scores if activated else torch.sigmoid(scores)


def activate(heads: Heads, scores: torch.Tensor) -> torch.Tensor:
    """Give probabilities for raw scores (batch, channels, ...), for an ensemble's mean; sizes stay as they are."""
    if heads.scores:
        return torch.softmax(scores, dim=1) if heads.scores.activation == "softmax" else torch.sigmoid(scores)
    result = scores.clone()
    if shared := list(heads.softmax_channels):
        result[:, shared] = torch.softmax(scores[:, shared], dim=1)
    result[:, list(heads.sigmoid_channels)] = torch.sigmoid(scores[:, list(heads.sigmoid_channels)])
    return result


def of_boxes(heads: Heads, candidates: Sequence[boxes.Candidate], plan: transforms.Resampling) -> tuple[Finding, ...]:
    """Thin out boxes on the network's grid and bring them to the source's."""
    kept = boxes.suppress(candidates, plan.model.spacing_mm, heads.suppress) if heads.suppress else tuple(candidates)
    return boxes.findings(kept, plan)


def of_vector(card: Card, heads: Heads, vector: torch.Tensor) -> tuple[Score, ...]:
    """Read the probabilities (channels,) of the input as a whole."""
    assert heads.scores is not None
    pairs = zip(card.output.labels, heads.scores.channels, strict=True)
    return tuple(Score(label=label.index, score=min(1.0, max(0.0, float(vector[channel])))) for label, channel in pairs)


def _parts(
    heads: Heads, maps: Mapping[int, torch.Tensor], plan: transforms.Resampling, labels: detector.Labels
) -> tuple[detector.Instances, tuple[Finding, ...]]:
    """Find the parts of every heat map; a voxel that two claim is the smaller one's."""
    every = [detector.find(maps[entry.label], plan, labels, entry.rule) for entry in heads.findings]
    if len(every) == 1:
        return every[0]
    parts = []
    for instances, marked in every:
        for finding in marked:
            where = tuple(slice(low, high) for low, high in zip(finding.box.low, finding.box.high, strict=True))
            parts.append((finding, instances[where] == finding.number, where))
    return painted(parts, labels.shape)


def painted(
    parts: Sequence[tuple[Finding, NDArray[np.bool_], tuple[slice, ...]]], shape: tuple[int, ...]
) -> tuple[detector.Instances, tuple[Finding, ...]]:
    """Give every finding its voxels, each the smallest one's that claims it, so that what lies inside of another does not vanish.

    parts  findings with their voxels in a part of the whole; of equal ones the first keeps what both claim
    """
    instances: detector.Instances = np.zeros(shape, dtype=np.uint16)
    order = sorted(range(len(parts)), key=lambda index: (-int(parts[index][1].sum()), -index))[: np.iinfo(np.uint16).max]
    for number, index in enumerate(order, start=1):
        _, voxels, where = parts[index]
        instances[where][voxels] = number
    return renumbered(instances, [replace(parts[index][0], number=number) for number, index in enumerate(order, start=1)])


def renumbered(instances: detector.Instances, findings: Sequence[Finding]) -> tuple[detector.Instances, tuple[Finding, ...]]:
    """Give findings new numbers by position, and boxes as tight as what is left of each; one without a voxel goes."""
    where = ndimage.find_objects(instances, max_label=max((finding.number for finding in findings), default=0))
    left = []
    for finding in findings:
        box = where[finding.number - 1]
        if box is not None:
            (z0, z1), (y0, y1), (x0, x1) = ((side.start, side.stop) for side in box)
            centre = (np.argwhere(instances[box] == finding.number).mean(axis=0) + np.array([z0, y0, x0])).tolist()
            left.append((centre, replace(finding, box=Box(low=(z0, y0, x0), high=(z1, y1, x1)))))
    left.sort(key=lambda pair: pair[0])
    table = np.zeros(len(where) + 1, dtype=np.uint16)
    for number, (_, finding) in enumerate(left, start=1):
        table[finding.number] = number
    return table[instances], tuple(replace(finding, number=number) for number, (_, finding) in enumerate(left, start=1))


def _apart(heads: Heads, findings: Sequence[Finding], plan: transforms.Resampling) -> tuple[Finding, ...]:
    """Thin out the boxes around parts, on the source grid."""
    own = transforms.Resampling(source=plan.source, oriented=plan.source, model=plan.source, turning=transforms.UNTURNED)
    edges = [(_triple(finding.box.low), _triple(finding.box.high), finding) for finding in findings]
    return of_boxes(heads, [boxes.Candidate(label=entry.label, score=entry.score, low=low, high=high) for low, high, entry in edges], own)


def _triple(corner: tuple[int, int, int]) -> tuple[float, float, float]:
    return float(corner[0]), float(corner[1]), float(corner[2])


def levels_to_source(channel: torch.Tensor, plan: transforms.Resampling) -> NDArray[np.uint8]:
    """Give a probability (*model shape), interpolated linearly, on the source grid in steps of 1/255.

    Example: 0.5 is 127.5 steps and becomes 128.
    """
    weights = [torch.from_numpy(_corners(plan, axis)).to(channel.device) for axis in range(3)]
    oriented = np.empty(plan.oriented.shape, dtype=np.uint8)
    for index, row in enumerate(weights[0]):
        plane = weights[1] @ torch.tensordot(row, channel, dims=1) @ weights[2].T
        oriented[index] = torch.floor(plane.clamp(0, 1) * 255 + HALF).to(torch.uint8).cpu().numpy()
    return np.ascontiguousarray(plan.turning.turn_back(oriented))


def _corners(plan: transforms.Resampling, axis: int) -> NDArray[np.float32]:
    """Give the (source, model) weights of linear interpolation along an axis. Example: place 0.25 of 2: 0.75 and 0.25."""
    places = plan.model_places(axis)[:, None]
    weights: NDArray[np.float32] = np.clip(1 - np.abs(places - np.arange(plan.model.shape[axis])), 0, 1).astype(np.float32)
    return weights
