"""Figures as a table, as JSON, and as the block of TOML that goes into the card."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from models.card import ShelvedCard, ascii_only
from models.evaluation.froc import RATES
from models.evaluation.interval import RESAMPLES, Interval
from models.shelving import writing
from overread.evaluation.figures import FindingFigures, LabelFigures
from overread.evaluation.reading import Outcome


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """All that an evaluation says. `bad` are cases that could not be read, by name, with the reason; `when` is a date."""

    shelved: ShelvedCard
    outcomes: tuple[Outcome, ...]
    bad: Mapping[str, str]
    labels: tuple[LabelFigures, ...]
    findings: FindingFigures | None
    when: str

    @property
    def declined(self) -> dict[str, str]:
        """Give the cases the model declined, by name, with its reason."""
        return {outcome.case: outcome.declined for outcome in self.outcomes if outcome.declined}


def as_json(report: Report) -> str:
    """Give everything, the single cases too; a number that is none is null."""
    model = report.shelved.card.model
    facts = {
        "model": {"name": model.name, "version": model.version, "digest": report.shelved.digest},
        "date": report.when,
        "intervals": f"95 %, percentiles of {RESAMPLES} resamples of whole cases",
        "cases": [asdict(outcome) for outcome in report.outcomes if not outcome.declined],
        "declined": report.declined,
        "bad": dict(report.bad),
        "labels": [asdict(entry) for entry in report.labels],
        "findings": None if report.findings is None else {"rates": RATES, **asdict(report.findings)},
    }
    return json.dumps(_plain(facts), indent=2)


def as_toml(report: Report) -> str:
    """Give [evaluation] for the card, means and intervals by name; whoever pastes it says in `data` what the cases were."""
    counted = [outcome for outcome in report.outcomes if not outcome.declined]
    data = f"{len(counted)} cases" + (f", {report.findings.lesions} lesions" if report.findings else "")
    data += f"; {len(report.declined)} more declined by the model" if report.declined else ""
    figures: dict[str, float | str] = {}
    for label in report.labels:
        slug = _slug(label.label)
        figures |= _figure(f"{slug}_dice", label.dice) | _figure(f"{slug}_hd95_mm", label.hd95_mm)
        figures |= _figure(f"{slug}_volume_error_percent", label.error_percent)
    if report.findings:
        figures |= _figure("sensitivity", report.findings.sensitivity) | _figure("false_positives_per_scan", report.findings.false_marks)
        for size in report.findings.sizes:
            figures |= _figure(f"sensitivity_{size_words(size.low_mm, size.high_mm)}".replace(" ", "_"), size.sensitivity)
        for kind in report.findings.kinds:
            figures |= _figure(f"sensitivity_{_slug(kind.kind)}", kind.sensitivity)
        for rate, found in zip(RATES, report.findings.at_rates, strict=True):
            figures |= _figure(f"froc_{rate:g}", found)
    block = {"evaluation": {"date": report.when, "data": ascii_only(data), "figures": figures}}
    return "# Say in data whose cases these were and how they were chosen: else figures claim nothing.\n" + writing.toml(block, (), {})


def show(report: Report, console: Console) -> None:
    """Print the tables and what was left out."""
    if report.labels:
        table = Table(
            "label", "cases", "Dice", "HD95 mm", "volume error ml", "%", "missed", "invented", title="Labels", title_justify="left"
        )
        for entry in report.labels:
            numbers = (words(entry.dice, 3), words(entry.hd95_mm, 1), words(entry.error_ml, 1), words(entry.error_percent, 1))
            table.add_row(escape(entry.label), str(entry.cases), *numbers, str(entry.missed), str(entry.invented))
        console.print(table)
    if report.findings:
        _show_findings(report.findings, console)
    for name, reason in report.declined.items():
        console.print(f"declined {name}: {reason}", markup=False)
    for name, reason in report.bad.items():
        console.print(f"left out {name}: {reason}", markup=False)


def _show_findings(found: FindingFigures, console: Console) -> None:
    rule = "a hit is a mark's centre in the box or within the radius (at least 3 mm)"
    title = f"Findings: {found.lesions} lesions on {found.scans} scans; {rule}"
    table = Table("false marks a scan", "sensitivity", title=title, title_justify="left")
    for rate, at in zip(RATES, found.at_rates, strict=True):
        table.add_row(f"{rate:g}", words(at, 3))
    table.add_row("their mean", words(found.score, 3))
    table.add_section()
    table.add_row(f"{words(found.false_marks, 2)} at the card's {found.threshold:g}", words(found.sensitivity, 3))
    for size in found.sizes:
        table.add_row(f"  {size_words(size.low_mm, size.high_mm)}, {size.lesions} lesions", words(size.sensitivity, 3))
    for kind in found.kinds:
        table.add_row(f"  {escape(kind.kind)}, {kind.lesions} lesions", words(kind.sensitivity, 3))
    console.print(table)
    if found.reaches < RATES[-1]:
        console.print(f"The model's own marks end at {found.reaches:.2f} false ones a scan; beyond that nothing more is found.")


def words(given: Interval, digits: int) -> str:
    """Say a figure with its interval. Example: 0.912 (0.880 to 0.941)."""
    if math.isnan(given.value):
        return "none"
    alone = f"{given.value:.{digits}f}"
    return alone if math.isnan(given.low) else f"{alone} ({given.low:.{digits}f} to {given.high:.{digits}f})"


def size_words(low_mm: float, high_mm: float) -> str:
    """Say a class of sizes. Example: 4 to 6 mm."""
    return f"{low_mm:g} mm and more" if math.isinf(high_mm) else f"{low_mm:g} to {high_mm:g} mm"


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_")


def _figure(name: str, given: Interval) -> dict[str, float | str]:
    if math.isnan(given.value):
        return {}
    return {name: round(given.value, 3), **({} if math.isnan(given.low) else {f"{name}_95": f"{given.low:.3f} to {given.high:.3f}"})}


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(part) for key, part in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
