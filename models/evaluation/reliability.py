"""Whether a probability says what it should: of marks with 0.8, eight in ten are right."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from models.evaluation.froc import Reading

BINS = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Bin:
    """The marks of one range of probability: its mean, the share that was right, how many."""

    probability: float
    right: float
    marks: int


def bins(readings: Sequence[Reading], count: int = BINS) -> tuple[Bin, ...]:
    """Give the ranges of equal width that hold a mark. A lesion's best mark is right; what hits nothing is wrong.

    Example: marks of 0.92 right, 0.98 right, 0.94 wrong: one bin, mean 0.947, right 0.667, 3 marks.
    """
    right = [lesion.score for reading in readings for lesion in reading.lesions if lesion.score >= 0]
    wrong = [score for reading in readings for score in reading.false_marks]
    scores, hits = np.array(right + wrong), np.array([1.0] * len(right) + [0.0] * len(wrong))
    place = np.clip((scores * count).astype(int), 0, count - 1)
    there = [place == k for k in range(count) if (place == k).any()]
    return tuple(Bin(probability=float(scores[here].mean()), right=float(hits[here].mean()), marks=int(here.sum())) for here in there)


def expected_error(found: Sequence[Bin], least: float = 0.0) -> float:
    """Give the expected calibration error: the mean distance of probability and share, weighed by marks; of bins from `least` up.

    Most marks of a detector are sure to be none, and right in that; `least` asks for those somebody would see. NaN without marks.
    Ref: Naeini et al. 2015, Obtaining well calibrated probabilities using Bayesian binning
    """
    counted = [entry for entry in found if entry.probability >= least]
    marks = sum(entry.marks for entry in counted)
    return sum(entry.marks * abs(entry.probability - entry.right) for entry in counted) / marks if marks else float("nan")
