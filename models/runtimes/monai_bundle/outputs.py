"""What a bundle's postprocessing gives, as a prediction: a label map or one channel a class, and how a card's labels read it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from models.answers import detector, segmenter
from models.card import Card, LabelPart
from models.grids import transforms
from models.runtimes.monai_bundle import images
from models.vocabulary import Broken, Finding, Grid, Prediction, Score

TOLERANCE = 1e-3


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """How a result is read.

    channels  card index -> channel; of a map its value
    mapped    whether the result is one map of values; else it has a channel a class
    known     what values a map may have
    graded    whether channels hold probabilities, not only 0 and 1
    sums      whether the channels of a voxel add up to 1, so that they exclude each other
    """

    channels: Mapping[int, int]
    mapped: bool
    known: frozenset[int]
    graded: bool
    sums: bool


def channels(card: Card, given: Mapping[int, int], left_out: tuple[int, ...], channel_def: Mapping[int, str]) -> dict[int, int]:
    """Find each label's channel: what the options say, else the channel with the label's index; raises ValueError on any mismatch."""
    names = {channel: _words(name) for channel, name in channel_def.items()}
    if len(names) > 256:
        raise ValueError(f"the network has {len(names)} channels; 256 can be read")
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


def valued(card: Card, values: Mapping[int, int]) -> dict[int, int]:
    """Take each label's value in a bundle's own label map from the options; raises ValueError unless every label has its own."""
    indices = sorted(label.index for label in card.output.labels)
    if sorted(values) != indices or len(set(values.values())) != len(indices) or not all(0 < value < 256 for value in values.values()):
        raise ValueError(f"values must give each of the labels {indices} a value of its own from 1 to 255")
    return dict(values)


def reading(card: Card, found: torch.Tensor, outputs: int, labelled: dict[int, int], left_out: tuple[int, ...]) -> Reading:
    """Tell how a result of a trial is to be read; raises ValueError where it does not suit the card's output.kind."""
    values = found.detach().cpu().float()
    graded = bool((values != values.round()).any())
    mapped = values.shape[0] == 1 and outputs > 1
    if not mapped and values.shape[0] != outputs:
        raise ValueError(
            f"postprocessing gives {values.shape[0]} channels where the network has {outputs}; a card can read one map or all channels"
        )
    if mapped and graded:
        raise ValueError(
            "postprocessing gives one channel of fractions, a label map has whole numbers: "
            "an Invertd after the cut must be nearest_interp = true, which overrides can set"
        )
    if not mapped and (float(values.min()) < 0 or float(values.max()) > 1 + TOLERANCE):
        raise ValueError("postprocessing gives raw scores; it must end in probabilities (Activationsd) or in classes (AsDiscreted)")
    known = frozenset({0, *labelled.values(), *left_out})
    if mapped and (strange := sorted(set(np.unique(values.numpy()).astype(int).tolist()) - known)):
        raise ValueError(f"the label map has the values {strange}, of which neither a label nor left_out tells")
    sums = not mapped and bool((values.sum(dim=0) - 1).abs().max() < TOLERANCE)
    read = Reading(channels=labelled, mapped=mapped, known=known, graded=graded, sums=sums)
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
        raise ValueError("a probability is needed of each label; overrides can set _disabled_ = true for the bundle's AsDiscreted")
    if read.mapped and 0 in read.channels.values():
        raise ValueError("the bundle makes a label map, and 0 is none in it: no label can be channel 0; say values")
    if kind == "labels" and not (read.mapped or read.sums or len(card.output.labels) == 1):
        raise ValueError('the channels do not exclude each other, so output.kind must be "masks"')
    if kind in {"labels", "masks"} and marks:
        if kind == "masks" or not read.graded or len(marks) > 1:
            raise ValueError('a finding needs probabilities of one label and output.kind "labels"; call what is only marked an organ')
        if marks[0].threshold is None:
            raise ValueError(f"label {marks[0].index} is a finding and needs a threshold")


def prediction(card: Card, read: Reading, found: torch.Tensor, grid: Grid, variant: Mapping[str, str]) -> Prediction:
    """Give the prediction; `found` is (channels, *) as postprocessing gave it, already on the source grid.

    Raises Broken where it is no finite number: a comparison would read that as "below the threshold".
    """
    if not all(bool(torch.isfinite(channel).all()) for channel in found):
        raise Broken("The bundle's postprocessing gave values that are no finite numbers.")
    if card.output.kind == "scores":
        scores = tuple(Score(label=index, score=_share(float(found[channel]))) for index, channel in read.channels.items())
        return Prediction(grid=grid, labels=np.zeros(grid.shape, dtype=np.uint8), scores=scores, variant=variant)
    probabilities = {index: _steps(found[channel]) for index, channel in read.channels.items()} if read.graded else {}
    if card.output.kind == "masks":
        masks = _masks(card, read, found, grid)
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


def _values(read: Reading, found: torch.Tensor) -> NDArray[np.uint8]:
    """Give a label map's values, plane by plane; raises Broken where one is not known."""
    array = _array(found[0])
    values = np.empty(array.shape, dtype=np.uint8)
    counts = np.zeros(256, dtype=np.int64)
    for index, plane in enumerate(array):
        rounded = np.rint(plane).astype(np.int64)
        if rounded.min() < 0 or rounded.max() > 255:
            raise Broken("The bundle's label map has values beyond 0 to 255.")
        counts += np.bincount(rounded.ravel(), minlength=256)
        values[index] = rounded
    if strange := sorted(set(np.flatnonzero(counts).tolist()) - read.known):
        raise Broken(f"The bundle's label map has the values {strange}, which its card does not know.")
    return values


def _array(found: torch.Tensor) -> NDArray[Any]:
    return images.back(torch.as_tensor(found).detach().cpu().numpy())


def _steps(channel: torch.Tensor) -> NDArray[np.uint8]:
    return np.asarray(np.rint(_array(channel).clip(0, 1) * 255), dtype=np.uint8)


def _masks(card: Card, read: Reading, found: torch.Tensor, grid: Grid) -> dict[int, NDArray[np.bool_]]:
    """Give the voxels of each label, none of them where they make less than its least volume."""
    values = _values(read, found) if read.mapped else None
    masks = {}
    for label in card.output.labels:
        channel = read.channels[label.index]
        mask = _array(found[channel]) >= _threshold(label) if values is None else values == channel
        big = np.count_nonzero(mask) * grid.voxel_mm3 / 1000 >= label.min_volume_ml
        masks[label.index] = np.asarray(mask if big else np.zeros_like(mask), dtype=bool)
    return masks


def _threshold(label: LabelPart) -> float:
    return 0.5 if label.threshold is None else label.threshold


def _labels(card: Card, read: Reading, found: torch.Tensor) -> segmenter.Labels:
    """Give exclusive organs; voxels of findings stay 0."""
    table = np.zeros(256, dtype=np.uint8)
    organs = [label for label in card.output.labels if label.kind == "organ"]
    for label in organs:
        table[read.channels[label.index]] = label.index
    if read.mapped or read.sums:
        exclusive: segmenter.Labels = table[_values(read, found) if read.mapped else _array(found.argmax(dim=0).to(torch.uint8))]
        return exclusive
    labels = np.zeros(_array(found[0]).shape, dtype=np.uint8)
    for label in organs:
        labels[_array(found[read.channels[label.index]]) >= _threshold(label)] = label.index
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
