"""A second chance by hand: what FAILED goes on from where it can, under the same identity.

A failed job wrote no parcel, so it is no new generation; a failed delivery sends the stored bytes it has not sent yet.
What was superseded stays so: a newer revision answers for it.
"""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa

from node.ledger import Ledger
from node.ledger.schema import DELIVERIES, JOBS
from node.study import DeliveryState, JobState, Stage


@dataclass(frozen=True, slots=True, kw_only=True)
class Restarted:
    """What was put back to work: job ids and delivery ids."""

    jobs: tuple[str, ...]
    deliveries: tuple[str, ...]


def retry(ledger: Ledger, study_uid: str) -> Restarted:
    """Put the FAILED jobs and deliveries of a study back to the start of their work. Twice is harmless."""
    now = ledger.clock()
    due = {"submit_after": now, "submissions": 0, "attempt": 0, "lease_until": None, "started_at": None, "reason": None}
    mine = JOBS.c.study_instance_uid == study_uid
    # What retention has forgotten cannot be read again: the study must be sent once more.
    failed_jobs = sa.update(JOBS).where(mine, JOBS.c.state == JobState.FAILED, JOBS.c.images_were.is_(None))
    work = due | {"state": JobState.QUEUED, "stage": Stage.PREPARE, "returns": 0, "not_before": now, "updated_at": now, "patient": None}
    # A delivery that a newer revision stopped is FAILED too, but its job is SUPERSEDED: only a written job's are sent.
    written = sa.select(JOBS.c.job_id).where(mine, JOBS.c.state == JobState.WRITTEN)
    failed_deliveries = sa.update(DELIVERIES).where(DELIVERIES.c.job_id.in_(written), DELIVERIES.c.state == DeliveryState.FAILED)
    sending = due | {"state": DeliveryState.PENDING, "next_at": now, "ended_at": None, "wants_profile": None}
    with ledger.writing() as connection:
        ledger.lock(connection, [study_uid])
        fenced = failed_jobs.values(**work, submitted_at=None, fence=JOBS.c.fence + 1).returning(JOBS.c.job_id)
        jobs = tuple(connection.execute(fenced).scalars())
        resent = failed_deliveries.values(**sending, fence=DELIVERIES.c.fence + 1).returning(DELIVERIES.c.delivery_id)
        deliveries = tuple(connection.execute(resent).scalars())
    return Restarted(jobs=jobs, deliveries=deliveries)
