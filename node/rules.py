"""The site's rules: the first one that holds for a model and an image decides mode, priority and destinations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from models.card import ShelvedCard
from node import conditions
from node.errors import Misconfigured
from node.header import INDEXED
from node.settings import Rule, Settings
from node.study import Instance, Job, Mode

# Celery on Redis: 0 is the highest (kombu maps them to its steps 0, 3, 6, 9).
PRIORITIES: Mapping[str, int] = {"stat": 0, "routine": 5, "low": 9}
DEFAULT_RULE = Rule(model="*")


def rule_for(rules: Sequence[Rule], model: str, reference: Instance) -> Rule:
    """Give the first rule that holds; without one the model runs live, at routine priority, for every destination."""
    return next((rule for rule in rules if rule.model in {"*", model} and holds(rule, reference)), DEFAULT_RULE)


def holds(rule: Rule, reference: Instance) -> bool:
    """Judge a rule on the first image of a job's reference input."""
    return (
        (not rule.called_ae or reference.called_ae in rule.called_ae)
        and (not rule.calling_ae or reference.calling_ae in rule.calling_ae)
        and (not rule.when or conditions.holds(conditions.parse(rule.when), reference))
        and all(conditions.holds(condition, reference) for condition in rule.conditions)
    )


def number(rules: Sequence[Rule], rule: Rule) -> int | None:
    """Give a rule's place in the file, from 1; None for the default."""
    return next((index for index, entry in enumerate(rules, start=1) if entry is rule), None)


def mode_now(settings: Settings, job: Job, reference: Instance | None = None) -> Mode:
    """Give the mode that today's rules give a planned job: off takes effect for queued jobs too.

    `reference` is the first image of the job's first input. Without it a rule with conditions cannot be judged:
    the job then keeps its mode unless a rule without conditions comes first.
    """
    for rule in settings.rules:
        if rule.model not in {"*", job.model}:
            continue
        if reference is None and (rule.called_ae or rule.calling_ae or rule.when or rule.conditions):
            return job.mode
        if reference is None or holds(rule, reference):
            return Mode(rule.mode)
    return Mode(DEFAULT_RULE.mode)


def check_rules(rules: Sequence[Rule], cards: Mapping[str, ShelvedCard]) -> None:
    """Refuse rules and cards that can never do what they say; raises Misconfigured."""
    for index, rule in enumerate(rules, start=1):
        if rule.model != "*" and rule.model not in cards:
            raise Misconfigured(f"rule {index} names the model {rule.model!r}; there are: {', '.join(sorted(cards)) or 'none'}")
        looks_at = {condition.tag for condition in rule.conditions}
        if rule.when:
            looks_at |= set(conditions.names(conditions.parse(rule.when)))
        _indexed(f"rule {index}", looks_at)
    for name, shelved in sorted(cards.items()):
        for part in shelved.card.inputs:
            _indexed(f"the card of {name}, input {part.role},", {condition.tag for condition in part.accept.conditions})


def _indexed(who: str, looks_at: set[str]) -> None:
    for name in sorted(looks_at.difference(INDEXED, conditions.OWN_NAMES)):
        there = ", ".join((*conditions.OWN_NAMES, *INDEXED))
        raise Misconfigured(f"{who} looks at {name}, which is not indexed; there are: {there}")
