"""Lungs and nodules in two steps: a coarse network and the image's own edge draw the lungs, a patch network judges blobs in them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator

from models import registry
from models.card import Card, ShelvedCard
from models.chest import candidates, guard, lungfield, nodules
from models.chest.patchnet import PatchNet
from models.execution import PLAIN, Execution, Need
from models.grids import inverse, transforms, windows
from models.networks import network
from models.vocabulary import Grid, Prediction, Progress, Unfit, Volume

CUBE_BYTES = 11_000_000
"""What one place takes in the patch network, its two cubes included: as network.forward_bytes counts it."""


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


class Lungs(_Part):
    """The coarse network (file `lungs`): a class of monai.networks.nets, one softmax of none, left, right.

    left, right      label indices
    air_hu, reach_mm  models.chest.lungfield.Edge
    """

    network: str = Field(pattern=r"^[A-Za-z][A-Za-z0-9]*$")
    arguments: dict[str, Any]
    spacing_mm: tuple[float, float, float]
    intensity: Intensity
    window: tuple[int, int, int]
    overlap: float = Field(ge=0, lt=1)
    left: int
    right: int
    air_hu: float = Field(gt=-900, lt=0)
    reach_mm: float = Field(gt=0, le=15)


class Nodules(_Part):
    """The patch network (file `nodules`) and when a candidate is a finding (models.chest.nodules.Rule)."""

    label: int
    limit: int = Field(gt=0, le=5000)
    threshold: float = Field(gt=0, lt=1)
    calibration: tuple[float, float] = (1.0, 0.0)
    doubt: float = Field(gt=0, lt=1)
    batch: int = Field(default=16, gt=0)
    min_volume_ml: float = Field(default=0, ge=0)

    @property
    def rule(self) -> nodules.Rule:
        """Give the rule."""
        return nodules.Rule(**self.model_dump(exclude={"limit"}))


class Options(_Part):
    """The card's [runtime.options].

    spacing_mm     of the fine grid, on which borders are drawn and cubes cut
    probabilities  (nodules.label,) where the probability at each voxel is kept, for a parametric map
    """

    orientation: Literal["SPL"]
    spacing_mm: float = Field(gt=0.5, le=2)
    lungs: Lungs
    guard: guard.Guard
    nodules: Nodules
    probabilities: tuple[int, ...] = ()


def load(shelved: ShelvedCard, device: str) -> LungNodules:
    """Build both networks, fill them with the checked weights, and prove that they fit the card; raises BadCard."""
    with registry.options_at_fault(shelved):
        options = Options.model_validate(shelved.card.runtime.options)
        _agree(shelved.card, options)
        content = registry.weights(shelved, ("lungs", "nodules"))
        coarse = _coarse(options.lungs, device)
        network.fill(coarse, content["lungs"])
        patches = PatchNet().to(device).eval()
        network.fill(patches, content["nodules"])
    return LungNodules(shelved.card, options, (coarse, patches))


def _coarse(lungs: Lungs, device: str) -> torch.nn.Module:
    """Build the coarse network; raises ValueError unless it gives three channels of its window's size."""
    shape: tuple[int, ...] = ()
    try:
        hollow = network.build(lungs.network, lungs.arguments, "meta")
        shape = tuple(hollow(torch.zeros(1, 1, *lungs.window, device="meta")).shape)
    except RuntimeError as error:
        raise ValueError(f"the network does not take its window: {error}") from None
    if shape != (1, 3, *lungs.window):
        raise ValueError(f"the network gives {shape[1:]}; none, left and right on the window need {(3, *lungs.window)}")
    return network.build(lungs.network, lungs.arguments, device)


def _agree(card: Card, options: Options) -> None:
    """Check the options against the card's labels; raises ValueError."""
    organs = sorted(label.index for label in card.output.labels if label.kind == "organ")
    marks = [label.index for label in card.output.labels if label.kind == "finding"]
    if len(card.inputs) != 1:
        raise ValueError("this runtime takes one input")
    if organs != sorted({options.lungs.left, options.lungs.right}):
        raise ValueError(f"lungs.left and lungs.right must be the card's organ labels, which are {organs}")
    if marks != [options.nodules.label]:
        raise ValueError(f"the card's finding labels are {marks}, nodules.label says another")
    if options.probabilities not in {(), (options.nodules.label,)}:
        raise ValueError(f"probabilities may name the finding's label alone, [{options.nodules.label}]")
    label = card.label(options.nodules.label)
    if label.threshold not in {None, options.nodules.threshold} or label.min_volume_ml not in {0, options.nodules.min_volume_ml}:
        raise ValueError("nodules.threshold and min_volume_ml must be those of the output label")


class LungNodules:
    """Both networks, warm on their device."""

    def __init__(self, card: Card, options: Options, built: tuple[torch.nn.Module, PatchNet]) -> None:
        self._card = card
        self._options = options
        self._coarse, self._patches = built
        self._window_bytes = network.forward_bytes(self._coarse, options.lungs.window)

    def need(self, grids: Mapping[str, Grid], execution: Execution) -> Need:
        """Estimate windows of the coarse network or a batch of cubes on the device, and on the host arrays of the fine grid.

        Ten of them while the lungs are drawn; less than five later, when labels, findings and probabilities of the source grid
        stand beside them. Measured by bench/need.py.
        """
        grid = grids[self._card.reference_role]
        coarse, fine = self._plans(grid)
        scored = windows.need(self._layout(coarse), (1, 3), execution, self._window_bytes)
        voxels = math.prod(fine.model.shape)
        cubes = 2 * 4 * voxels + int(execution.activations * CUBE_BYTES * self._options.nodules.batch)
        return Need(device=max(scored.device, cubes), host=scored.host + max(40 * voxels, 18 * voxels + 5 * math.prod(grid.shape)))

    def _plans(self, grid: Grid) -> tuple[transforms.Resampling, transforms.Resampling]:
        spacing = self._options.spacing_mm
        return (
            transforms.resampling(grid, self._options.orientation, self._options.lungs.spacing_mm),
            transforms.resampling(grid, self._options.orientation, (spacing, spacing, spacing)),
        )

    def predict(self, volumes: Mapping[str, Volume], progress: Progress, execution: Execution = PLAIN) -> Prediction:
        """Draw the lungs and mark nodules; raises Unfit where the series does not show a lung of either side."""
        volume = volumes[self._card.reference_role]
        if volume.modality != "CT" or volume.unit != "HU":
            raise Unfit("This is no CT in Hounsfield units, which this model needs.")
        options = self._options
        device = next(self._coarse.parameters()).device
        with _running(device, execution):
            coarse, fine = self._plans(volume.grid)
            shares = self._shares(volume, coarse, execution, lambda part: progress(0.02 + 0.1 * part))
            tensor = transforms.to_model(volume.array, fine, str(device))
            hu = tensor.cpu().numpy()
            edge = lungfield.Edge(air_hu=options.lungs.air_hu, reach_mm=options.lungs.reach_mm)
            field = lungfield.draw(hu, shares.cpu(), (coarse, fine), edge)
            progress(0.25)
            guard.lungs(field, hu, options.spacing_mm, options.guard)
            labels = self._labels(field, fine)
            progress(0.35)
            inside = candidates.hull(field.mask, options.spacing_mm)
            found = candidates.find(hu, inside, options.spacing_mm, options.nodules.limit)
            judged = nodules.judge(self._patches, tensor, found.voxels, options.nodules.rule, lambda part: progress(0.4 + 0.55 * part))
            instances, findings = nodules.place(judged, fine, labels, options.nodules.rule)
            remarks = (
                *guard.airless(field, options.spacing_mm, options.guard),
                *guard.unseen(field, hu, options.spacing_mm),
                *guard.noisy(labels > 0, volume.array, volume.grid.voxel_mm3, options.spacing_mm),
            )
            levels = {index: nodules.heat(judged, fine) for index in options.probabilities}
        progress(1.0)
        variant = network.variant("lung-nodules", self._coarse, execution)
        return Prediction(
            grid=volume.grid,
            labels=labels,
            instances=instances,
            findings=findings,
            probabilities=levels,
            remarks=remarks,
            variant=variant,
        )

    def _shares(self, volume: Volume, plan: transforms.Resampling, execution: Execution, progress: Progress) -> torch.Tensor:
        """Run the coarse network over the scan: (none, left, right) as one softmax on its grid."""
        lungs = self._options.lungs
        tensor = transforms.to_model(volume.array, plan, str(next(self._coarse.parameters()).device))
        guard.values(tensor)
        guard.order(volume.array, volume.grid.spacing_mm)
        tensor = ((tensor - lungs.intensity.low) / (lungs.intensity.high - lungs.intensity.low)).clamp_(0, 1)
        return torch.softmax(windows.scores(self._coarse, tensor[None], self._layout(plan), execution, progress), dim=0)

    def _layout(self, plan: transforms.Resampling) -> windows.Layout:
        return windows.regular(plan.model.shape, self._options.lungs.window, self._options.lungs.overlap, "gaussian")

    def _labels(self, field: lungfield.Field, fine: transforms.Resampling) -> nodules.Labels:
        stacked = torch.from_numpy(np.stack([field.border, field.leftness]))
        return inverse.labels_to_source(stacked, fine, lungfield.side(self._options.lungs.left, self._options.lungs.right))


@contextmanager
def _running(device: torch.device, execution: Execution) -> Iterator[None]:
    """Run without gradients in the wanted precision; raises ValueError for one that the device does not have."""
    if not windows.has(execution.precision, device.type):
        raise ValueError(f"{execution.precision} is not to be had on this machine's {device.type}")
    half = {"float16": torch.float16, "bfloat16": torch.bfloat16}.get(execution.precision)
    with torch.inference_mode(), torch.autocast(device.type, dtype=half, enabled=half is not None):
        yield
