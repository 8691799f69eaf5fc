"""A draft's TOML reads back as the tables it was written from, whatever is asked for in comments."""

from __future__ import annotations

import tomllib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models import card as cards
from models import drafts
from models.drafts import Missing
from models.shelving import writing

PLAIN = st.recursive(
    st.one_of(st.booleans(), st.integers(-(2**60), 2**60), st.floats(allow_nan=False), st.text(max_size=20)),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(min_size=1, max_size=8), inner, max_size=4)),
    max_leaves=12,
)


@given(st.dictionaries(st.text(min_size=1, max_size=8), PLAIN, max_size=5))
def test_any_plain_tables_read_back_equal(options: dict[str, Any]) -> None:
    """Words with quotes, breaks and other alphabets, keys with dots, numbers at the edges, tables in lists: all come back."""
    card = {"schema_version": 1, "runtime": {"format": "f", "options": options}, "inputs": [{"role": "a", "more": options}, {"role": "b"}]}
    assert tomllib.loads(writing.toml(card, (), {})) == card


@pytest.mark.parametrize("name", ["chest_ct", "brain_mr"])
def test_the_starters_cards_read_back_equal(name: str) -> None:
    """A whole card with every kind of table comes back."""
    raw = tomllib.loads((cards.STARTERS / name / "card.toml").read_text(encoding="utf-8"))
    assert tomllib.loads(writing.toml(raw, (), {})) == raw


def test_what_is_missing_is_a_comment_in_its_table() -> None:
    """A key of a label, of an input's limits and of a table that is not there yet stand where a human writes them."""
    card = {"schema_version": 1, "inputs": [{"role": "ct"}], "output": {"labels": [{"index": 3, "label": "Liver"}]}}
    asked = (
        Missing(key="output.labels.3.type", what="a code", why="machines"),
        Missing(key="inputs.ct.accept.region", what="where\nand how", why="routing"),
        Missing(key="evaluation.date", what="a day", why="claims"),
    )
    text = writing.toml(card, asked, {"output.labels.3.type": "{ x = 1 }", "output.labels.3.laterality": "{ y = 1 }"})
    lines = [line for line in text.splitlines() if line]
    at = lines.index("[[output.labels]]")
    assert lines[at : at + 8] == [
        "[[output.labels]]",
        "index = 3",
        'label = "Liver"',
        "# FILL IN type: a code",
        "#   why: machines",
        writing.PROPOSED,
        "# type = { x = 1 }",
        writing.PROPOSED,
    ]
    at = lines.index("[inputs.accept]")
    assert lines[at + 1 : at + 4] == ["# FILL IN region: where", "#   and how", "#   why: routing"]
    assert lines[lines.index("[evaluation]") + 1] == "# FILL IN date: a day"
    assert tomllib.loads(text)["output"] == card["output"]


def test_every_card_asks_for_what_nobody_can_read() -> None:
    """An empty draft asks for identity, inputs and output; a filled key or one instead of it is not asked for again."""
    asked = [entry.key for entry in drafts.wanting({}, drafts.WINDOWED)]
    assert {"model.licence", "inputs", "output.labels", "runtime.options.window"} <= set(asked)
    some = {"model": {"licence": "MIT"}, "inputs": [{"role": "mr"}], "runtime": {"options": {"size": [64, 64]}}}
    asked = [entry.key for entry in drafts.wanting(some, drafts.WINDOWED)]
    assert "model.licence" not in asked
    assert {"inputs.mr.accept.modality", "inputs.mr.accept.region"} <= set(asked)
    assert not {"inputs", "runtime.options.window", "runtime.options.spacing_mm"} & set(asked)
