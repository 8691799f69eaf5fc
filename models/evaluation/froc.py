"""Sensitivity against false marks a scan: which lesions were found, at which score, and at what price.

A mark is a hit of a lesion where its centre lies in the lesion's box, or within its radius (at least LEAST_MM) of its centre.
A lesion's score is its best mark's; more marks on one lesion count neither way. A mark that hits only lesions that do not count
(`counts` is false: too small, not agreed upon) is neither hit nor false. Of a threshold all marks with at least that score stand.
Ref: Setio et al. 2017, doi 10.1016/j.media.2017.06.015 (LUNA16)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.vocabulary import Triple

RATES = (0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
"""False marks a scan at which LUNA16 reads the curve."""
LEAST_MM = 3.0
MISSED = -1.0
Curve = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Lesion:
    """One lesion of the truth.

    centre_mm, size_mm  LPS, and its diameter; 0 where it is not known
    box_mm              lowest and highest corner, LPS, where the truth is a box; else the radius decides
    kind                a class of lesions by which figures are split: "solid"
    counts              whether it must be found
    """

    centre_mm: Triple
    size_mm: float
    box_mm: tuple[Triple, Triple] | None = None
    kind: str = ""
    counts: bool = True

    def is_hit(self, place_mm: Triple) -> bool:
        """Tell whether a mark with its centre there is a hit.

        Example: a lesion of 10 mm at (0, 0, 0): (3, 4, 0) is 5 mm away and hits, (3, 4, 1) does not.
        """
        if self.box_mm is not None:
            low, high = self.box_mm
            return all(a <= at <= b for a, at, b in zip(low, place_mm, high, strict=True))
        return float(np.linalg.norm(np.subtract(place_mm, self.centre_mm))) <= max(LEAST_MM, self.size_mm / 2)


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """One mark of a model: its centre, LPS, and its score 0..1."""

    centre_mm: Triple
    score: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Scored:
    """A lesion that counts and the best score it was found with; MISSED where it was not."""

    size_mm: float
    kind: str
    score: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What a model did on one scan."""

    lesions: tuple[Scored, ...]
    false_marks: tuple[float, ...]


def read(lesions: Sequence[Lesion], marks: Sequence[Mark]) -> Reading:
    """Compare one scan's marks with its lesions."""
    best = [MISSED] * len(lesions)
    false_marks = []
    for mark in marks:
        hits = [number for number, lesion in enumerate(lesions) if lesion.is_hit(mark.centre_mm)]
        for number in hits:
            best[number] = max(best[number], mark.score)
        if not hits:
            false_marks.append(mark.score)
    found = [
        Scored(size_mm=lesion.size_mm, kind=lesion.kind, score=score) for lesion, score in zip(lesions, best, strict=True) if lesion.counts
    ]
    return Reading(lesions=tuple(found), false_marks=tuple(false_marks))


def cut_at(readings: Sequence[Reading], rate: float) -> float:
    """Give the lowest threshold that leaves at most `rate` false marks a scan.

    Example: two scans with false marks 0.9, 0.8 and 0.3, rate 1: two may stand, so just over 0.3.
    """
    return _cut(sorted((score for reading in readings for score in reading.false_marks), reverse=True), int(rate * len(readings)))


def sensitivity(readings: Sequence[Reading], threshold: float, of: Callable[[Scored], bool] | None = None) -> float:
    """Give the share of lesions (`of` which it is asked) that are found at that threshold; NaN where there is none."""
    found = [lesion.score >= threshold for reading in readings for lesion in reading.lesions if of is None or of(lesion)]
    return float(np.mean(found)) if found else float("nan")


def false_rate(readings: Sequence[Reading], threshold: float) -> float:
    """Give the false marks a scan at that threshold; NaN without scans."""
    standing = [sum(score >= threshold for score in reading.false_marks) for reading in readings]
    return float(np.mean(standing)) if standing else float("nan")


def at_rates(readings: Sequence[Reading], rates: Sequence[float] = RATES, of: Callable[[Scored], bool] | None = None) -> tuple[float, ...]:
    """Give the sensitivity at each number of false marks a scan, without interpolation; their mean is LUNA16's score."""
    ranked = sorted((score for reading in readings for score in reading.false_marks), reverse=True)
    found = np.array([lesion.score for reading in readings for lesion in reading.lesions if of is None or of(lesion)])
    cuts = [_cut(ranked, int(rate * len(readings))) for rate in rates]
    return tuple(float((found >= cut).mean()) if found.size else float("nan") for cut in cuts)


def _cut(ranked: Sequence[float], allowed: int) -> float:
    return 0.0 if len(ranked) <= allowed else float(np.nextafter(ranked[allowed], 2))


def curve(readings: Sequence[Reading]) -> tuple[Curve, Curve]:
    """Give false marks a scan and sensitivity at every threshold that changes either, from the strictest down.

    Example: two scans, one lesion each, found at 0.9 and missed, one false mark of 0.5: rates 0, 0, 0.5; sensitivities 0, 0.5, 0.5.
    """
    scores = {lesion.score for reading in readings for lesion in reading.lesions if lesion.score >= 0}
    scores |= {score for reading in readings for score in reading.false_marks}
    thresholds = [float("inf"), *sorted(scores, reverse=True)]
    rates = np.array([false_rate(readings, threshold) for threshold in thresholds])
    return rates, np.array([sensitivity(readings, threshold) for threshold in thresholds])
