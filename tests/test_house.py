"""The checkout keeps the house rules; tests/test_gates.py proves that this can fail."""

from __future__ import annotations

from pathlib import Path

from tests import house

ROOT = Path(__file__).resolve().parents[1]


def test_the_checkout_keeps_the_house_rules() -> None:
    """No module of 400 lines, function of 40 or with six parameters, empty name, unfinished mark or machine's path."""
    assert house.modules(ROOT), "the rooms are where the rules look for them"
    assert house.faults(ROOT) == []
