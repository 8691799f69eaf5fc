"""Whose report a new job's replaces: of the same model on earlier revisions, what each destination has, or is just getting."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from node.ledger.schema import DELIVERIES, DELIVERY_OBJECTS, JOBS, PARCEL_OBJECTS
from node.study import DeliveryState, JobPlan, JobState, Plan


def replaced(connection: Connection, job: JobPlan, number: int, plan: Plan) -> dict[str, Any] | None:
    """Give what the job's row keeps of the reports before revision `number`; None without one.

    {"revision", "newest": report, "held": {destination: report}}; a report is profile, of_revision, sop_class_uid,
    sop_instance_uid and series_instance_uid. It is looked up once: what is sent later must not change what compose writes.
    """
    rows = _held(connection, job, plan)
    if not rows:
        return None
    held: dict[str, dict[str, Any]] = {}
    for row in rows:
        held.setdefault(row.destination, _report(row))
    return {"revision": number, "newest": _report(rows[0]), "held": held}


def _held(connection: Connection, job: JobPlan, plan: Plan) -> list[Row[Any]]:
    """Give the reports that somebody has, the newest first."""
    got = sa.exists().where(
        DELIVERY_OBJECTS.c.delivery_id == DELIVERIES.c.delivery_id,
        DELIVERY_OBJECTS.c.sop_instance_uid == PARCEL_OBJECTS.c.sop_instance_uid,
        DELIVERY_OBJECTS.c.sent_at.is_not(None),
    )
    same = (DELIVERIES.c.job_id == JOBS.c.job_id, DELIVERIES.c.generation == JOBS.c.generation)
    report = (
        PARCEL_OBJECTS.c.job_id == DELIVERIES.c.job_id,
        PARCEL_OBJECTS.c.generation == DELIVERIES.c.generation,
        PARCEL_OBJECTS.c.profile == DELIVERIES.c.profile,
        PARCEL_OBJECTS.c.kind == "sr",
    )
    # FAILED counts where the report itself got through; what is refused as it is will never be had.
    delivered = sa.and_(sa.or_(DELIVERIES.c.state != DeliveryState.FAILED, got), DELIVERIES.c.wants_profile.is_(None))
    mine = (JOBS.c.study_instance_uid == job.study_instance_uid, JOBS.c.model == job.model, JOBS.c.state == JobState.WRITTEN)
    found = (
        sa.select(JOBS.c.revision, DELIVERIES.c.destination, PARCEL_OBJECTS)
        .join(DELIVERIES, sa.and_(*same))
        .join(PARCEL_OBJECTS, sa.and_(*report))
        .where(*mine, JOBS.c.job_id.not_in([entry.job_id for entry in plan.jobs]), delivered)
        .order_by(JOBS.c.revision.desc(), JOBS.c.created_at.desc(), JOBS.c.job_id, DELIVERIES.c.destination)
    )
    return list(connection.execute(found).all())


def _report(row: Row[Any]) -> dict[str, Any]:
    return {
        "profile": row.profile,
        "of_revision": row.revision,
        "sop_class_uid": row.sop_class_uid,
        "sop_instance_uid": row.sop_instance_uid,
        "series_instance_uid": row.series_instance_uid,
    }
