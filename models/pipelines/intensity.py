"""What becomes of intensities before a network sees them: the forms a card may name, and their arithmetic."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, model_validator

FLAT = 1e-8  # a deviation or a range below this holds no contrast: then it divides nothing


class _Form(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Window(_Form):
    """Values that become 0 and 1; what lies outside is cut.

    Example: low -1000, high 400: -300 HU becomes 0.5.
    """

    form: Literal["window"] = "window"
    low: float
    high: float

    @model_validator(mode="after")
    def _ordered(self) -> Window:
        if not self.low < self.high:
            raise ValueError("low must be below high")
        return self

    def apply(self, values: torch.Tensor, _seen: torch.Tensor) -> torch.Tensor:
        """Stretch and cut."""
        return values.sub(self.low).div_(self.high - self.low).clamp_(0, 1)


class ZScore(_Form):
    """Mean 0 and deviation 1 of the voxels that were scanned; with `nonzero` of those alone that are not 0, which stay 0."""

    form: Literal["z-score"]
    nonzero: bool = False

    def apply(self, values: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
        """Subtract and divide; the deviation is that of the population (MONAI's NormalizeIntensity, nnU-Net)."""
        counted = seen & (values != 0) if self.nonzero else seen
        if not bool(counted.any()):
            return values
        chosen = values[counted].double()
        mean, deviation = float(chosen.mean()), float(chosen.std(unbiased=False))
        scaled = (values - mean) / (deviation if deviation > FLAT else 1.0)
        return torch.where(values != 0, scaled, values) if self.nonzero else scaled


class Percentiles(_Form):
    """Percentiles 0..100 of the voxels that were scanned that become 0 and 1; what lies outside is cut unless `cut` is false.

    Interpolated linearly, as numpy does. Example: of 0, 10, ..., 100 percentiles 10 and 90 are 10 and 90, so 50 becomes 0.5.
    """

    form: Literal["percentiles"]
    low: float = Field(default=0.5, ge=0, le=100)
    high: float = Field(default=99.5, ge=0, le=100)
    cut: bool = True

    @model_validator(mode="after")
    def _ordered(self) -> Percentiles:
        if not self.low < self.high:
            raise ValueError("low must be below high")
        return self

    def apply(self, values: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
        """Stretch, and cut."""
        # kthvalue, unlike quantile, takes more than 16 million voxels.
        chosen = values[seen].flatten()
        if len(chosen) == 0:
            return values
        low, high = (_percentile(chosen, percent) for percent in (self.low, self.high))
        scaled = (values - low) / (high - low if high - low > FLAT else 1.0)
        return scaled.clamp_(0, 1) if self.cut else scaled


class Fixed(_Form):
    """The training set's own mean and deviation, after a cut at `low` and `high` where they are given (nnU-Net's CT)."""

    form: Literal["fixed"]
    mean: float
    deviation: float = Field(gt=0)
    low: float | None = None
    high: float | None = None

    def apply(self, values: torch.Tensor, _seen: torch.Tensor) -> torch.Tensor:
        """Cut, subtract and divide."""
        low, high = (end if given is None else given for given, end in ((self.low, -math.inf), (self.high, math.inf)))
        return (values.clamp(low, high) - self.mean) / self.deviation


class Unchanged(_Form):
    """The values as they are: HU, or a radiograph's 0 to 1."""

    form: Literal["unchanged"] = "unchanged"

    def apply(self, values: torch.Tensor, _seen: torch.Tensor) -> torch.Tensor:
        """Give them back."""
        return values


def _form(value: Any) -> str:
    found = value.get("form", "window") if isinstance(value, dict) else getattr(value, "form", "window")
    return str(found)


Intensity = Annotated[
    Annotated[Window, Tag("window")]
    | Annotated[ZScore, Tag("z-score")]
    | Annotated[Percentiles, Tag("percentiles")]
    | Annotated[Fixed, Tag("fixed")]
    | Annotated[Unchanged, Tag("unchanged")],
    Discriminator(_form),
]
"""A table without `form` is a window. `apply(values, seen)` takes float32 of any shape, which it may change in place, and which
voxels were scanned."""


def _percentile(values: torch.Tensor, percent: float) -> float:
    place = percent / 100 * (len(values) - 1)
    below = int(place)
    low = float(values.kthvalue(below + 1).values)
    part = place - below
    return low if part == 0 else low + part * (float(values.kthvalue(below + 2).values) - low)
