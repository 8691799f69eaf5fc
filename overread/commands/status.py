"""`overread status`: what became of studies, for eyes or as JSON. No patient data comes out."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from node import status
from node.ledger import open_ledger
from node.settings import Settings

COLOURS = {
    "COMMITTED": "green",
    "ACCEPTED": "green",
    "WRITTEN": "green",
    "PLANNED": "green",
    "FAILED": "red",
    "HELD": "red",
    "DECLINED": "yellow",
    "CANCELLED": "yellow",
}


def main(settings: Settings, name: str | None, *, as_json: bool) -> int:
    """Show one study (by UID or accession number) or the counts of all; exit code 1 for a study that is not known."""
    ledger = open_ledger(settings)
    facts = status.overview(ledger) if name is None else status.of_study(ledger, name)
    ledger.close()
    console = Console(highlight=False, soft_wrap=True)
    if as_json:
        print(json.dumps(facts, indent=2))
    elif name is None:
        _show_overview(console, facts)
    else:
        for study in facts["studies"]:
            show_study(console, study)
        if not facts["studies"]:
            console.print("the ledger has no such study")
    return 0 if name is None or facts["studies"] else 1


def show_study(console: Console, study: Mapping[str, Any]) -> None:
    """Print one study's story: revisions and reasons, each job's stages with seconds, each delivery."""
    console.print(f"study {study['study']}: {study['images']} images in {study['series']} series")
    for revision in study["revisions"]:
        _show_revision(console, revision)
    for entry in study["holds"]:
        console.print(f"  {escape(_hold(entry))}")
    for job in study["jobs"]:
        _show_job(console, job)


def _show_revision(console: Console, revision: Mapping[str, Any]) -> None:
    console.print(f"  revision {revision['number']}: {_state(revision)}{_because(revision['evidence'])}")
    if revision["sender"]:
        console.print(f"    {escape(_sender(revision['sender']))}")
    for warning in revision["warnings"] or ():
        console.print(f"    odd: {escape(warning)}")
    for entry in revision["declined"]:
        console.print(f"    {entry['model']} does not take {entry['series_instance_uid']}: {escape(entry['reason'])}")


def _show_job(console: Console, job: Mapping[str, Any]) -> None:
    console.print(f"  {job['model']} {job['version']}: {_state(job)}, {job['images']} images, {job['mode']}")
    console.print(f"    {', '.join(_stage(entry) for entry in job['stages']) or 'waits for a worker'}")
    if job["provisional"]:
        console.print("    prepared ahead on one count of the archive's; it goes on when a second one proves the study whole")
    if job["predecessor"]:
        console.print(f"    revision {job['predecessor']['revision']} replaces {job['predecessor']['newest']['of_revision']}")
    if job["patient"]:
        console.print(f"    patient: {escape(job['patient'])}")
    for entry in job["deliveries"]:
        sent = "" if entry["sent_at"] is None else f" {entry['sent_at'] - entry['created_at']:.1f} s after it was written"
        how = f"{entry['sent']} of {entry['objects']} objects sent{sent}, as {entry['profile']}"
        console.print(f"    to {entry['destination']}: {_state(entry)}, {how}{_wanted(entry)}")
        for refusal in entry["refusals"]:
            instead = "nothing instead" if refusal["to"] is None else f"so as {refusal['to']}"
            console.print(f"      refused as {refusal['profile']}, {instead}: {escape(refusal['reason'])}")


def _wanted(delivery: Mapping[str, Any]) -> str:
    return f"; being written as {delivery['wants_profile']}" if delivery["wants_profile"] else ""


def stage_seconds(study: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """Give the seconds of each stage that ended well, in order."""
    for job in study["jobs"]:
        for entry in job["stages"]:
            if entry["outcome"] == "done":
                yield entry["stage"], entry["ended_at"] - entry["started_at"]


def _stage(entry: Mapping[str, Any]) -> str:
    begin, end = entry["started_at"], entry["ended_at"] or time.time()
    how = "" if entry["outcome"] == "done" else f" ({entry['outcome'] or 'runs'})"
    return f"{entry['stage']} {end - begin:.1f} s{how}"


def _hold(entry: Mapping[str, Any]) -> str:
    if entry["outcome"] is None:
        return f"revision {entry['revision']} waits for a human's word: overread held list"
    return f"revision {entry['revision']} was {entry['outcome']} by {entry['by_whom']}: {entry['because']}"


def _state(row: Mapping[str, Any]) -> str:
    colour = COLOURS.get(row["state"])
    word = f"[{colour}]{row['state']}[/]" if colour else str(row["state"])
    return word + (f": {escape(row['reason'])}" if row["reason"] else "")


def _sender(facts: Mapping[str, Any]) -> str:
    """Say how the association ended that brought the last images."""
    how = "released its association" if facts["released"] else "broke its association off"
    return f"{facts['calling_ae']} {how} after {facts['images']} images"


def _because(evidence: str | Mapping[str, Any] | None) -> str:
    said = evidence.get("said") if isinstance(evidence, Mapping) else evidence
    return f" ({escape(str(said))})" if said else ""


def _show_overview(console: Console, facts: Mapping[str, Any]) -> None:
    table = Table("", "state", "count", caption=f"of what has ended, the last {facts['counted_days']} days")
    for what in ("revisions", "jobs", "deliveries"):
        for state, count in facts[what].items():
            if count:
                table.add_row(what, _state({"state": state, "reason": None}), str(count))
    console.print(table)
    for stage, entry in facts["queues"].items():
        console.print(f"{stage}: {entry['running']} running, {entry['queued']} waiting, the longest {entry['oldest_s']:.0f} s")
    for what in ("held", "failed_jobs", "failed_deliveries"):
        for entry in facts[what]:
            where = entry.get("study_instance_uid") or entry.get("delivery_id")
            console.print(f"[red]{what.replace('_', ' ')}[/] {where}: {escape(entry['reason'] or 'no reason')}")
