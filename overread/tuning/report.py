"""What came of a fine-tuning: a table, JSON, a picture, and the words for the card. Cases are counted, never named."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from models.evaluation import froc
from models.evaluation.froc import RATES
from models.tuning.course import Course
from overread.evaluation.report import words
from overread.tuning import comparison
from overread.tuning.comparison import Kind, Row, Seen


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """All that is told. `history` is how the model came about: base, cases, seed, steps."""

    name: str
    rows: Sequence[Row]
    before: Sequence[Seen]
    after: Sequence[Seen]
    courses: Mapping[str, Course]
    history: Mapping[str, float | str]
    verdict: Kind
    why: str
    when: str


def as_facts(told: Told, card: Path) -> dict[str, Any]:
    """Give everything for JSON."""
    return {
        "model": told.name,
        "card": card.name,
        "folder": str(card.parent),
        "better": told.verdict == "better",
        "verdict": told.verdict,
        "why": told.why,
        "date": told.when,
        "history": dict(told.history),
        "figures": comparison.as_facts(told.rows),
        "declined": {"before": sum(entry.declined for entry in told.before), "after": sum(entry.declined for entry in told.after)},
    }


def evaluation(told: Told) -> dict[str, Any]:
    """Give [evaluation] for the card: the tuned model's figures, its base's beside them, and its history."""
    figures: dict[str, float | str] = {}
    for row in told.rows:
        for name, given in ((row.name, row.after), (f"{row.name}_before", row.before)):
            if np.isfinite(given.value):
                figures[name] = round(given.value, 3)
            if np.isfinite(given.low):
                figures[f"{name}_95"] = f"{given.low:.3f} to {given.high:.3f}"
    held_out = told.history["cases_held_out"]
    return {
        "date": told.when,
        "data": f"{held_out} cases of the site that were held out of the training",
        "figures": figures | dict(told.history),
    }


def show(told: Told, console: Console) -> None:
    """Print the table and the verdict."""
    scans = told.history["cases_held_out"]
    title = f"{scans} cases held out, with 95 % intervals over cases"
    table = Table("figure", "before", "after", "difference", title=title, title_justify="left")
    for row in told.rows:
        table.add_row(row.name, words(row.before, 3), words(row.after, 3), words(row.difference, 3))
    console.print(table)
    for when, entries in (("before", told.before), ("after", told.after)):
        if declined := sum(entry.declined for entry in entries):
            console.print(f"{when}: {declined} of {len(entries)} cases were declined, and count as nothing found", markup=False)
    console.print(f"Beside its base: {told.verdict}. {told.why}", markup=False, soft_wrap=True)


def draw(told: Told) -> bytes:
    """Give the picture as PNG: the loss over the steps, the FROC of both models, the lungs' Dice of each case."""
    figure = Figure(figsize=(12, 4), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    losses, curve, dice = figure.subplots(1, 3)
    for name, course in told.courses.items():
        width = max(1, len(course.losses) // 40)
        smooth = np.convolve(course.losses, np.ones(width) / width, mode="valid")
        losses.plot(np.arange(len(smooth)) + width, smooth, label=name)
    losses.set(xlabel="step", ylabel="loss, mean of some steps", title="training")
    losses.legend()
    _froc(curve, told)
    _dice(dice, told)
    content = io.BytesIO()
    figure.savefig(content, format="png", metadata={"Software": None})
    return content.getvalue()


def _froc(axes: Axes, told: Told) -> None:
    least = RATES[0] / 1.3
    for name, entries in (("before", told.before), ("after", told.after)):
        readings = [entry.reading for entry in entries if entry.reading is not None]
        if any(entry.lesions for entry in readings):
            rates, found = froc.curve(readings)
            axes.step(np.maximum(rates, least), found, where="post", label=name)
    axes.set(
        xscale="log", xlim=(least, RATES[-1] * 1.3), ylim=(0, 1.02), xlabel="false marks a scan", ylabel="sensitivity", title="nodules"
    )
    axes.set_xticks(RATES, [f"{rate:g}" for rate in RATES])
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    if axes.lines:
        axes.legend(loc="lower right")


def _dice(axes: Axes, told: Told) -> None:
    pairs = [(a.dice, b.dice) for a, b in zip(told.before, told.after, strict=True) if a.dice is not None and b.dice is not None]
    for side, name in enumerate(("left", "right")):
        axes.plot([a[side] for a, _ in pairs], [b[side] for _, b in pairs], "o", alpha=0.7, label=f"{name} lung")
    axes.plot([0, 1], [0, 1], color="grey", linewidth=1)
    axes.set(xlim=(0, 1.02), ylim=(0, 1.02), xlabel="Dice before", ylabel="Dice after", title="lungs, a dot a case")
    axes.grid(alpha=0.3)
    if pairs:
        axes.legend(loc="lower right")
