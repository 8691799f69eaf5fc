"""FROC by examples worked by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from models.evaluation import froc, interval
from models.evaluation.froc import Lesion, Mark, Reading, Scored


def mark(x: float, y: float, z: float, score: float) -> Mark:
    """Give a mark."""
    return Mark(centre_mm=(x, y, z), score=score)


def reading(found: list[float], false_marks: list[float]) -> Reading:
    """Give a scan's outcome with lesions of 10 mm."""
    return Reading(lesions=tuple(Scored(size_mm=10, kind="solid", score=score) for score in found), false_marks=tuple(false_marks))


@pytest.mark.parametrize(
    ("size_mm", "place_mm", "hit"),
    [
        (10, (3, 4, 0), True),
        (10, (3, 4, 1), False),
        (4, (0, 0, 3), True),
        (4, (0, 0, 3.01), False),
        (0, (3, 0, 0), True),
    ],
)
def test_a_hit_is_within_the_radius_but_at_least_three_millimetres(size_mm: float, place_mm: tuple[float, float, float], hit: bool) -> None:  # noqa: FBT001 -- a table
    """The edge of the radius is a hit, a hair beyond is none, and small lesions have 3 mm."""
    assert Lesion(centre_mm=(0, 0, 0), size_mm=size_mm).is_hit(place_mm) == hit


def test_a_box_hits_by_its_edges() -> None:
    """With a box the distance does not count."""
    lesion = Lesion(centre_mm=(0, 0, 0), size_mm=0, box_mm=((-10, -1, -1), (10, 1, 1)))
    assert lesion.is_hit((10, 0, 0))
    assert not lesion.is_hit((0, 2, 0))


def test_a_scan_is_read_as_by_hand() -> None:
    """The best mark of a lesion counts once, a miss is a miss, a mark on what need not be found is neither, the rest is false."""
    lesions = [
        Lesion(centre_mm=(0, 0, 0), size_mm=10, kind="solid"),
        Lesion(centre_mm=(50, 0, 0), size_mm=10, kind="ground-glass"),
        Lesion(centre_mm=(100, 0, 0), size_mm=2, counts=False),
    ]
    marks = [mark(0, 0, 1, 0.4), mark(2, 0, 0, 0.7), mark(100, 0, 0, 0.9), mark(70, 0, 0, 0.6)]
    read = froc.read(lesions, marks)
    assert read.lesions == (Scored(size_mm=10, kind="solid", score=0.7), Scored(size_mm=10, kind="ground-glass", score=froc.MISSED))
    assert read.false_marks == (0.6,)


def test_the_curve_and_its_points_are_those_worked_by_hand() -> None:
    """Two scans, lesions found at 0.9, 0.5, 0.2 and missed, false marks 0.8, 0.6, 0.3.

    Strictest first: 0.9 finds 1 of 4; 0.8 and 0.6 add false marks; 0.5 finds the second; 0.3 is false; 0.2 finds the third.
    """
    readings = [reading([0.9, 0.2], [0.8, 0.3]), reading([0.5, froc.MISSED], [0.6])]
    rates, found = froc.curve(readings)
    assert rates.tolist() == [0, 0, 0.5, 1, 1, 1.5, 1.5]
    assert found.tolist() == [0, 0.25, 0.25, 0.25, 0.5, 0.5, 0.75]
    assert froc.at_rates(readings, (0.125, 0.5, 1, 1.5, 8)) == (0.25, 0.25, 0.5, 0.75, 0.75)
    assert froc.cut_at(readings, 1) == pytest.approx(0.3)
    assert froc.false_rate(readings, froc.cut_at(readings, 1)) == 1
    assert froc.sensitivity(readings, 0.5) == 0.5


def test_a_class_of_lesions_is_read_at_all_scans_false_marks() -> None:
    """The threshold comes from every false mark; the share from the lesions asked for; none asked for is NaN."""
    readings = [reading([0.9], [0.8]), Reading(lesions=(Scored(size_mm=4, kind="part-solid", score=0.1),), false_marks=())]
    assert froc.at_rates(readings, (0.0, 0.5), lambda lesion: lesion.size_mm < 6) == (0, 1)
    assert math.isnan(froc.sensitivity(readings, 0.5, lambda lesion: lesion.kind == "none"))


def test_the_interval_of_a_mean_is_the_binomials() -> None:
    """Of 100 cases with 30 hits the interval is near 0.3 +- 1.96 sqrt(0.3 * 0.7 / 100) = 0.21 to 0.39, and the same twice."""
    cases = [float(number < 30) for number in range(100)]
    (found,) = interval.bootstrap(cases, lambda drawn: float(np.mean(drawn)))
    assert found.value == pytest.approx(0.3)
    assert (found.low, found.high) == (pytest.approx(0.21, abs=0.02), pytest.approx(0.39, abs=0.02))
    assert interval.bootstrap(cases, lambda drawn: float(np.mean(drawn))) == (found,)


def test_an_interval_of_nothing_is_none() -> None:
    """Without cases, of one alone, or where no resample gives a number, there is no interval."""
    (empty,) = interval.bootstrap([], lambda _: float("nan"))
    assert math.isnan(empty.low)
    (alone,) = interval.bootstrap([1.0], list)
    assert alone.value == 1
    assert math.isnan(alone.low)
    (missing,) = interval.bootstrap([1.0, 2.0], lambda _: float("nan"))
    assert math.isnan(missing.high)
