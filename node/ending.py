"""How the work on a study ended, which says how long its images stay and when they go as the disk fills. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from node.ledger.removal import OPEN_DELIVERIES, OPEN_JOBS, OPEN_REVISIONS, Work
from node.study import DeliveryState, JobState, RevisionState


class Ending(StrEnum):
    """Five ways; of several that are true of a study the last one here counts."""

    COMMITTED = "committed"
    ACCEPTED = "accepted"
    DROPPED = "dropped"
    DECLINED = "declined"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """A study whose work has ended: how, and when the last of it did."""

    study_instance_uid: str
    ending: Ending
    at: float


def of(work: Work) -> Ended | None:
    """Tell how the work ended; None while anything is left to do: received, held, analysed, sent, not yet committed.

    failed     a job or a delivery failed, and no newer revision replaced it
    declined   nothing takes it, a model refused it, or the rules cancelled a job; also images that belong to no revision
    dropped    it was held, and somebody dropped it
    accepted   stored by an archive that does not commit, or kept without sending (shadow)
    committed  every result is committed
    """
    revisions, jobs, deliveries = ({state for state, _ in rows} for rows in (work.revisions, work.jobs, work.deliveries))
    if revisions & set(OPEN_REVISIONS) or jobs & set(OPEN_JOBS) or deliveries & set(OPEN_DELIVERIES):
        return None
    at = max([work.last_received_at, *(when for rows in (work.revisions, work.jobs, work.deliveries) for _, when in rows)])
    newest = work.revisions[-1][0] if work.revisions else RevisionState.DECLINED
    if JobState.FAILED in jobs or DeliveryState.FAILED in deliveries:
        ending = Ending.FAILED
    elif work.dropped and newest is RevisionState.DECLINED:
        ending = Ending.DROPPED
    elif newest is RevisionState.DECLINED or jobs & {JobState.DECLINED, JobState.CANCELLED}:
        ending = Ending.DECLINED
    elif deliveries == {DeliveryState.COMMITTED}:
        ending = Ending.COMMITTED
    else:
        ending = Ending.ACCEPTED
    return Ended(study_instance_uid=work.study_instance_uid, ending=ending, at=at)
