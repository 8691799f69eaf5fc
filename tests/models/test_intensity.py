"""Intensities: each form gives what MONAI's transform of the same meaning gives, over what was scanned alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from monai.transforms import NormalizeIntensity, ScaleIntensityRange, ScaleIntensityRangePercentiles
from pydantic import TypeAdapter, ValidationError

from models.pipelines.intensity import Intensity

FORMS: dict[str, tuple[dict[str, Any], Any]] = {
    "window": ({"low": -200, "high": 300}, ScaleIntensityRange(-200, 300, 0, 1, clip=True)),
    "z-score": ({"form": "z-score"}, NormalizeIntensity()),
    "z-score of what is not 0": ({"form": "z-score", "nonzero": True}, NormalizeIntensity(nonzero=True)),
    "percentiles": ({"form": "percentiles", "low": 1, "high": 97.5}, ScaleIntensityRangePercentiles(1, 97.5, 0, 1, clip=True)),
    "percentiles uncut": (
        {"form": "percentiles", "low": 5, "high": 90, "cut": False},
        ScaleIntensityRangePercentiles(5, 90, 0, 1, clip=False),
    ),
    "fixed": ({"form": "fixed", "mean": 40, "deviation": 120}, NormalizeIntensity(subtrahend=40, divisor=120)),
    "unchanged": ({"form": "unchanged"}, lambda values: values),
}


def read(raw: dict[str, Any]) -> Any:
    """Read a form as a card does."""
    return TypeAdapter(Intensity).validate_python(raw)


def values() -> torch.Tensor:
    """Give intensities of which a third is 0."""
    found = torch.randn((9, 11, 13), generator=torch.Generator().manual_seed(5)) * 150 + 60
    return torch.where(torch.rand(found.shape, generator=torch.Generator().manual_seed(6)) < 0.33, torch.zeros(()), found)


@pytest.mark.parametrize("name", FORMS)
def test_each_form_is_what_its_name_says(name: str) -> None:
    """MONAI's transform and ours agree to 1e-4 on the same values."""
    raw, theirs = FORMS[name]
    wanted = np.asarray(theirs(values().numpy().copy()))
    found = read(raw).apply(values(), torch.ones((9, 11, 13), dtype=torch.bool)).numpy()
    assert np.abs(found - wanted).max() < 1e-4


@pytest.mark.parametrize("name", ["z-score", "percentiles"])
def test_what_was_not_scanned_counts_for_nothing(name: str) -> None:
    """The background beyond a role's field of view moves no mean and no percentile."""
    seen = torch.zeros((9, 11, 13), dtype=torch.bool)
    seen[:5] = True
    padded = torch.where(seen, values(), torch.full((), -5000.0))
    found = read(FORMS[name][0]).apply(padded, seen)
    assert torch.allclose(found[:5], read(FORMS[name][0]).apply(values()[:5], seen[:5]))


def test_a_volume_without_contrast_gives_numbers() -> None:
    """One value everywhere divides by nothing."""
    flat, seen = torch.full((3, 3, 3), 7.0), torch.ones((3, 3, 3), dtype=torch.bool)
    for raw in ({"form": "z-score"}, {"form": "percentiles"}):
        assert torch.isfinite(read(raw).apply(flat.clone(), seen)).all()


@pytest.mark.parametrize(
    "raw",
    [
        {"low": 5, "high": 5},
        {"form": "percentiles", "low": 50, "high": 40},
        {"form": "fixed", "mean": 0, "deviation": 0},
        {"form": "zscore"},
        {"form": "z-score", "low": 1},
    ],
)
def test_a_form_that_says_nothing_sensible_is_refused(raw: dict[str, Any]) -> None:
    """Ends in the wrong order, a deviation of nothing, an unknown form or key."""
    with pytest.raises(ValidationError):
        read(raw)
