"""Follow one study from its first image to the archive's word for the results, a bar a stage."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from node import status
from node.errors import Retryable
from node.ledger import Ledger

LOOK_S = 0.2
STEPS = ("receive", "prepare", "infer", "compose", "deliver", "commit")
ENDED_REVISION = frozenset({"DECLINED", "HELD"})
ENDED_JOB = frozenset({"DECLINED", "FAILED", "CANCELLED", "SUPERSEDED"})
ENDED_DELIVERY = frozenset({"COMMITTED", "ACCEPTED", "FAILED"})


def ended(study: Mapping[str, Any]) -> bool:
    """Tell whether nothing more will happen to a study by itself."""
    if any(revision["state"] in ENDED_REVISION for revision in study["revisions"][-1:]):
        return True
    return bool(study["jobs"]) and all(_job_ended(job) for job in study["jobs"])


def _job_ended(job: Mapping[str, Any]) -> bool:
    if job["state"] == "WRITTEN":
        return all(entry["state"] in ENDED_DELIVERY for entry in job["deliveries"])
    return job["state"] in ENDED_JOB


class Follower:
    """Looks at the ledger until a study's work has ended."""

    def __init__(self, console: Console, ledger: Ledger, study: str) -> None:
        self._console = console
        self._ledger = ledger
        self._study = study
        self._begun = time.monotonic()

    def look(self) -> dict[str, Any] | None:
        """Give what the ledger knows of the study now; None while it knows nothing."""
        found: list[dict[str, Any]] = status.of_study(self._ledger, self._study)["studies"]
        return found[0] if found else None

    def follow(self, limit_s: float) -> dict[str, Any]:
        """Show the stages until all has ended, and give the last look; raises Retryable after the limit."""
        until = time.monotonic() + limit_s
        columns = (TextColumn("{task.description:>8}"), BarColumn(24), TextColumn("{task.fields[words]}"), TimeElapsedColumn())
        with Progress(*columns, console=self._console, transient=True) as bars:
            tasks = {step: bars.add_task(step, total=1, start=False, words="") for step in STEPS}
            while time.monotonic() < until:
                facts = self.look()
                if facts is not None:
                    self._show(bars, tasks, facts)
                    if ended(facts):
                        return facts
                time.sleep(LOOK_S)
        raise Retryable(f"the study has not ended within {limit_s:.0f} s; `overread status --study {self._study}` says how far it is")

    def _show(self, bars: Progress, tasks: Mapping[str, TaskID], facts: Mapping[str, Any]) -> None:
        begun, done = _reached(facts)
        for step in STEPS:
            task = bars.tasks[tasks[step]]
            if step in begun and task.start_time is None:
                bars.start_task(tasks[step])
            if step in done and not task.finished:
                bars.update(tasks[step], completed=1)
                if not self._console.is_terminal:  # a log has no bars
                    self._console.print(f"{step}: done after {time.monotonic() - self._begun:.0f} s")
        bars.update(tasks["receive"], words=f"{facts['images']} images")


def _reached(facts: Mapping[str, Any]) -> tuple[set[str], set[str]]:
    """Give the steps that have begun and those that have ended, for all jobs of the study."""
    begun, done = {"receive"}, set[str]()
    if facts["jobs"]:
        done.add("receive")
    for step in STEPS[1:4]:
        runs = [[entry for entry in job["stages"] if entry["stage"] == step] for job in facts["jobs"]]
        begun |= {step} if any(runs) else set()
        done |= {step} if runs and all(any(entry["outcome"] == "done" for entry in run) for run in runs) else set()
    deliveries = [entry for job in facts["jobs"] for entry in job["deliveries"]]
    if deliveries:
        begun.add("deliver")
        if all(entry["sent_at"] is not None for entry in deliveries):
            done.add("deliver")
            begun.add("commit")
        if all(entry["state"] in ENDED_DELIVERY for entry in deliveries):
            done.add("commit")
    return begun, done
