"""`overread models check`: a model loaded, and tried on made-up images; a draft that holds goes on the shelf if it is told to."""

from __future__ import annotations

import json
import os
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from models import registry
from models.card import BadCard, ShelvedCard
from models.shelving import shelf, trial
from models.shelving.trial import Trial
from node.settings import Settings
from overread.commands import models
from workers import gpu


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """Which model, in which folder of models (None: the settings'), whether a draft that holds is shelved, and how long it may take."""

    name: str
    directory: Path | None
    shelve: bool
    within_s: float


class Try:
    """One check: what it knows of the model, the trials that have ended, and how far the one that runs is."""

    def __init__(self, facts: Mapping[str, Any], *, as_json: bool) -> None:
        self.facts = facts
        self.trials: list[Trial] = []
        self._as_json = as_json
        self._at = "while it was loaded"

    def run(self, found: ShelvedCard, within_s: float) -> bool:
        """Load the model and try it; tell whether all holds. Past the time the process says so and ends with exit code 1."""
        worked = time.process_time()

        def stop(_reason: str) -> None:
            self.show(
                f"not checked: stopped after {within_s:g} s ({time.process_time() - worked:.0f} s of processor time) {self._at}, and "
                f"nothing was shelved. It hangs, is slow on {self.facts['device']}, or the machine was busy: --within gives it more "
                "seconds, [workers] devices another device"
            )
            sys.stdout.flush()
            os._exit(1)  # a call that hangs cannot be broken off from within

        with gpu.Watchdog(gpu.Patience(stall_s=within_s, limit_s=within_s), stop):
            model = registry.load(found, self.facts["device"])
            self._told(0)
            for entry in trial.run(found, model, self._told):
                self.trials.append(entry)  # what stops the check reads those that have ended
        return all(entry.holds for entry in self.trials)

    def _told(self, part: float) -> None:
        self._at = f"at {part:.0%} of the made-up images {trial.STUDIES[len(self.trials)]!r}"

    def show(self, stopped: str = "", more: Mapping[str, Any] | None = None) -> None:
        """Print the trials, as one JSON object or in words; `stopped` says why there are no more of them."""
        if self._as_json:
            facts = {**self.facts, "holds": not stopped and all(entry.holds for entry in self.trials), **(more or {})}
            print(json.dumps({**facts, "trials": [asdict(entry) for entry in self.trials], "stopped": stopped or None}, indent=2))
            return
        console = Console(highlight=False)
        console.print(_table(self.trials, f"{self.facts['name']} on {self.facts['device']}"))
        console.print(stopped, markup=False, soft_wrap=True, end="\n" if stopped else "")


def main(settings: Settings, wish: Wish, *, as_json: bool) -> int:
    """Check the model and give the exit code: 0 where all holds; raises BadCard where it cannot be loaded, Misconfigured."""
    directory = wish.directory or settings.models.dir
    found = models.find(settings, wish.name, directory)
    device = gpu.devices(settings.workers.devices)[0]
    is_draft = found.folder.name in shelf.drafts_in(directory) and not (found.folder / shelf.CARD).is_file()
    check = Try({"name": wish.name, "digest": found.digest, "device": device, "draft": is_draft}, as_json=as_json)
    holds = check.run(found, wish.within_s)
    shelved = holds and wish.shelve and is_draft
    if shelved:
        _not_taken(found, settings, directory)
        shelf.shelve(found.folder)
    check.show(more={"draft": is_draft and not shelved})
    if is_draft and holds and not as_json:
        place = "" if wish.directory is None else f" --dir {shlex.quote(str(wish.directory))}"
        words = "On the shelf: the node takes it at its next start." if shelved else _next(wish.name, place)
        Console(highlight=False).print(words, markup=False, soft_wrap=True)
    return 0 if holds else 1


def _table(trials: Sequence[Trial], title: str) -> Table:
    table = Table("made-up images", "outcome", "seconds", "holds", title=title, title_justify="left")
    for entry in trials:
        table.add_row(entry.study, escape(entry.outcome), f"{entry.seconds:.1f}", "yes" if entry.holds else "NO")
    return table


def _next(name: str, place: str) -> str:
    return (
        f"It is a draft still. Try it: overread models run {name} FOLDER --out DIR{place}\n"
        f"Put it on the shelf: overread models check {name} --shelve{place}\n"
        'Without a rule it then runs on every study it takes, and results are sent; a rule with mode = "shadow" keeps them here.'
    )


def _not_taken(found: ShelvedCard, settings: Settings, directory: Path | None) -> None:
    name = found.card.model.name
    taken = models.shelved(settings, directory).get(name)
    if taken is not None:
        raise BadCard(f"the name {name!r} is taken by {taken.folder}; set another model.name in {found.folder / shelf.DRAFT}")
