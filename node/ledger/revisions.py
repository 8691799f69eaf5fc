"""Study revisions: RECEIVING -> COMPLETE -> PLANNED | DECLINED | HELD | SUPERSEDED.

A revision is what had arrived of a study when it was frozen. A later image opens the next one; a job whose
inputs that image does not change keeps its id and goes on under the new revision.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from node.ledger import Ledger
from node.ledger.schema import (
    DECLINES,
    DELIVERIES,
    DELIVERY_OBJECTS,
    INSTANCES,
    JOB_SERIES,
    JOBS,
    PARCELS,
    REVISIONS,
)
from node.settings import AssemblySection
from node.study import DeliveryState, Instance, JobPlan, JobState, Plan, RevisionState, Stage

_LIVE = (JobState.QUEUED, JobState.RUNNING)
_GONE = (JobState.SUPERSEDED, JobState.CANCELLED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Revision:
    """A revision row; `fence` is what a decision about it must name."""

    revision_id: int
    study_instance_uid: str
    number: int
    state: RevisionState
    fence: int
    opened_at: float
    last_arrival_at: float
    completed_at: float | None
    quiet_factor: int
    released: bool
    evidence: Mapping[str, Any] | None
    reason: str | None


def get(ledger: Ledger, revision_id: int) -> Revision:
    """Give the revision; raises KeyError."""
    with ledger.reading() as connection:
        row = connection.execute(sa.select(REVISIONS).where(REVISIONS.c.revision_id == revision_id)).one_or_none()
    if row is None:
        raise KeyError(revision_id)
    return _revision(row)


def of_study(ledger: Ledger, study_uid: str) -> list[Revision]:
    """Give every revision of a study, oldest first."""
    mine = sa.select(REVISIONS).where(REVISIONS.c.study_instance_uid == study_uid).order_by(REVISIONS.c.number)
    with ledger.reading() as connection:
        return [_revision(row) for row in connection.execute(mine)]


def in_state(ledger: Ledger, state: RevisionState, limit: int = 200) -> list[Revision]:
    """Give revisions in that state, the longest waiting first."""
    found = sa.select(REVISIONS).where(REVISIONS.c.state == state).order_by(REVISIONS.c.last_arrival_at).limit(limit)
    with ledger.reading() as connection:
        return [_revision(row) for row in connection.execute(found)]


def due(ledger: Ledger, now: float, assembly: AssemblySection) -> list[Revision]:
    """Give RECEIVING revisions whose quiet time (doubled with each revision, up to the cap) has passed."""
    wanted = assembly.quiet_s * REVISIONS.c.quiet_factor
    # A cap below the base would shorten the first wait too: the base always holds.
    cap = max(assembly.quiet_max_s, assembly.quiet_s)
    quiet_s = sa.case((wanted > cap, cap), else_=wanted)
    quiet = sa.select(REVISIONS).where(REVISIONS.c.state == RevisionState.RECEIVING, REVISIONS.c.last_arrival_at + quiet_s <= now)
    with ledger.reading() as connection:
        return [_revision(row) for row in connection.execute(quiet.order_by(REVISIONS.c.last_arrival_at))]


def arrive(ledger: Ledger, connection: Connection, study_uid: str, images: Sequence[Instance]) -> int:
    """Open or extend the RECEIVING revision of a study for new images; returns its number.

    Older jobs that used one of the images' series and of which nothing was sent are SUPERSEDED.
    """
    now = ledger.clock()
    series_uids = {entry.series_instance_uid for entry in images}
    latest = sa.select(REVISIONS).where(REVISIONS.c.study_instance_uid == study_uid).order_by(REVISIONS.c.number.desc()).limit(1)
    row = connection.execute(latest).one_or_none()
    if row is not None and row.state == RevisionState.RECEIVING:
        number, opens = row.number, False
        extend = sa.update(REVISIONS).where(REVISIONS.c.revision_id == row.revision_id)
        connection.execute(extend.values(last_arrival_at=now, fence=REVISIONS.c.fence + 1))
    else:
        number, opens = (1 if row is None else row.number + 1), True
    if number > 1:
        used = sa.select(JOB_SERIES.c.job_id).where(JOB_SERIES.c.series_instance_uid.in_(series_uids))
        _supersede_jobs(connection, JOBS.c.study_instance_uid == study_uid, JOBS.c.job_id.in_(used), number=number, now=now)
    if opens:
        _supersede_unplanned(connection, study_uid, number, now)
        values = {
            "study_instance_uid": study_uid,
            "number": number,
            "state": RevisionState.RECEIVING,
            "fence": 0,
            "opened_at": now,
            "last_arrival_at": now,
            "quiet_factor": 1 if row is None else min(row.quiet_factor * 2, 1 << 16),
            "released": False,
            "accession_number": _accession(images),
        }
        connection.execute(sa.insert(REVISIONS).values(values))
    return int(number)


def complete(ledger: Ledger, revision: Revision, evidence: Mapping[str, Any]) -> bool:
    """Freeze the instance list on this evidence (node/evidence.py); False when an image arrived since `revision` was read."""
    now = ledger.clock()
    values = {"state": RevisionState.COMPLETE, "completed_at": now, "evidence": dict(evidence)}
    return _move(ledger, revision, RevisionState.RECEIVING, values)


def hold(ledger: Ledger, revision: Revision, reason: str) -> bool:
    """Stop a complete revision until a human releases it; `reason` is for a technologist."""
    return _move(ledger, revision, RevisionState.COMPLETE, {"state": RevisionState.HELD, "reason": reason})


def release(ledger: Ledger, revision: Revision) -> bool:
    """Let a HELD revision go on: a human has looked at its reason."""
    return _move(ledger, revision, RevisionState.HELD, {"state": RevisionState.COMPLETE, "released": True, "reason": None})


def plan(ledger: Ledger, revision_id: int, plan: Plan) -> bool:
    """Write routing's answer: jobs, reasons, PLANNED or DECLINED; False when the revision has moved on.

    A job id that exists is not created again: its job goes on, or is done. Unsent jobs of older revisions
    that the plan does not repeat are SUPERSEDED.
    """
    now = ledger.clock()
    revision = get(ledger, revision_id)
    study_uid = revision.study_instance_uid
    with ledger.writing() as connection:
        ledger.lock(connection, [study_uid])
        state = RevisionState.PLANNED if plan.jobs else RevisionState.DECLINED
        if not _move_in(connection, revision, RevisionState.COMPLETE, {"state": state, "ended_at": now}):
            return False
        done = _write_jobs(connection, revision, plan, now)
        mine = sa.update(REVISIONS).where(REVISIONS.c.revision_id == revision_id)
        connection.execute(mine.values(reason=_summary(plan, done)))
        stale = JOBS.c.job_id.not_in([job.job_id for job in plan.jobs])
        older = JOBS.c.revision < revision.number
        _supersede_jobs(connection, JOBS.c.study_instance_uid == study_uid, stale, older, number=revision.number, now=now)
        rows = [
            {"revision_id": revision_id, "series_instance_uid": entry.series_instance_uid, "model": entry.model, "reason": entry.reason}
            for entry in plan.declined
        ]
        if rows:
            connection.execute(ledger.insert(DECLINES).on_conflict_do_nothing(), rows)
    return True


def _write_jobs(connection: Connection, revision: Revision, plan: Plan, now: float) -> int:
    """Create or re-link the plan's jobs; returns how many had been written before."""
    ids = [job.job_id for job in plan.jobs]
    there = {row.job_id: row for row in connection.execute(sa.select(JOBS).where(JOBS.c.job_id.in_(ids)))}
    members = sa.select(INSTANCES.c.sop_instance_uid, INSTANCES.c.series_instance_uid)
    inside = connection.execute(members.where(INSTANCES.c.study_instance_uid == revision.study_instance_uid))
    series_of = {row.sop_instance_uid: row.series_instance_uid for row in inside}
    done = 0
    for job in plan.jobs:
        row = there.get(job.job_id)
        if row is None:
            _create(connection, job, revision.number, now)
            series = {series_of[uid] for uids in job.inputs.values() for uid in uids if uid in series_of}
            if series:
                connection.execute(sa.insert(JOB_SERIES), [{"job_id": job.job_id, "series_instance_uid": uid} for uid in sorted(series)])
            continue
        done += row.state == JobState.WRITTEN
        relink: dict[str, Any] = {"revision": revision.number, "updated_at": now}
        if row.state in _GONE:
            relink |= _revive(connection, row, now)
        connection.execute(sa.update(JOBS).where(JOBS.c.job_id == job.job_id).values(relink))
    return done


def _create(connection: Connection, job: JobPlan, revision: int, now: float) -> None:
    connection.execute(
        sa.insert(JOBS).values(
            job_id=job.job_id,
            generation=1,
            study_instance_uid=job.study_instance_uid,
            revision=revision,
            model=job.model,
            version=job.version,
            card_digest=job.card_digest,
            inputs={role: list(uids) for role, uids in job.inputs.items()},
            mode=job.mode,
            priority=job.priority,
            destinations=list(job.destinations),
            state=JobState.QUEUED,
            stage=Stage.PREPARE,
            attempt=0,
            returns=0,
            fence=0,
            created_at=now,
            updated_at=now,
            not_before=now,
            submit_after=now,
            submissions=0,
        )
    )


def _revive(connection: Connection, row: Row[Any], now: float) -> dict[str, Any]:
    """Bring back a job that was replaced and is asked for again: its parcel where there is one, else its work."""
    parcel = (PARCELS.c.job_id == row.job_id, PARCELS.c.generation == row.generation)
    if connection.execute(sa.select(PARCELS.c.job_id).where(*parcel)).one_or_none() is None:
        fresh = {"not_before": now, "submit_after": now, "submitted_at": None, "submissions": 0, "attempt": 0, "returns": 0}
        return fresh | {"state": JobState.QUEUED, "stage": Stage.PREPARE, "reason": None}
    unsent = sa.select(DELIVERY_OBJECTS.c.delivery_id).where(DELIVERY_OBJECTS.c.sent_at.is_not(None))
    stopped = sa.update(DELIVERIES).where(
        DELIVERIES.c.job_id == row.job_id,
        DELIVERIES.c.generation == row.generation,
        DELIVERIES.c.state == DeliveryState.FAILED,
        DELIVERIES.c.delivery_id.not_in(unsent),
    )
    again = {"state": DeliveryState.PENDING, "next_at": now, "submit_after": now, "submissions": 0, "ended_at": None, "reason": None}
    connection.execute(stopped.values(again))
    return {"state": JobState.WRITTEN, "reason": None}


def _supersede_jobs(connection: Connection, *which: sa.ColumnElement[bool], number: int, now: float) -> None:
    """End the live jobs, and the written ones with deliveries of which nothing was sent and nobody is sending."""
    reason = f"revision {number} of the study replaces it: images arrived late"
    same_parcel = (DELIVERIES.c.job_id == JOBS.c.job_id, DELIVERIES.c.generation == JOBS.c.generation)
    started = sa.select(DELIVERY_OBJECTS.c.delivery_id).where(DELIVERY_OBJECTS.c.sent_at.is_not(None))
    out = sa.exists().where(
        *same_parcel,
        sa.or_(DELIVERIES.c.state != DeliveryState.PENDING, DELIVERIES.c.lease_until > now, DELIVERIES.c.delivery_id.in_(started)),
    )
    unsent = sa.and_(JOBS.c.state == JobState.WRITTEN, sa.exists().where(*same_parcel), ~out)
    rows = connection.execute(sa.select(JOBS).where(*which, sa.or_(JOBS.c.state.in_(_LIVE), unsent))).all()
    for row in rows:
        same = (JOBS.c.job_id == row.job_id, JOBS.c.state == row.state, JOBS.c.fence == row.fence)
        values = {"state": JobState.SUPERSEDED, "fence": JOBS.c.fence + 1, "updated_at": now, "lease_until": None, "reason": reason}
        if connection.execute(sa.update(JOBS).where(*same).values(values)).rowcount != 1:
            continue
        pending = sa.update(DELIVERIES).where(DELIVERIES.c.job_id == row.job_id, DELIVERIES.c.state == DeliveryState.PENDING)
        connection.execute(
            pending.values(state=DeliveryState.FAILED, fence=DELIVERIES.c.fence + 1, ended_at=now, lease_until=None, reason=reason)
        )
        _supersede_revision(connection, row.study_instance_uid, row.revision, number, now)


def _supersede_unplanned(connection: Connection, study_uid: str, number: int, now: float) -> None:
    waiting = (RevisionState.COMPLETE, RevisionState.HELD)
    old = sa.update(REVISIONS).where(
        REVISIONS.c.study_instance_uid == study_uid, REVISIONS.c.number < number, REVISIONS.c.state.in_(waiting)
    )
    connection.execute(old.values(state=RevisionState.SUPERSEDED, fence=REVISIONS.c.fence + 1, ended_at=now, reason=_replaced(number)))


def _supersede_revision(connection: Connection, study_uid: str, old: int, number: int, now: float) -> None:
    planned = sa.update(REVISIONS).where(
        REVISIONS.c.study_instance_uid == study_uid, REVISIONS.c.number == old, REVISIONS.c.state == RevisionState.PLANNED
    )
    connection.execute(planned.values(state=RevisionState.SUPERSEDED, fence=REVISIONS.c.fence + 1, ended_at=now, reason=_replaced(number)))


def _replaced(number: int) -> str:
    return f"images arrived late: revision {number} replaces it"


def _accession(images: Sequence[Instance]) -> str | None:
    found = (str(entry.header.get("AccessionNumber") or "").replace("\0", "").strip() for entry in images)
    return next((number[:64] for number in found if number), None)


def _summary(plan: Plan, done: int) -> str | None:
    if not plan.jobs:
        reasons: Sequence[str] = sorted({entry.reason for entry in plan.declined})
        more = f" (and {len(reasons) - 3} more reasons)" if len(reasons) > 3 else ""
        return "no model takes this study: " + ("; ".join(reasons[:3]) + more if reasons else "it has no image series")
    if done == len(plan.jobs):
        return "already analysed"
    return f"{done} of {len(plan.jobs)} jobs already analysed" if done else None


def _revision(row: Row[Any]) -> Revision:
    values = row._mapping  # noqa: SLF001 -- SQLAlchemy's public name for a row as a mapping
    fields = {name: values[name] for name in Revision.__dataclass_fields__}
    return Revision(**fields | {"state": RevisionState(row.state)})


def _move(ledger: Ledger, revision: Revision, state: RevisionState, values: dict[str, Any]) -> bool:
    with ledger.writing() as connection:
        ledger.lock(connection, [revision.study_instance_uid])
        return _move_in(connection, revision, state, values)


def _move_in(connection: Connection, revision: Revision, state: RevisionState, values: dict[str, Any]) -> bool:
    same = (REVISIONS.c.revision_id == revision.revision_id, REVISIONS.c.state == state, REVISIONS.c.fence == revision.fence)
    return connection.execute(sa.update(REVISIONS).where(*same).values(values | {"fence": REVISIONS.c.fence + 1})).rowcount == 1
