"""`overread rules explain`: what routing decides of each series for each model, in the words a technologist reads.

A folder is routed now, and what is taken is judged as prepare would judge it, but for the pixels. Of a stored study, named by its
UID, the decision at its planning is shown with what became of the job, and what would be decided now where that differs.
Nothing of the patient is shown; a series' description, free text, only where it is asked for.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from models.card import ShelvedCard
from node import decided, routing
from node.errors import Refused
from node.ledger import instances, open_ledger
from node.settings import Settings
from node.study import Job, JobPlan, JobState, Series, Study
from workers import folder, pipeline

NAMES_OF = {number: name for name, number in routing.PRIORITIES.items()}
ENDED_BADLY = (JobState.DECLINED, JobState.FAILED, JobState.CANCELLED, JobState.SUPERSEDED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What became of one series for one model: taken as these roles, or the reason.

    but  why it was, or would be, not analysed although it was taken
    """

    roles: tuple[str, ...] = ()
    images: int = 0
    mode: str | None = None
    priority: str | None = None
    destinations: tuple[str, ...] = ()
    reason: str | None = None
    but: str | None = field(default=None, compare=False)

    @property
    def taken(self) -> bool:
        """Tell whether the model takes the series."""
        return bool(self.roles)

    @property
    def words(self) -> str:
        """Give it for a technologist."""
        if not self.taken:
            return f"not taken: {self.reason}"
        kept = "kept, not sent" if self.mode == "shadow" else "results to nobody: no peer receives results"
        to = f"results to {', '.join(self.destinations)}" if self.destinations else kept
        but = f", but {self.but}" if self.but else ""
        return f"taken as {' and '.join(self.roles)}: {self.images} images, {self.mode}, {self.priority}, {to}{but}"


By = Mapping[tuple[str, str], Verdict]


def main(settings: Settings, source: str, *, as_json: bool, descriptions: bool = False) -> int:
    """Explain a folder, or a stored study; exit code 0 when some model takes a series and nothing speaks against it, else 1.

    Raises Refused, BadCard.
    """
    cards = pipeline.known_cards(settings)
    routing.check_rules(settings.rules, cards)
    if Path(source).is_dir():
        found = folder.scan(Path(source))
        if found.words:
            print(found.words, file=sys.stderr)
        answers = [_new(settings, cards, study) for study in folder.studies(found.instances)]
    elif re.fullmatch(r"[0-9.]{1,64}", source):
        answers = [_stored(settings, cards, source)]
    else:
        raise Refused(f"{source} is neither a folder nor a Study Instance UID")
    if not descriptions:
        for series in (series for answer in answers for series in answer["series"]):
            del series["description"]
    if as_json:
        print(json.dumps({"studies": answers}, indent=2))
    else:
        for answer in answers:
            _show(answer)
    return 0 if any(not entry["but"] for answer in answers for entry in answer["taken"]) else 1


def _new(settings: Settings, cards: Mapping[str, ShelvedCard], study: Study) -> dict[str, Any]:
    """Explain a study of a folder: routing's verdicts, and prepare's on what was taken."""
    jobs, reasons = _route(settings, cards, study)
    files = {image.sop_instance_uid: Path(image.path) for series in study.series for image in series.instances}
    refused: dict[str, str] = {}
    for job in jobs:
        try:
            pipeline.inspect(cards[job.model], {role: [files[uid] for uid in uids] for role, uids in job.inputs.items()})
        except Refused as error:
            refused[job.model] = f"prepare would decline it: {error.reason}"
    verdicts = _verdicts(study, (jobs, reasons)).items()
    return _answer(
        study, cards, {key: replace(verdict, but=refused.get(key[0])) if verdict.taken else verdict for key, verdict in verdicts}
    )


def _route(settings: Settings, cards: Mapping[str, ShelvedCard], study: Study) -> Any:
    plan = routing.route(study, cards, settings.rules, settings.destinations())
    return plan.jobs, {(entry.model, entry.series_instance_uid): entry.reason for entry in plan.declined}


def _stored(settings: Settings, cards: Mapping[str, ShelvedCard], study_uid: str) -> dict[str, Any]:
    """Explain a study of the ledger; raises Refused for one it does not know."""
    ledger = open_ledger(settings)
    try:
        decision = decided.read(ledger, study_uid)
        if decision is None:
            raise Refused(f"no study {study_uid} came to this node")
        study = instances.study(ledger, study_uid, decision.revision)
    finally:
        ledger.close()
    then = _verdicts(study, (decision.jobs, decision.reasons)) if decision.decided_on is not None else {}
    now = _verdicts(study, _route(settings, cards, study)) if study.series else {}
    answer = _answer(study, cards, then or now)
    told = {"revision": decision.revision, "state": str(decision.state), "reason": decision.reason, "decided_on": decision.decided_on}
    differs = [
        {"series": series, "model": model, "now": asdict(now[model, series])}
        for model, series in sorted(now)
        if then and (then.get((model, series)) is None or now[model, series] != then[model, series])
    ]
    return answer | told | {"images_here": bool(study.series), "differs_now": differs}


def _verdicts(study: Study, decision: tuple[Sequence[Job | JobPlan], Mapping[tuple[str, str], str]]) -> dict[tuple[str, str], Verdict]:
    """Give the verdict of every (model, series) that was decided."""
    jobs, reasons = decision
    series_of = {image.sop_instance_uid: series.series_instance_uid for series in study.series for image in series.instances}
    verdicts = {key: Verdict(reason=reason) for key, reason in reasons.items()}
    for job in jobs:
        by_series: dict[str, list[tuple[str, int]]] = {}
        for role, uids in job.inputs.items():
            by_series.setdefault(series_of.get(uids[0], "a series that is no longer here"), []).append((role, len(uids)))
        for uid, roles in by_series.items():
            verdicts[job.model, uid] = Verdict(
                roles=tuple(role for role, _ in roles),
                images=sum(count for _, count in roles),
                mode=str(job.mode),
                priority=NAMES_OF.get(job.priority, str(job.priority)),
                destinations=tuple(job.destinations),
                but=f"the job is {job.state}: {job.reason}" if isinstance(job, Job) and job.state in ENDED_BADLY else None,
            )
    return verdicts


def _answer(study: Study, cards: Mapping[str, ShelvedCard], verdicts: By) -> dict[str, Any]:
    """Put one study's verdicts in order: series by number, models by name."""
    series = sorted(
        (_series(entry) for entry in study.series), key=lambda entry: (entry["number"] is None, entry["number"] or 0, entry["series"])
    )
    order = {entry["series"]: place for place, entry in enumerate(series)}
    told = [
        {"series": uid, "model": model} | asdict(verdict)
        for (model, uid), verdict in sorted(verdicts.items(), key=lambda entry: (order.get(entry[0][1], len(order)), entry[0]))
    ]
    taken = [entry for entry in told if entry["roles"]]
    declined = [{key: entry[key] for key in ("series", "model", "reason")} for entry in told if not entry["roles"]]
    return {"study": study.study_instance_uid, "models": sorted(cards), "series": series, "taken": taken, "declined": declined}


def _series(series: Series) -> dict[str, Any]:
    header = series.instances[0].header
    number = header.get("SeriesNumber")
    return {
        "series": series.series_instance_uid,
        "number": int(number) if isinstance(number, int | float) else None,
        "modality": str(header.get("Modality") or "no modality")[:16],
        "images": len(series.instances),
        "description": str(header.get("SeriesDescription") or "")[:64],
    }


def _show(answer: Mapping[str, Any]) -> None:
    console = Console(highlight=False)
    console.print(f"study {answer['study']}")
    for line in _state(answer):
        console.print(escape(line))
    table = Table("series", "model", "verdict", show_lines=False)
    changed = {(entry["series"], entry["model"]): _verdict(entry["now"]) for entry in answer.get("differs_now", ())}
    verdicts = {(entry["series"], entry["model"]): _verdict(entry) for entry in (*answer["taken"], *answer["declined"])}
    known = {entry["series"]: entry for entry in answer["series"]}
    for uid in dict.fromkeys((*known, *(series for series, _ in (*verdicts, *changed)))):
        models = sorted({model for series, model in (*verdicts, *changed) if series == uid})
        for place, model in enumerate(models):
            name = _name(uid, known.get(uid)) if place == 0 else ""
            lines = _lines(verdicts.get((uid, model)), changed.get((uid, model)))
            table.add_row(escape(name), model, "\n".join(lines), end_section=place == len(models) - 1)
    console.print(table)


def _lines(then: Verdict | None, now: Verdict | None) -> Iterable[str]:
    """Give one verdict, and below it the one of today where that differs."""
    if then is not None:
        yield _coloured(then)
    if now is not None:
        yield f"[yellow]now:[/] {_coloured(now)}"


def _coloured(verdict: Verdict) -> str:
    words = escape(verdict.words)
    return words.replace("taken", "[green]taken[/]", 1) if verdict.taken else words


def _verdict(told: Mapping[str, Any]) -> Verdict:
    values: dict[str, Any] = {key: told[key] for key in Verdict.__dataclass_fields__ if key in told}
    return Verdict(**values)


def _state(answer: Mapping[str, Any]) -> Iterable[str]:
    if "state" not in answer:
        return
    because = f": {answer['reason']}" if answer["reason"] else ""
    yield f"revision {answer['revision']} is {answer['state']}{because}"
    if answer["decided_on"] is None:
        yield "nothing was decided yet; this is what would be decided now"
    elif answer["decided_on"] != answer["revision"]:
        yield f"decided on revision {answer['decided_on']}"
    if not answer["images_here"]:
        yield "its images are no longer on this node, so what would be decided now cannot be told"
    elif answer["differs_now"]:
        yield "cards, rules or images have changed since: lines with 'now' would be decided otherwise today"


def _name(uid: str, series: Mapping[str, Any] | None) -> str:
    if series is None:
        return uid
    number = uid if series["number"] is None else str(series["number"])
    images = f"{series['images']} image{'' if series['images'] == 1 else 's'}"
    return ", ".join(filter(None, (number, series["modality"], images, series.get("description", ""))))
