"""An nnU-Net v2 results folder: its plans, its folds, and labels equal to those of its own predictor, voxel for voxel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field

from models import registry
from models.answers import segmenter
from models.card import Card, ShelvedCard
from models.execution import PLAIN, Execution, Need
from models.grids import transforms
from models.nnunet import lesions, stage
from models.vocabulary import Grid, Prediction, Progress, Unfit, Volume

ORIENTATION = r"^([LRPASI]{3}|as-stored)$"


class Options(stage.Inference):
    """The card's [runtime.options]: how the folder is run, and how its training images lay.

    orientation  where the z, y and x indices of the training's images grow, "SAR" for NIfTI files in canonical order
                 (models.grids.transforms); or "as-stored": as the series is loaded, whatever that is
    """

    orientation: str = Field(pattern=ORIENTATION)


def load(shelved: ShelvedCard, device: str) -> NnUNet:
    """Read plans and labels, build the networks, fill them with the checked weights; raises BadCard."""
    with registry.options_at_fault(shelved):
        options = Options.model_validate(shelved.card.runtime.options)
        stages = stage.build(registry.weights(shelved, stage.names(options)), options, device)
        agree(shelved.card, stages, options.orientation, tuple(sorted({value for value in stages[-1].heads.values if value})))
    findings = tuple(label.index for label in shelved.card.output.labels if label.kind == "finding")
    return NnUNet(shelved.card, options, (*stages[:-1], replace(stages[-1], watched=findings)))


def agree(card: Card, stages: Sequence[stage.Stage], orientation: str, values: tuple[int, ...]) -> None:
    """Check the card against what the folder holds; raises ValueError."""
    if card.output.kind != "labels" or card.output.inverse != "runtime":
        raise ValueError('nnU-Net gives labels: output.kind must be "labels" and output.inverse "runtime"')
    indices = tuple(sorted(label.index for label in card.output.labels))
    if indices != values:
        raise ValueError(f"the network's labels are {list(values)}, the card's output.labels have the indices {list(indices)}")
    channels = stages[-1].plans.channels
    if len(card.inputs) != len(channels):
        raise ValueError(
            f"the network has the channels {', '.join(channel.name for channel in channels)}; the card needs one input for each, "
            f"in this order, and has {len(card.inputs)}"
        )
    reader = stages[-1].plans.orientation
    if reader is not None and orientation != reader:
        raise ValueError(f"plans.json: its reader turns every image to {reader!r}, so orientation must be that")
    if orientation != "as-stored" and len({"LRPASI".index(letter) // 2 for letter in orientation}) != 3:
        raise ValueError(f"orientation {orientation!r} names one direction twice")


def channels(card: Card, volumes: Mapping[str, Volume], orientation: str) -> tuple[np.ndarray[tuple[int, ...], np.dtype[np.float32]], Grid]:
    """Stack the card's inputs in their order as channels (c, z, y, x), turned as the training's images lay, with their grid.

    A channel on other voxels than the reference is interpolated onto them through the patient; where it does not reach it is 0.
    Raises Unfit for a CT without Hounsfield units, and for a channel that has nothing in common with the reference.
    """
    reference = volumes[card.reference_role]
    turning = None if orientation == "as-stored" else transforms.turning(reference.grid, orientation)
    parts = []
    for entry in card.inputs:
        volume = volumes[entry.role]
        if volume.modality == "CT" and volume.unit != "HU":
            raise Unfit("The CT's values are not Hounsfield units.")
        array = volume.array
        if not transforms.coincide(volume.grid, reference.grid):
            values, seen = transforms.onto(volume.array, volume.grid, reference.grid, "cpu")
            if not bool(seen.any()):
                raise Unfit(f"The series of {entry.role} shows no part of what the series of {card.reference_role} shows.")
            array = (values * seen).numpy()
        parts.append(array if turning is None else turning.turn(array))
    return np.stack([np.asarray(part, dtype=np.float32) for part in parts]), reference.grid if turning is None else turning.turned(
        reference.grid
    )


class NnUNet:
    """A results folder, warm on its device."""

    def __init__(self, card: Card, options: Options, stages: Sequence[stage.Stage]) -> None:
        self._card = card
        self._options = options
        self._stages = stages

    def need(self, grids: Mapping[str, Grid], execution: Execution) -> Need:
        """Estimate a slab of scores, a window's features and the resampled image."""
        grid = turned(grids[self._card.reference_role], self._options.orientation)
        return stage.need(self._stages, grid.shape, grid.spacing_mm, execution)

    def predict(self, volumes: Mapping[str, Volume], progress: Progress, execution: Execution = PLAIN) -> Prediction:
        """Label an image; raises Unfit."""
        image, grid = channels(self._card, volumes, self._options.orientation)
        found = stage.label(self._stages, image, grid.spacing_mm, execution, lambda part: progress(0.02 + 0.94 * part))
        source, orientation = volumes[self._card.reference_role].grid, self._options.orientation
        labels = back(found.labels, source, orientation)
        levels = {index: back(level, source, orientation) for index, level in found.levels.items()}
        instances, findings = lesions.mark(labels, levels, self._card, source)
        segmenter.drop_small(labels, source, self._card)
        moved = [role for role, volume in sorted(volumes.items()) if not transforms.coincide(volume.grid, source)]
        said = variant(self._stages, execution) | ({"interpolated": " ".join(moved)} if moved else {})
        progress(1.0)
        return Prediction(grid=source, labels=labels, instances=instances, findings=findings, variant=said)


def turned(grid: Grid, orientation: str) -> Grid:
    """Give the grid of the image as the network is given it."""
    return grid if orientation == "as-stored" else transforms.turning(grid, orientation).turned(grid)


def back(array: NDArray[Any], source: Grid, orientation: str) -> NDArray[Any]:
    """Turn labels, or what lies beside them, back to the source's own axes."""
    return array if orientation == "as-stored" else np.ascontiguousarray(transforms.turning(source, orientation).turn_back(array))


def variant(stages: Sequence[stage.Stage], execution: Execution) -> dict[str, str]:
    """Say what makes a prediction: scores are put together slab by slab where they go back along straight lines."""
    streamed = all(stage.is_linear(part.plans) for part in stages)
    return {
        "runtime": "nnunet",
        "device": stages[-1].device.type,
        **execution.facts(),
        "scores": "in slabs" if streamed else "whole",
        "torch": str(torch.__version__),
        "networks": version("dynamic-network-architectures"),
    }
