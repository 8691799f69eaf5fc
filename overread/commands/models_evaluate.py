"""`overread models evaluate`: a model against a folder of cases with a truth."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from models.vocabulary import Broken
from node.errors import Misconfigured, Refused
from node.settings import Settings
from overread.commands import models
from overread.evaluation import cases, figures, plots, reading, report
from overread.evaluation.reading import Outcome, Study


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """Which model on which data, where everything goes, and whether cases that cannot be read are left out without a fault."""

    name: str
    data: Path
    out: Path | None
    skip: bool
    directory: Path | None


def main(settings: Settings, wish: Wish, *, as_json: bool) -> int:
    """Evaluate, write and print; 1 where a case was left out and that was not asked for. Raises BadCard, Misconfigured."""
    shelved = models.find(settings, wish.name, wish.directory)
    folders = cases.find(wish.data)
    out = wish.out or Path(f"evaluation-{wish.name}")
    out.mkdir(parents=True, exist_ok=True)
    shared = reading.study(shelved, settings, out / "predictions", cases.values(wish.data, shelved.card))
    console = Console(highlight=False, stderr=as_json)
    outcomes, bad = _run(folders, shared, console)
    if not outcomes:
        raise Misconfigured(f"--data {wish.data}: no case could be read; " + "; ".join(f"{name} {words}" for name, words in bad.items()))
    found = report.Report(
        shelved=shelved,
        outcomes=tuple(outcomes),
        bad=bad,
        labels=figures.of_labels(shelved.card, outcomes),
        findings=figures.of_findings(shelved.card, outcomes),
        when=dt.datetime.now(tz=dt.UTC).date().isoformat(),
    )
    (out / "evaluation.json").write_text(report.as_json(found) + "\n", encoding="utf-8")
    (out / "evaluation.toml").write_text(report.as_toml(found), encoding="utf-8")
    drawn = plots.draw(found, out)
    if as_json:
        print(report.as_json(found))
    else:
        report.show(found, console)
        console.print(f"For the card: {out / 'evaluation.toml'}; all numbers: {out / 'evaluation.json'}", soft_wrap=True)
        for path in drawn:
            console.print(f"  {path}", soft_wrap=True)
    return 1 if bad and not wish.skip else 0


def _run(folders: list[Path], shared: Study, console: Console) -> tuple[list[Outcome], dict[str, str]]:
    """Run every case; a case that cannot be read is named with its reason, and the others go on."""
    outcomes, bad = [], {}
    columns = (TextColumn("{task.description}"), BarColumn(24), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("cases", total=len(folders))
        for folder in folders:
            try:
                outcomes.append(reading.outcome(cases.read(folder, shared.shelved.card), shared))
            except (Refused, Broken) as reason:
                bad[folder.name] = reason.reason
            bar.advance(task)
    return outcomes, bad
