"""Two networks one after the other: the first says where, the second looks there closely, at a spacing of its own."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Generic, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

from models.answers import outcome
from models.card import Card
from models.execution import Execution
from models.pipelines import stages
from models.vocabulary import Box, Finding, Grid, Prediction, Progress, Unfit, Volume

S = TypeVar("S", bound=stages.Stage)


class Cascade(BaseModel, Generic[S]):
    """The card's [runtime.options] of two networks.

    first        proposes boxes of the card's finding labels (findings, centres or rows), or, with organ_channels alone, the one
                 box around all that is not none
    second       gives the card's output, inside each box and `margin_mm` around it
    unconfirmed  what becomes of a proposed finding of which the second network draws nothing: its box is marked, or it goes
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    first: S
    second: S
    margin_mm: float = Field(default=10, ge=0)
    unconfirmed: Literal["keep", "drop"] = "keep"

    @model_validator(mode="after")
    def _both_mark(self) -> Cascade[S]:
        if self.first.scores or self.second.scores or self.second.centres or self.second.rows:
            raise ValueError("the first network proposes boxes or a region, the second one draws voxels")
        if self.first.mask_channels:
            raise ValueError("the first network proposes findings, or a region by organ_channels")
        return self

    @property
    def locates(self) -> bool:
        """Tell whether the first network gives one region, not findings."""
        return bool(self.first.organ_channels) and not self.first.findings

    def cards(self, card: Card) -> tuple[Card, Card]:
        """Give the card as each network has to fit it.

        The first one's boxes are the card's findings, or one label a channel, whatever they are. A finding's threshold is
        that of its proposal; the second network has one of its own.
        """
        if card.output.kind not in {"labels", "masks"}:
            raise ValueError('the second network of two draws voxels: output.kind must be "labels" or "masks"')
        findings = [label for label in card.output.labels if label.kind == "finding"]
        organs = [label for label in card.output.labels if label.kind == "organ"]
        if self.locates:
            free = (organs or findings)[0].model_copy(update={"kind": "organ", "threshold": None, "min_volume_ml": 0.0})
            places = tuple(free.model_copy(update={"index": index}) for index in range(1, len(self.first.organ_channels)))
            return _with(card, "labels", places), card
        own = [label.model_copy(update={"threshold": None}) for label in findings]
        return _with(card, "boxes", tuple(findings)), _with(card, card.output.kind, (*organs, *own))


def _with(card: Card, kind: str, labels: Sequence[Any]) -> Card:
    return card.model_copy(update={"output": card.output.model_copy(update={"kind": kind, "labels": tuple(labels)})})


@dataclass(frozen=True, slots=True, kw_only=True)
class _Canvas:
    """What the second network has drawn so far, on the grid of the whole.

    claimed  for each finding label, the voxels of its findings
    parts    findings with their voxels in a part of the whole
    """

    labels: NDArray[np.uint8]
    masks: dict[int, NDArray[np.bool_]] = field(default_factory=dict)
    levels: dict[int, NDArray[np.uint8]] = field(default_factory=dict)
    claimed: dict[int, NDArray[np.bool_]] = field(default_factory=dict)
    parts: list[tuple[Finding, NDArray[np.bool_], tuple[slice, ...]]] = field(default_factory=list)

    def draw(self, part: Prediction, where: tuple[slice, ...]) -> None:
        """Take over organs, masks and probabilities of a part; labels that were drawn before stay."""
        free = self.labels[where] == 0
        self.labels[where][free] = part.labels[free]
        for index, mask in part.masks.items():
            self.masks.setdefault(index, np.zeros(self.labels.shape, dtype=bool))[where] |= mask
        for index, levels in part.probabilities.items():
            whole = self.levels.setdefault(index, np.zeros(self.labels.shape, dtype=np.uint8))
            np.maximum(whole[where], levels, out=whole[where])

    def mark(self, finding: Finding, voxels: NDArray[np.bool_], where: tuple[slice, ...]) -> bool:
        """Add a finding, unless better ones of its label have half of its voxels: then it is one of them again. Tell if it was added.

        Of one label a voxel that a better one has stays that one's.
        """
        claimed = self.claimed.setdefault(finding.label, np.zeros(self.labels.shape, dtype=bool))
        free = voxels & ~claimed[where]
        added = 2 * int(free.sum()) > int(voxels.sum())
        if added:
            claimed[where] |= free
            self.parts.append((finding, free, where))
        return added

    def finish(self, grid: Grid, *, finds: bool) -> Prediction:
        """Give what was drawn; a finding's voxels are in no organ."""
        instances, findings = outcome.painted(self.parts, self.labels.shape)
        self.labels[instances > 0] = 0
        marks = instances if finds else None
        return Prediction(grid=grid, labels=self.labels, instances=marks, findings=findings, masks=self.masks, probabilities=self.levels)


def predict(
    loaded: Sequence[stages.Loaded], both: Cascade[Any], volumes: Mapping[str, Volume], how: tuple[Progress, Execution]
) -> tuple[Prediction, dict[str, str]]:
    """Run both networks; give the prediction on the reference's grid, and what to say of the proposals. Raises Unfit, Broken.

    The best proposals are drawn first. Nothing proposed is an answer where findings are looked for; where a region is, it is Unfit.
    """
    first, second = loaded
    progress, execution = how
    grid = volumes[second.card.reference_role].grid
    found = stages.run(first, volumes, lambda part: progress(0.4 * part), execution)
    proposed = _region(found) if both.locates else sorted(found.findings, key=lambda entry: (-entry.score, entry.number))
    canvas = _Canvas(labels=np.zeros(grid.shape, dtype=np.uint8))
    unconfirmed = merged = 0
    for number, proposal in enumerate(proposed, start=1):
        where = _around(proposal.box, grid, both.margin_mm)

        def tell(done: float, number: int = number) -> None:
            progress(0.4 + 0.5 * (number - 1 + done) / len(proposed))

        part = stages.run(second, cut(volumes, grid, where), tell, execution)
        canvas.draw(part, where)
        if both.locates:
            for finding in part.findings:
                canvas.mark(finding, _voxels(part, [finding.number]), where)
            continue
        voxels = _confirmed(part, proposal, where)
        if not voxels.any():
            unconfirmed += 1
            voxels = _inside(proposal.box, where) if both.unconfirmed == "keep" else voxels
        merged += bool(voxels.any()) and not canvas.mark(proposal, voxels, where)
    told = {} if both.locates else {"proposals": str(len(proposed)), "unconfirmed": str(unconfirmed), "merged": str(merged)}
    return canvas.finish(grid, finds=second.card.finds), told


def _region(found: Prediction) -> list[Finding]:
    """Give the box around everything that is labelled; raises Unfit where nothing is."""
    sides = [np.flatnonzero(found.labels.any(axis=tuple(other for other in range(3) if other != axis))) for axis in range(3)]
    if any(len(side) == 0 for side in sides):
        raise Unfit("The part of the body that this model looks at was not found in the series.")
    low, high = ([int(side[end]) + more for side in sides] for end, more in ((0, 0), (-1, 1)))
    return [Finding(number=1, label=0, score=1.0, box=Box(low=(low[0], low[1], low[2]), high=(high[0], high[1], high[2])))]


def _around(box: Box, grid: Grid, margin_mm: float) -> tuple[slice, ...]:
    """Give a box widened by a margin, as far as the grid goes.

    Example: slices 4 to 6 of 20, 5 mm apart, margin 12 mm: 3 slices more on either side, so 1 to 9.
    """
    more = [math.ceil(margin_mm / step) for step in grid.spacing_mm]
    ends = zip(box.low, box.high, more, grid.shape, strict=True)
    return tuple(slice(max(0, low - wide), min(size, high + wide)) for low, high, wide, size in ends)


def cut(volumes: Mapping[str, Volume], grid: Grid, where: tuple[slice, ...]) -> dict[str, Volume]:
    """Cut out the volumes that lie on a grid; others are found through the patient as they are."""
    corner = grid.to_world_mm(np.array([[side.start for side in where]], dtype=float))[0]
    z, y, x = (side.stop - side.start for side in where)
    part = replace(grid, shape=(z, y, x), origin_mm=(float(corner[0]), float(corner[1]), float(corner[2])))
    return {
        role: replace(volume, array=volume.array[where], grid=part) if volume.grid == grid else volume for role, volume in volumes.items()
    }


def _voxels(part: Prediction, numbers: Sequence[int]) -> NDArray[np.bool_]:
    if part.instances is None:
        return np.zeros(part.grid.shape, dtype=bool)
    found: NDArray[np.bool_] = np.isin(part.instances, numbers)
    return found


def _confirmed(part: Prediction, proposal: Finding, where: tuple[slice, ...]) -> NDArray[np.bool_]:
    """Give the voxels of what the second network drew of the proposal's label and that reaches into its box."""
    inside = _inside(proposal.box, where)
    own = [finding.number for finding in part.findings if finding.label == proposal.label]
    reached = [number for number in own if (_voxels(part, [number]) & inside).any()]
    return _voxels(part, reached)


def _inside(box: Box, where: tuple[slice, ...]) -> NDArray[np.bool_]:
    """Give the voxels of a part that lie in a box of the whole."""
    inside = np.zeros([side.stop - side.start for side in where], dtype=bool)
    inside[tuple(slice(low - side.start, high - side.start) for low, high, side in zip(box.low, box.high, where, strict=True))] = True
    return inside
