"""Dotted keys reach into a card's tables by role and index."""

from __future__ import annotations

from typing import Any

import pytest

from models.card import BadCard
from models.shelving import keys

CARD: dict[str, Any] = {
    "model": {"name": "a"},
    "inputs": [{"role": "ct", "accept": {"modality": ["CT"]}}],
    "output": {"labels": [{"index": 7, "label": "Liver"}, {"index": 1, "label": "Lung"}]},
    "evaluation": {"figures": {"froc_0.5": 0.25}},
}


@pytest.mark.parametrize(
    ("key", "found"),
    [
        ("model.name", "a"),
        ("inputs.ct.accept.modality", ["CT"]),
        ("output.labels.1.label", "Lung"),
        ("output.labels.7.label", "Liver"),
        ("output.labels.2.label", None),
        ('evaluation.figures."froc_0.5"', 0.25),
        ("model.name.more", None),
    ],
)
def test_a_value_is_found_by_names_not_by_places(key: str, found: Any) -> None:
    """Inputs are named by role, labels by index; what is not there is None."""
    assert keys.value(CARD, key) == found


def test_values_are_put_where_they_are_found_again() -> None:
    """Tables and entries are made on the way; an entry that is there is not doubled."""
    card: dict[str, Any] = {}
    for key, new in (
        ("model.licence", "MIT"),
        ("inputs.mr.accept.modality", ["MR"]),
        ("output.labels.3.label", "Spleen"),
        ("output.labels.3.kind", "organ"),
        ("measurements.3.what", ["volume"]),
    ):
        keys.put(card, key, new)
        assert keys.value(card, key) == new
    assert card["output"]["labels"] == [{"index": 3, "label": "Spleen", "kind": "organ"}]
    assert card["measurements"] == [{"label": 3, "what": ["volume"]}]


@pytest.mark.parametrize(
    "key", ["", ".", "model..name", "model.", ".model", 'model."', "output.labels.liver.type", "inputs.ct", "model.name.x"]
)
def test_a_key_that_leads_nowhere_is_refused(key: str) -> None:
    """Empty parts, a label by its name, a whole entry and a key below a word are errors."""
    card: dict[str, Any] = {"model": {"name": "a"}, "inputs": [{"role": "ct"}]}
    with pytest.raises(BadCard):
        keys.put(card, key, 1)
