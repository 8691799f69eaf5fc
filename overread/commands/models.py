"""`overread models`: what is on the shelf, one card in full, one model on a folder."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from models.card import ShelvedCard
from node.errors import Misconfigured
from node.settings import Settings
from overread import pictures
from workers import pipeline


def show_all(settings: Settings, *, as_json: bool) -> None:
    """List name, version, title, licence and folder of every card; raises BadCard."""
    shelf = pipeline.known_cards(settings)
    if as_json:
        facts = [
            {
                "name": name,
                "version": entry.card.model.version,
                "title": entry.card.model.title,
                "digest": entry.digest,
                "folder": str(entry.folder),
            }
            for name, entry in shelf.items()
        ]
        print(json.dumps(facts, indent=2))
        return
    table = Table("name", "version", "title", "takes", "licence", "digest")
    for name, entry in shelf.items():
        model = entry.card.model
        takes = ", ".join("/".join(role.accept.modality) for role in entry.card.inputs)
        table.add_row(name, model.version, model.title, takes, model.licence, entry.digest[:12])
    Console().print(table)


def show(settings: Settings, name: str, *, as_json: bool) -> None:
    """Show one card: use, limits, labels, evaluation; raises Misconfigured, BadCard."""
    entry = _find(settings, name)
    card = entry.card
    if as_json:
        print(json.dumps({"digest": entry.digest, "folder": str(entry.folder), "card": card.model_dump(mode="json")}, indent=2))
        return
    console = Console(highlight=False)
    console.print(f"[bold]{card.model.title}[/] ({name} {card.model.version}), {card.model.licence}\n{entry.folder}\ndigest {entry.digest}")
    console.print(f"\n[bold]Intended use[/]\n  {card.model.intended_use}\n[bold]Limits[/]")
    for limit in card.model.limits:
        console.print(f"  - {limit}")
    table = Table("index", "label", "kind", "code", title="Output", title_justify="left")
    for label in card.output.labels:
        table.add_row(str(label.index), label.label, label.kind, f"{label.type.scheme} {label.type.value} {label.type.meaning}")
    console.print(table)
    if card.evaluation is not None:
        console.print(f"[bold]Evaluation[/] {card.evaluation.date}: {card.evaluation.data}")
        for figure, value in card.evaluation.figures.items():
            console.print(f"  {figure}: {value}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What to run a model on, where its objects go, and the viewer profile they are written in (None: the default)."""

    source: Path
    out: Path
    profile: str | None


def run(settings: Settings, name: str, what: Run, *, as_json: bool) -> None:
    """Run the model; raises Refused with routing's reasons, Unfit, BadCard, Misconfigured."""
    ran = pipeline.run(_find(settings, name), what.source, what.out, settings, what.profile)
    drawn = pictures.pages(ran.files, what.out)
    facts: dict[str, Any] = {
        "summary": ran.summary,
        "files": [str(path) for path in ran.files],
        "pictures": [str(path) for path in drawn],
        "findings": len(ran.prediction.findings),
        "variant": dict(ran.prediction.variant),
    }
    if as_json:
        print(json.dumps(facts, indent=2))
        return
    print(ran.summary)
    for path in (*ran.files, *drawn):
        print(f"  {path}")


def _find(settings: Settings, name: str) -> ShelvedCard:
    shelf = pipeline.known_cards(settings)
    if name not in shelf:
        raise Misconfigured(f"no model is named {name!r}; there are {', '.join(shelf) or 'none'}")
    return shelf[name]
