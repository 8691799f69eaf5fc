"""Decide which model takes which series: pure, from a study, the cards and the site's rules.

The first rule for a model of which everything holds decides how it runs; without one it runs live, at routine
priority, to every destination. A site that wants only what it names ends its rules with model "*", mode off.

    conditions, rules   what the site wants               traits, wording   what a series is
    fit                 does a series fit an input        score, choice     which one is taken, each input its own
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence

from models.card import ShelvedCard
from node.choice import choose
from node.fit import Looks
from node.rules import PRIORITIES, check_rules, mode_now, number, rule_for
from node.score import Candidate
from node.settings import Rule
from node.study import Declined, JobPlan, Lacking, Mode, Plan, Study

__all__ = ["PRIORITIES", "check_rules", "job_id", "mode_now", "route"]


def route(study: Study, cards: Mapping[str, ShelvedCard], rules: Sequence[Rule], destinations: Sequence[str]) -> Plan:
    """Give the jobs of a study, and for every model a reason for each series it does not take."""
    jobs: list[JobPlan] = []
    declined: list[Declined] = []
    lacking: list[Lacking] = []
    looks: Looks = {}
    for name, shelved in sorted(cards.items()):
        choice = choose(study, shelved.card, looks)
        reasons = dict(choice.reasons)
        if choice.chosen is not None:
            reference = choice.chosen[shelved.card.reference_role].fit.instances[0]
            rule = rule_for(rules, name, reference)
            if Mode(rule.mode) is Mode.OFF:
                off = f"rule {number(rules, rule)} switches the model off"
                reasons |= {entry.fit.series.series_instance_uid: off for entry in choice.chosen.values()}
            else:
                jobs.append(_job(study, shelved, choice.chosen, rule, destinations))
        elif choice.near is not None and Mode(rule_for(rules, name, choice.near.fit.instances[0]).mode) is not Mode.OFF:
            lacking += [Lacking(model=name, role=part.role, modalities=part.accept.modality) for part in choice.lacking]
        declined.extend(
            Declined(series_instance_uid=series.series_instance_uid, model=name, reason=reasons[series.series_instance_uid])
            for series in study.series
            if series.series_instance_uid in reasons
        )
    return Plan(jobs=tuple(jobs), declined=tuple(declined), lacking=tuple(lacking))


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


def _job(study: Study, shelved: ShelvedCard, chosen: Mapping[str, Candidate], rule: Rule, destinations: Sequence[str]) -> JobPlan:
    model = shelved.card.model
    # The reference role comes first: `mode_now` looks at its first image.
    inputs = {role: tuple(sorted(image.sop_instance_uid for image in entry.fit.instances)) for role, entry in chosen.items()}
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
