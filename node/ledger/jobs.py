"""Jobs: QUEUED -> RUNNING -> WRITTEN | DECLINED | FAILED | CANCELLED | SUPERSEDED.

A worker claims (job, stage) and gets a fence; every later move of that worker names the fence and is
refused (False) once somebody else has had the job. A refused move means: stop, throw the work away.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from node.ledger import Ledger, parcels
from node.ledger.schema import DELIVERIES, JOBS, STAGE_TIMES
from node.study import DeliveryState, Job, JobState, Mode, Parcel, Stage

# After an advance the worker itself sends the next message; the sweep sends it only when none came.
SUBMIT_GRACE_S = 2.0
RESUBMIT_S = 30.0
RESUBMIT_MAX_S = 480.0
RUNNING = JobState.RUNNING
QUEUED = JobState.QUEUED


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """The right to work on one stage of a job until the lease ends."""

    job: Job
    stage: Stage
    fence: int


def get(ledger: Ledger, job_id: str) -> Job:
    """Give the job; raises KeyError."""
    with ledger.reading() as connection:
        row = connection.execute(sa.select(JOBS).where(JOBS.c.job_id == job_id)).one_or_none()
    if row is None:
        raise KeyError(job_id)
    return job_of(row)


def claim(ledger: Ledger, job_id: str, stage: Stage, lease_s: float) -> Claim | None:
    """Take the job at this stage, or None: another has it, it has moved on, or it is not due yet."""
    now = ledger.clock()
    take = (
        sa.update(JOBS)
        .where(JOBS.c.job_id == job_id, JOBS.c.state == QUEUED, JOBS.c.stage == stage, JOBS.c.not_before <= now, _may_run())
        .values(
            state=RUNNING,
            fence=JOBS.c.fence + 1,
            attempt=JOBS.c.attempt + 1,
            started_at=now,
            updated_at=now,
            lease_until=now + min(lease_s, _limit_s(ledger, stage)),
            reason=None,
        )
        .returning(JOBS)
    )
    with ledger.writing() as connection:
        row = connection.execute(take).one_or_none()
        if row is None:
            return None
        connection.execute(
            sa.insert(STAGE_TIMES).values(
                job_id=job_id, fence=row.fence, generation=row.generation, stage=stage, attempt=row.attempt, started_at=now
            )
        )
    return Claim(job=job_of(row), stage=stage, fence=row.fence)


def renew(ledger: Ledger, claim: Claim, lease_s: float) -> bool:
    """Extend the lease, never beyond the stage's time limit; False: the job is no longer ours, stop."""
    now = ledger.clock()
    end = JOBS.c.started_at + _limit_s(ledger, claim.stage)
    until = sa.case((end < now + lease_s, end), else_=now + lease_s)
    with ledger.writing() as connection:
        return _moved(connection, sa.update(JOBS).where(*_held(claim), end > now).values(lease_until=until))


def advance(ledger: Ledger, claim: Claim, next_stage: Stage) -> bool:
    """End this stage well: QUEUED at the next. The caller then submits it and says `submitted`."""
    now = ledger.clock()
    queued = _queued(now, submit_after=now + SUBMIT_GRACE_S) | {"stage": next_stage, "attempt": 0}
    return _end(ledger, claim, queued, "done")


def release(ledger: Ledger, claim: Claim, reason: str, delay_s: float) -> bool:
    """Give the stage back to be tried again after `delay_s`; FAILED when its attempts are spent."""
    now = ledger.clock()
    if claim.job.attempt >= ledger.limits.max_attempts:
        return fail(ledger, claim, f"{reason} (gave up after {claim.job.attempt} attempts of {claim.stage})")
    values = _queued(now, submit_after=now + delay_s) | {"not_before": now + delay_s, "reason": reason}
    return _end(ledger, claim, values, "retried")


def postpone(ledger: Ledger, claim: Claim, reason: str, delay_s: float) -> bool:
    """Give the stage back to be tried again after `delay_s`, without counting the attempt: the job is not at fault."""
    now = ledger.clock()
    values = _queued(now, submit_after=now + delay_s) | {"not_before": now + delay_s, "reason": reason, "attempt": JOBS.c.attempt - 1}
    return _end(ledger, claim, values, "postponed")


def send_back(ledger: Ledger, claim: Claim, stage: Stage, reason: str) -> bool:
    """Return to an earlier stage whose work file is lost; FAILED when that has happened too often."""
    now = ledger.clock()
    values: dict[str, Any] = _queued(now, submit_after=now) | {
        "stage": stage,
        "attempt": 0,
        "returns": JOBS.c.returns + 1,
        "reason": reason,
    }
    few = JOBS.c.returns + 1 < ledger.limits.max_attempts
    if _end(ledger, claim, values, "sent back", few):
        return True
    return fail(ledger, claim, f"{reason} (work files were lost {ledger.limits.max_attempts} times; look at the work folder)")


def decline(ledger: Ledger, claim: Claim, reason: str) -> bool:
    """End the job: the input is not one this model may judge; `reason` is for a technologist."""
    return _end(ledger, claim, _without_result(ledger.clock(), JobState.DECLINED, reason), "declined")


def fail(ledger: Ledger, claim: Claim, reason: str) -> bool:
    """End the job: it cannot be done; `reason` is for a technologist."""
    return _end(ledger, claim, _without_result(ledger.clock(), JobState.FAILED, reason), "failed")


def cancel(ledger: Ledger, job_id: str, reason: str) -> bool:
    """End a job that nobody wants any more, whoever works on it; False when it has ended already."""
    live = JOBS.c.state.in_([QUEUED, RUNNING])
    values = _ended(ledger.clock(), JobState.CANCELLED, reason) | {"fence": JOBS.c.fence + 1}
    with ledger.writing() as connection:
        return _moved(connection, sa.update(JOBS).where(JOBS.c.job_id == job_id, live).values(values))


def written(
    ledger: Ledger,
    claim: Claim,
    results: Sequence[Parcel],
    destinations: Mapping[str, str],
    refusals: Mapping[str, Sequence[Mapping[str, Any]]] = MappingProxyType({}),
) -> bool:
    """Store the parcels and one PENDING delivery a destination (shadow: none); the first ones win, for good.

    destinations  peer's name -> profile of its parcel; where that has no object the delivery is FAILED
    refusals      peer's name -> profiles that it should have had before, in which the result could not be written
    """
    now = ledger.clock()
    with ledger.writing() as connection:
        if not _end_in(connection, claim, _ended(now, JobState.WRITTEN, None), "done", now):
            return False
        stored = {entry.profile: parcels.keep_in(ledger, connection, entry) for entry in results}
        if claim.job.mode is Mode.LIVE:
            for destination, profile in destinations.items():
                open_delivery(connection, destination, stored[profile], now, refusals.get(destination, ()))
    return True


def parcel(ledger: Ledger, job_id: str, generation: int | None = None, profile: str | None = None) -> Parcel | None:
    """Give the stored parcel of that profile, without one the first that was written; of that generation, or the newest."""
    with ledger.reading() as connection:
        return parcels.get_in(connection, job_id, generation, profile)


def expired(ledger: Ledger) -> list[Job]:
    """Take jobs back whose lease has ended: QUEUED at the same stage, FAILED when its attempts are spent."""
    now = ledger.clock()
    with ledger.reading() as connection:
        late = connection.execute(sa.select(JOBS).where(JOBS.c.state == RUNNING, JOBS.c.lease_until <= now)).all()
    back = []
    for row in late:
        job = job_of(row)
        taken = Claim(job=job, stage=job.stage, fence=job.fence)
        reason = _how_lost(ledger, row)
        if job.attempt >= ledger.limits.max_attempts:
            values = _without_result(now, JobState.FAILED, f"{reason} (gave up after {job.attempt} attempts of {job.stage})")
        else:
            values = _queued(now, submit_after=now) | {"reason": f"{reason}; tried again"}
        if _end(ledger, taken, values, "lost", JOBS.c.lease_until <= now):
            state = JobState(values["state"])
            back.append(replace(job, state=state, reason=values["reason"]))
    return back


def _how_lost(ledger: Ledger, row: Row[Any]) -> str:
    """Say what became of a worker whose lease ended: renewed up to the stage's limit it hung, else nobody was there to renew it."""
    limit_s = _limit_s(ledger, row.stage)
    if row.lease_until >= row.started_at + limit_s:
        return f"the stage {row.stage} hung until its limit of {limit_s:.0f} s"
    return f"the worker's process died in {row.stage}, or stopped answering; its memory may have run out"


def queued(ledger: Ledger, limit: int = 50) -> list[Job]:
    """Give jobs that need a message now: never submitted, or so long ago that it may be lost. Urgent ones first."""
    due = sa.select(JOBS).where(JOBS.c.state == QUEUED, JOBS.c.submit_after <= ledger.clock(), _may_run())
    with ledger.reading() as connection:
        return [job_of(row) for row in connection.execute(due.order_by(JOBS.c.priority, JOBS.c.submit_after).limit(limit))]


def submitted(ledger: Ledger, job: Job, stage: Stage) -> bool:
    """Note that a message for this stage is out; the next one goes 30 s later, then 60, 120 ... up to 480."""
    now = ledger.clock()
    values = {"submitted_at": now, "submissions": JOBS.c.submissions + 1, "submit_after": now + resubmit_delay(JOBS.c.submissions)}
    with ledger.writing() as connection:
        same = (JOBS.c.job_id == job.job_id, JOBS.c.state == QUEUED, JOBS.c.stage == stage)
        return _moved(connection, sa.update(JOBS).where(*same).values(values))


def resubmit_delay(submissions: sa.Column[int]) -> sa.ColumnElement[float]:
    """Give 30, 60, 120, 240, then 480 seconds."""
    steps = [(submissions == count, RESUBMIT_S * 2**count) for count in range(4)]
    return sa.case(*steps, else_=RESUBMIT_MAX_S)


def resubmit_all(ledger: Ledger) -> int:
    """Make every waiting job and delivery due for a message: the broker has lost its memory."""
    now = ledger.clock()
    with ledger.writing() as connection:
        jobs = sa.update(JOBS).where(JOBS.c.state == QUEUED, JOBS.c.submit_after > now, JOBS.c.submitted_at.is_not(None))
        count = connection.execute(jobs.values(submit_after=sa.case((JOBS.c.not_before > now, JOBS.c.not_before), else_=now))).rowcount
        waiting = sa.update(DELIVERIES).where(DELIVERIES.c.state == DeliveryState.PENDING, DELIVERIES.c.submit_after > now)
        later = sa.case((DELIVERIES.c.next_at > now, DELIVERIES.c.next_at), else_=now)
        return count + connection.execute(waiting.values(submit_after=later)).rowcount


def delivery_id(job_id: str, generation: int, destination: str) -> str:
    """Name the delivery of one parcel to one destination."""
    return hashlib.sha256(f"{job_id}\n{generation}\n{destination}".encode()).hexdigest()[:32]


def job_of(row: Row[Any]) -> Job:
    """Make the noun from a row of JOBS."""
    values = row._mapping  # noqa: SLF001 -- SQLAlchemy's public name for a row as a mapping
    fields = {name: values[name] for name in Job.__dataclass_fields__}
    fields["inputs"] = {role: tuple(uids) for role, uids in fields["inputs"].items()}
    fields["destinations"] = tuple(fields["destinations"])
    return Job(**fields | {"state": JobState(row.state), "stage": Stage(row.stage), "mode": Mode(row.mode)})


def _may_run() -> sa.ColumnElement[bool]:
    """Tell that a stage may run: of a job planned on a hint only the first, before the study is proved whole."""
    return sa.or_(~JOBS.c.provisional, JOBS.c.stage == Stage.PREPARE)


def _limit_s(ledger: Ledger, stage: Stage) -> float:
    return float(ledger.limits.time_limit_s.get(stage, 600.0))


def _held(claim: Claim) -> tuple[sa.ColumnElement[bool], ...]:
    return (JOBS.c.job_id == claim.job.job_id, JOBS.c.state == RUNNING, JOBS.c.stage == claim.stage, JOBS.c.fence == claim.fence)


def _queued(now: float, *, submit_after: float) -> dict[str, Any]:
    return {
        "state": QUEUED,
        "updated_at": now,
        "lease_until": None,
        "started_at": None,
        "not_before": now,
        "submit_after": submit_after,
        "submitted_at": None,
        "submissions": 0,
        "reason": None,
    }


def _ended(now: float, state: JobState, reason: str | None) -> dict[str, Any]:
    return {"state": state, "updated_at": now, "lease_until": None, "reason": reason}


def _without_result(now: float, state: JobState, reason: str) -> dict[str, Any]:
    """End the job; whether a destination of a live one is told is decided next (node/ledger/failures.py)."""
    told = sa.case((JOBS.c.mode == Mode.LIVE, sa.false()), else_=sa.null())
    return _ended(now, state, reason) | {"told": told, "submit_after": now, "submissions": 0}


def _end(ledger: Ledger, claim: Claim, values: dict[str, Any], outcome: str, *also: sa.ColumnElement[bool]) -> bool:
    with ledger.writing() as connection:
        return _end_in(connection, claim, values, outcome, ledger.clock(), *also)


def _end_in(connection: Connection, claim: Claim, values: dict[str, Any], outcome: str, now: float, *also: sa.ColumnElement[bool]) -> bool:
    if not _moved(connection, sa.update(JOBS).where(*_held(claim), *also).values(values)):
        return False
    times = sa.update(STAGE_TIMES).where(STAGE_TIMES.c.job_id == claim.job.job_id, STAGE_TIMES.c.fence == claim.fence)
    connection.execute(times.values(ended_at=now, outcome=outcome))
    return True


def _moved(connection: Connection, statement: sa.Update) -> bool:
    return connection.execute(statement).rowcount == 1


def open_delivery(connection: Connection, destination: str, parcel: Parcel, now: float, refusals: Sequence[Mapping[str, Any]] = ()) -> None:
    """Make the PENDING delivery of a parcel that is stored; FAILED, with its reason, where the parcel has no object."""
    identity = delivery_id(parcel.job_id, parcel.generation, destination)
    failed = {"state": DeliveryState.FAILED, "ended_at": now, "reason": nothing_written(parcel)}
    connection.execute(
        sa.insert(DELIVERIES).values(
            delivery_id=identity,
            job_id=parcel.job_id,
            generation=parcel.generation,
            destination=destination,
            profile=parcel.profile,
            refusals=list(refusals) or None,
            attempt=0,
            fence=0,
            created_at=now,
            next_at=now,
            submit_after=now + SUBMIT_GRACE_S,
            submissions=0,
            **({"state": DeliveryState.PENDING} if parcel.objects else failed),
        )
    )
    parcels.list_in(connection, identity, parcel)


def nothing_written(parcel: Parcel) -> str:
    """Say of a parcel without an object why there is none, for a technologist."""
    return f"the result could not be written as {parcel.profile}, nor in a profile that it falls back to: {parcel.summary}"
