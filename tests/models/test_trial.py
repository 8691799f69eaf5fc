"""A model is tried on made-up images, and each way to be wrong is found there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models import registry
from models.card import Card, ShelvedCard, read
from models.execution import PLAIN, Execution, Need
from models.shelving import trial
from models.starter import chest_ct
from models.vocabulary import Box, Finding, Grid, Prediction, Progress, Score, Unfit, Volume
from tests.models import cards


@dataclass
class Planted:
    """A model that gives what it is told to."""

    change: Any
    count: int = 0

    def need(self, _grids: Mapping[str, Grid], _execution: Execution) -> Need:
        """Take nothing."""
        return Need(device=0, host=0)

    def predict(self, volumes: Mapping[str, Volume], _progress: Progress, _execution: Execution = PLAIN) -> Prediction:
        """Give an empty prediction, changed."""
        self.count += 1
        grid = volumes["ct"].grid
        plain = Prediction(grid=grid, labels=np.zeros(grid.shape, dtype=np.uint8))
        return self.change(plain, self.count) if callable(self.change) else replace(plain, **self.change)


@pytest.fixture
def card(tmp_path: Path) -> ShelvedCard:
    """Give the tests' card: organs 1 and 2, finding 9."""
    return cards.lines(tmp_path)


def raising(error: Exception) -> Any:
    """Give a change that raises."""

    def change(_plain: Prediction, _count: int) -> Prediction:
        raise error

    return change


def flicker(plain: Prediction, count: int) -> Prediction:
    """Mark another voxel each time."""
    labels = plain.labels.copy()
    labels.flat[count] = 1
    return replace(plain, labels=labels)


def finding(label: int = 9, score: float = 0.5, high: int = 2) -> Finding:
    """Give a finding."""
    return Finding(number=1, label=label, score=score, box=Box(low=(0, 0, 0), high=(high, 2, 2)))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (raising(RuntimeError("size mismatch\nlong trace")), "RuntimeError: size mismatch"),
        (raising(ZeroDivisionError()), "ZeroDivisionError"),
        ({"labels": np.zeros((2, 2, 2), dtype=np.uint8)}, "not uint8 on the images' own grid"),
        (lambda plain, _: replace(plain, labels=plain.labels.astype(np.int32)), "not uint8"),
        (lambda plain, _: replace(plain, labels=plain.labels + np.uint8(7)), "label 7 is no organ label"),
        (flicker, "another result for the same images"),
        ({"findings": (finding(label=1),)}, "label 1, which is no finding"),
        ({"findings": (finding(score=float("nan")),)}, "the score nan"),
        ({"findings": (finding(high=9999),)}, "leaves the images"),
        ({"scores": (Score(label=1, score=1.5),)}, "score 1.5 of label 1"),
        ({"masks": {5: np.zeros((1, 1, 1), dtype=bool)}}, "mask 5"),
        ({"instances": np.zeros((1, 1, 1), dtype=np.uint16)}, "findings' numbers"),
    ],
)
def test_each_planted_fault_is_found_in_words(card: ShelvedCard, change: Any, words: str) -> None:
    """An error, a wrong grid or type, a label nobody knows, a result that changes: none passes."""
    trials = list(trial.run(card, Planted(change)))
    assert [entry.study for entry in trials] == ["empty", "body"]
    assert not all(entry.holds for entry in trials)
    assert any(words in entry.outcome for entry in trials)


def test_a_sound_model_holds_and_may_decline(card: ShelvedCard) -> None:
    """A prediction as promised holds; to decline images with a reason is sound too."""
    sound = Planted({"findings": (finding(),), "scores": (Score(label=1, score=0.5),)})
    assert all(entry.holds for entry in trial.run(card, sound))
    declined = list(trial.run(card, Planted(raising(Unfit("No chest.")))))
    assert [(entry.outcome, entry.holds) for entry in declined] == [("declined: No chest.", True)] * 2


def test_a_real_runtime_holds(card: ShelvedCard) -> None:
    """The tests' network, whose every answer is known, passes with its real runtime; air it declines, for it shows no organ."""
    empty, body = trial.run(card, registry.load(card, "cpu"))
    assert (empty.holds, body.holds) == (True, True)
    assert empty.outcome.startswith("declined")


@pytest.mark.parametrize("change", [{}, {"slices": [1, 7]}, {"extent_mm": [300.0, 400.0], "spacing_mm": [2.0, 3.0]}])
def test_the_made_up_images_are_such_as_the_card_takes(card: ShelvedCard, change: dict[str, Any]) -> None:
    """Slices, extent and spacing lie within the card's limits."""
    raw = card.card.model_dump()
    raw["inputs"][0]["accept"] |= change
    accept = Card.model_validate(raw).inputs[0].accept
    volume = trial.studies(replace(card, card=Card.model_validate(raw)), "body")["ct"]
    assert (volume.unit, volume.array.dtype) == ("HU", np.int16)
    for bounds, value in ((accept.spacing_mm, volume.grid.spacing_mm[1]), (accept.slices, volume.grid.shape[0])):
        assert bounds is None or bounds[0] <= value <= bounds[1]


def test_a_radiographs_card_gets_a_picture(card: ShelvedCard) -> None:
    """CR and DX are tried on one displayed picture without a place in the patient."""
    raw = card.card.model_dump()
    raw["inputs"][0]["accept"] = {"modality": ["CR", "DX"]}
    volume = trial.studies(replace(card, card=Card.model_validate(raw)), "body")["ct"]
    assert volume.grid.is_projection
    assert 0 <= float(volume.array.min()) < float(volume.array.max()) <= 1


def test_the_chest_starters_limits_are_met() -> None:
    """The starter's own card gets as many slices as it asks for over at least its least extent."""
    assert chest_ct.__file__ is not None
    shelved = read(Path(chest_ct.__file__).with_name("card.toml"))
    grid = trial.studies(shelved, "empty")["ct"].grid
    assert grid.shape[0] >= 30
    assert grid.shape[0] * grid.spacing_mm[0] >= 150
