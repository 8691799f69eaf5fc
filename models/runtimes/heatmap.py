"""A 2-D network that gives a heat map a finding: boxes on one radiograph."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field

from models import detector, network, registry, transforms
from models.card import Card, ShelvedCard
from models.execution import PLAIN, Execution, Need
from models.vocabulary import Finding, Grid, Prediction, Progress, Unfit, Volume

UPRIGHT = "SPL"
"""The orientation of a picture's own grid, so that nothing is turned: rows downwards, columns to the right."""


class Options(BaseModel):
    """The card's [runtime.options].

    network, arguments  a class of monai.networks.nets and its keyword arguments; one channel, a sigmoid, for each label
    size                (rows, columns) that the network sees: the whole picture, made to fit with its proportions, the rest black
    extent              probability from which a pixel belongs to a finding's box, at most every label's threshold
    overlap             of two boxes of a label that share more than this of their union the better one is kept
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    network: str = Field(pattern=r"^[A-Za-z][A-Za-z0-9]*$")
    arguments: dict[str, Any]
    size: tuple[int, int]
    extent: float = Field(gt=0, lt=1)
    overlap: float = Field(default=0.3, ge=0, le=1)


def load(shelved: ShelvedCard, device: str) -> Heatmap:
    """Build the network, fill it with the checked weights, and prove that it fits the card; raises BadCard."""
    with registry.options_at_fault(shelved):
        options = Options.model_validate(shelved.card.runtime.options)
        _agree(shelved.card, options)
        content = registry.weights(shelved, ("weights",))["weights"]
        built = network.build(options.network, options.arguments, options.size, len(shelved.card.output.labels))
        network.fill(built, content)
    return Heatmap(shelved.card, options, built.to(device).eval())


def _agree(card: Card, options: Options) -> None:
    """Check the options against the card; raises ValueError."""
    if card.output.kind != "boxes" or any(label.kind != "finding" for label in card.output.labels):
        raise ValueError('this runtime gives boxes: output.kind must be "boxes" and every label a finding')
    if len(card.inputs) != 1:
        raise ValueError("this runtime takes one input")
    if any(label.threshold is None or label.threshold < options.extent for label in card.output.labels):
        raise ValueError("every label needs a threshold, and extent must not be above it")


class Heatmap:
    """A 2-D MONAI network, warm on its device."""

    def __init__(self, card: Card, options: Options, built: torch.nn.Module) -> None:
        self._card = card
        self._options = options
        self._network = built

    def need(self, grids: Mapping[str, Grid], _execution: Execution) -> Need:
        """Estimate the network's own work on one picture as a hundred channels of it, and the picture."""
        rows, columns = self._options.size
        return Need(device=400 * rows * columns, host=8 * math.prod(grids[self._card.reference_role].shape))

    def predict(self, volumes: Mapping[str, Volume], progress: Progress, _execution: Execution = PLAIN) -> Prediction:
        """Box findings on one radiograph; raises Unfit for anything else."""
        volume = volumes[self._card.reference_role]
        if not volume.grid.is_projection:
            raise Unfit("The series is no single radiograph, which is all this model reads.")
        plan = self._plan(volume)
        device = next(self._network.parameters()).device
        picture = transforms.to_model(volume.array, plan, str(device))
        _, rows, columns = plan.model.shape
        seen = torch.zeros((1, 1, *self._options.size), device=device)
        seen[0, 0, :rows, :columns] = picture[0]
        progress(0.1)
        with torch.inference_mode(), torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
            maps = torch.sigmoid(self._network(seen))[0, :, :rows, :columns]
            progress(0.8)
            labels = np.zeros(volume.grid.shape, dtype=np.uint8)
            findings = self._findings(maps, plan, labels)
        progress(1.0)
        return Prediction(grid=volume.grid, labels=labels, findings=findings, variant=self._variant())

    def _plan(self, volume: Volume) -> transforms.Resampling:
        """Scale the picture so that it fits, both ways alike.

        Example: 2000 x 2500 pixels of 0.2 mm to 512 x 512: 0.977 mm, so 410 x 512 are seen.
        """
        grid, size = volume.grid, self._options.size
        spacing = max(count * step / most for count, step, most in zip(grid.shape[1:], grid.spacing_mm[1:], size, strict=True))
        return transforms.resampling(grid, UPRIGHT, (grid.spacing_mm[0], spacing, spacing))

    def _findings(self, maps: torch.Tensor, plan: transforms.Resampling, labels: detector.Labels) -> tuple[Finding, ...]:
        found: list[Finding] = []
        for label, heat in zip(self._card.output.labels, maps, strict=True):
            assert label.threshold is not None
            rule = detector.Rule(label=label.index, threshold=label.threshold, extent=self._options.extent, min_volume_ml=0)
            found += detector.find(heat[None], plan, labels, rule)[1]
        return detector.apart(found, self._options.overlap)

    def _variant(self) -> dict[str, str]:
        return network.variant("heatmap", self._network)
