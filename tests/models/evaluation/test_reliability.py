"""Calibration: the share of right marks by probability, and how far it is off."""

from __future__ import annotations

import math

import pytest

from models.evaluation.froc import MISSED, Reading, Scored
from models.evaluation.reliability import Bin, bins, expected_error


def test_bins_hold_right_and_false_marks() -> None:
    """Three marks over 0.9, two of them right, one of 0.12 that is none; a lesion without a mark has no probability."""
    lesions = tuple(Scored(size_mm=9.0, kind="", score=score) for score in (0.92, 0.98, MISSED))
    found = bins([Reading(lesions=lesions, false_marks=(0.94,)), Reading(lesions=(), false_marks=(0.12,))])
    assert found == (
        Bin(probability=pytest.approx(0.12), right=0.0, marks=1),
        Bin(probability=pytest.approx(2.84 / 3), right=pytest.approx(2 / 3), marks=3),
    )
    assert expected_error(found) == pytest.approx((0.12 + 3 * (2.84 / 3 - 2 / 3)) / 4)
    assert expected_error(found, 0.5) == pytest.approx(2.84 / 3 - 2 / 3)


def test_without_marks_nothing_is_said() -> None:
    """No mark, no bin, no error."""
    assert bins([]) == ()
    assert math.isnan(expected_error(()))
