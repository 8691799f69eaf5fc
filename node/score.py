"""Which of several fitting series is best: points by the card, then most slices, then the thinnest, then the lowest number.

Every order is total, so the same study always gives the same choice, and every loser gets the difference in words.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from models.card import InputPart, Score
from node import wording
from node.fit import NAMES, Fit, image_types

# Spacings nearer than this are the same to a reader.
SAME_MM = 0.005
REASONS_MAX = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Earned:
    """Points for one key of the card's score; `said` is what the series is in that respect."""

    key: str
    points: float
    said: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A series that fits a role, with what it earned there."""

    fit: Fit
    earned: tuple[Earned, ...]

    @property
    def points(self) -> float:
        """Give the sum."""
        return math.fsum(entry.points for entry in self.earned)

    @property
    def rank(self) -> tuple[float, float, float, float, str]:
        """Order candidates, the best one lowest."""
        number = series_number(self.fit)
        spacing = self.fit.stack.slice_spacing_mm
        return (
            -self.points,
            -self.fit.stack.slices,
            math.inf if spacing is None else round(spacing / SAME_MM),
            math.inf if number is None else number,
            self.fit.series.series_instance_uid,
        )


def candidate(fit: Fit, part: InputPart) -> Candidate:
    """Score a fitting series for a role."""
    return Candidate(fit=fit, earned=tuple(_earn(fit, part.score)))


def worse(loser: Candidate, best: Candidate) -> str:
    """Say why the loser was not taken, in the two respects that cost it most."""
    name = series_name(best.fit)
    lost = sorted(
        ((mine.points - other.points, mine, other) for mine, other in zip(best.earned, loser.earned, strict=True)),
        key=lambda entry: -entry[0],
    )
    said = [_SAYS[mine.key](mine.said, other.said) for difference, mine, other in lost if difference > 0][:REASONS_MAX]
    if said and best.points > loser.points:
        return f"{name} suits the model better: {', '.join(said)}"
    mine, other = best.fit.stack, loser.fit.stack
    apart = "" if mine.slice_spacing_mm is None else f", {mine.slice_spacing_mm:.3g} mm apart"
    if mine.slices != other.slices:
        return f"{name} suits the model better: {mine.slices} slices{apart}, against {other.slices} here"
    if best.rank[2] != loser.rank[2]:
        here = "with unknown spacing" if other.slice_spacing_mm is None else f"{other.slice_spacing_mm:.3g} mm apart"
        return f"{name} suits the model better: {mine.slices} slices{apart}, against {here} here"
    return f"{name} suits the model as well and comes first"


def series_number(fit: Fit) -> float | None:
    """Give the series' number as the device wrote it, or None."""
    try:
        number = float(fit.series.instances[0].header.get("SeriesNumber"))  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def series_name(fit: Fit) -> str:
    """Name a series for a technologist."""
    number = series_number(fit)
    return "another series" if number is None else f"series {number:.0f}"


def _earn(fit: Fit, score: Score) -> Sequence[Earned]:
    earned = []
    for key in ("orientation", "sequence", "contrast", "phase", "kernel", "view"):
        points: Mapping[str, float] = getattr(score, key)
        if points:
            value = str(getattr(fit.traits, key))
            earned.append(Earned(key=key, points=points.get(value, 0.0), said=NAMES.get(value, value)))
    if score.image_type:
        types = image_types(fit.instances[0])
        found = {word: points for word, points in score.image_type.items() if word.upper() in types}
        earned.append(Earned(key="image_type", points=math.fsum(found.values()), said="/".join(found) or "another"))
    if score.description:
        found = {word: points for word, points in score.description.items() if wording.says(fit.traits.text, (wording.phrase(word),))}
        earned.append(
            Earned(key="description", points=math.fsum(found.values()), said=" and ".join(map(repr, found)) or "none of the card's words")
        )
    if score.slice_spacing_mm is not None:
        spacing = fit.stack.slice_spacing_mm
        away = math.inf if spacing is None else abs(spacing - score.slice_spacing_mm.best)
        # Beyond 20 mm away nothing gets worse: one unknown spacing must not drown every other point.
        points_lost = min(away, 20.0) * score.slice_spacing_mm.loses
        earned.append(Earned(key="slice_spacing_mm", points=-points_lost, said="unknown" if spacing is None else f"{spacing:.3g} mm"))
    return earned


_SAYS: Mapping[str, Callable[[str, str], str]] = {
    "orientation": lambda best, here: f"{best} slices against {here} here",
    "sequence": lambda best, here: f"MR sequence {best} against {here} here",
    "contrast": lambda best, here: f"{best} against {here} here",
    "phase": lambda best, here: f"contrast phase {best} against {here} here",
    "kernel": lambda best, here: f"{best} kernel against {here} here",
    "view": lambda best, here: f"view {best} against {here} here",
    "image_type": lambda best, here: f"image type {best} against {here} here",
    "description": lambda best, here: f"{best} in its description against {here} here",
    "slice_spacing_mm": lambda best, here: f"slices {best} apart against {here} here",
}
