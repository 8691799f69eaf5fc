"""A state dict in safetensors and the name of a MONAI network: organ labels, and findings from one channel of it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator

from models import detector, inverse, network, registry, segmenter, windows
from models.card import Card, ShelvedCard
from models.execution import PLAIN, Execution, Need
from models.vocabulary import Finding, Grid, Prediction, Progress, Unfit, Volume


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Intensity(_Part):
    """Input values that become 0 and 1."""

    low: float
    high: float

    @model_validator(mode="after")
    def _ordered(self) -> Intensity:
        if not self.low < self.high:
            raise ValueError("low must be below high")
        return self


class Findings(_Part):
    """Which channel marks findings (a sigmoid) and when a part of it counts (models.detector.Rule)."""

    channel: int = Field(ge=0)
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
        given = self.model_dump(exclude={"channel", "extent"})
        return detector.Rule(**given, extent=self.threshold if self.extent is None else self.extent)


class Options(_Part):
    """The card's [runtime.options].

    network, arguments  a class of monai.networks.nets and its keyword arguments
    organ_channels      channels of one softmax: none first, then the card's organ labels in order
    require_ml          label index -> least volume; less of it makes the series unfit
    """

    network: str = Field(pattern=r"^[A-Za-z][A-Za-z0-9]*$")
    arguments: dict[str, Any]
    spacing_mm: tuple[float, float, float]
    orientation: str = Field(pattern=r"^[LRPASI]{3}$")
    intensity: Intensity
    window: tuple[int, int, int]
    overlap: float = Field(ge=0, lt=1)
    organ_channels: tuple[int, ...] = Field(min_length=1)
    require_ml: dict[int, float] = Field(default_factory=dict)
    findings: Findings | None = None


def load(shelved: ShelvedCard, device: str) -> StateDict:
    """Build the network, fill it with the checked weights, and prove that it fits the card; raises BadCard."""
    with registry.options_at_fault(shelved):
        options = Options.model_validate(shelved.card.runtime.options)
        _agree(shelved.card, options)
        content = registry.weights(shelved, ("weights",))["weights"]
        built = _network(options, content)
    return StateDict(shelved.card, options, built.to(device).eval())


def _agree(card: Card, options: Options) -> None:
    """Check the options against the card's labels; raises ValueError."""
    organs = [label.index for label in card.output.labels if label.kind == "organ"]
    marks = [label.index for label in card.output.labels if label.kind == "finding"]
    if len(card.inputs) != 1:
        raise ValueError("this runtime takes one input")
    if len(options.organ_channels) != 1 + len(organs):
        raise ValueError(
            f"organ_channels names {len(options.organ_channels)} channels; {len(organs)} organ labels and none need {1 + len(organs)}"
        )
    if marks != ([options.findings.label] if options.findings else []):
        raise ValueError(f"the card's finding labels are {marks}, findings.label says another")
    if not set(options.require_ml) <= set(organs) or (options.findings and not set(options.findings.within_labels) <= set(organs)):
        raise ValueError("require_ml and findings.within_labels may name organ labels only")
    if options.findings:
        label = card.label(options.findings.label)
        if label.threshold not in {None, options.findings.threshold} or label.min_volume_ml not in {0, options.findings.min_volume_ml}:
            raise ValueError("findings.threshold and min_volume_ml must be those of the output label")


def _network(options: Options, content: bytes) -> torch.nn.Module:
    """Build the network and load it; raises ValueError where name, arguments, weights or channels do not fit."""
    channels = sorted([*options.organ_channels, *([options.findings.channel] if options.findings else [])])
    if channels != list(range(len(channels))):
        raise ValueError(f"the labels need channels {channels}, which are not all of a network's channels from 0")
    built = network.build(options.network, options.arguments, options.window, len(channels))
    network.fill(built, content)
    return built


class StateDict:
    """A MONAI network, warm on its device."""

    def __init__(self, card: Card, options: Options, built: torch.nn.Module) -> None:
        self._card = card
        self._options = options
        self._network = built
        self._forward_bytes = network.forward_bytes(built, options.window)
        self._preparation = segmenter.Preparation(
            orientation=options.orientation,
            spacing_mm=options.spacing_mm,
            low=options.intensity.low,
            high=options.intensity.high,
            window=options.window,
            overlap=options.overlap,
        )

    def need(self, grids: Mapping[str, Grid], execution: Execution) -> Need:
        """Estimate the windows and their scores, the map of findings, and the labels on the source grid."""
        grid = grids[self._card.reference_role]
        way = segmenter.plan(grid, self._preparation)
        classes = len(self._options.organ_channels) + bool(self._options.findings)
        run = windows.need(segmenter.layout(way, self._preparation), (1, classes), execution, self._forward_bytes)
        maps = 4 * math.prod(way.model.shape) * (1 + bool(self._options.findings))
        labels = math.prod(grid.shape) * (6 if self._options.findings else 4)
        return Need(device=run.device + maps, host=run.host + labels)

    def predict(self, volumes: Mapping[str, Volume], progress: Progress, execution: Execution = PLAIN) -> Prediction:
        """Label organs and mark findings; raises Unfit where the series does not show what the model needs, Broken."""
        volume = volumes[self._card.reference_role]
        if volume.modality == "CT" and volume.unit != "HU":
            raise Unfit("The CT's values are not Hounsfield units.")
        way = segmenter.plan(volume.grid, self._preparation)
        tensor = segmenter.seen(volume, way, self._preparation, str(next(self._network.parameters()).device))
        values = [0, *(label.index for label in self._card.output.labels if label.kind == "organ")]
        organs = inverse.Linear(way, inverse.exclusive(values, self._options.organ_channels))
        marks = inverse.Whole(way, (self._options.findings.channel,)) if self._options.findings else None
        ahead = segmenter.layout(way, self._preparation)
        for piece in windows.pieces(self._network, tensor, ahead, execution, lambda part: progress(0.05 + 0.8 * part)):
            organs.take(piece)
            if marks:
                marks.take(piece)
        labels = organs.finish()
        segmenter.require(labels, volume.grid, self._card, self._options.require_ml)
        segmenter.drop_small(labels, volume.grid, self._card)
        progress(0.95)
        instances: detector.Instances | None = None
        findings: tuple[Finding, ...] = ()
        if marks and self._options.findings:
            instances, findings = detector.find(marks.finish()[0], way, labels, self._options.findings.rule)
        progress(1.0)
        return Prediction(grid=volume.grid, labels=labels, instances=instances, findings=findings, variant=self._variant(execution))

    def _variant(self, execution: Execution) -> dict[str, str]:
        return network.variant("state-dict", self._network, execution)
