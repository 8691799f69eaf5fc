"""Pictures of an evaluation: the FROC curve with its interval, volumes after Bland and Altman, Dice by label."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from models.evaluation import froc
from models.evaluation.froc import RATES, Reading
from overread.evaluation.report import Report

NAMED_MOST = 12
"""Labels of which a legend still tells something."""


def draw(report: Report, out: Path) -> list[Path]:
    """Write a PNG for each picture there is something to draw on; give them."""
    written = []
    readings = [outcome.reading for outcome in report.outcomes if outcome.reading is not None]
    if report.findings is not None:
        written.append(_save(out / "froc.png", lambda axes: _froc(axes, report, readings), 5))
    if report.labels:
        written.append(_save(out / "volumes.png", lambda axes: _volumes(axes, report), 5))
        written.append(_save(out / "dice.png", lambda axes: _dice(axes, report), max(5, 0.25 * len(report.labels))))
    return written


def _save(path: Path, drawing: Callable[[Axes], None], height: float) -> Path:
    figure = Figure(figsize=(7, height), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    drawing(figure.add_subplot())
    figure.savefig(path, metadata={"Software": None})
    return path


def _froc(axes: Axes, report: Report, readings: Sequence[Reading]) -> None:
    found = report.findings
    assert found is not None
    least = RATES[0] / 1.3  # a logarithmic axis has no 0; what has no false mark is drawn at its left edge
    rates, sensitivities = froc.curve(readings)
    axes.step(np.maximum(rates, least), sensitivities, where="post", color="tab:blue")
    at = np.array(RATES)
    axes.fill_between(at, [entry.low for entry in found.at_rates], [entry.high for entry in found.at_rates], alpha=0.2, color="tab:blue")
    axes.plot(at, [entry.value for entry in found.at_rates], "o", color="tab:blue", label="at 1/8 to 8, with 95 % intervals")
    place, operating = max(found.false_marks.value, least), f"the card's threshold, {found.threshold:g}"
    axes.plot([place], [found.sensitivity.value], "s", clip_on=False, zorder=3, color="tab:red", label=operating)
    axes.set(xscale="log", xlim=(least, RATES[-1] * 1.3), ylim=(0, 1), xlabel="false marks a scan", ylabel="sensitivity")
    axes.set_xticks(at, [f"{rate:g}" for rate in RATES])
    axes.minorticks_off()
    axes.set_title(f"{found.lesions} lesions on {found.scans} scans")
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")


def _volumes(axes: Axes, report: Report) -> None:
    for entry in report.labels:
        index = next(label.index for label in report.shelved.card.output.labels if label.label == entry.label)
        pairs = [outcome.overlaps[index] for outcome in report.outcomes if index in outcome.overlaps]
        pairs = [pair for pair in pairs if pair.truth_ml]
        middle = [(pair.said_ml + pair.truth_ml) / 2 for pair in pairs]
        dots = axes.plot(middle, [pair.error_ml for pair in pairs], "o", alpha=0.7, label=entry.label)
        for height, style in ((entry.error_ml.value, "-"), (entry.limits_ml[0], ":"), (entry.limits_ml[1], ":")):
            if np.isfinite(height):
                axes.axhline(height, linestyle=style, linewidth=1, color=dots[0].get_color())
    axes.set(xlabel="mean of said and true volume, ml", ylabel="said minus true, ml")
    axes.set_title("Volumes: line the mean error, dots its 95 % limits of agreement")
    axes.grid(alpha=0.3)
    if len(report.labels) <= NAMED_MOST:
        axes.legend()


def _dice(axes: Axes, report: Report) -> None:
    names, values = [], []
    for entry in report.labels:
        index = next(label.index for label in report.shelved.card.output.labels if label.label == entry.label)
        pairs = [outcome.overlaps[index] for outcome in report.outcomes if index in outcome.overlaps]
        values.append([pair.dice for pair in pairs if pair.truth_ml and pair.dice is not None])
        names.append(f"{entry.label} ({entry.cases})")
    axes.boxplot(values, orientation="horizontal", showmeans=True, whis=(0, 100))
    axes.set_yticks(range(1, len(names) + 1), names)
    axes.set(xlim=(0, 1), xlabel="Dice; the box holds half of the cases, the line all")
    axes.grid(alpha=0.3)
