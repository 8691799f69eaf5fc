"""A task of TotalSegmentator: several nnU-Net results folders, whose classes are merged into one numbering."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

from models import registry
from models.answers import segmenter
from models.card import Card, ShelvedCard
from models.execution import PLAIN, Execution, Need
from models.nnunet import classes, respaced, stage
from models.nnunet.plans import Heads
from models.runtimes import nnunet
from models.vocabulary import Grid, Prediction, Progress, Volume


class Part(stage.Inference):
    """One results folder; its files are NAME_plans, NAME_dataset, NAME_fold_0 ..."""

    name: str = Field(pattern=r"^[a-z0-9]+$")


class Options(BaseModel):
    """The card's [runtime.options]. Where two parts mark a voxel, the later one's class stands.

    orientation  as for nnU-Net; TotalSegmentator has its images in canonical order, "SAR"
    resample_mm  the spacing to which TotalSegmentator itself brings images before nnU-Net sees them, by splines of
                 `resample_order`, and from which labels go back to the nearest voxel; without it nnU-Net resamples alone
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    orientation: str = Field(default="SAR", pattern=nnunet.ORIENTATION)
    resample_mm: float | None = Field(default=None, gt=0)
    resample_order: int = Field(default=1, ge=0, le=3)
    parts: tuple[Part, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _names_differ(self) -> Options:
        if len({part.name for part in self.parts}) != len(self.parts):
            raise ValueError("two parts share a name")
        return self


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Loaded:
    """A part, warm: its stages, and the task's number of each of its own labels."""

    stages: tuple[stage.Stage, ...]
    numbers: NDArray[np.uint8]


def load(shelved: ShelvedCard, device: str) -> TotalSegmentator:
    """Build every part's networks and fill them with the checked weights; raises BadCard."""
    with registry.options_at_fault(shelved):
        options = Options.model_validate(shelved.card.runtime.options)
        if shelved.card.finds:
            raise ValueError("TotalSegmentator's classes are organs: every output label must be one")
        wanted = [name for part in options.parts for name in stage.names(part, f"{part.name}_")]
        content = registry.weights(shelved, tuple(wanted))
        parts = tuple(_loaded(content, part, device) for part in options.parts)
        values = tuple(sorted({int(number) for part in parts for number in part.numbers if number}))
        for part in parts:
            nnunet.agree(shelved.card, part.stages, options.orientation, values)
    return TotalSegmentator(shelved.card, options, parts)


def _loaded(content: Mapping[str, bytes], part: Part, device: str) -> _Loaded:
    try:
        stages = stage.build(content, part, device, f"{part.name}_")
        return _Loaded(stages=stages, numbers=_numbers(stages[-1].heads))
    except ValueError as error:
        raise ValueError(f"part {part.name}: {error}") from None


def _numbers(heads: Heads) -> NDArray[np.uint8]:
    """Give the table from a part's labels to the task's numbers; raises ValueError for a class the task does not have."""
    table = np.zeros(256, dtype=np.uint8)
    for value, name in heads.names.items():
        if value:
            if name not in classes.numbers():
                raise ValueError(f"dataset.json: {name!r} is no class of TotalSegmentator's task total; shelve the folder as nnunet")
            table[value] = classes.numbers()[name]
    return table


class TotalSegmentator:
    """Every part of a task, warm on its device."""

    def __init__(self, card: Card, options: Options, parts: Sequence[_Loaded]) -> None:
        self._card = card
        self._options = options
        self._parts = parts

    def need(self, grids: Mapping[str, Grid], execution: Execution) -> Need:
        """Estimate the part that needs most: they run one after another. The merged labels come beside it."""
        grid = nnunet.turned(grids[self._card.reference_role], self._options.orientation)
        shape, spacing_mm = grid.shape, grid.spacing_mm
        if (wanted := self._options.resample_mm) is not None:
            z, y, x = (max(1, round(count * step / wanted)) for count, step in zip(shape, spacing_mm, strict=True))
            shape, spacing_mm = (z, y, x), (wanted, wanted, wanted)
        needs = [stage.need(part.stages, shape, spacing_mm, execution) for part in self._parts]
        voxels = int(np.prod(grid.shape)) * (1 if self._options.resample_mm is None else 10)
        return Need(device=max(need.device for need in needs), host=max(need.host for need in needs) + 2 * voxels)

    def predict(self, volumes: Mapping[str, Volume], progress: Progress, execution: Execution = PLAIN) -> Prediction:
        """Label an image by every part in turn; raises Unfit."""
        image, grid = nnunet.channels(self._card, volumes, self._options.orientation)
        shape, spacing_mm = image.shape[1:], grid.spacing_mm
        if (wanted := self._options.resample_mm) is not None:
            image, spacing_mm = respaced.coarse(image, spacing_mm, wanted, self._options.resample_order), (wanted, wanted, wanted)
        merged = np.zeros(image.shape[1:], dtype=np.uint8)
        for number, part in enumerate(self._parts):

            def tell(done: float, number: int = number) -> None:
                progress(0.02 + 0.96 * (number + done) / len(self._parts))

            found = part.numbers[stage.label(part.stages, image, spacing_mm, execution, tell).labels]
            np.copyto(merged, found, where=found > 0)
        source = volumes[self._card.reference_role].grid
        labels = nnunet.back(respaced.back(merged, shape), source, self._options.orientation)
        segmenter.drop_small(labels, source, self._card)
        progress(1.0)
        variant: dict[str, Any] = nnunet.variant(self._parts[-1].stages, execution) | {"runtime": "totalsegmentator"}
        return Prediction(grid=source, labels=labels, variant=variant)
