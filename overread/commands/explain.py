"""`overread rules explain`: what routing decides for a folder, in the words a technologist reads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from node import routing
from node.settings import Settings
from node.study import Study
from workers import folder, pipeline


def main(settings: Settings, source: Path, *, as_json: bool) -> int:
    """Explain every study of the folder; exit code 0 when some model takes a series, else 1. Raises Refused, BadCard."""
    cards = pipeline.known_cards(settings)
    answers = []
    for study in folder.studies(folder.read(source)):
        plan = routing.route(study, cards, settings.rules, settings.destinations())
        taken = [
            {
                "model": job.model,
                "version": job.version,
                "mode": str(job.mode),
                "priority": job.priority,
                "destinations": list(job.destinations),
                "inputs": {role: _series_of(study, uids) for role, uids in job.inputs.items()},
            }
            for job in plan.jobs
        ]
        refused = [{"series": entry.series_instance_uid, "model": entry.model, "reason": entry.reason} for entry in plan.declined]
        answers.append({"study": study.study_instance_uid, "taken": taken, "declined": refused})
    if as_json:
        print(json.dumps(answers, indent=2))
    else:
        for answer in answers:
            _show(answer)
    return 0 if any(answer["taken"] for answer in answers) else 1


def _series_of(study: Study, uids: tuple[str, ...]) -> dict[str, Any]:
    wanted = set(uids)
    for series in study.series:
        if wanted <= {instance.sop_instance_uid for instance in series.instances}:
            return {"series": series.series_instance_uid, "images": len(uids)}
    return {"series": None, "images": len(uids)}


def _show(answer: dict[str, Any]) -> None:
    console = Console()
    table = Table("model", "series", "verdict", title=f"study {answer['study']}", title_justify="left")
    for job in answer["taken"]:
        for role, where in job["inputs"].items():
            to = ", ".join(job["destinations"]) or "nobody (no peer receives results)"
            verdict = f"[green]taken[/] as {role}: {where['images']} images, {job['mode']}, results to {to}"
            table.add_row(f"{job['model']} {job['version']}", where["series"] or "several", verdict)
    for entry in answer["declined"]:
        table.add_row(entry["model"], entry["series"], escape(f"not taken: {entry['reason']}"))
    console.print(table)
