"""Decide which model takes which series: pure, from a study, the cards and the site's rules.

The first rule for a model whose conditions hold decides how it runs; without one it runs live, at routine
priority, to every destination. A site that wants only what it names ends its rules with model "*", mode off.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from models.card import Card, InputPart, ShelvedCard
from node.errors import Misconfigured
from node.fit import Fit, judge
from node.header import INDEXED
from node.settings import Condition, Rule, Settings
from node.study import Declined, Instance, Job, JobPlan, Mode, Plan, Series, Study

# Celery on Redis: 0 is the highest (kombu maps them to its steps 0, 3, 6, 9).
PRIORITIES: Mapping[str, int] = {"stat": 0, "routine": 5, "low": 9}
DEFAULT_RULE = Rule(model="*")


def route(study: Study, cards: Mapping[str, ShelvedCard], rules: Sequence[Rule], destinations: Sequence[str]) -> Plan:
    """Give the jobs of a study, and for every model a reason for each series it does not take."""
    jobs: list[JobPlan] = []
    declined: list[Declined] = []
    for name, shelved in sorted(cards.items()):
        chosen, reasons = _choose(study, shelved.card)
        if chosen is not None:
            reference = chosen[shelved.card.reference_role].instances[0]
            rule = _rule(rules, name, reference)
            if Mode(rule.mode) is Mode.OFF:
                off = _off(rules, rule)
                reasons |= {fit.series.series_instance_uid: off for fit in chosen.values()}
            else:
                jobs.append(_job(study, shelved, chosen, rule, destinations))
        declined.extend(
            Declined(series_instance_uid=series.series_instance_uid, model=name, reason=reasons[series.series_instance_uid])
            for series in study.series
            if series.series_instance_uid in reasons
        )
    return Plan(jobs=tuple(jobs), declined=tuple(declined))


def job_id(study_uid: str, inputs: Mapping[str, Sequence[str]], model: str, version: str, card_digest: str) -> str:
    """Name the work: the same images through the same model are the same job, whenever they come."""
    facts = {
        "study": study_uid,
        "inputs": {role: sorted(uids) for role, uids in inputs.items()},
        "model": model,
        "version": version,
        "card": card_digest,
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def mode_now(settings: Settings, job: Job, reference: Instance | None = None) -> Mode:
    """Give the mode that today's rules give a planned job: off takes effect for queued jobs too.

    `reference` is the first image of the job's first input. Without it a rule with conditions cannot be judged:
    the job then keeps its mode unless a rule without conditions comes first.
    """
    for rule in settings.rules:
        if rule.model not in {"*", job.model}:
            continue
        if reference is None and (rule.called_ae or rule.calling_ae or rule.conditions):
            return job.mode
        if reference is None or _holds(rule, reference):
            return Mode(rule.mode)
    return Mode(DEFAULT_RULE.mode)


def check_rules(rules: Sequence[Rule], cards: Mapping[str, ShelvedCard]) -> None:
    """Refuse rules that can never do what they say; raises Misconfigured."""
    for number, rule in enumerate(rules, start=1):
        if rule.model != "*" and rule.model not in cards:
            raise Misconfigured(f"rule {number} names the model {rule.model!r}; there are: {', '.join(sorted(cards)) or 'none'}")
        for condition in rule.conditions:
            if condition.tag not in INDEXED:
                raise Misconfigured(f"rule {number} looks at {condition.tag}, which is not indexed; there are: {', '.join(INDEXED)}")


def _choose(study: Study, card: Card) -> tuple[dict[str, Fit] | None, dict[str, str]]:
    """Give the best series a role, the reference role first, and why not for every other series."""
    chosen: dict[str, Fit] = {}
    refused: dict[str, dict[str, str]] = {}
    empty: list[str] = []
    for part in sorted(card.inputs, key=lambda part: not part.reference):
        used = {fit.series.series_instance_uid for fit in chosen.values()}
        fits, reasons = _candidates([series for series in study.series if series.series_instance_uid not in used], part)
        if fits:
            best = min(fits, key=lambda fit: (fit.rank, fit.series.series_instance_uid))
            chosen[part.role] = best
            reasons |= {fit.series.series_instance_uid: _worse(fit, best) for fit in fits if fit is not best}
        else:
            empty.append(part.role)
        for uid, reason in reasons.items():
            refused.setdefault(uid, {})[part.role] = reason
    taken = {fit.series.series_instance_uid: role for role, fit in chosen.items()}
    answers = {uid: _sentence(by_role) for uid, by_role in refused.items() if uid not in taken}
    if not empty:
        return chosen, answers
    missing = f"no series fits the model's input {' and '.join(empty)}"
    return None, answers | {uid: f"it fits the input {role}, but {missing}" for uid, role in taken.items()}


def _candidates(series: Sequence[Series], part: InputPart) -> tuple[list[Fit], dict[str, str]]:
    fits, reasons = [], {}
    for entry in series:
        verdict = judge(entry, part.accept)
        if isinstance(verdict, Fit):
            fits.append(verdict)
        else:
            reasons[entry.series_instance_uid] = verdict
    return fits, reasons


def _worse(fit: Fit, best: Fit) -> str:
    number = best.series.instances[0].header.get("SeriesNumber")
    name = "another series" if number is None else f"series {number}"
    spacing = best.stack.slice_spacing_mm
    apart = "" if spacing is None else f", {spacing:.3g} mm apart"
    return f"{name} suits the model better: {best.stack.slices} slices{apart}, against {fit.stack.slices} here"


def _sentence(by_role: Mapping[str, str]) -> str:
    """Join the reasons of several roles; one that all roles share is said once."""
    if len(set(by_role.values())) == 1:
        return next(iter(by_role.values()))
    return "; ".join(f"as {role}: {reason}" for role, reason in by_role.items())


def _off(rules: Sequence[Rule], rule: Rule) -> str:
    number = next(index for index, entry in enumerate(rules, start=1) if entry is rule)
    return f"rule {number} switches the model off"


def _job(study: Study, shelved: ShelvedCard, chosen: Mapping[str, Fit], rule: Rule, destinations: Sequence[str]) -> JobPlan:
    model = shelved.card.model
    # The reference role comes first: `mode_now` looks at its first image.
    inputs = {role: tuple(sorted(entry.sop_instance_uid for entry in fit.instances)) for role, fit in chosen.items()}
    targets = tuple(destinations) if rule.destinations is None else rule.destinations
    return JobPlan(
        job_id=job_id(study.study_instance_uid, inputs, model.name, model.version, shelved.digest),
        study_instance_uid=study.study_instance_uid,
        model=model.name,
        version=model.version,
        card_digest=shelved.digest,
        inputs=inputs,
        mode=Mode(rule.mode),
        priority=PRIORITIES[rule.priority],
        destinations=targets if Mode(rule.mode) is Mode.LIVE else (),
    )


def _rule(rules: Sequence[Rule], model: str, reference: Instance) -> Rule:
    return next((rule for rule in rules if rule.model in {"*", model} and _holds(rule, reference)), DEFAULT_RULE)


def _holds(rule: Rule, reference: Instance) -> bool:
    return (
        (not rule.called_ae or reference.called_ae in rule.called_ae)
        and (not rule.calling_ae or reference.calling_ae in rule.calling_ae)
        and all(_met(condition, reference.header.get(condition.tag)) for condition in rule.conditions)
    )


def _met(condition: Condition, value: Any) -> bool:
    """Test one attribute; a value of several parts `is` each of them and all of them joined by a backslash."""
    parts = [str(part).strip().casefold() for part in (value if isinstance(value, list | tuple) else [value])]
    absent = value is None or not any(parts)
    whole, wanted = "\\".join(parts), condition.value.strip().casefold()
    match condition.op:
        case "present":
            return not absent
        case "absent":
            return absent
        case "is":
            return not absent and wanted in {whole, *parts}
        case "is-not":
            return absent or wanted not in {whole, *parts}
        case "contains":
            return not absent and wanted in whole
        case "contains-not":
            return absent or wanted not in whole
