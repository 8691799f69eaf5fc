"""Pictures of the chest starter's figures (PNG): FROC, reliability, robustness, failures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from models.evaluation import froc, reliability
from models.starter.chest_ct.evaluation.figures import COUNTED_MM, Row
from models.starter.chest_ct.evaluation.scoring import PICTURE_MM, Failure, Result

SHOWN_MOST = 24
COLUMNS = 3
STYLES = {"model": "-", "baseline": ":"}


def curves(groups: Mapping[str, Mapping[str, Sequence[Result]]], out: Path) -> None:
    """Draw sensitivity for lesions of COUNTED_MM and more against false marks a scan, a colour a group, a line a judge."""
    figure, axes = _figure(7, 5)
    least = froc.RATES[0] / 1.3  # a logarithmic axis has no 0
    for number, (group, results) in enumerate(groups.items()):
        for judge, given in results.items():
            readings = [_counted(result) for result in given]
            rates, found = froc.curve(readings)
            axes.step(np.maximum(rates, least), found, STYLES[judge], where="post", color=f"C{number}", label=f"{group}, {judge}")
    axes.set(xscale="log", xlim=(least, froc.RATES[-1] * 1.3), ylim=(0, 1.01), xlabel="false marks a scan")
    axes.set_ylabel(f"sensitivity, nodules of {COUNTED_MM:g} mm and more")
    axes.set_xticks(froc.RATES, [f"{rate:g}" for rate in froc.RATES])
    axes.minorticks_off()
    _finish(figure, axes, out)


def _counted(result: Result) -> froc.Reading:
    return froc.Reading(lesions=tuple(entry for entry in result.lesions if entry.size_mm >= COUNTED_MM), false_marks=result.false_marks)


def probabilities(groups: Mapping[str, Sequence[reliability.Bin]], out: Path) -> None:
    """Draw the share of right marks against the probability; a dot's size tells how many marks."""
    figure, axes = _figure(5.5, 5)
    axes.plot((0, 1), (0, 1), color="grey", linewidth=1)
    for number, (group, found) in enumerate(groups.items()):
        said, right = [entry.probability for entry in found], [entry.right for entry in found]
        axes.plot(said, right, color=f"C{number}", alpha=0.6, label=f"{group}, {sum(entry.marks for entry in found)} marks")
        axes.scatter(said, right, [12 + 6 * np.sqrt(entry.marks) for entry in found], color=f"C{number}")
    axes.set(xlim=(0, 1.02), ylim=(-0.02, 1.02), xlabel="probability of the mark", ylabel="share that was right")
    _finish(figure, axes, out)


def robustness(series: Mapping[str, Mapping[float, Sequence[Row]]], names: Sequence[str], out: Path) -> None:
    """Draw rows of figures against what was changed: a picture a series, a colour a row, a line a judge."""
    figure = Figure(figsize=(6 * len(series), 4.2), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    for place, (label, steps) in enumerate(series.items(), start=1):
        axes = figure.add_subplot(1, len(series), place)
        for number, name in enumerate(names):
            found = {at: next(row for row in given if row.name == name) for at, given in steps.items()}
            for judge, style in STYLES.items():
                values = [row.values[judge] for row in found.values()]
                heights = np.array([value.value for value in values])
                off = np.array([[value.value - value.low, value.high - value.value] for value in values]).T
                wide = np.nan_to_num(np.maximum(off, 0))
                axes.errorbar(list(found), heights, wide, linestyle=style, color=f"C{number}", capsize=3, label=f"{name}, {judge}")
        axes.set(xlabel=label, ylim=(0, 1.03))
        axes.grid(alpha=0.3)
        axes.legend(fontsize=7)
    figure.savefig(out, metadata={"Software": None})


def failures(shown: Sequence[tuple[str, Failure]], out: Path) -> None:
    """Draw the worst failures, each with its scan's name: axial, coronal, sagittal, PICTURE_MM wide, centred on the place."""
    picked = shown[:SHOWN_MOST]
    height = -(-max(1, len(picked)) // COLUMNS)
    figure = Figure(figsize=(4.2 * COLUMNS, 1.75 * height + 0.4), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(f"{len(picked)} of {len(shown)} failures, {PICTURE_MM:g} mm: axial, coronal, sagittal", fontsize=9)
    for number, (scan, failure) in enumerate(picked, start=1):
        axes = figure.add_subplot(height, COLUMNS, number)
        axes.imshow(failure.planes, cmap="gray", vmin=0, vmax=255)
        axes.set_title(f"{failure.words}\n{scan}", fontsize=7)
        axes.set_axis_off()
    figure.savefig(out, metadata={"Software": None})


def _figure(width: float, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.add_subplot()


def _finish(figure: Figure, axes: Axes, out: Path) -> None:
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8, loc="lower right")
    figure.savefig(out, metadata={"Software": None})
