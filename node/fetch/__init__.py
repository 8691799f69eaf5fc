"""Search a peer and retrieve from it what is not here: the rest of a series that stopped arriving, a prior, a named series.

    plan.py       nouns: what is asked for, what became of it
    search.py     what the peer has, by C-FIND; dicomweb.py asks by QIDO-RS
    dimse.py      C-GET and C-MOVE; dicomweb.py retrieves by WADO-RS, web.py and multipart.py carry it
    entrance.py   the spool's door, for what was asked for and nothing else
    known.py      what is here already

Fetching is idempotent: what is here is not asked for, and what comes twice is stored once. Nothing here moves work: images
that come enter the index like received ones, and open or extend a revision as they do.
Ref: PS3.4 C; PS3.18 10
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from node import journal
from node.errors import Misconfigured, Refused, Retryable
from node.fetch import dicomweb, dimse, known
from node.fetch.entrance import Entrance, Sender
from node.fetch.plan import (
    Deadline,
    FetchOutcome,
    FetchPlan,
    FoundImage,
    FoundSeries,
    Patient,
    Prior,
    PriorQuery,
    Progress,
    SeriesPlan,
)
from node.fetch.search import Search, asking
from node.fetch.web import Web
from node.ledger import Ledger
from node.settings import Peer, Settings
from node.spool import Spool

__all__ = [
    "FetchOutcome", "FetchPlan", "Patient", "Prior", "PriorQuery", "Progress", "SeriesPlan", "Wanted",
    "complete_series", "missing", "peer_for", "plan", "prior_query", "priors", "retrieve",
]  # fmt: skip

log = journal.get("fetch")
_WAYS = {"c-move": dimse.move, "c-get": dimse.get, "wado-rs": dicomweb.get}


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What of a study is wanted: all of it, one series, one modality's, or (known_only) series of which something is here.

    patient  whose study it must be, where that is known beforehand
    """

    study_instance_uid: str
    series_instance_uid: str | None = None
    modality: str | None = None
    known_only: bool = False
    patient: Patient | None = field(default=None, repr=False)


def missing(settings: Settings, ledger: Ledger, study_uid: str, series_uid: str | None = None, *, peer: Peer | None = None) -> FetchPlan:
    """Find what a peer (none named: the one that sent the study) has of a study, or of one series, that is not here.

    Raises Retryable when the peer does not answer, Refused when it will not or does not have it, Misconfigured.
    """
    peer = peer or peer_for(settings, ledger, study_uid)
    return plan(settings, ledger, peer, Wanted(study_instance_uid=study_uid, series_instance_uid=series_uid))


def plan(settings: Settings, ledger: Ledger, peer: Peer, wanted: Wanted) -> FetchPlan:
    """Find what a peer has of what is wanted that is not here; our own results there are left out. Raises as `missing`."""
    return _plan(settings, ledger, peer, wanted, Deadline(peer.retrieve_timeout_s))


def retrieve(
    settings: Settings, ledger: Ledger, spool: Spool, plan: FetchPlan, progress: Progress = lambda _here, _asked: None
) -> FetchOutcome:
    """Retrieve what a plan lacks, in a bounded number of attempts and a bounded time; idempotent.

    Raises Retryable or Refused when nothing at all came; trouble after some came is among the outcome's warnings.
    """
    peer = settings.peer(plan.peer)
    run = _Run(settings=settings, ledger=ledger, spool=spool, peer=peer, progress=progress, deadline=Deadline(peer.retrieve_timeout_s))
    return _retrieve(run, plan)


def complete_series(settings: Settings, ledger: Ledger, spool: Spool, peer: Peer, study_uid: str) -> FetchOutcome:
    """Fetch what a peer has, and we lack, of those series of a study of which something is here.

    Takes no longer than the peer's `retrieve_timeout_s`, search included. An outcome with nothing asked says that nothing
    is missing. Raises Retryable (the peer is away, broke off before anything came, or time is up) and Refused (it will not).
    """
    deadline = Deadline(peer.retrieve_timeout_s)
    found = _plan(settings, ledger, peer, Wanted(study_instance_uid=study_uid, known_only=True), deadline)
    run = _Run(settings=settings, ledger=ledger, spool=spool, peer=peer, progress=lambda _here, _asked: None, deadline=deadline)
    return _retrieve(run, found)


def priors(settings: Settings, peer: Peer, query: PriorQuery) -> list[Prior]:
    """Give a patient's earlier studies with a modality, newest first; what the peer answers beyond that is left out.

    Raises Refused for a patient ID by which nobody can be searched: an empty one would match every patient. Also Retryable.
    """
    _need_retrieval(peer)
    patient_id = query.patient.patient_id
    if not patient_id or re.search(r"[*?\\]", patient_id):
        raise Refused("the study has no patient ID by which earlier studies can be searched for")
    if not re.fullmatch(r"\d{8}", query.before_date):
        raise Refused("the study has no date before which earlier studies can be searched for")
    with _searching(settings, peer, Deadline(peer.retrieve_timeout_s)) as search:
        found = {prior.study_instance_uid: prior for prior in search.studies(query) if _is_prior(prior, query)}
    return sorted(found.values(), key=lambda prior: (prior.study_date, prior.study_time), reverse=True)


def prior_query(settings: Settings, ledger: Ledger, peer: Peer, study_uid: str, modality: str) -> PriorQuery:
    """Describe the priors of a study, by its images that are here or else by what the peer says of it. Raises as `missing`."""
    first = known.first(ledger, study_uid)
    if first is not None:
        _, header = first
        patient, date, at = known.patient_of(header), str(header.get("StudyDate", "")), str(header.get("StudyTime", ""))
    else:
        with _searching(settings, peer, Deadline(peer.retrieve_timeout_s)) as search:
            study = search.study(study_uid)
        if study is None:
            raise Refused(f"the study is neither here nor at {peer.name}")
        patient, date, at = study.patient, study.study_date, study.study_time
    return PriorQuery(patient=patient, modality=modality, before_date=date, before_time=at, study_instance_uid=study_uid)


def peer_for(settings: Settings, ledger: Ledger, study_uid: str) -> Peer:
    """Choose whom to fetch from: of the peers with `retrieve`, the only one, or the one that sent the study. Raises Misconfigured."""
    able = [peer for peer in settings.peers if peer.retrieve != "none"]
    first = known.first(ledger, study_uid)
    senders = [peer for peer in able if first is not None and peer.ae_title == first[0]]
    if not able:
        raise Misconfigured('no [[peers]] entry can be fetched from; set retrieve = "c-get", "c-move" or "wado-rs" for one')
    if len(able) > 1 and len(senders) != 1:
        raise Misconfigured(f"several peers can be fetched from; name one of {', '.join(peer.name for peer in able)}")
    return able[0] if len(able) == 1 else senders[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Run:
    """What one retrieval works with."""

    settings: Settings
    ledger: Ledger
    spool: Spool
    peer: Peer
    progress: Progress
    deadline: Deadline


def _need_retrieval(peer: Peer) -> None:
    if peer.retrieve == "none":
        raise Refused(f'{peer.name} is not fetched from: set retrieve = "c-get", "c-move" or "wado-rs" in its [[peers]] entry')


@contextmanager
def _searching(settings: Settings, peer: Peer, deadline: Deadline) -> Iterator[Search]:
    """Open whatever the peer is searched by."""
    if peer.retrieve == "wado-rs":
        with Web(settings, peer, deadline) as web:
            yield dicomweb.Qido(web)
    else:
        with asking(settings, peer, deadline) as search:
            yield search


def _plan(settings: Settings, ledger: Ledger, peer: Peer, wanted: Wanted, deadline: Deadline) -> FetchPlan:
    _need_retrieval(peer)
    study_uid = wanted.study_instance_uid
    held = known.held(ledger, study_uid)
    known_series = frozenset(held.values())
    with _searching(settings, peer, deadline) as search:
        study = search.study(study_uid)
        if study is None:
            raise Refused(f"{peer.name} does not have the study")
        listed: dict[FoundSeries, dict[str, FoundImage]] = {}
        for series in search.series(study_uid):
            if _is_wanted(series, wanted, known_series):
                deadline.need()
                images = search.images(study_uid, series.series_instance_uid)
                listed[series] = {image.sop_instance_uid: image for image in images}
    if wanted.series_instance_uid is not None and not listed:
        raise Refused(f"{peer.name} does not list that series in the study")
    ours = known.ours(ledger, [uid for images in listed.values() for uid in images])
    entries = (_series_plan(series, images, {*held, *ours}) for series, images in listed.items())
    first = known.first(ledger, study_uid)
    said = study.patient if study.patient.patient_id else None
    patient = wanted.patient or (said if first is None else known.patient_of(first[1]))
    return FetchPlan(
        peer=peer.name, how=peer.retrieve, study_instance_uid=study_uid, series=tuple(entries), ours=len(ours), patient=patient
    )


def _is_wanted(series: FoundSeries, wanted: Wanted, known_series: frozenset[str]) -> bool:
    return (
        wanted.series_instance_uid in {None, series.series_instance_uid}
        and wanted.modality in {None, series.modality}
        and (not wanted.known_only or series.series_instance_uid in known_series)
    )


def _series_plan(series: FoundSeries, images: dict[str, FoundImage], not_wanted: set[str]) -> SeriesPlan:
    return SeriesPlan(
        series_instance_uid=series.series_instance_uid,
        modality=series.modality,
        listed=tuple(images.values()),
        missing=tuple(sorted(set(images) - not_wanted)),
    )


def _retrieve(run: _Run, plan: FetchPlan) -> FetchOutcome:
    _need_retrieval(run.peer)
    entrance = Entrance(run.spool, run.ledger, plan, run.progress)
    warnings: list[str] = []
    trouble: Retryable | Refused | None = None
    attempts = 0
    while attempts < run.peer.retrieve_attempts and (left := plan.only(set(plan.missing) - entrance.settled)).series:
        if attempts:
            time.sleep(min(run.peer.retry_first_s, run.deadline.left_s))
        attempts += 1
        try:
            trouble = None
            warnings += _attempt(run, left, entrance)
        except Retryable as error:
            trouble = error
            warnings.append(error.reason)
        except Refused as error:
            trouble = error
            warnings.append(error.reason)
            break
        finally:
            entrance.index()
    asked = plan.missing
    here = known.here(run.ledger, asked)
    if trouble is not None and not here and not entrance.refused:
        raise trouble
    outcome = FetchOutcome(
        peer=plan.peer,
        how=plan.how,
        study_instance_uid=plan.study_instance_uid,
        asked=len(asked),
        retrieved=tuple(uid for uid in asked if uid in here),
        refused={reason: tuple(sorted(uids)) for reason, uids in entrance.refused.items()},
        missing=tuple(uid for uid in asked if uid not in here),
        warnings=tuple(dict.fromkeys(warnings)),
        attempts=attempts,
    )
    _note(outcome)
    return outcome


def _attempt(run: _Run, left: FetchPlan, entrance: Entrance) -> list[str]:
    sender = Sender(calling_ae=run.peer.ae_title, called_ae=run.peer.calling_ae or run.settings.node.ae_titles[0], host=run.peer.host)
    errand = dimse.Errand(settings=run.settings, peer=run.peer, plan=left, deadline=run.deadline, entrance=entrance, sender=sender)
    return _WAYS[left.how](errand)


def _note(outcome: FetchOutcome) -> None:
    log.info(
        "fetch.ended",
        study=outcome.study_instance_uid,
        peer=outcome.peer,
        how=outcome.how,
        asked=outcome.asked,
        retrieved=len(outcome.retrieved),
        refused=sum(map(len, outcome.refused.values())),
        missing=len(outcome.missing),
        attempts=outcome.attempts,
    )


def _is_prior(prior: Prior, query: PriorQuery) -> bool:
    earlier = (prior.study_date, prior.study_time) < (query.before_date, query.before_time)
    return (
        earlier
        and len(prior.study_date) == 8
        and prior.study_instance_uid != query.study_instance_uid
        and prior.patient.is_same(query.patient)
        and (not prior.modalities or not query.modality or query.modality in prior.modalities)
    )
