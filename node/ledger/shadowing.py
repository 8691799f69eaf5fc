"""A model put into the shadow after its job was planned: the job goes on, and its results are kept and not sent."""

from __future__ import annotations

from dataclasses import replace

import sqlalchemy as sa

from node.ledger import Ledger
from node.ledger.jobs import Claim
from node.ledger.schema import JOBS
from node.study import JobState, Mode


def keep_unsent(ledger: Ledger, claim: Claim) -> Claim | None:
    """Take the destinations from a claimed job, for good; None: the job is no longer ours, stop.

    Live again by the rules later, it stays unsent: whoever looked at its results meanwhile saw those of a shadow.
    """
    mine = (JOBS.c.job_id == claim.job.job_id, JOBS.c.state == JobState.RUNNING, JOBS.c.fence == claim.fence)
    with ledger.writing() as connection:
        taken = connection.execute(sa.update(JOBS).where(*mine).values(mode=Mode.SHADOW, destinations=[]))
    return replace(claim, job=replace(claim.job, mode=Mode.SHADOW, destinations=())) if taken.rowcount == 1 else None
