"""Fit the probability of the nodule network on whole generated scans, as the node reads them, neither trained nor evaluated on.

    python -m models.starter.chest_ct.calibrate --scans 30 --processes 2

Training sees nodules far more often than a scan shows them, so its probabilities are too high. Prints (a, b) for the card:
probability = sigmoid(a * logit + b), and for some thresholds how many nodules of 6 mm stand and how many false marks a scan.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from models import card
from models.evaluation import froc
from models.evaluation.froc import MISSED, Reading
from models.starter.chest_ct import course
from models.starter.chest_ct.evaluation import cases, judging, scoring

FIRST_SCAN = 200
COUNTED_MM = 6.0
DOUBT = 0.02
THRESHOLDS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
Floats = NDArray[np.float64]


def reading(path: Path, number: int) -> Reading:
    """Give what a card's model did on one scan, its scores as the network says them; a scan it declines has no marks."""
    case = cases.generated(FIRST_SCAN + number, cases.native_mm(FIRST_SCAN + number))
    judge = judging.model(card.read(path), "cpu", calibration=[1.0, 0.0], doubt=DOUBT)
    result, _ = scoring.score(case, judge, ("", str(number), "model"), 1.0)
    print(f"scan {number}: {len(result.false_marks)} false marks, {result.seconds:.0f} CPU s", file=sys.stderr, flush=True)
    return result.reading


def marks(readings: Sequence[Reading]) -> tuple[Floats, Floats]:
    """Give each mark's score and whether it is right: of a nodule with several, its best alone."""
    right = [lesion.score for given in readings for lesion in given.lesions if lesion.score != MISSED]
    wrong = [score for given in readings for score in given.false_marks]
    return np.array(right + wrong), np.array([1.0] * len(right) + [0.0] * len(wrong))


def logits(scores: Floats) -> Floats:
    """Take scores to logits. Example: 0.75 is the sigmoid of log 3."""
    p = np.clip(scores, 1e-9, 1 - 1e-9)
    return np.asarray(np.log(p) - np.log1p(-p))


def fit(logits: Floats, right: Floats) -> tuple[float, float]:
    """Fit sigmoid(a * logit + b) to answers by Newton's steps on the log-likelihood, with a weak pull towards (1, 0)."""
    weights = np.array([1.0, 0.0])
    design = np.column_stack([logits, np.ones_like(logits)])
    for _ in range(30):
        shares = 1 / (1 + np.exp(-design @ weights))
        gradient = design.T @ (right - shares) - 0.1 * (weights - (1.0, 0.0))
        curvature = (design * (shares * (1 - shares))[:, None]).T @ design + 0.1 * np.eye(2)
        weights = weights + np.linalg.solve(curvature, gradient)
    return float(weights[0]), float(weights[1])


def calibrated(given: Reading, calibration: tuple[float, float]) -> Reading:
    """Give a reading with probabilities for its scores."""
    a, b = calibration

    def probability(score: float) -> float:
        return score if score == MISSED else float(1 / (1 + np.exp(-(a * logits(np.array(score)) + b))))

    lesions = tuple(froc.Scored(size_mm=lesion.size_mm, kind=lesion.kind, score=probability(lesion.score)) for lesion in given.lesions)
    return Reading(lesions=lesions, false_marks=tuple(map(probability, given.false_marks)))


def main() -> None:
    """Read the command line, let the card's model read the scans, fit, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scans", type=int, default=30)
    parser.add_argument("--card", type=Path, default=judging.CARD)
    parser.add_argument("--processes", type=int, default=1)
    given = parser.parse_args()
    with multiprocessing.get_context("spawn").Pool(given.processes, course.alone) as pool:
        readings = pool.map(partial(reading, given.card), range(given.scans), chunksize=1)
    said, right = marks(readings)
    found = fit(logits(said), right)
    print(f"calibration = [{found[0]:.3f}, {found[1]:.3f}]  ({len(said)} marks on {len(readings)} scans, {int(right.sum())} of them right)")
    again = [calibrated(entry, found) for entry in readings]
    for threshold in THRESHOLDS:
        stand = froc.sensitivity(again, threshold, lambda lesion: lesion.size_mm >= COUNTED_MM)
        print(f"threshold {threshold:.1f}: {stand:.3f} of the nodules, {froc.false_rate(again, threshold):.2f} false marks a scan")


if __name__ == "__main__":
    main()
