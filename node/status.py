"""What the ledger knows, as JSON: counts for the overview, one study's whole story. No patient data comes out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from node.ledger import Ledger, holds, removal
from node.ledger.parcels import of_job_in
from node.ledger.schema import (
    DECLINES,
    DELIVERIES,
    DELIVERY_OBJECTS,
    INSTANCES,
    JOBS,
    REVISIONS,
    STAGE_TIMES,
    TRANSACTIONS,
)
from node.study import DeliveryState, JobState, RevisionState, Stage

LISTED = 20
COUNTED_DAYS = 30
STATES: Mapping[str, tuple[type[RevisionState | JobState | DeliveryState], tuple[str, ...]]] = {
    "revisions": (RevisionState, removal.OPEN_REVISIONS),
    "jobs": (JobState, removal.OPEN_JOBS),
    "deliveries": (DeliveryState, removal.OPEN_DELIVERIES),
}


def overview(ledger: Ledger) -> dict[str, Any]:
    """Count studies, jobs and deliveries by state, and list what a human should look at.

    What is live is counted whole; what has ended, of the last COUNTED_DAYS, for a ledger of many years is counted no faster than read.
    """
    now = ledger.clock()
    since = now - COUNTED_DAYS * 86400.0
    with ledger.reading() as connection:
        return {
            "counted_days": COUNTED_DAYS,
            "revisions": _counts(connection, REVISIONS, REVISIONS.c.last_arrival_at, since),
            "jobs": _counts(connection, JOBS, JOBS.c.updated_at, since),
            "deliveries": _counts(connection, DELIVERIES, DELIVERIES.c.ended_at, since),
            "queues": _queues(connection, now),
            "held": _revisions_to_look_at(connection),
            "failed_jobs": _jobs_to_look_at(connection),
            "failed_deliveries": _deliveries_to_look_at(connection),
        }


def of_study(ledger: Ledger, name: str) -> dict[str, Any]:
    """Tell the story of the studies of that Study Instance UID or accession number; an unknown one has none."""
    number = name.strip()
    with ledger.reading() as connection:
        known = sa.select(REVISIONS.c.study_instance_uid).where(
            sa.or_(REVISIONS.c.study_instance_uid == number, REVISIONS.c.accession_number == number)
        )
        uids = sorted(set(connection.execute(known).scalars()))
        return {"studies": [_study(connection, uid) for uid in uids]}


def _study(connection: Connection, study_uid: str) -> dict[str, Any]:
    received = sa.select(sa.func.count(), sa.func.count(sa.distinct(INSTANCES.c.series_instance_uid)))
    images, series = connection.execute(received.where(INSTANCES.c.study_instance_uid == study_uid, ~INSTANCES.c.conflict)).one()
    mine = sa.select(REVISIONS).where(REVISIONS.c.study_instance_uid == study_uid).order_by(REVISIONS.c.number)
    revisions = connection.execute(mine).all()
    # What retention has forgotten is counted, what came after that as well.
    images += max((row.images_were or 0 for row in revisions), default=0)
    series += max((row.series_were or 0 for row in revisions), default=0)
    jobs = sa.select(JOBS).where(JOBS.c.study_instance_uid == study_uid).order_by(JOBS.c.created_at, JOBS.c.model)
    return {
        "study": study_uid,
        "images": images,
        "series": series,
        "holds": holds.history(connection, study_uid),
        "revisions": [_revision(connection, row) for row in revisions],
        "jobs": [_job(connection, row) for row in connection.execute(jobs).all()],
    }


def _revision(connection: Connection, row: Row[Any]) -> dict[str, Any]:
    why = sa.select(DECLINES).where(DECLINES.c.revision_id == row.revision_id).order_by(DECLINES.c.model, DECLINES.c.series_instance_uid)
    keys = ("number", "state", "opened_at", "last_arrival_at", "completed_at", "ended_at", "evidence", "sender", "reason", "warnings")
    return _some(row, keys) | {"declined": [_some(each, ("model", "series_instance_uid", "reason")) for each in connection.execute(why)]}


def _job(connection: Connection, row: Row[Any]) -> dict[str, Any]:
    keys = ("job_id", "generation", "revision", "model", "version", "mode", "priority", "state", "stage", "attempt", "created_at", "reason")
    more = ("provisional", "predecessor", "told")
    times = sa.select(STAGE_TIMES).where(STAGE_TIMES.c.job_id == row.job_id).order_by(STAGE_TIMES.c.fence)
    deliveries = sa.select(DELIVERIES).where(DELIVERIES.c.job_id == row.job_id)
    parcels = of_job_in(connection, row.job_id)
    return _some(row, keys + more) | {
        # Who told whose results they are, never whose.
        "patient": (row.patient or {}).get("said"),
        "images": row.images_were or sum(len(uids) for uids in row.inputs.values()),
        "stages": [_some(each, ("stage", "attempt", "started_at", "ended_at", "outcome")) for each in connection.execute(times)],
        "summary": parcels[0].summary if parcels else None,
        "profiles": {parcel.profile: parcel.profile_digest for parcel in parcels},
        "objects": [
            {"kind": each.kind, "sop_instance_uid": each.sop_instance_uid, "profile": parcel.profile}
            for parcel in parcels
            for each in parcel.objects
        ],
        "deliveries": [_delivery(connection, each) for each in connection.execute(deliveries.order_by(DELIVERIES.c.destination)).all()],
    }


def _delivery(connection: Connection, row: Row[Any]) -> dict[str, Any]:
    keys = ("destination", "profile", "wants_profile", "state", "attempt", "created_at", "started_at", "sent_at", "ended_at", "next_at")
    mine = DELIVERY_OBJECTS.c.delivery_id == row.delivery_id
    total, sent, committed = connection.execute(
        sa.select(sa.func.count(), sa.func.count(DELIVERY_OBJECTS.c.sent_at), sa.func.count(DELIVERY_OBJECTS.c.committed_at)).where(mine)
    ).one()
    asked = sa.select(sa.func.count()).select_from(TRANSACTIONS).where(TRANSACTIONS.c.delivery_id == row.delivery_id)
    counts = {"objects": total, "sent": sent, "committed": committed, "commitment_requests": connection.execute(asked).scalar()}
    return _some(row, (*keys, "proof", "reason")) | {"refusals": row.refusals or []} | counts


def _counts(connection: Connection, table: sa.Table, when: sa.Column[float], since: float) -> dict[str, int]:
    """Count live rows, and those that ended since then: an entry of an index each, however many ended before."""
    states, live = STATES[table.name]
    state = table.c.state
    recent = sa.select(state, sa.func.count()).where(state.in_(live)).group_by(state)
    ended = sa.select(state, sa.func.count()).where(state.in_([each for each in states if each not in live]), when >= since)
    found = {row[0]: row[1] for row in connection.execute(sa.union_all(recent, ended.group_by(state)))}
    return {str(each): int(found.get(str(each), 0)) for each in states}


def _queues(connection: Connection, now: float) -> dict[str, dict[str, Any]]:
    """Count what waits and what runs, a stage; `oldest_s` is how long the longest waiting has waited."""
    live = JOBS.c.state.in_([JobState.QUEUED, JobState.RUNNING])
    grouped = sa.select(JOBS.c.stage, JOBS.c.state, sa.func.count(), sa.func.min(JOBS.c.updated_at)).where(live)
    queues: dict[str, dict[str, Any]] = {}
    for stage, state, count, since in connection.execute(grouped.group_by(JOBS.c.stage, JOBS.c.state)):
        entry = queues.setdefault(stage, {"queued": 0, "running": 0, "oldest_s": 0.0})
        entry[state.lower()] = count
        if state == JobState.QUEUED:
            entry["oldest_s"] = round(max(now - since, 0.0), 3)
    running = sa.func.count(sa.case((DELIVERIES.c.lease_until > now, 1)))
    anew = DELIVERIES.c.wants_profile.is_not(None)
    pending = sa.select(anew, sa.func.count(), running, sa.func.min(DELIVERIES.c.created_at))
    for wants, total, busy, since in connection.execute(pending.where(DELIVERIES.c.state == DeliveryState.PENDING).group_by(anew)):
        stage = Stage.RECOMPOSE if wants else Stage.DELIVER
        queues[str(stage)] = {"queued": total - busy, "running": busy, "oldest_s": round(max(now - since, 0.0), 3)}
    return queues


def _revisions_to_look_at(connection: Connection) -> list[dict[str, Any]]:
    keys = ("study_instance_uid", "number", "completed_at", "reason")
    held = (
        sa.select(*(REVISIONS.c[key] for key in keys))
        .where(REVISIONS.c.state == RevisionState.HELD)
        .order_by(REVISIONS.c.completed_at.desc())
        .limit(LISTED)
    )
    return [_some(row, keys) for row in connection.execute(held)]


def _jobs_to_look_at(connection: Connection) -> list[dict[str, Any]]:
    keys = ("study_instance_uid", "job_id", "model", "stage", "updated_at", "reason")
    failed = (
        sa.select(*(JOBS.c[key] for key in keys)).where(JOBS.c.state == JobState.FAILED).order_by(JOBS.c.updated_at.desc()).limit(LISTED)
    )
    return [_some(row, keys) for row in connection.execute(failed)]


def _deliveries_to_look_at(connection: Connection) -> list[dict[str, Any]]:
    keys = ("delivery_id", "job_id", "destination", "ended_at", "reason")
    failed = (
        sa.select(*(DELIVERIES.c[key] for key in keys))
        .where(DELIVERIES.c.state == DeliveryState.FAILED)
        .order_by(DELIVERIES.c.ended_at.desc())
        .limit(LISTED)
    )
    return [_some(row, keys) for row in connection.execute(failed)]


def _some(row: Row[Any], keys: tuple[str, ...]) -> dict[str, Any]:
    values: Mapping[str, Any] = row._mapping  # type: ignore[assignment]  # noqa: SLF001 -- SQLAlchemy's public name for it
    return {key: values[key] for key in keys}
