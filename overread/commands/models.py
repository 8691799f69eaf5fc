"""`overread models`: what is on the shelf, and one card in full."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from models import card as cards
from models import registry
from models.card import BadCard, Card, CodedConcept, ShelvedCard
from models.drafts import Missing
from models.shelving import shelf
from node.errors import Misconfigured
from node.settings import Settings


def shelved(settings: Settings, directory: Path | None) -> dict[str, ShelvedCard]:
    """Read the cards of the starters and of a folder of models; raises BadCard."""
    return cards.discover(cards.folders(directory, starters=settings.models.starters))


def find(settings: Settings, name: str, directory: Path | None = None) -> ShelvedCard:
    """Give a model on the shelf, or a draft that is filled in.

    Raises Misconfigured where there is neither, BadCard where the draft lacks something, with what that is.
    """
    directory = directory or settings.models.dir
    known, waiting = shelved(settings, directory), shelf.drafts_in(directory)
    if name in known:
        return known[name]
    if name in waiting:
        return shelf.as_card(waiting[name])
    drafts = f"; drafts: {', '.join(waiting)}" if waiting else ""
    raise Misconfigured(f"no model is named {name!r}; there are {', '.join(known) or 'none'}{drafts}")


def show_all(settings: Settings, directory: Path | None = None, *, as_json: bool) -> None:
    """List name, version, title, licence and folder of every card, and the drafts; raises BadCard."""
    directory = directory or settings.models.dir
    known = shelved(settings, directory)
    waiting = {name: folder for name, folder in shelf.drafts_in(directory).items() if not (folder / shelf.CARD).is_file()}
    if as_json:
        facts = [
            {
                "name": name,
                "version": entry.card.model.version,
                "title": entry.card.model.title,
                "digest": entry.digest,
                "folder": str(entry.folder),
            }
            for name, entry in known.items()
        ]
        print(json.dumps({"models": facts, "drafts": [_draft(name, folder) for name, folder in waiting.items()]}, indent=2))
        return
    table = Table("name", "version", "title", "takes", "licence", "digest")
    for name, entry in known.items():
        model = entry.card.model
        takes = ", ".join("/".join(role.accept.modality) for role in entry.card.inputs)
        table.add_row(name, *map(escape, (model.version, model.title, takes, model.licence)), entry.digest[:12])
    console = Console(highlight=False)
    console.print(table)
    for name, folder in waiting.items():
        try:
            missing = len(shelf.lacking(folder))
        except BadCard as error:  # a slip of the pen in one draft hides no model
            console.print(f"draft {error}", markup=False, soft_wrap=True)
            continue
        console.print(f"{name}: a draft, {f'{missing} keys to fill in' if missing else 'filled in'}; overread models show {name}")


def _draft(name: str, folder: Path) -> dict[str, Any]:
    """Give what a program wants of a draft: the keys that it lacks, or why it cannot be read."""
    try:
        return {"name": name, "folder": str(folder), "missing": [entry.key for entry in shelf.lacking(folder)]}
    except BadCard as error:
        return {"name": name, "folder": str(folder), "fault": str(error)}


def show(settings: Settings, name: str, directory: Path | None = None, *, as_json: bool) -> int:
    """Show one card in full, or what a draft lacks; 1 where it cannot run as it is. Raises Misconfigured, BadCard."""
    directory = directory or settings.models.dir
    waiting = shelf.drafts_in(directory)
    if name in waiting and not (waiting[name] / shelf.CARD).is_file() and (missing := shelf.lacking(waiting[name])):
        folder = waiting[name]
        if as_json:
            asked = {wanted.key: {"what": wanted.what, "why": wanted.why} for wanted in missing}
            print(json.dumps({"name": name, "draft": True, "folder": str(folder), "missing": asked}, indent=2))
            return 1
        Console(highlight=False).print(asked_for(missing, f"{folder / shelf.DRAFT} lacks", {}))
        return 1
    entry = find(settings, name, directory)
    files = {key: _file(entry, key) for key in entry.card.runtime.files}
    if as_json:
        facts = {"digest": entry.digest, "folder": str(entry.folder), "draft": name in waiting, "files": files}
        print(json.dumps({**facts, "card": entry.card.model_dump(mode="json")}, indent=2))
    else:
        _print(Console(highlight=False), entry, files)
    return 0 if all(words == "ok" for words in files.values()) else 1


def asked_for(missing: Sequence[Missing], title: str, proposals: Mapping[str, str]) -> Table:
    """Make a table of what a human must still say, with a proposal by key where there is one."""
    table = Table(Column("fill in", no_wrap=True), "with", "why", title=escape(title), title_justify="left")
    for wanted in missing:
        what = f"proposed: {proposals[wanted.key]}" if wanted.key in proposals else wanted.what
        table.add_row(wanted.key, escape(what), escape(wanted.why))
    return table


def _file(entry: ShelvedCard, key: str) -> str:
    """Say "ok" of a file that is as the card pins it, else what is wrong."""
    try:
        registry.read(entry, key)
    except BadCard as error:
        return str(error)
    return "ok"


def _print(console: Console, entry: ShelvedCard, files: dict[str, str]) -> None:
    card = entry.card
    console.print(f"[bold]{escape(card.model.title)}[/] ({card.model.name} {card.model.version}), {escape(card.model.licence)}")
    console.print(f"{entry.folder}\ndigest {entry.digest}", markup=False, soft_wrap=True)
    console.print(f"\n[bold]Intended use[/]\n  {escape(card.model.intended_use)}\n[bold]Limits[/]")
    for limit in card.model.limits:
        console.print(f"  - {limit}", markup=False)
    table = Table("file", "sha256", "is", title=f"Runtime: {card.runtime.format}", title_justify="left")
    for key, words in files.items():
        table.add_row(escape(card.runtime.files[key].path), card.runtime.files[key].sha256[:12], escape(words))
    console.print(table)
    for key, option in card.runtime.options.items():
        console.print(f"  {key} = {option}", markup=False)
    _inputs(console, card)
    _outputs(console, card)
    if card.evaluation is not None:
        console.print(f"[bold]Evaluation[/] {escape(card.evaluation.date)}: {escape(card.evaluation.data)}")
        for figure, value in card.evaluation.figures.items():
            console.print(f"  {figure}: {value}", markup=False)
    else:
        console.print("[bold]Evaluation[/] none: nothing can be claimed. overread models evaluate measures it on your data.")


def _inputs(console: Console, card: Card) -> None:
    table = Table("role", "reference", "takes", "prefers", title="Inputs", title_justify="left")
    for part in card.inputs:
        takes = part.accept.model_dump(mode="json", exclude_defaults=True)
        prefers = part.score.model_dump(mode="json", exclude_defaults=True)
        table.add_row(part.role, "yes" if part.reference else "", _lines(takes), _lines(prefers))
    console.print(table)


def _outputs(console: Console, card: Card) -> None:
    measured = {part.label: ", ".join(part.what) for part in card.measurements}
    title = f"Output: {card.output.kind}, back to the images by {card.output.inverse}"
    table = Table("index", "label", "kind", "code", "threshold", "least ml", "measured", title=title, title_justify="left")
    for label in card.output.labels:
        codes = [label.type, *(part for part in (label.laterality, label.region) if part is not None)]
        least = f"{label.min_volume_ml:g}" if label.min_volume_ml else ""
        threshold = "" if label.threshold is None else f"{label.threshold:g}"
        table.add_row(
            str(label.index), label.label, label.kind, "\n".join(map(_code, codes)), threshold, least, measured.get(label.index, "")
        )
    console.print(table)


def _code(code: CodedConcept) -> str:
    return f"{code.scheme} {code.value} {code.meaning}"


def _lines(facts: dict[str, Any]) -> str:
    return escape("\n".join(f"{key}: {', '.join(map(str, part)) if isinstance(part, list) else part}" for key, part in facts.items()))
