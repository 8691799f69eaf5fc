"""A second chance by hand: what FAILED goes on from where it can, under the same identity.

A failed job wrote no result, so it is no new generation, unless an archive was to be sent a report that it failed; one that
is not under way is not sent any more. A failed delivery sends the stored bytes it has not sent yet.
What was superseded stays so: a newer revision answers for it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from node.ledger import Ledger, failures
from node.ledger.schema import DELIVERIES, JOBS, PARCELS
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
    restarted = (mine, JOBS.c.state == JobState.FAILED, JOBS.c.images_were.is_(None))
    failed_jobs = sa.update(JOBS).where(*restarted)
    work: dict[str, Any] = due | {"state": JobState.QUEUED, "stage": Stage.PREPARE, "returns": 0, "not_before": now, "updated_at": now}
    # What was told of its failure has that generation's UIDs.
    told = sa.exists().where(PARCELS.c.job_id == JOBS.c.job_id, PARCELS.c.generation == JOBS.c.generation)
    work |= {"patient": None, "told": None, "generation": JOBS.c.generation + sa.case((told, 1), else_=0)}
    # A delivery that a newer revision stopped is FAILED too, but its job is SUPERSEDED: only a written job's are sent.
    same = (DELIVERIES.c.job_id == JOBS.c.job_id, DELIVERIES.c.generation == JOBS.c.generation)
    written = sa.exists().where(mine, *same, JOBS.c.state == JobState.WRITTEN)
    failed_deliveries = sa.update(DELIVERIES).where(written, DELIVERIES.c.state == DeliveryState.FAILED)
    sending = due | {"state": DeliveryState.PENDING, "next_at": now, "ended_at": None, "wants_profile": None}
    with ledger.writing() as connection:
        ledger.lock(connection, [study_uid])
        failures.withdraw(connection, *restarted, reason="the job was tried again before its failure was told", now=now)
        fenced = failed_jobs.values(**work, submitted_at=None, fence=JOBS.c.fence + 1).returning(JOBS.c.job_id)
        jobs = tuple(connection.execute(fenced).scalars())
        resent = failed_deliveries.values(**sending, fence=DELIVERIES.c.fence + 1).returning(DELIVERIES.c.delivery_id)
        deliveries = tuple(connection.execute(resent).scalars())
    return Restarted(jobs=jobs, deliveries=deliveries)
