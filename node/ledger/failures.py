"""Jobs that ended without a result, until it is decided whether an archive is told; at most one report a job and generation.

`told` is NULL where nobody is ever told, false from the end of the job until the decision, true after it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from node.ledger import Ledger, parcels
from node.ledger.deliveries import is_free
from node.ledger.jobs import delivery_id, job_of, open_delivery, resubmit_delay
from node.ledger.schema import DELIVERIES, DELIVERY_OBJECTS, JOBS
from node.study import DeliveryState, Job, JobState, Parcel

SUBMISSIONS_MAX = 8
"""Messages for one report; then nobody is told: half an hour by their growing delays."""
ENDED = (JobState.FAILED, JobState.DECLINED)


def due(ledger: Ledger, limit: int = 50) -> list[Job]:
    """Give jobs of which it is to be decided, or that need a message, now; none before its study is known to be whole."""
    waiting = sa.select(JOBS).where(JOBS.c.told == sa.false(), JOBS.c.submit_after <= ledger.clock(), ~JOBS.c.provisional)
    with ledger.reading() as connection:
        return [job_of(row) for row in connection.execute(waiting.order_by(JOBS.c.submit_after).limit(limit))]


def submitted(ledger: Ledger, job: Job) -> bool:
    """Note that a message is out; False: too many were, and nobody is told."""
    values = {"submissions": JOBS.c.submissions + 1, "submit_after": ledger.clock() + resubmit_delay(JOBS.c.submissions)}
    with ledger.writing() as connection:
        few = sa.update(JOBS).where(*_untold(job), JOBS.c.submissions < SUBMISSIONS_MAX)
        return connection.execute(few.values(values)).rowcount == 1


def is_untold(ledger: Ledger, job_id: str) -> bool:
    """Tell whether a job's report is still to be written."""
    with ledger.reading() as connection:
        return connection.execute(sa.select(JOBS.c.told).where(JOBS.c.job_id == job_id)).scalar() is False


def close(ledger: Ledger, job: Job) -> bool:
    """Decide that nobody is told; False: somebody else decided, or the job was tried again."""
    with ledger.writing() as connection:
        return connection.execute(sa.update(JOBS).where(*_untold(job)).values(told=True)).rowcount == 1


def written(ledger: Ledger, job: Job, results: Sequence[Parcel], destinations: Mapping[str, str]) -> list[str]:
    """Store the report in each profile and one PENDING delivery a destination; give their ids, none where another came first."""
    with ledger.writing() as connection:
        if connection.execute(sa.update(JOBS).where(*_untold(job)).values(told=True)).rowcount != 1:
            return []
        stored = {entry.profile: parcels.keep_in(ledger, connection, entry) for entry in results}
        for destination, profile in destinations.items():
            open_delivery(connection, destination, stored[profile], ledger.clock())
    return [delivery_id(job.job_id, job.generation, destination) for destination in destinations]


def withdraw(connection: Connection, *which: sa.ColumnElement[bool], reason: str, now: float) -> None:
    """Tell nobody of these jobs' failures who was not told yet: what is tried again, or a newer revision, answers for the study.

    A report that is being sent, or of which anything is stored, goes on.
    """
    failed = (*which, JOBS.c.state.in_(ENDED))
    connection.execute(sa.update(JOBS).where(*failed, JOBS.c.told == sa.false()).values(told=True))
    stored = sa.exists().where(DELIVERY_OBJECTS.c.delivery_id == DELIVERIES.c.delivery_id, DELIVERY_OBJECTS.c.sent_at.is_not(None))
    waiting = sa.update(DELIVERIES).where(
        DELIVERIES.c.job_id.in_(sa.select(JOBS.c.job_id).where(*failed)),
        DELIVERIES.c.state == DeliveryState.PENDING,
        sa.or_(is_free(now), DELIVERIES.c.wants_profile.is_not(None)),
        ~stored,
    )
    stopped = {"state": DeliveryState.FAILED, "ended_at": now, "lease_until": None, "wants_profile": None, "reason": reason}
    connection.execute(waiting.values(stopped | {"fence": DELIVERIES.c.fence + 1}))


def _untold(job: Job) -> tuple[sa.ColumnElement[bool], ...]:
    mine = (JOBS.c.job_id == job.job_id, JOBS.c.fence == job.fence, JOBS.c.state.in_(ENDED))
    return (*mine, ~JOBS.c.provisional, JOBS.c.told == sa.false())
