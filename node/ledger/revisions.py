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

from node.ledger import Ledger, failures, planning
from node.ledger.schema import DECLINES, DELIVERIES, DELIVERY_OBJECTS, JOB_SERIES, JOBS, REVISIONS
from node.settings import AssemblySection
from node.study import DeliveryState, Instance, JobState, Plan, RevisionState

_LIVE = (JobState.QUEUED, JobState.RUNNING)


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
    return of_row(row)


def of_study(ledger: Ledger, study_uid: str) -> list[Revision]:
    """Give every revision of a study, oldest first."""
    mine = sa.select(REVISIONS).where(REVISIONS.c.study_instance_uid == study_uid).order_by(REVISIONS.c.number)
    with ledger.reading() as connection:
        return [of_row(row) for row in connection.execute(mine)]


def in_state(ledger: Ledger, state: RevisionState, limit: int = 200) -> list[Revision]:
    """Give revisions in that state, the longest waiting first."""
    found = sa.select(REVISIONS).where(REVISIONS.c.state == state).order_by(REVISIONS.c.last_arrival_at).limit(limit)
    with ledger.reading() as connection:
        return [of_row(row) for row in connection.execute(found)]


def due(ledger: Ledger, now: float, assembly: AssemblySection, listening_since: float = 0.0) -> list[Revision]:
    """Give RECEIVING revisions whose quiet time (doubled with each revision, up to the cap) has passed.

    It counts from the last arrival, or from when somebody began to listen again.
    """
    quiet_s = quiet_time(assembly)
    quiet = sa.select(REVISIONS).where(
        REVISIONS.c.state == RevisionState.RECEIVING, REVISIONS.c.last_arrival_at + quiet_s <= now, listening_since + quiet_s <= now
    )
    with ledger.reading() as connection:
        return [of_row(row) for row in connection.execute(quiet.order_by(REVISIONS.c.last_arrival_at))]


def quiet_s(revision: Revision, assembly: AssemblySection) -> float:
    """Give one revision's quiet time in seconds."""
    return min(assembly.quiet_s * revision.quiet_factor, max(assembly.quiet_max_s, assembly.quiet_s))


def quiet_time(assembly: AssemblySection) -> sa.ColumnElement[float]:
    """Give `quiet_s` in SQL: a sender that drips one image at a time gets fewer and fewer revisions."""
    wanted = assembly.quiet_s * REVISIONS.c.quiet_factor
    # A cap below the base would shorten the first wait too: the base always holds.
    cap = max(assembly.quiet_max_s, assembly.quiet_s)
    return sa.case((wanted > cap, cap), else_=wanted)


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
        # What was known of the peers' counts was known of other images.
        forgotten = {"evidence": None, "ask_after": None, "sender": None}
        connection.execute(extend.values(last_arrival_at=now, fence=REVISIONS.c.fence + 1, **forgotten))
    else:
        number, opens = (1 if row is None else row.number + 1), True
    # Before any look at the peers nothing can have been planned on the first revision.
    if row is not None and (number > 1 or row.evidence is not None):
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
    with ledger.writing() as connection:
        ledger.lock(connection, [revision.study_instance_uid])
        planning.drop_ahead(connection, revision.study_instance_uid, ledger.clock())
        return step_in(connection, revision, RevisionState.COMPLETE, {"state": RevisionState.HELD, "reason": reason})


def release(ledger: Ledger, revision: Revision) -> bool:
    """Let a HELD revision go on: a human has looked at its reason."""
    return _move(ledger, revision, RevisionState.HELD, {"state": RevisionState.COMPLETE, "released": True, "reason": None})


def plan_ahead(ledger: Ledger, revision: Revision, plan: Plan) -> bool:
    """Create a RECEIVING revision's jobs on a hint that it is whole: they are prepared, and no further before `plan` confirms them.

    Idempotent; False when an image arrived since `revision` was read. Jobs that are there already are not touched.
    """
    with ledger.writing() as connection:
        ledger.lock(connection, [revision.study_instance_uid])
        same = (REVISIONS.c.revision_id == revision.revision_id, REVISIONS.c.state == RevisionState.RECEIVING)
        seen = sa.select(REVISIONS.c.fence).where(*same, REVISIONS.c.fence == revision.fence)
        if connection.execute(seen).one_or_none() is None:
            return False
        planning.write_ahead(connection, revision.number, plan, ledger.clock())
    return True


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
        if not step_in(connection, revision, RevisionState.COMPLETE, {"state": state, "ended_at": now}):
            return False
        stale = JOBS.c.job_id.not_in([job.job_id for job in plan.jobs])
        older = sa.or_(JOBS.c.revision < revision.number, JOBS.c.provisional)
        # First: what stays of the older jobs is what somebody has of them.
        _supersede_jobs(connection, JOBS.c.study_instance_uid == study_uid, stale, older, number=revision.number, now=now)
        answered = JOBS.c.model.in_([job.model for job in plan.jobs])
        failures.withdraw(
            connection, JOBS.c.study_instance_uid == study_uid, stale, older, answered, reason=_replaced(revision.number), now=now
        )
        done = planning.write(connection, revision.number, plan, now)
        mine = sa.update(REVISIONS).where(REVISIONS.c.revision_id == revision_id)
        connection.execute(mine.values(reason=planning.summary(plan, done)))
        rows = [
            {"revision_id": revision_id, "series_instance_uid": entry.series_instance_uid, "model": entry.model, "reason": entry.reason}
            for entry in plan.declined
        ]
        if rows:
            connection.execute(ledger.insert(DECLINES).on_conflict_do_nothing(), rows)
    return True


def _supersede_jobs(connection: Connection, *which: sa.ColumnElement[bool], number: int, now: float) -> None:
    """End the live jobs, and the written ones with deliveries of which nothing was sent and nobody is sending."""
    late = f"revision {number} of the study replaces it: images arrived late"
    same_parcel = (DELIVERIES.c.job_id == JOBS.c.job_id, DELIVERIES.c.generation == JOBS.c.generation)
    started = sa.exists().where(DELIVERY_OBJECTS.c.delivery_id == DELIVERIES.c.delivery_id, DELIVERY_OBJECTS.c.sent_at.is_not(None))
    # One that is being written in another profile is sent nowhere yet.
    sending = sa.and_(DELIVERIES.c.lease_until > now, DELIVERIES.c.wants_profile.is_(None))
    out = sa.exists().where(
        *same_parcel,
        sa.or_(DELIVERIES.c.state != DeliveryState.PENDING, sending, started),
    )
    unsent = sa.and_(JOBS.c.state == JobState.WRITTEN, sa.exists().where(*same_parcel), ~out)
    rows = connection.execute(sa.select(JOBS).where(*which, sa.or_(JOBS.c.state.in_(_LIVE), unsent))).all()
    for row in rows:
        same = (JOBS.c.job_id == row.job_id, JOBS.c.state == row.state, JOBS.c.fence == row.fence)
        reason = planning.AHEAD if row.provisional else late
        values = {"state": JobState.SUPERSEDED, "fence": JOBS.c.fence + 1, "updated_at": now, "lease_until": None, "reason": reason}
        if connection.execute(sa.update(JOBS).where(*same).values(values)).rowcount != 1:
            continue
        pending = sa.update(DELIVERIES).where(DELIVERIES.c.job_id == row.job_id, DELIVERIES.c.state == DeliveryState.PENDING)
        stopped = {"state": DeliveryState.FAILED, "ended_at": now, "lease_until": None, "wants_profile": None, "reason": reason}
        connection.execute(pending.values(stopped | {"fence": DELIVERIES.c.fence + 1}))
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


def of_row(row: Row[Any]) -> Revision:
    """Make the noun from a row of REVISIONS."""
    values = row._mapping  # noqa: SLF001 -- SQLAlchemy's public name for a row as a mapping
    fields = {name: values[name] for name in Revision.__dataclass_fields__}
    return Revision(**fields | {"state": RevisionState(row.state)})


def _move(ledger: Ledger, revision: Revision, state: RevisionState, values: dict[str, Any]) -> bool:
    with ledger.writing() as connection:
        ledger.lock(connection, [revision.study_instance_uid])
        return step_in(connection, revision, state, values)


def step_in(connection: Connection, revision: Revision, state: RevisionState, values: dict[str, Any]) -> bool:
    """Move a revision as `revision` saw it, inside the caller's transaction; False when it has moved on."""
    same = (REVISIONS.c.revision_id == revision.revision_id, REVISIONS.c.state == state, REVISIONS.c.fence == revision.fence)
    return connection.execute(sa.update(REVISIONS).where(*same).values(values | {"fence": REVISIONS.c.fence + 1})).rowcount == 1
