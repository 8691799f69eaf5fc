"""What retention and purge ask of the ledger, and what they write: which studies have files, how their work ended, whose they are.

Studies are walked in pages by their UID over partial indexes, so that a page costs the same at a thousand studies and at a million.
"""

from __future__ import annotations

import hashlib
import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from node.ledger import Ledger
from node.ledger.schema import DELIVERIES, HOLDS, INSTANCES, JOB_SERIES, JOBS, PARCELS, PATIENTS, REVISIONS
from node.study import DeliveryState, Instance, JobState, RevisionState

PAGE = 50
OPEN_REVISIONS = (RevisionState.RECEIVING, RevisionState.COMPLETE, RevisionState.HELD)
OPEN_JOBS = (JobState.QUEUED, JobState.RUNNING)
OPEN_DELIVERIES = (DeliveryState.PENDING, DeliveryState.SENT)
DROPPED = "DROPPED"


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """All that was done, or is left to do, on one study. Each state comes with when it was reached; None: not yet, or not known."""

    study_instance_uid: str
    last_received_at: float
    revisions: tuple[tuple[RevisionState, float], ...] = ()
    jobs: tuple[tuple[JobState, float], ...] = ()
    deliveries: tuple[tuple[DeliveryState, float], ...] = ()
    dropped: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class EndedJob:
    """How a job ended, when it and its deliveries had (infinity: they go on), and whether every destination has committed."""

    state: JobState
    ended_at: float
    has_parcel: bool
    committed: bool


def with_files(ledger: Ledger, after: str = "", limit: int = PAGE) -> list[str]:
    """Give Study Instance UIDs that have files in the spool, in order, beyond `after`."""
    return _distinct(ledger, ~INSTANCES.c.removed, after, limit)


def with_rows_only(ledger: Ledger, after: str = "", limit: int = PAGE) -> list[str]:
    """Give Study Instance UIDs that have rows of removed files, in order, beyond `after`."""
    return _distinct(ledger, INSTANCES.c.removed == sa.true(), after, limit)


def _distinct(ledger: Ledger, where: sa.ColumnElement[bool], after: str, limit: int) -> list[str]:
    """Hop through a partial index from study to study instead of reading every image's entry."""
    following = sa.select(sa.func.min(INSTANCES.c.study_instance_uid)).where(where)
    first = following.where(INSTANCES.c.study_instance_uid > after).scalar_subquery()
    page = sa.select(first.label("study"), sa.literal(1).label("number")).cte("page", recursive=True)
    hop = following.where(INSTANCES.c.study_instance_uid > page.c.study).correlate(page).scalar_subquery()
    page = page.union_all(sa.select(hop, page.c.number + 1).where(page.c.study.is_not(None), page.c.number < limit))
    with ledger.reading() as connection:
        return list(connection.execute(sa.select(page.c.study).where(page.c.study.is_not(None))).scalars())


def work_of(ledger: Ledger, study_uids: Sequence[str]) -> list[Work]:
    """Tell what was done on each of these studies (a page of them), by one consistent view."""
    with ledger.reading() as connection:
        revisions = _grouped(connection, REVISIONS, study_uids, REVISIONS.c.ended_at, REVISIONS.c.last_arrival_at)
        jobs = _grouped(connection, JOBS, study_uids, JOBS.c.updated_at, JOBS.c.updated_at)
        deliveries = _deliveries(connection, study_uids)
        let_go = sa.select(HOLDS.c.study_instance_uid).where(HOLDS.c.study_instance_uid.in_(study_uids), HOLDS.c.outcome == DROPPED)
        dropped = set(connection.execute(let_go).scalars())
        received = _last_received(connection, study_uids)
    return [
        Work(
            study_instance_uid=uid,
            last_received_at=received.get(uid, 0.0),
            revisions=tuple((RevisionState(state), at) for state, at in revisions[uid]),
            jobs=tuple((JobState(state), at) for state, at in jobs[uid]),
            deliveries=tuple((DeliveryState(state), at) for state, at in deliveries[uid]),
            dropped=uid in dropped,
        )
        for uid in study_uids
    ]


def _grouped(
    connection: Connection, table: sa.Table, study_uids: Sequence[str], ended: sa.Column[float], touched: sa.Column[float]
) -> dict[str, list[tuple[str, float]]]:
    """Give each study's rows as (state, when), the newest revision last."""
    order = table.c.number if "number" in table.c else table.c.revision
    rows = sa.select(table.c.study_instance_uid, table.c.state, sa.func.coalesce(ended, touched), touched)
    found: dict[str, list[tuple[str, float]]] = defaultdict(list)
    for uid, state, at, last in connection.execute(rows.where(table.c.study_instance_uid.in_(study_uids)).order_by(order)):
        found[uid].append((state, max(at, last)))
    return found


def _deliveries(connection: Connection, study_uids: Sequence[str]) -> dict[str, list[tuple[str, float]]]:
    """Give the deliveries of jobs that still stand: what a newer revision or another try stopped failed nobody."""
    stands = sa.and_(JOBS.c.state != JobState.SUPERSEDED, DELIVERIES.c.generation == JOBS.c.generation)
    rows = (
        sa.select(JOBS.c.study_instance_uid, DELIVERIES.c.state, sa.func.coalesce(DELIVERIES.c.ended_at, DELIVERIES.c.created_at))
        .join(DELIVERIES, DELIVERIES.c.job_id == JOBS.c.job_id)
        .where(JOBS.c.study_instance_uid.in_(study_uids))
        .where(sa.or_(stands, DELIVERIES.c.state != DeliveryState.FAILED))
    )
    found: dict[str, list[tuple[str, float]]] = defaultdict(list)
    for uid, state, at in connection.execute(rows):
        found[uid].append((state, at))
    return found


def _last_received(connection: Connection, study_uids: Sequence[str]) -> dict[str, float]:
    """Give when each study's newest image came: one index entry a study."""
    newest = sa.func.max(INSTANCES.c.received_at)
    mine = sa.select(INSTANCES.c.study_instance_uid, newest).where(INSTANCES.c.study_instance_uid.in_(study_uids), ~INSTANCES.c.removed)
    return {row[0]: row[1] for row in connection.execute(mine.group_by(INSTANCES.c.study_instance_uid))}


def take(ledger: Ledger, study_uid: str, before: float) -> list[tuple[int, str]]:
    """Mark a study's files as gone and give (row, path) of them; nothing where work is left or an image came after `before`.

    The mark comes before the files go and excludes arrivals: an image that comes later opens a revision without them.
    """
    mine = (INSTANCES.c.study_instance_uid == study_uid, ~INSTANCES.c.removed)
    with ledger.writing() as connection:
        ledger.lock(connection, [study_uid])
        newest = connection.execute(sa.select(sa.func.max(INSTANCES.c.received_at)).where(*mine)).scalar()
        if newest is None or newest > before or is_open(connection, study_uid):
            return []
        marked = sa.update(INSTANCES).where(*mine).values(removed=True).returning(INSTANCES.c.instance_id, INSTANCES.c.path)
        return [(row.instance_id, row.path) for row in connection.execute(marked)]


def is_open(connection: Connection, study_uid: str) -> bool:
    """Tell whether anything is left to do on a study."""
    revisions = sa.select(REVISIONS.c.revision_id).where(REVISIONS.c.study_instance_uid == study_uid, REVISIONS.c.state.in_(OPEN_REVISIONS))
    jobs = sa.select(JOBS.c.job_id).where(JOBS.c.study_instance_uid == study_uid, JOBS.c.state.in_(OPEN_JOBS))
    deliveries = (
        sa.select(DELIVERIES.c.delivery_id)
        .join(JOBS, DELIVERIES.c.job_id == JOBS.c.job_id)
        .where(JOBS.c.study_instance_uid == study_uid, DELIVERIES.c.state.in_(OPEN_DELIVERIES))
    )
    return any(connection.execute(some.limit(1)).first() is not None for some in (revisions, jobs, deliveries))


def forget(ledger: Ledger, study_uid: str) -> int:
    """Delete the rows of a study's removed images, and the lists and patients in its jobs; ids, states and reasons stay.

    Nothing while a file of it is in the spool. Returns how many rows went.
    """
    mine = INSTANCES.c.study_instance_uid == study_uid
    with ledger.writing() as connection:
        ledger.lock(connection, [study_uid])
        if connection.execute(sa.select(INSTANCES.c.instance_id).where(mine, ~INSTANCES.c.removed).limit(1)).first() is not None:
            return 0
        newest = sa.select(sa.func.max(REVISIONS.c.number)).where(REVISIONS.c.study_instance_uid == study_uid).scalar_subquery()
        counted = sa.select(sa.func.count(), sa.func.count(sa.distinct(INSTANCES.c.series_instance_uid))).where(mine, ~INSTANCES.c.conflict)
        images, series = connection.execute(counted).one()
        last = sa.update(REVISIONS).where(REVISIONS.c.study_instance_uid == study_uid, REVISIONS.c.number == newest)
        connection.execute(last.values(images_were=images, series_were=series))
        for row in connection.execute(sa.select(JOBS.c.job_id, JOBS.c.inputs).where(JOBS.c.study_instance_uid == study_uid)).all():
            _forget_job(connection, row)
        return connection.execute(sa.delete(INSTANCES).where(mine)).rowcount


def _forget_job(connection: Connection, row: Any) -> None:
    if row.inputs:
        count = sum(len(uids) for uids in row.inputs.values())
        connection.execute(sa.update(JOBS).where(JOBS.c.job_id == row.job_id).values(inputs={}, images_were=count, patient=None))
    connection.execute(sa.delete(JOB_SERIES).where(JOB_SERIES.c.job_id == row.job_id))


def ended_jobs(ledger: Ledger, job_ids: Sequence[str]) -> dict[str, EndedJob]:
    """Tell of these jobs how and when they and all their deliveries ended; a job nobody knows is absent."""
    with ledger.reading() as connection:
        stored = set(connection.execute(sa.select(PARCELS.c.job_id).where(PARCELS.c.job_id.in_(job_ids))).scalars())
        sends = sa.select(DELIVERIES.c.job_id, DELIVERIES.c.state, DELIVERIES.c.ended_at).where(DELIVERIES.c.job_id.in_(job_ids))
        sent: dict[str, list[Any]] = defaultdict(list)
        for row in connection.execute(sends):
            sent[row.job_id].append(row)
        found = {}
        for row in connection.execute(sa.select(JOBS.c.job_id, JOBS.c.state, JOBS.c.updated_at).where(JOBS.c.job_id.in_(job_ids))):
            mine = sent[row.job_id]
            goes_on = row.state in OPEN_JOBS or any(entry.state in OPEN_DELIVERIES for entry in mine)
            found[row.job_id] = EndedJob(
                state=JobState(row.state),
                ended_at=math.inf if goes_on else max([row.updated_at, *(entry.ended_at or 0.0 for entry in mine)]),
                has_parcel=row.job_id in stored,
                committed=bool(mine) and all(entry.state == DeliveryState.COMMITTED for entry in mine),
            )
    return found


def jobs_of(ledger: Ledger, study_uid: str) -> list[str]:
    """Give the ids of a study's jobs."""
    with ledger.reading() as connection:
        return list(connection.execute(sa.select(JOBS.c.job_id).where(JOBS.c.study_instance_uid == study_uid)).scalars())


def patient_key(patient_id: str) -> str:
    """Give the key under which a patient's studies are found; the ID cannot be read from it."""
    return hashlib.sha256(patient_id.strip(" \0").encode()).hexdigest()[:32]


def note_patients(ledger: Ledger, connection: Connection, images: Sequence[Instance]) -> None:
    """Remember whose images these are, conflicting ones too."""
    rows = {
        (entry.study_instance_uid, patient_key(patient_id), str(entry.header.get("IssuerOfPatientID") or "").strip(" \0")[:64])
        for entry in images
        if (patient_id := str(entry.header.get("PatientID") or "").strip(" \0"))
    }
    if rows:
        values = [{"study_instance_uid": study, "patient_key": key, "issuer": issuer} for study, key, issuer in sorted(rows)]
        connection.execute(ledger.insert(PATIENTS).on_conflict_do_nothing(), values)


def studies_of_patient(ledger: Ledger, patient_id: str) -> Iterator[tuple[str, str]]:
    """Give (Study Instance UID, issuer) of every study that holds images of that patient ID."""
    mine = sa.select(PATIENTS.c.study_instance_uid, PATIENTS.c.issuer).where(PATIENTS.c.patient_key == patient_key(patient_id))
    with ledger.reading() as connection:
        rows = connection.execute(mine.order_by(PATIENTS.c.study_instance_uid)).all()
    yield from ((row.study_instance_uid, row.issuer) for row in rows)
