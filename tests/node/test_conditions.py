"""Conditions as text: read by a grammar, judged on one image, never run as code."""

from __future__ import annotations

import math
from typing import Any

import hypothesis.strategies as some
import pytest
from hypothesis import given
from hypothesis import settings as quickly

from models.card import Condition
from node import conditions
from node.conditions import BadCondition
from tests.node import work

IMAGE = work.image(
    "1.2.3.1.1",
    header={
        "SliceThickness": 2.5, "SeriesDescription": "Thorax KM 'arteriell'", "PatientAge": "045Y", "StationName": "CT3", "KVP": "x",
        "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"], "StudyDescription": None, "SeriesNumber": 4,
    },
)  # fmt: skip


def holds(text: str, image: Any = IMAGE) -> bool:
    """Read and judge."""
    return conditions.holds(conditions.parse(text), image)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("SliceThickness <= 2.5", True),
        ("SliceThickness < 2.5", False),
        ("SliceThickness > 2 and SliceThickness < 3", True),
        ("SliceThickness = 2.50", True),
        ("SeriesNumber != 4.0", False),
        ("PatientAge >= 18", True),
        ("PatientAge < 45", False),
        ("called_ae is overread", True),
        ("calling_ae is not PACS", False),
        ("peer_host = 127.0.0.1", True),
        ("StationName in (CT1, ct3)", True),
        ("StationName not in (CT1, CT3)", False),
        ("ImageType contains 'PRIMARY\\AX'", True),
        ("ImageType is LOCALIZER", False),
        ("SeriesDescription starts with thorax", True),
        ("SeriesDescription matches '*km*'", True),
        ('SeriesDescription contains "\'art"', True),
        ("SeriesDescription not contains nativ", True),
        ("StudyDescription is absent", True),
        ("StudyDescription is not present", True),
        ("StudyDescription is not Chest", True),
        ("StudyDescription > 1", False),
        ("StationName > 1", False),
        ("StationName is CT1 or StationName is CT3 and SliceThickness > 9", False),
        ("(StationName is CT1 or StationName is CT3) and SliceThickness > 2", True),
        ("not (StationName is CT3 and called_ae is OVERREAD)", False),
        ("not StationName is CT1 and not called_ae is X", True),
        ("STATIONNAME is CT3", False),
    ],
)
def test_a_condition_says_what_it_seems_to(text: str, *, expected: bool) -> None:
    """`and` binds closer than `or`; numbers compare as numbers, words without case, ages in years; names are exact keywords."""
    assert holds(text) is expected


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "it ends where an attribute's name should come"),
        ("SliceThickness", "after SliceThickness should come"),
        ("SliceThickness <", "it ends where a value should come"),
        ("SliceThickness < thin", "'below' needs one number"),
        ("SliceThickness < 1e999", "'below' needs one number"),
        ("(called_ae is X", "a bracket is not closed"),
        ("called_ae is X called_ae is Y", "join conditions with 'and' or 'or'"),
        ("called_ae is 'X", "a quote may be open"),
        ("called_ae is and", "stands where a value should"),
        ("'called_ae' is X", "stands where an attribute's name should"),
        ("called_ae in X", "values in brackets"),
        ("SeriesDescription starts x", "should come 'with'"),
        ("__import__('os').system('x')", "stands where an attribute's name should"),
        ("not " * 100 + "called_ae is X", "nested too deeply"),
        ("(" * 5000, "nested too deeply"),
    ],
)
def test_what_is_no_condition_is_refused_with_its_place(text: str, words: str) -> None:
    """The administrator reads what is wrong; nothing is run."""
    with pytest.raises(BadCondition) as caught:
        conditions.parse(text)
    assert words in str(caught.value)


@quickly(max_examples=300, deadline=None)
@given(text=some.text(alphabet="ab CT<>=!()'\",.19_ andornotiscontains", max_size=60))
def test_no_text_breaks_the_reader(text: str) -> None:
    """Any text is a condition that can be judged, or a BadCondition."""
    try:
        found = conditions.parse(text)
    except BadCondition:
        return
    assert conditions.holds(found, IMAGE) in {True, False}


@pytest.mark.parametrize(
    ("text", "expected"), [("2.5", 2.5), ("045Y", 45.0), ("006M", 0.5), ("B40f", None), ("nan", None), ("inf", None), (" 7 ", 7.0)]
)
def test_numbers_are_read_as_the_field_writes_them(text: str, expected: float | None) -> None:
    """An age string comes in years, what is no finite number is none."""
    found = conditions.number(text)
    assert (found is None) if expected is None else math.isclose(float(str(found)), expected)


@pytest.mark.parametrize(
    "fields",
    [
        {"op": "above", "value": "thin"},
        {"op": "at-most", "value": ["1", "2"]},
        {"op": "present", "value": "x"},
        {"op": "is"},
        {"op": "is", "value": True},
        {"op": "eval", "value": "x"},
    ],
)
def test_a_condition_that_cannot_hold_is_refused(fields: dict[str, Any]) -> None:
    """Operators get the values they need, at the time the card or the settings are read."""
    with pytest.raises(ValueError, match="validation error"):
        Condition.model_validate({"tag": "SliceThickness"} | fields)
