"""Model cards: unknown keys and contradictions are errors, the digest covers what changes results."""

from __future__ import annotations

from pathlib import Path

import pytest

from models import card

GOOD = """
schema_version = 1
[model]
name = "spleen"
version = "1.0.0"
title = "Spleen volume"
licence = "Apache-2.0"
intended_use = "Research."
limits = ["Not a medical device."]
[runtime]
format = "state-dict"
files.weights = { path = "weights.safetensors", sha256 = "%s" }
[[inputs]]
role = "ct"
reference = true
accept = { modality = ["CT"] }
[output]
kind = "labels"
inverse = "scores-linear"
[[output.labels]]
index = 1
label = "Spleen"
kind = "organ"
category = { scheme = "SCT", value = "123037004", meaning = "Anatomical structure" }
type = { scheme = "SCT", value = "78961009", meaning = "Spleen" }
cielab = [40000, 45000, 30000]
[[measurements]]
label = 1
what = ["volume"]
[evaluation]
date = "2026-01-01"
data = "none"
""" % ("0" * 64)


def shelve(folder: Path, text: str, name: str = "spleen") -> Path:
    """Write a card where discover() looks for it."""
    path = folder / name / "card.toml"
    path.parent.mkdir(parents=True)
    path.write_text(text, encoding="utf-8")
    return path


def test_a_good_card_is_read(tmp_path: Path) -> None:
    """Names, roles and labels come out as the card wrote them."""
    shelved = card.read(shelve(tmp_path, GOOD))
    assert shelved.card.reference_role == "ct"
    assert shelved.card.label(1).type.code.value == "78961009"
    assert not shelved.card.finds


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("[model]", "[model]\ncolour = 'red'", "model.colour"),
        ("schema_version = 1", "schema_version = 2", "schema_version"),
        ("reference = true", "reference = false", "exactly one input"),
        ("label = 1\nwhat", "label = 2\nwhat", "label 2"),
        ('"78961009", meaning = "Spleen"', '"78961009"', "meaning"),
        ("0" * 64, "abc", "sha256"),
        ('name = "spleen"', 'name = "../spleen"', "model.name"),
        ("schema_version = 1", "schema_version", "card.toml"),
    ],
)
def test_a_wrong_card_is_refused_with_its_key(tmp_path: Path, old: str, new: str, message: str) -> None:
    """The administrator reads which key is wrong when the card is read, not at the first patient."""
    assert old in GOOD
    with pytest.raises(card.BadCard, match=r"card\.toml") as caught:
        card.read(shelve(tmp_path, GOOD.replace(old, new)))
    assert message in str(caught.value)


def test_a_format_that_takes_one_picture_refuses_a_card_of_two_inputs(tmp_path: Path) -> None:
    """A model that would look at a part of what it was given is refused when its card is read; one that stacks them is not."""
    two = GOOD.replace("[output]\n", '[[inputs]]\nrole = "pet"\naccept = { modality = ["PT"] }\n[output]\n')
    with pytest.raises(card.BadCard, match="'deepbet' reads one input, and the card has 2"):
        card.read(shelve(tmp_path, two.replace('format = "state-dict"', 'format = "deepbet"')))
    assert [entry.role for entry in card.read(shelve(tmp_path, two, "stacked")).card.inputs] == ["ct", "pet"]


def test_the_digest_changes_with_weights_and_thresholds_only(tmp_path: Path) -> None:
    """Evaluation figures do not make a new model; other weights or a threshold do."""
    base = card.read(shelve(tmp_path / "a", GOOD)).digest
    assert card.read(shelve(tmp_path / "b", GOOD.replace("2026-01-01", "2027-01-01"))).digest == base
    assert card.read(shelve(tmp_path / "c", GOOD.replace("0" * 64, "1" * 64))).digest != base
    assert card.read(shelve(tmp_path / "d", GOOD.replace("index = 1", "index = 1\nthreshold = 0.4"))).digest != base


def test_two_cards_may_not_share_a_name(tmp_path: Path) -> None:
    """A site's card cannot quietly shadow another."""
    shelve(tmp_path, GOOD, "a")
    shelve(tmp_path, GOOD, "b")
    with pytest.raises(card.BadCard, match="is taken by"):
        card.discover([tmp_path])


@pytest.mark.parametrize(
    ("accept", "message"),
    [
        ('orientation = ["axial", "slanted"]', "inputs.0.accept.orientation.1"),
        ('kernels = ["soft"]', "inputs.0.accept.kernels"),
        ("slices = [40, 20]", "slices runs from 40 to 20"),
        ('conditions = [{ tag = "Rows", op = "above", value = "many" }]', "'above' needs one number"),
        ('conditions = [{ tag = "Rows", op = "eval", value = "1" }]', "inputs.0.accept.conditions.0.op"),
    ],
)
def test_what_a_series_must_be_is_checked_when_the_card_is_read(tmp_path: Path, accept: str, message: str) -> None:
    """A word that no series can ever be, an unknown key, a range upside down: refused with the key."""
    text = GOOD.replace('accept = { modality = ["CT"] }', f'[inputs.accept]\nmodality = ["CT"]\n{accept}')
    with pytest.raises(card.BadCard) as caught:
        card.read(shelve(tmp_path, text))
    assert message in str(caught.value)


def test_the_digest_covers_what_chooses_the_series(tmp_path: Path) -> None:
    """Other acceptance, other points or another frame's demand is another card; an evaluation is not."""
    texts = [
        GOOD,
        GOOD.replace('modality = ["CT"] }', 'modality = ["CT"], region = ["abdomen"] }'),
        GOOD.replace("reference = true", "reference = true\nscore = { kernel = { soft = 1 } }"),
        GOOD.replace("reference = true", "reference = true\nscore = { kernel = { soft = 2 } }"),
        GOOD.replace("reference = true", "reference = true\nsame_frame = true"),
    ]
    digests = [card.read(shelve(tmp_path / str(number), text)).digest for number, text in enumerate(texts)]
    assert len(set(digests)) == len(texts)
    assert card.read(shelve(tmp_path / "evaluated", GOOD.replace("2026-01-01", "2026-02-02"))).digest == digests[0]


def test_a_score_refuses_a_word_it_does_not_know(tmp_path: Path) -> None:
    """A misspelt value would silently earn nothing."""
    with pytest.raises(card.BadCard, match=r"score\.kernel"):
        card.read(shelve(tmp_path, GOOD.replace("reference = true", "reference = true\nscore = { kernel = { softt = 1 } }")))
