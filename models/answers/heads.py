"""What a network's outputs are: the keys of [runtime.options] that name its channels, and the prediction they make."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from models.answers import boxes, detector
from models.card import Card, LabelPart


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Findings(_Part):
    """Which channel marks findings and when a part of it counts (models.answers.detector.Rule).

    of  what makes the channel a probability: a sigmoid of its own, or the softmax that it shares with organ_channels
    """

    channel: int = Field(ge=0)
    of: Literal["sigmoid", "softmax"] = "sigmoid"
    label: int
    threshold: float = Field(gt=0, lt=1)
    extent: float | None = Field(default=None, gt=0, lt=1)
    min_volume_ml: float = Field(default=0, ge=0)
    within_labels: tuple[int, ...] = ()
    within_mm: float = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _extent_is_wider(self) -> Findings:
        if self.extent is not None and self.extent > self.threshold:
            raise ValueError("extent must not be above threshold")
        return self

    @property
    def rule(self) -> detector.Rule:
        """Give the detector's rule; without an extent of its own a finding reaches to the threshold."""
        given = self.model_dump(exclude={"channel", "of", "extent"})
        return detector.Rule(**given, extent=self.threshold if self.extent is None else self.extent)


class Scores(_Part):
    """One vector for the whole input, (1, channels): a label's probability is one channel of a softmax or a sigmoid.

    channels  one for each label, in the card's order; a softmax may have others, "none of them" for instance
    """

    activation: Literal["softmax", "sigmoid"]
    channels: tuple[int, ...] = Field(min_length=1)


class Heads(_Part):
    """What the network's outputs are; the card's labels say what they are called.

    outputs         "logits", or "probabilities" where the network has its softmax or sigmoid in itself
    organ_channels  channels of one softmax: none first, then the card's organ labels in order
    mask_channels   a sigmoid for each organ label in order, which may overlap; cut at the label's threshold, else at 0.5
    findings        one or several: parts of a heat map
    centres         findings as peaks and sizes
    rows            findings as boxes that the network itself gives
    suppress        of boxes that mark the same one is kept
    scores          of the input as a whole
    require_ml      label index -> least volume; less of it makes the series unfit
    probabilities   label indices whose probability at each voxel is kept
    """

    outputs: Literal["logits", "probabilities"] = "logits"
    organ_channels: tuple[int, ...] = ()
    mask_channels: tuple[int, ...] = ()
    findings: tuple[Findings, ...] = ()
    centres: boxes.Centres | None = None
    rows: boxes.Rows | None = None
    suppress: boxes.Suppression | None = None
    scores: Scores | None = None
    require_ml: dict[int, float] = Field(default_factory=dict)
    probabilities: tuple[int, ...] = ()

    @field_validator("findings", mode="before")
    @classmethod
    def _one_or_several(cls, value: object) -> object:
        return [value] if isinstance(value, dict) else value

    @property
    def channels(self) -> tuple[int, ...]:
        """Give the channels the network must have, rising."""
        several = (self.organ_channels, self.mask_channels, tuple(entry.channel for entry in self.findings))
        found = [channel for some in several for channel in some]
        if self.centres:
            found += [*self.centres.channels, *self.size_channels]
        if self.scores:
            found += self.scores.channels
        return tuple(sorted(found))

    @property
    def size_channels(self) -> tuple[int, ...]:
        """Give the channels that hold millimetres."""
        return self.centres.size_channels if self.centres else ()

    @property
    def softmax_channels(self) -> tuple[int, ...]:
        """Give the channels of the one softmax: organ_channels, then those of the findings that share it."""
        return (*self.organ_channels, *(entry.channel for entry in self.findings if entry.of == "softmax"))

    @property
    def sigmoid_channels(self) -> tuple[int, ...]:
        """Give the channels that have a sigmoid each."""
        heat = self.centres.channels if self.centres else ()
        return (*self.mask_channels, *(entry.channel for entry in self.findings if entry.of == "sigmoid"), *heat)

    def channel_of(self, card: Card, index: int) -> int:
        """Give the channel of a label that has voxels; raises ValueError where it has none."""
        organs = organs_of(card)
        for channels in (self.organ_channels[1:], self.mask_channels):
            if len(channels) == len(organs) and index in (found := [label.index for label in organs]):
                return channels[found.index(index)]
        for entry in self.findings:
            if entry.label == index:
                return entry.channel
        raise ValueError(f"probabilities names label {index}, which has no channel of its own at every voxel")

    def labels_agree(self, card: Card) -> None:
        """Check the keys against the card's labels and its output's kind; raises ValueError."""
        _kind_agrees(self, card)
        organs, marks = organs_of(card), [label for label in card.output.labels if label.kind == "finding"]
        if self.organ_channels and len(self.organ_channels) != 1 + len(organs):
            raise ValueError(
                f"organ_channels names {len(self.organ_channels)} channels; {len(organs)} organ labels and none need {1 + len(organs)}"
            )
        if self.mask_channels and len(self.mask_channels) != len(organs):
            raise ValueError(f"mask_channels names {len(self.mask_channels)} channels for {len(organs)} organ labels")
        if self.organ_channels and any(label.threshold is not None for label in organs):
            raise ValueError("a threshold of an organ label says nothing where the classes of a softmax exclude each other")
        _findings_agree(self, card, marks)
        known = {label.index for label in organs}
        within = {index for entry in self.findings for index in entry.within_labels}
        if not set(self.require_ml) <= known or not within <= known:
            raise ValueError("require_ml and findings.within_labels may name organ labels only")
        if within and not self.organ_channels:
            raise ValueError("findings.within_labels needs organ_channels")
        for index in self.probabilities:
            self.channel_of(card, index)
        if not self.scores and self.channels != tuple(range(len(self.channels))):
            raise ValueError(f"the labels need channels {list(self.channels)}, which are not all of a network's channels from 0")


def organs_of(card: Card) -> list[LabelPart]:
    """Give the card's organ labels in order."""
    return [label for label in card.output.labels if label.kind == "organ"]


def thresholds(labels: Sequence[LabelPart]) -> list[tuple[int, float]]:
    """Give (label, threshold) of labels that all have one."""
    return [(label.index, label.threshold) for label in labels if label.threshold is not None]


def _kind_agrees(heads: Heads, card: Card) -> None:
    """Check that what the card promises is what the keys make; raises ValueError."""
    kind, organs = card.output.kind, organs_of(card)
    boxed = [key for key in ("centres", "rows") if getattr(heads, key) is not None]
    voxels = [key for key in ("organ_channels", "mask_channels", "findings") if getattr(heads, key)]
    if heads.scores:
        if voxels or boxed:
            raise ValueError(f"a network that scores the whole input gives nothing else, but there is {[*voxels, *boxed][0]}")
        if len(heads.scores.channels) != len(card.output.labels):
            raise ValueError(f"scores.channels names {len(heads.scores.channels)} channels for {len(card.output.labels)} labels")
    wrong = {
        'scores and output.kind = "scores" go together': (kind == "scores") != (heads.scores is not None),
        'mask_channels and output.kind = "masks" go together': bool(organs) and (kind == "masks") != bool(heads.mask_channels),
        'centres and rows give boxes: output.kind must be "boxes"': bool(boxed) and kind != "boxes",
        'output.kind = "boxes": every label must be a finding': kind == "boxes" and bool(organs),
        "a network has centres or rows, not both": len(boxed) > 1,
        "centres and rows need suppress: it says which boxes mark the same": bool(boxed) and heads.suppress is None,
        'output.inverse = "runtime" is for boxes and scores: labels and masks return as "scores-linear" or "labels-nearest" says': (
            kind in {"labels", "masks"} and card.output.inverse == "runtime"
        ),
        'output.inverse = "labels-nearest" is for organ_channels alone': (
            card.output.inverse == "labels-nearest" and not (heads.organ_channels and not heads.findings)
        ),
        'suppress is for output.kind = "boxes"': heads.suppress is not None and kind != "boxes",
        "organ_channels are for organ labels, of which the card has none": (
            bool(heads.organ_channels) and not organs and not any(entry.of == "softmax" for entry in heads.findings)
        ),
        'findings of = "softmax" share that of organ_channels, whose first is none': (
            not heads.organ_channels and any(entry.of == "softmax" for entry in heads.findings)
        ),
        "the organ labels need organ_channels, or mask_channels where they may overlap": (
            bool(organs) and kind != "scores" and bool(heads.organ_channels) == bool(heads.mask_channels)
        ),
    }
    for reason, holds in wrong.items():
        if holds:
            raise ValueError(reason)


def _findings_agree(heads: Heads, card: Card, marks: Sequence[LabelPart]) -> None:
    """Check that each finding label has one thing that finds it, at the label's own threshold; raises ValueError."""
    wanted = [label.index for label in marks]
    if heads.centres or heads.rows:
        if heads.findings:
            raise ValueError("findings stand beside centres or rows: a label would be found twice")
        if len(thresholds(marks)) != len(marks):
            raise ValueError("every finding label needs a threshold")
        if heads.centres and len(heads.centres.channels) != len(marks):
            raise ValueError(f"centres.channels names {len(heads.centres.channels)} channels for {len(marks)} finding labels")
        if heads.rows and len(heads.rows.class_numbers or wanted) != len(marks):
            raise ValueError(f"rows.class_numbers names {len(heads.rows.class_numbers)} classes for {len(marks)} finding labels")
        if heads.rows and heads.rows.classes is None and len(marks) != 1:
            raise ValueError("rows without classes can have one finding label only")
        return
    if [entry.label for entry in heads.findings] != wanted and heads.scores is None:
        raise ValueError(f"the card's finding labels are {wanted}, findings.label says {[entry.label for entry in heads.findings]}")
    for entry in heads.findings:
        label = card.label(entry.label)
        if label.threshold not in {None, entry.threshold} or label.min_volume_ml not in {0, entry.min_volume_ml}:
            raise ValueError("findings.threshold and min_volume_ml must be those of the output label")
