"""Volumes to what a network sees: one channel a role, on one grid, with the intensities it was taught on. The card says how."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator

from models.card import Card
from models.grids import transforms
from models.pipelines.intensity import Intensity, Unchanged
from models.vocabulary import Grid, Unfit, Volume

UPRIGHT = "SPL"
"""The orientation of a picture's own grid, so that nothing is turned: rows downwards, columns to the right."""
Sizes = tuple[int, int] | tuple[int, int, int]
Shape = tuple[int, int, int]


class Role(BaseModel):
    """What is special to one role's volume.

    intensity   instead of the intensity of all
    background  the value, in the volume's own unit, where its field of view ends; else the least value it has
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    intensity: Intensity | None = None
    background: float | None = None


class Preparation(BaseModel):
    """The keys of [runtime.options] that say what the network sees. Triples are (z, y, x), pairs (rows, columns) of a 2-D network.

    orientation  where the z, y and x indices grow, "SPL" for instance (models.grids.transforms)
    spacing_mm   0 keeps the source's own along that axis; without it, and without `size`, all three are kept
    size         instead of a spacing: the whole field of view on this many voxels; of a pair, of a single picture
    fit          of `size`: "pad" keeps the proportions and leaves the rest 0, "stretch" does not
    window       voxels the network sees at once, neighbours sharing `overlap` of it; without it the whole volume
    multiple_of  without a window: the whole is padded with 0 to multiples of this
    roles        what is special to a role, by its name
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    orientation: str = Field(default=UPRIGHT, pattern=r"^[LRPASI]{3}$")
    spacing_mm: tuple[float, float, float] | None = None
    size: Sizes | None = None
    fit: Literal["pad", "stretch"] = "pad"
    window: Sizes | None = None
    overlap: float = Field(default=0.25, ge=0, lt=1)
    multiple_of: Sizes | None = None
    intensity: Intensity = Field(default_factory=Unchanged)
    roles: dict[str, Role] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _one_way(self) -> Preparation:
        given = [key for key in ("size", "window", "multiple_of") if getattr(self, key) is not None]
        if len(given) != 1:
            raise ValueError(f"exactly one of window, size and multiple_of says what the network sees at once, not {given or 'none'}")
        if self.size is not None and self.spacing_mm is not None:
            raise ValueError("size and spacing_mm contradict each other")
        if any(value < 1 for value in self._sizes):
            raise ValueError(f"{given[0]} must be positive")
        if any(value < 0 for value in self.spacing_mm or ()):
            raise ValueError("spacing_mm must be positive, or 0 for the source's own")
        return self

    @property
    def _sizes(self) -> Sizes:
        return self.window or self.size or self.multiple_of or (1, 1, 1)

    @property
    def flat(self) -> bool:
        """Tell a 2-D network, which sees slices or pictures."""
        return len(self._sizes) == 2

    def window_on(self, shape: Sequence[int]) -> Shape:
        """Give the voxels (z, y, x) the network sees at once of a volume of that shape.

        Example: multiple_of (16, 16, 16) on (40, 64, 50): (48, 64, 64).
        """
        sizes = (1, *self._sizes) if len(self._sizes) == 2 else self._sizes
        if self.multiple_of is not None:
            if self.flat:
                shape = (1, *shape[1:])
            sizes = tuple(-(-count // each) * each for count, each in zip(shape, sizes, strict=True))  # type: ignore[assignment]
        return int(sizes[0]), int(sizes[1]), int(sizes[2])

    @property
    def probe(self) -> tuple[int, ...]:
        """Give a window the network must take: (z, y, x), or (rows, columns) of a 2-D one."""
        return self.window_on((1, 1, 1))[1:] if self.flat else self.window_on((1, 1, 1))

    def roles_agree(self, card: Card) -> None:
        """Check the roles against the card's; raises ValueError."""
        known = {entry.role for entry in card.inputs}
        if strange := sorted(set(self.roles) - known):
            raise ValueError(f"roles names {strange[0]!r}, which is no input of the card")
        for entry in card.inputs:
            if not (entry.reference or entry.same_frame):
                raise ValueError(f"the input {entry.role!r} is laid over the reference through the patient: it needs same_frame = true")

    def plan(self, grid: Grid) -> transforms.Resampling:
        """Plan the network's grid; raises Unfit for a radiograph where volumes are read, and for a stack where one picture is.

        Example: 2000 x 2500 pixels of 0.2 mm to size (512, 512), padded: 0.977 mm, so 410 x 512 are seen.
        """
        if grid.is_projection and not (self.flat and self.orientation == UPRIGHT):
            raise Unfit("The series is a radiograph, and this model reads volumes.")
        if not grid.calibrated and any(self.spacing_mm or ()):
            raise Unfit("The picture's pixels have no size in millimetres, which this model needs.")
        if self.size is not None and self.flat and grid.shape[0] != 1:
            raise Unfit("The series is no single radiograph, which is all this model reads.")
        turned = transforms.turning(grid, self.orientation).turned(grid)
        wanted = self.spacing_mm or (0.0, 0.0, 0.0)
        if self.size is not None:
            sizes = (turned.shape[0], *self.size) if len(self.size) == 2 else self.size
            each = [count * step / most for count, step, most in zip(turned.shape, turned.spacing_mm, sizes, strict=True)]
            if self.fit == "pad":
                scaled = slice(1, 3) if self.flat else slice(0, 3)
                each[scaled] = [max(each[scaled])] * len(each[scaled])
            wanted = (each[0], each[1], each[2])
        spacing = [own if asked == 0 else asked for asked, own in zip(wanted, turned.spacing_mm, strict=True)]
        return transforms.resampling(grid, self.orientation, spacing)


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """What the network sees: float32 (roles, *model shape) on its device, in the card's order, and the way back to the reference."""

    tensor: torch.Tensor
    plan: transforms.Resampling


def prepare(volumes: Mapping[str, Volume], card: Card, preparation: Preparation, device: str) -> Prepared:
    """Lay all roles on the model's grid over the reference, and scale their intensities; raises Unfit.

    A role on the reference's own grid is resampled with it. One on another grid is taken to the model's through the patient,
    wherever its axes point; where its field of view ends it has its background, which no statistic counts.
    """
    reference = volumes[card.reference_role]
    plan = preparation.plan(reference.grid)
    channels = []
    for entry in card.inputs:
        volume = volumes[entry.role]
        if volume.modality == "CT" and volume.unit != "HU":
            raise Unfit("The CT's values are not Hounsfield units.")
        special = preparation.roles.get(entry.role, Role())
        if volume.grid == reference.grid:
            values = transforms.to_model(volume.array, plan, device)
            seen = torch.ones_like(values, dtype=torch.bool)
        elif volume.grid.space != reference.grid.space or reference.grid.is_projection:
            raise Unfit("The images of this model's inputs cannot be laid over each other: they are different pictures.")
        else:
            values, seen = transforms.onto(volume.array, volume.grid, plan.model, device)
            background = float(volume.array.min()) if special.background is None else special.background
            values = values.masked_fill_(~seen, background)
        if not bool(seen.any()):
            raise Unfit(f"The images for {entry.role} show no part of what those for {card.reference_role} show.")
        channels.append((special.intensity or preparation.intensity).apply(values, seen))
    return Prepared(tensor=torch.stack(channels) if len(channels) > 1 else channels[0][None], plan=plan)
