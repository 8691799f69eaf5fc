"""Figures as tables for reading and as JSON."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from models.evaluation import reliability
from models.evaluation.interval import Interval
from models.starter.chest_ct.evaluation.figures import Row
from models.starter.chest_ct.evaluation.scoring import Result


def table(title: str, rows: Sequence[Row], results: Mapping[str, Sequence[Result]]) -> str:
    """Give a group's rows as a table in Markdown, and what was declined."""
    judges = list(results)
    some = results[judges[0]]
    lines = [f"### {title}: {len(some)} scans, {sum(len(result.lesions) for result in some)} nodules", ""]
    lines += ["| figure | of | " + " | ".join(judges) + " | difference |", "|---|---|" + "---|" * (len(judges) + 1)]
    for row in rows:
        cells = [words(row.values[judge]) if judge in row.values else "" for judge in judges]
        cells.append(words(row.difference) if row.difference else "")
        lines.append(f"| {row.name} | {row.among} | " + " | ".join(cells) + " |")
    for judge, given in results.items():
        seconds = sum(result.seconds for result in given) / len(given)
        lines += ["", f"{judge}: {seconds:.1f} CPU s a scan"]
        lines += [f"- declined {result.case}: {result.declined}" for result in given if result.declined]
    return "\n".join(lines) + "\n"


def words(value: Interval) -> str:
    """Say a figure with its interval. Example: 0.912 (0.88 to 0.94)."""
    if math.isnan(value.value) or value.value == -math.inf:
        return "none"
    return f"{value.value:.3f}" if math.isnan(value.low) else f"{value.value:.3f} ({value.low:.2f} to {value.high:.2f})"


def calibration(group: str, found: Sequence[reliability.Bin]) -> str:
    """Say how far the probabilities of a group are off: of all marks, and of those of 0.1 and more."""
    errors = (reliability.expected_error(found), reliability.expected_error(found, 0.1))
    spread = ", ".join(f"{entry.probability:.2f}: {entry.right:.2f} of {entry.marks}" for entry in found)
    return f"{group}: expected calibration error {errors[0]:.3f}, of marks of 0.1 and more {errors[1]:.3f}; {spread}"


def facts(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Give rows for JSON: a number that is none is null."""
    return [
        {"name": row.name, "among": row.among, "values": {judge: _plain(asdict(value)) for judge, value in row.values.items()}}
        | ({"difference": _plain(asdict(row.difference))} if row.difference else {})
        for row in rows
    ]


def _plain(entry: dict[str, float]) -> dict[str, float | None]:
    return {name: value if math.isfinite(value) else None for name, value in entry.items()}


def series(label: str, steps: Mapping[float, Sequence[Row]], names: Sequence[str]) -> str:
    """Give rows against what was changed as a table: a column a step, the model before the baseline."""
    lines = [f"### {label}", "", "| | " + " | ".join(f"{at:g}" for at in steps) + " |", "|---|" + "---|" * len(steps)]
    for name in names:
        found = [next(row for row in rows if row.name == name) for rows in steps.values()]
        lines += [f"| {name}, {judge} | " + " | ".join(words(row.values[judge]) for row in found) + " |" for judge in found[0].values]
    return "\n".join(lines) + "\n"
