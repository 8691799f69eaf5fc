"""Both models on the cases held out, case by case, and whether the tuned one is the better."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from models.card import Card, ShelvedCard
from models.evaluation import froc, interval, overlap
from models.evaluation.froc import RATES, Reading
from models.evaluation.interval import Interval
from models.starter.chest_ct.generator import LEFT, RIGHT
from models.vocabulary import Prediction
from overread.evaluation import reading
from overread.tuning.site import Labels, Read

DECIDES = {"nodules": ("sensitivity_at_1", "froc_mean"), "lungs": ("lung_dice",)}
"""By part, the figures that decide, the second where the first is the same."""
LEAST_CASES = 5
"""Cases from which a difference can be clear: that fewer all lean the same way happens by chance once in 16 times or more."""
SMALL = 1e-9
Kind = Literal["better", "no clear difference", "worse"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What one model did on one case; a case it declined counts as nothing found.

    dice     left and right, without voxels of nodules; None where no lungs were drawn
    reading  marks against nodules; None where nobody looked for nodules
    """

    dice: tuple[float, float] | None
    reading: Reading | None
    declined: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One figure of both models, and the difference after - before over the same cases, and how many these are."""

    name: str
    cases: int
    before: Interval
    after: Interval
    difference: Interval

    @property
    def kind(self) -> Kind:
        """Say what the difference is worth: clear is one whose interval does not hold 0, over LEAST_CASES or more."""
        if self.cases >= LEAST_CASES and self.difference.low > SMALL:
            return "better"
        return "worse" if self.cases >= LEAST_CASES and self.difference.high < -SMALL else "no clear difference"


def opened(shelved: ShelvedCard) -> ShelvedCard:
    """Give the model with its threshold lowered to where it looks at all, so that the FROC goes beyond the card's."""
    raw = shelved.card.model_dump(mode="json")
    options = raw["runtime"]["options"]["nodules"]
    options["threshold"] = options["doubt"]
    for label in raw["output"]["labels"]:
        label["threshold"] = None
    return replace(shelved, card=Card.model_validate(raw), digest=reading.digest_of(shelved.digest))


def seen(case: Read, prediction: Prediction | None, labels: Labels) -> Seen:
    """Compare a prediction with the truth; None is a case that the model declined."""
    example = case.example
    dice = None
    if example.lungs is not None:
        without = np.zeros(example.lungs.shape, bool) if example.nodules is None else example.nodules > 0
        pairs = ((LEFT, labels.left), (RIGHT, labels.right))
        said = [np.zeros_like(without) if prediction is None else (prediction.labels == index) & ~without for _, index in pairs]
        left, right = (overlap.dice(here, (example.lungs == side) & ~without) or 0.0 for here, (side, _) in zip(said, pairs, strict=True))
        dice = (left, right)
    marks = reading.marks(prediction) if prediction is not None else []
    found = froc.read(case.lesions, marks) if case.lesions is not None else None
    return Seen(dice=dice, reading=found, declined=prediction is None)


def rows(before: Sequence[Seen], after: Sequence[Seen], thresholds: tuple[float, float]) -> list[Row]:
    """Give the figures that the cases allow; `thresholds` are the cards', before and after."""
    found: list[Row] = []
    pairs = [(a, b) for a, b in zip(before, after, strict=True) if a.dice is not None]
    if pairs:
        found += _rows(["lung_dice", "lung_dice_left", "lung_dice_right"], pairs, (_dice, _dice))
    pairs = [(a, b) for a, b in zip(before, after, strict=True) if a.reading is not None]
    if pairs and any(a.reading is not None and a.reading.lesions for a, _ in pairs):
        names = ["sensitivity_at_1", "froc_mean", *(f"froc_{rate:g}" for rate in RATES), "sensitivity", "false_positives_per_scan"]
        found += _rows(names, pairs, (lambda some: _findings(some, thresholds[0]), lambda some: _findings(some, thresholds[1])))
    return found


Figures = Callable[[Sequence[Seen]], list[float]]


def _rows(names: Sequence[str], pairs: Sequence[tuple[Seen, Seen]], figures: tuple[Figures, Figures]) -> list[Row]:
    """Draw the same cases again for both, so that the difference is one between pairs."""

    def all_of(some: Sequence[tuple[Seen, Seen]]) -> list[float]:
        first, second = figures[0]([pair[0] for pair in some]), figures[1]([pair[1] for pair in some])
        return [*first, *second, *(b - a for a, b in zip(first, second, strict=True))]

    values = interval.bootstrap(pairs, all_of)
    n = len(names)
    return [
        Row(name=name, cases=len(pairs), before=values[at], after=values[n + at], difference=values[2 * n + at])
        for at, name in enumerate(names)
    ]


def _dice(some: Sequence[Seen]) -> list[float]:
    values = np.array([entry.dice for entry in some if entry.dice is not None])
    return [float(values.mean()), float(values[:, 0].mean()), float(values[:, 1].mean())]


def _findings(some: Sequence[Seen], threshold: float) -> list[float]:
    readings = [entry.reading for entry in some if entry.reading is not None]
    rates = froc.at_rates(readings)
    at_one = rates[RATES.index(1.0)]
    return [at_one, sum(rates) / len(rates), *rates, froc.sensitivity(readings, threshold), froc.false_rate(readings, threshold)]


def verdict(found: Sequence[Row], trained: Sequence[str]) -> tuple[Kind, str]:
    """Say what the tuned model is: better is one that is clearly so in a part that was trained, and worse in none. The words tell why."""
    by_name: Mapping[str, Row] = {row.name: row for row in found}
    words: list[str] = []
    kinds: set[Kind] = set()
    for part in trained:
        there = [by_name[name] for name in DECIDES[part] if name in by_name]
        if not there:
            words.append(f"{part}: no case held out has the labels to measure it")
            continue
        row = next((row for row in there if abs(row.difference.value) > SMALL), there[0])
        kinds.add(row.kind)
        few = f" ({row.cases} held out; fewer than {LEAST_CASES} cannot tell)" if row.cases < LEAST_CASES else ""
        words.append(f"{part}: {row.name} {row.before.value:.3f} before, {row.after.value:.3f} after, {row.kind}{few}")
    whole: Kind = "worse" if "worse" in kinds else "better" if "better" in kinds else "no clear difference"
    return whole, "; ".join(words)


def as_facts(found: Sequence[Row]) -> list[dict[str, Any]]:
    """Give the rows for JSON; a number that is none is null."""
    return [{"name": row.name} | {what: _plain(getattr(row, what)) for what in ("before", "after", "difference")} for row in found]


def _plain(given: Interval) -> dict[str, float | None]:
    return {name: value if np.isfinite(value := getattr(given, name)) else None for name in ("value", "low", "high")}
