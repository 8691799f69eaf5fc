"""`overread models check`: a model loaded, and tried on made-up images; a draft that holds goes on the shelf if it is told to."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from models import registry, shelf, trial
from models.card import BadCard, ShelvedCard
from node.settings import Settings
from overread.commands import models
from workers import gpu


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """Which model, in which folder of models (None: the settings'), and whether a draft that holds is put on the shelf."""

    name: str
    directory: Path | None
    shelve: bool


def main(settings: Settings, wish: Wish, *, as_json: bool) -> int:
    """Check the model and give the exit code: 0 where all holds; raises BadCard where it cannot be loaded, Misconfigured."""
    directory = wish.directory or settings.models.dir
    found = models.find(settings, wish.name, directory)
    device = gpu.devices(settings.workers.devices)[0]
    model = registry.load(found, device)
    trials = list(trial.run(found, model))
    holds = all(entry.holds for entry in trials)
    is_draft = found.folder.name in shelf.drafts_in(directory) and not (found.folder / shelf.CARD).is_file()
    shelved = holds and wish.shelve and is_draft
    if shelved:
        _not_taken(found, settings, directory)
        shelf.shelve(found.folder)
    if as_json:
        facts = {"name": wish.name, "digest": found.digest, "device": device, "holds": holds, "draft": is_draft and not shelved}
        print(json.dumps({**facts, "trials": [asdict(entry) for entry in trials]}, indent=2))
        return 0 if holds else 1
    console = Console(highlight=False)
    table = Table("made-up images", "outcome", "seconds", "holds", title=f"{wish.name} loaded on {device}", title_justify="left")
    for entry in trials:
        table.add_row(entry.study, escape(entry.outcome), f"{entry.seconds:.1f}", "yes" if entry.holds else "NO")
    console.print(table)
    if is_draft and holds:
        console.print("On the shelf: the node takes it at its next start." if shelved else _next(wish.name))
    return 0 if holds else 1


def _next(name: str) -> str:
    return (
        f"It is a draft still. Try it: overread models run {name} FOLDER --out DIR\n"
        f"Put it on the shelf: overread models check {name} --shelve\n"
        'Without a rule it then runs on every study it takes, and results are sent; a rule with mode = "shadow" keeps them here.'
    )


def _not_taken(found: ShelvedCard, settings: Settings, directory: Path | None) -> None:
    name = found.card.model.name
    taken = models.shelved(settings, directory).get(name)
    if taken is not None:
        raise BadCard(f"the name {name!r} is taken by {taken.folder}; set another model.name in {found.folder / shelf.DRAFT}")
