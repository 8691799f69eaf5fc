"""All cases to numbers with intervals: what can be said of a model on these data."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from models.card import Card
from models.evaluation import froc, interval
from models.evaluation.froc import RATES, Reading, Scored
from models.evaluation.interval import Interval
from models.evaluation.overlap import Overlap
from overread.evaluation.reading import Outcome

SIZES_MM = (0.0, 4.0, 6.0, 8.0, 12.0, 20.0, float("inf"))
"""Edges of the classes of lesion diameters; a lesion at an edge belongs to the class above it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelFigures:
    """One label over all cases in which it was said or true.

    cases            in which it is true; `missed` of them without a voxel said, `invented`: said where it is not true
    dice, hd95_mm    means; hd95 over the cases that have a surface on both sides
    error_ml         mean of said minus true; `limits_ml` holds 95 % of the single errors, if they are normal (Bland, Altman 1986)
    error_percent    mean of the error as a part of the true volume
    """

    label: str
    cases: int
    missed: int
    invented: int
    dice: Interval
    hd95_mm: Interval
    error_ml: Interval
    limits_ml: tuple[float, float]
    error_percent: Interval


@dataclass(frozen=True, slots=True, kw_only=True)
class SizeFigures:
    """Sensitivity at the operating point for lesions of at least `low_mm` and below `high_mm`."""

    low_mm: float
    high_mm: float
    lesions: int
    sensitivity: Interval


@dataclass(frozen=True, slots=True, kw_only=True)
class KindFigures:
    """Sensitivity at the operating point for lesions of one kind, as the truth calls it."""

    kind: str
    lesions: int
    sensitivity: Interval


@dataclass(frozen=True, slots=True, kw_only=True)
class FindingFigures:
    """Marks against lesions over all scans.

    threshold   the card's: the operating point, at which `sensitivity`, `false_marks` a scan, `sizes` and `kinds` are told
    at_rates    sensitivity at RATES false marks a scan; `score` is their mean (LUNA16)
    reaches     false marks a scan at the lowest score that there is: beyond it the curve is flat because the model says no more
    """

    scans: int
    lesions: int
    threshold: float
    sensitivity: Interval
    false_marks: Interval
    sizes: tuple[SizeFigures, ...]
    kinds: tuple[KindFigures, ...]
    at_rates: tuple[Interval, ...]
    score: Interval
    reaches: float


def of_labels(card: Card, outcomes: Sequence[Outcome]) -> tuple[LabelFigures, ...]:
    """Give the figures of every label that is true in a case."""
    found = []
    for label in card.output.labels:
        overlaps = [outcome.overlaps[label.index] for outcome in outcomes if label.index in outcome.overlaps]
        if any(entry.truth_ml for entry in overlaps):
            found.append(_label(label.label, overlaps))
    return tuple(found)


def _label(name: str, overlaps: Sequence[Overlap]) -> LabelFigures:
    true = [entry for entry in overlaps if entry.truth_ml]
    errors = np.array([entry.error_ml for entry in true])
    spread = 1.96 * float(errors.std(ddof=1)) if len(errors) > 1 else float("nan")
    return LabelFigures(
        label=name,
        cases=len(true),
        missed=sum(not entry.said_ml for entry in true),
        invented=sum(bool(entry.said_ml) for entry in overlaps if not entry.truth_ml),
        dice=_mean(true, lambda entry: entry.dice),
        hd95_mm=_mean(true, lambda entry: entry.hd95_mm),
        error_ml=_mean(true, lambda entry: entry.error_ml),
        limits_ml=(float(errors.mean()) - spread, float(errors.mean()) + spread),
        error_percent=_mean(true, lambda entry: entry.error_percent),
    )


def _mean(entries: Sequence[Overlap], what: Callable[[Overlap], float | None]) -> Interval:
    known = [value for entry in entries if (value := what(entry)) is not None]
    if not known:
        return Interval(value=float("nan"), low=float("nan"), high=float("nan"))
    return interval.bootstrap(known, lambda drawn: float(np.mean(drawn)))[0]


def of_findings(card: Card, outcomes: Sequence[Outcome]) -> FindingFigures | None:
    """Give the figures of marks against lesions; None where no case had lesions to be found."""
    readings = [outcome.reading for outcome in outcomes if outcome.reading is not None]
    lesions = [lesion for reading in readings for lesion in reading.lesions]
    if not lesions:
        return None
    threshold = max((label.threshold or 0.0 for label in card.output.labels if label.kind == "finding"), default=0.0)
    at_rates = interval.bootstrap(readings, lambda drawn: (found := froc.at_rates(drawn)) + (sum(found) / len(found),))
    operating = interval.bootstrap(readings, lambda drawn: [froc.sensitivity(drawn, threshold), froc.false_rate(drawn, threshold)])
    there = [edges for edges in itertools.pairwise(SIZES_MM) if any(edges[0] <= lesion.size_mm < edges[1] for lesion in lesions)]
    return FindingFigures(
        scans=len(readings),
        lesions=len(lesions),
        threshold=threshold,
        sensitivity=operating[0],
        false_marks=operating[1],
        sizes=tuple(_size(readings, threshold, edges) for edges in there),
        kinds=tuple(_kind(readings, threshold, kind) for kind in sorted({lesion.kind for lesion in lesions} - {""})),
        at_rates=at_rates[: len(RATES)],
        score=at_rates[-1],
        reaches=froc.false_rate(readings, 0.0),
    )


def _size(readings: Sequence[Reading], threshold: float, edges: tuple[float, float]) -> SizeFigures:
    found, count = _of(readings, threshold, lambda lesion: edges[0] <= lesion.size_mm < edges[1])
    return SizeFigures(low_mm=edges[0], high_mm=edges[1], lesions=count, sensitivity=found)


def _kind(readings: Sequence[Reading], threshold: float, kind: str) -> KindFigures:
    found, count = _of(readings, threshold, lambda lesion: lesion.kind == kind)
    return KindFigures(kind=kind, lesions=count, sensitivity=found)


def _of(readings: Sequence[Reading], threshold: float, within: Callable[[Scored], bool]) -> tuple[Interval, int]:
    """Give the sensitivity for some of the lesions, and how many these are."""
    (found,) = interval.bootstrap(readings, lambda drawn: froc.sensitivity(drawn, threshold, within))
    return found, sum(within(lesion) for reading in readings for lesion in reading.lesions)
