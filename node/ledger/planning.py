"""A plan's jobs as rows: made, linked to the revision that asks for them, revived, confirmed; and whose report each replaces."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from node.ledger import lineage
from node.ledger.schema import DELIVERIES, DELIVERY_OBJECTS, INSTANCES, JOB_SERIES, JOBS, PARCELS
from node.study import DeliveryState, JobPlan, JobState, Plan, Stage

AHEAD = "images arrived while it was prepared ahead of the proof"
NOT_WHOLE = "it was prepared ahead, but the study does not go on"
REASONS_SHOWN = 3
_LIVE = (JobState.QUEUED, JobState.RUNNING)
_GONE = (JobState.SUPERSEDED, JobState.CANCELLED)


def write(connection: Connection, number: int, plan: Plan, now: float) -> int:
    """Create, re-link or confirm the plan's jobs for revision `number`; returns how many had been written before.

    Call it after older jobs were superseded: a report that stays with somebody is then the new job's predecessor.
    """
    there = _known(connection, plan)
    series_of = _series_of(connection, plan)
    done = 0
    for job in plan.jobs:
        row = there.get(job.job_id)
        if row is None:
            _create(connection, job, {"revision": number, "predecessor": lineage.replaced(connection, job, number, plan)}, now)
            _link_series(connection, job, series_of)
            continue
        done += row.state == JobState.WRITTEN
        relink: dict[str, Any] = {"revision": number, "updated_at": now}
        if row.images_were is not None:
            relink |= _remembered(job)
            _link_series(connection, job, series_of)
        if row.provisional:
            relink |= _confirmed(job, row, now) | {"predecessor": lineage.replaced(connection, job, number, plan)}
        if row.state in _GONE:
            relink |= _revive(connection, row, now)
            if relink["state"] == JobState.QUEUED:
                relink |= {"predecessor": lineage.replaced(connection, job, number, plan)}
        connection.execute(sa.update(JOBS).where(JOBS.c.job_id == job.job_id).values(relink))
    return done


def write_ahead(connection: Connection, number: int, plan: Plan, now: float) -> None:
    """Create the plan's jobs as provisional ones; what is there already stays as it is, but for what had been dropped."""
    there = _known(connection, plan)
    series_of = _series_of(connection, plan)
    for job in plan.jobs:
        row = there.get(job.job_id)
        if row is None:
            _create(connection, job, {"revision": number, "provisional": True}, now)
            _link_series(connection, job, series_of)
        elif row.provisional and row.state == JobState.SUPERSEDED:
            again = _fresh(now) | {"revision": number, "updated_at": now}
            if row.images_were is not None:
                again |= _remembered(job)
                _link_series(connection, job, series_of)
            connection.execute(sa.update(JOBS).where(JOBS.c.job_id == job.job_id).values(again))


def drop_ahead(connection: Connection, study_uid: str, now: float) -> None:
    """End a study's provisional jobs: it is held or declined. A plan that asks for them again revives them."""
    live = sa.update(JOBS).where(JOBS.c.study_instance_uid == study_uid, JOBS.c.provisional, JOBS.c.state.in_(_LIVE))
    ended = {"state": JobState.SUPERSEDED, "fence": JOBS.c.fence + 1, "updated_at": now, "lease_until": None, "reason": NOT_WHOLE}
    connection.execute(live.values(ended))


def summary(plan: Plan, done: int) -> str | None:
    """Say of a planned revision what its jobs do not: why there are none, or that they are old ones."""
    if not plan.jobs:
        reasons: Sequence[str] = sorted({entry.reason for entry in plan.declined})
        more = f" (and {len(reasons) - REASONS_SHOWN} more reasons)" if len(reasons) > REASONS_SHOWN else ""
        return "no model takes this study: " + ("; ".join(reasons[:REASONS_SHOWN]) + more if reasons else "it has no image series")
    if done == len(plan.jobs):
        return "already analysed"
    return f"{done} of {len(plan.jobs)} jobs already analysed" if done else None


def _known(connection: Connection, plan: Plan) -> dict[str, Row[Any]]:
    ids = [job.job_id for job in plan.jobs]
    return {row.job_id: row for row in connection.execute(sa.select(JOBS).where(JOBS.c.job_id.in_(ids)))}


def _series_of(connection: Connection, plan: Plan) -> dict[str, str]:
    studies = {job.study_instance_uid for job in plan.jobs}
    members = sa.select(INSTANCES.c.sop_instance_uid, INSTANCES.c.series_instance_uid)
    inside = connection.execute(members.where(INSTANCES.c.study_instance_uid.in_(studies)))
    return {row.sop_instance_uid: row.series_instance_uid for row in inside}


def _create(connection: Connection, job: JobPlan, values: dict[str, Any], now: float) -> None:
    connection.execute(
        sa.insert(JOBS).values(
            job_id=job.job_id,
            generation=1,
            study_instance_uid=job.study_instance_uid,
            model=job.model,
            version=job.version,
            card_digest=job.card_digest,
            inputs=_inputs(job),
            mode=job.mode,
            priority=job.priority,
            destinations=list(job.destinations),
            fence=0,
            created_at=now,
            updated_at=now,
            **_fresh(now),
            **values,
        )
    )


def _link_series(connection: Connection, job: JobPlan, series_of: dict[str, str]) -> None:
    series = sorted({series_of[uid] for uids in job.inputs.values() for uid in uids if uid in series_of})
    if series:
        connection.execute(sa.insert(JOB_SERIES), [{"job_id": job.job_id, "series_instance_uid": uid} for uid in series])


def _inputs(job: JobPlan) -> dict[str, list[str]]:
    return {role: list(uids) for role, uids in job.inputs.items()}


def _remembered(job: JobPlan) -> dict[str, Any]:
    """Give a job back the list of images that retention forgot: the id says that it is the same."""
    return {"inputs": _inputs(job), "images_were": None}


def _fresh(now: float) -> dict[str, Any]:
    """Give a job at the start of its work."""
    return {
        "state": JobState.QUEUED,
        "stage": Stage.PREPARE,
        "attempt": 0,
        "returns": 0,
        "told": None,
        # Nothing was written: whose results they are is asked anew.
        "patient": None,
        "not_before": now,
        "submit_after": now,
        "submitted_at": None,
        "submissions": 0,
        "reason": None,
    }


def _confirmed(job: JobPlan, row: Row[Any], now: float) -> dict[str, Any]:
    """Let a job that was prepared ahead go on, as today's rules want it."""
    wanted = {"provisional": False, "mode": job.mode, "priority": job.priority, "destinations": list(job.destinations)}
    # Its message for the next stage was in vain.
    return wanted | ({"submit_after": now, "submissions": 0} if row.state == JobState.QUEUED and row.stage != Stage.PREPARE else {})


def _revive(connection: Connection, row: Row[Any], now: float) -> dict[str, Any]:
    """Bring back a job that was replaced and is asked for again: its parcel where there is one, else its work."""
    parcel = (PARCELS.c.job_id == row.job_id, PARCELS.c.generation == row.generation)
    if connection.execute(sa.select(PARCELS.c.job_id).where(*parcel).limit(1)).first() is None:
        return _fresh(now)
    sent = sa.exists().where(DELIVERY_OBJECTS.c.delivery_id == DELIVERIES.c.delivery_id, DELIVERY_OBJECTS.c.sent_at.is_not(None))
    stopped = sa.update(DELIVERIES).where(
        DELIVERIES.c.job_id == row.job_id,
        DELIVERIES.c.generation == row.generation,
        DELIVERIES.c.state == DeliveryState.FAILED,
        ~sent,
    )
    again = {"state": DeliveryState.PENDING, "next_at": now, "submit_after": now, "submissions": 0, "ended_at": None, "reason": None}
    connection.execute(stopped.values(again))
    return {"state": JobState.WRITTEN, "reason": None}
