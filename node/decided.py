"""What routing decided of a stored study when it was planned, as the ledger keeps it. No patient data comes out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import sqlalchemy as sa

from node.ledger import Ledger, revisions
from node.ledger.jobs import job_of
from node.ledger.schema import DECLINES, JOBS
from node.study import Job, RevisionState


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """The newest revision of a study, and the last decision on it.

    revision, state, reason   of the newest revision
    decided_on                the revision that was planned or declined last; None: none was yet
    jobs                      of that revision
    reasons                   (model, Series Instance UID) -> why it was not taken
    """

    study_instance_uid: str
    revision: int
    state: RevisionState
    reason: str | None
    decided_on: int | None
    jobs: tuple[Job, ...]
    reasons: Mapping[tuple[str, str], str]


def read(ledger: Ledger, study_uid: str) -> Decision | None:
    """Give the last decision on a study; None for a study that never came."""
    known = revisions.of_study(ledger, study_uid)
    if not known:
        return None
    jobs: list[Job] = []
    reasons: dict[tuple[str, str], str] = {}
    decided = None
    with ledger.reading() as connection:
        for revision in reversed(known):
            mine = sa.select(JOBS).where(JOBS.c.study_instance_uid == study_uid, JOBS.c.revision == revision.number)
            jobs = [job_of(row) for row in connection.execute(mine.order_by(JOBS.c.model))]
            why = sa.select(DECLINES).where(DECLINES.c.revision_id == revision.revision_id)
            reasons = {(row.model, row.series_instance_uid): row.reason for row in connection.execute(why)}
            if jobs or reasons:
                decided = revision.number
                break
    newest = known[-1]
    return Decision(
        study_instance_uid=study_uid,
        revision=newest.number,
        state=newest.state,
        reason=newest.reason,
        decided_on=decided,
        jobs=tuple(jobs),
        reasons=reasons,
    )
