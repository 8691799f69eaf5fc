"""How the work on a study ended."""

from __future__ import annotations

from typing import Any

import pytest

from node import ending, holds
from node.ending import Ending
from node.ledger import Ledger, instances, removal, revisions
from node.ledger.removal import Work
from node.study import DeliveryState, JobState, RevisionState
from tests.node import work

PLANNED, DECLINED, SUPERSEDED = RevisionState.PLANNED, RevisionState.DECLINED, RevisionState.SUPERSEDED
WRITTEN, FAILED = JobState.WRITTEN, JobState.FAILED
COMMITTED, ACCEPTED = DeliveryState.COMMITTED, DeliveryState.ACCEPTED


def done(revision_states: list[RevisionState], jobs: list[JobState] | None = None, sends: list[DeliveryState] | None = None) -> Work:
    """Make a study's work from its states; each was reached a second after the one before."""
    times = iter(range(1, 100))
    return Work(
        study_instance_uid="1.2.3",
        last_received_at=0.5,
        revisions=tuple((state, float(next(times))) for state in revision_states),
        jobs=tuple((state, float(next(times))) for state in jobs or []),
        deliveries=tuple((state, float(next(times))) for state in sends or []),
    )


@pytest.mark.parametrize(
    ("whole", "expected", "at"),
    [
        (done([PLANNED], [WRITTEN], [COMMITTED, COMMITTED]), Ending.COMMITTED, 4),
        (done([PLANNED], [WRITTEN], [COMMITTED, ACCEPTED]), Ending.ACCEPTED, 4),
        (done([PLANNED], [WRITTEN]), Ending.ACCEPTED, 2),
        (done([DECLINED]), Ending.DECLINED, 1),
        (done([]), Ending.DECLINED, 0.5),
        (done([PLANNED], [WRITTEN, JobState.DECLINED], [COMMITTED]), Ending.DECLINED, 4),
        (done([PLANNED], [WRITTEN, FAILED], [COMMITTED]), Ending.FAILED, 4),
        (done([PLANNED], [WRITTEN], [COMMITTED, DeliveryState.FAILED]), Ending.FAILED, 4),
        (done([SUPERSEDED, PLANNED], [JobState.SUPERSEDED, WRITTEN], [COMMITTED]), Ending.COMMITTED, 5),
    ],
)
def test_the_most_delicate_ending_counts(whole: Work, expected: Ending, at: float) -> None:
    """What failed stays longest, what every archive has committed goes first; the last thing done counts the days."""
    found = ending.of(whole)
    assert found is not None
    assert (found.ending, found.at) == (expected, at)


@pytest.mark.parametrize(
    "open_state",
    [
        *(done([state]) for state in (RevisionState.RECEIVING, RevisionState.COMPLETE, RevisionState.HELD)),
        *(done([PLANNED], [state]) for state in (JobState.QUEUED, JobState.RUNNING)),
        *(done([PLANNED], [WRITTEN], [COMMITTED, state]) for state in (DeliveryState.PENDING, DeliveryState.SENT)),
    ],
)
def test_unfinished_work_has_no_ending(open_state: Work) -> None:
    """Whatever is left to do, on any revision, job or destination."""
    assert ending.of(open_state) is None


def test_a_dropped_study_is_told_from_one_that_nothing_takes(ledger: Ledger) -> None:
    """Somebody looked at it and let it go."""
    instances.index(ledger, work.slices(1))
    held: Any = work.freeze(ledger)
    assert revisions.hold(ledger, held, "two patients")
    assert ending.of(removal.work_of(ledger, ["1.2.3"])[0]) is None
    holds.drop(ledger, "1.2.3", "Dr. Day", "a phantom")
    found = ending.of(removal.work_of(ledger, ["1.2.3"])[0])
    assert found is not None
    assert found.ending is Ending.DROPPED
