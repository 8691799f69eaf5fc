"""`overread fetch`: what a peer has and this node lacks, of a study or of its priors. No patient data comes out."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from rich.progress import Progress

from node import fetch
from node.errors import Misconfigured
from node.ledger import Ledger, open_ledger
from node.settings import Peer, Settings
from node.spool import Spool


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What the command line asks for."""

    study: str
    series: str | None = None
    peer: str | None = None
    priors: int = 0
    modality: str | None = None
    dry_run: bool = False
    as_json: bool = False


def main(settings: Settings, wish: Wish) -> int:
    """Fetch; exit code 0 when all that the peer has of it is here now, 1 when not. Raises Refused, Retryable, Misconfigured."""
    ledger = open_ledger(settings)
    try:
        peer = settings.peer(wish.peer) if wish.peer else fetch.peer_for(settings, ledger, wish.study)
        studies = []
        for wanted in _wanted(settings, ledger, peer, wish):
            plan = fetch.plan(settings, ledger, peer, wanted)
            outcome = None if wish.dry_run or not plan.missing else _retrieve(settings, ledger, plan)
            studies.append(_facts(plan, outcome))
            if not wish.as_json:
                _show(studies[-1])
    finally:
        ledger.close()
    if wish.as_json:
        print(json.dumps({"peer": peer.name, "how": peer.retrieve, "studies": studies}, indent=2))
    elif not studies:
        print(f"{peer.name} has no earlier study of this patient with {wish.modality}")
    return 0 if wish.dry_run or all(study["complete"] for study in studies) else 1


def _wanted(settings: Settings, ledger: Ledger, peer: Peer, wish: Wish) -> Iterator[fetch.Wanted]:
    """Give what is to be planned for: the study, or its priors, newest first."""
    if not wish.priors:
        yield fetch.Wanted(study_instance_uid=wish.study, series_instance_uid=wish.series, modality=wish.modality)
        return
    if wish.modality is None or wish.series is not None:
        raise Misconfigured("--prior goes with --modality, for example --prior 1 --modality CT, and without --series")
    query = fetch.prior_query(settings, ledger, peer, wish.study, wish.modality)
    for prior in fetch.priors(settings, peer, query)[: wish.priors]:
        yield fetch.Wanted(study_instance_uid=prior.study_instance_uid, modality=wish.modality, patient=query.patient)


def _retrieve(settings: Settings, ledger: Ledger, plan: fetch.FetchPlan) -> fetch.FetchOutcome:
    spool = Spool(settings.data_dir, settings.node.free_disk_min_mb, max_bytes=settings.node.max_instance_bytes)
    with Progress(transient=True, disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task(f"from {plan.peer}", total=len(plan.missing))
        return fetch.retrieve(settings, ledger, spool, plan, lambda here, _asked: bar.update(task, completed=here))


def _facts(plan: fetch.FetchPlan, outcome: fetch.FetchOutcome | None) -> dict[str, Any]:
    """Give the story of one study as plain values; without an outcome nothing was fetched."""
    series = [
        {
            "series": entry.series_instance_uid,
            "modality": entry.modality,
            "at_peer": len(entry.listed),
            "missing_before": len(entry.missing),
        }
        for entry in plan.series
    ]
    facts: dict[str, Any] = {"study": plan.study_instance_uid, "series": series, "our_results_at_peer": plan.ours}
    missing = plan.missing if outcome is None else outcome.missing
    refused = {} if outcome is None else {reason: len(uids) for reason, uids in outcome.refused.items()}
    return facts | {
        "retrieved": 0 if outcome is None else len(outcome.retrieved),
        "refused": refused,
        "missing": list(missing),
        "warnings": [] if outcome is None else list(outcome.warnings),
        "attempts": 0 if outcome is None else outcome.attempts,
        "complete": not missing,
    }


def _show(study: dict[str, Any]) -> None:
    print(f"study {study['study']}")
    for entry in study["series"]:
        lack = "all here" if not entry["missing_before"] else f"{entry['missing_before']} not here"
        print(f"  series {entry['series']} {entry['modality'] or '(no modality)'}: {entry['at_peer']} at the peer, {lack}")
    if not study["series"]:
        print("  the peer lists no series that was asked for")
    if study["attempts"]:
        print(f"  {study['retrieved']} images fetched in {study['attempts']} attempt{'s' * (study['attempts'] != 1)}")
    for reason, count in study["refused"].items():
        print(f"  {count} refused: {reason}")
    for warning in study["warnings"]:
        print(f"  the peer: {warning}")
    if study["attempts"] and study["missing"]:
        print(f"  {len(study['missing'])} images are still missing")
