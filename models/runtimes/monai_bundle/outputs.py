"""What a bundle's postprocessing gives, as a prediction: a label map or one channel a class, and how a card's labels read it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from models import detector, segmenter, transforms
from models.card import Card
from models.runtimes.monai_bundle import images
from models.vocabulary import Finding, Grid, Prediction, Score

TOLERANCE = 1e-3


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """How a result is read.

    channels  card index -> channel
    mapped    whether the result is one map whose values are channels; else it has a channel a class
    graded    whether channels hold probabilities, not only 0 and 1
    sums      whether the channels of a voxel add up to 1, so that they exclude each other
    """

    channels: Mapping[int, int]
    mapped: bool
    graded: bool
    sums: bool


def channels(card: Card, given: Mapping[int, int], left_out: tuple[int, ...], channel_def: Mapping[int, str]) -> dict[int, int]:
    """Find each label's channel: what the options say, else the channel with the label's index; raises ValueError on any mismatch."""
    names = {channel: _words(name) for channel, name in channel_def.items()}
    found = {label.index: given.get(label.index, label.index) for label in card.output.labels}
    for label in card.output.labels:
        channel = found[label.index]
        if channel not in names:
            raise ValueError(f"label {label.index} ({label.label}) has no channel {channel} in channel_def; say channels.{label.index}")
        others = [other for other, name in names.items() if name == _words(label.label) and other != channel]
        if others and names[channel] != _words(label.label):
            raise ValueError(f"label {label.index} ({label.label}) is channel {channel}, channel_def says {others[0]} is {label.label}")
    if wrong := sorted(set(given) - set(found)):
        raise ValueError(f"channels names labels {wrong}, which the card does not have")
    if len(set(found.values())) != len(found):
        raise ValueError("two labels have the same channel")
    unsaid = set(names) - set(found.values()) - set(left_out) - {0 for name in [names[0]] if name == "background"}
    if unsaid:
        listed = ", ".join(f"{channel} ({channel_def[channel]})" for channel in sorted(unsaid))
        raise ValueError(f"channels {listed} have no label; give them one, or name them in left_out")
    return found


def _words(name: str) -> str:
    return " ".join(sorted(name.lower().replace("_", " ").replace("-", " ").split()))


def reading(card: Card, found: torch.Tensor, outputs: int, labelled: dict[int, int]) -> Reading:
    """Tell how a result of a trial is to be read; raises ValueError where it does not suit the card's output.kind."""
    values = found.detach().cpu().float()
    graded = bool((values != values.round()).any())
    mapped = values.shape[0] == 1 and outputs > 1
    if not mapped and values.shape[0] != outputs:
        raise ValueError(
            f"postprocessing gives {values.shape[0]} channels where the network has {outputs}; a card can read one map or all channels"
        )
    if mapped and graded:
        raise ValueError("postprocessing gives one channel of fractions; a label map has whole numbers")
    if not mapped and (float(values.min()) < 0 or float(values.max()) > 1 + TOLERANCE):
        raise ValueError("postprocessing gives raw scores; it must end in probabilities (Activationsd) or in classes (AsDiscreted)")
    read = Reading(
        channels=labelled, mapped=mapped, graded=graded, sums=not mapped and bool((values.sum(dim=0) - 1).abs().max() < TOLERANCE)
    )
    _suits(card, read, values)
    return read


def _suits(card: Card, read: Reading, values: torch.Tensor) -> None:
    kind = card.output.kind
    marks = [label for label in card.output.labels if label.kind == "finding"]
    if (kind == "scores") != (values.dim() == 1):
        given = "scores of the input as a whole" if values.dim() == 1 else "voxels"
        raise ValueError(f'the bundle gives {given}, so output.kind "{kind}" does not suit it')
    if kind == "boxes":
        raise ValueError('this runtime gives no boxes; output.kind must be "labels", "masks" or "scores"')
    if kind == "scores" and not read.graded:
        raise ValueError("a probability is needed of each label; leave AsDiscreted out of the bundle")
    if kind == "labels" and not (read.mapped or read.sums or len(card.output.labels) == 1):
        raise ValueError('the channels do not exclude each other, so output.kind must be "masks"')
    if kind in {"labels", "masks"} and marks:
        if kind == "masks" or not read.graded or len(marks) > 1:
            raise ValueError('a finding needs probabilities of one label and output.kind "labels"; call what is only marked an organ')
        if marks[0].threshold is None:
            raise ValueError(f"label {marks[0].index} is a finding and needs a threshold")


def prediction(card: Card, read: Reading, found: torch.Tensor, grid: Grid, variant: Mapping[str, str]) -> Prediction:
    """Give the prediction; `found` is (channels, *) as postprocessing gave it, already on the source grid."""
    if card.output.kind == "scores":
        scores = tuple(Score(label=index, score=_share(float(found[channel]))) for index, channel in read.channels.items())
        return Prediction(grid=grid, labels=np.zeros(grid.shape, dtype=np.uint8), scores=scores, variant=variant)
    probabilities = {index: _steps(found[channel]) for index, channel in read.channels.items()} if read.graded else {}
    if card.output.kind == "masks":
        masks = {label.index: _mask(card, read, found, label.index) for label in card.output.labels}
        return Prediction(grid=grid, labels=np.zeros(grid.shape, dtype=np.uint8), masks=masks, probabilities=probabilities, variant=variant)
    labels = _labels(card, read, found)
    instances: detector.Instances | None = None
    findings: tuple[Finding, ...] = ()
    for label in card.output.labels:
        if label.kind == "finding":
            instances, findings = _findings(card, label.index, found[read.channels[label.index]], grid, labels)
    segmenter.drop_small(labels, grid, card)
    return Prediction(grid=grid, labels=labels, instances=instances, findings=findings, probabilities=probabilities, variant=variant)


def _share(value: float) -> float:
    return min(1.0, max(0.0, value))


def _array(found: torch.Tensor) -> NDArray[Any]:
    return images.back(torch.as_tensor(found).detach().cpu().numpy())


def _steps(channel: torch.Tensor) -> NDArray[np.uint8]:
    return np.asarray(np.rint(_array(channel).clip(0, 1) * 255), dtype=np.uint8)


def _mask(card: Card, read: Reading, found: torch.Tensor, index: int) -> NDArray[np.bool_]:
    """Give the voxels of a label, none of them where they make less than its least volume."""
    channel = read.channels[index]
    threshold = card.label(index).threshold
    inside = found[0].round() == channel if read.mapped else found[channel] >= (0.5 if threshold is None else threshold)
    return np.asarray(_array(inside), dtype=bool)


def _labels(card: Card, read: Reading, found: torch.Tensor) -> segmenter.Labels:
    """Give exclusive organs; voxels of findings stay 0."""
    organs = {label.index for label in card.output.labels if label.kind == "organ"}
    values = {channel: index for index, channel in read.channels.items() if index in organs}
    if read.mapped or read.sums:
        table = torch.zeros(256, dtype=torch.uint8)
        for channel, index in values.items():
            table[channel] = index
        place = found[0].round().long() if read.mapped else found.argmax(dim=0)
        return np.asarray(_array(table[place.cpu().clamp(0, 255)]), dtype=np.uint8)
    labels = np.zeros(_array(found[0]).shape, dtype=np.uint8)
    for channel, index in values.items():
        threshold = card.label(index).threshold
        labels[_array(found[channel]) >= (0.5 if threshold is None else threshold)] = index
    return labels


def _findings(
    card: Card, index: int, channel: torch.Tensor, grid: Grid, labels: segmenter.Labels
) -> tuple[detector.Instances, tuple[Finding, ...]]:
    label = card.label(index)
    assert label.threshold is not None
    rule = detector.Rule(label=index, threshold=label.threshold, extent=label.threshold, min_volume_ml=label.min_volume_ml)
    still = transforms.Resampling(
        source=grid, oriented=grid, model=grid, turning=transforms.Turning(axes=(0, 1, 2), flips=(False, False, False))
    )
    return detector.find(torch.from_numpy(np.array(_array(channel), dtype=np.float32)), still, labels, rule)
