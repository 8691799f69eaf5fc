"""Bootstrap intervals: how far a figure would move with other patients."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

Case = TypeVar("Case")
Figures = NDArray[np.float64]
RESAMPLES = 1000
SEED = 20_180_923


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """A figure and the middle 95 % of it over resampled cases; `low` and `high` are NaN where no resample gave one.

    So they are with fewer than two cases: of one patient alone nothing can be said of others.
    """

    value: float
    low: float
    high: float


def bootstrap(cases: Sequence[Case], figures: Callable[[Sequence[Case]], Any], resamples: int = RESAMPLES) -> tuple[Interval, ...]:
    """Give each figure of the cases with its percentile interval; the same for the same cases, in this order.

    Whole cases are drawn with replacement, because marks of one patient are not independent. `figures` gives one number or a
    list of them; a NaN (no lesion of that size was drawn) is left out of its interval.

    Example: the mean of the cases 1 and 3 is 2; resampled it is 1, 2, 2 or 3, so the interval is 1 to 3.
    Ref: Efron, Tibshirani 1993, An Introduction to the Bootstrap, 13.3
    """
    values = np.atleast_1d(np.asarray(figures(cases), dtype=float))
    if len(cases) < 2:
        return tuple(Interval(value=float(value), low=float("nan"), high=float("nan")) for value in values)
    rng = np.random.default_rng(SEED)
    drawn = np.array(
        [np.atleast_1d(figures([cases[at] for at in rng.integers(len(cases), size=len(cases))])) for _ in range(resamples)], dtype=float
    )
    return tuple(_interval(float(value), column) for value, column in zip(values, drawn.T, strict=True))


def _interval(value: float, drawn: Figures) -> Interval:
    known = drawn[np.isfinite(drawn)]
    low, high = np.percentile(known, (2.5, 97.5)) if known.size else (float("nan"), float("nan"))
    return Interval(value=value, low=float(low), high=float(high))
