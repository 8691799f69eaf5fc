"""Holds in the ledger: each move once, on each kind of database."""

from __future__ import annotations

import pytest

from node.ledger import Ledger, instances, jobs, removal, revisions
from node.ledger import holds as rows
from node.ledger.holds import Ending, Finding
from node.study import Instance, JobState, RevisionState, Stage
from tests.node import work
from tests.node.conftest import Clock

ODD = Finding(kind="odd", key="k1", reason="it is odd")
GO = Ending(outcome="RELEASED", by="A. Clerk", because="seen")


def nothing(*_: object) -> None:
    """Leave no trace."""


def failing(*_: object) -> None:
    """Fail like a disk."""
    raise OSError(28, "No space left on device")


def compose_claim(ledger: Ledger) -> jobs.Claim:
    """Bring a planned job to its last stage."""
    return work.at_compose(ledger, work.queued_job(ledger))


def test_a_stopped_job_takes_its_revision_and_the_other_jobs_with_it(ledger: Ledger) -> None:
    """The lease is over, so a worker's later word counts for nothing; a second stop of the same claim neither."""
    claim = compose_claim(ledger)
    assert rows.stop(ledger, claim, [ODD], nothing)
    assert not rows.stop(ledger, claim, [ODD], nothing)
    stopped = jobs.get(ledger, claim.job.job_id)
    assert (stopped.state, stopped.reason) == (JobState.CANCELLED, "held: it is odd")
    assert not jobs.renew(ledger, claim, 8)
    assert not jobs.written(ledger, claim, [work.parcel_of(claim.job)], {"archive": "ohif"})
    (held,) = rows.held(ledger)
    assert (held["study"], held["revision"], held["kinds"], held["reason"]) == ("1.2.3", 1, ["odd"], "it is odd")


def test_a_job_that_a_newer_revision_took_over_while_it_ran_holds_that_one(ledger: Ledger) -> None:
    """A late series of no interest re-links the job: its study must not stay planned with a job that ended."""
    claim = compose_claim(ledger)
    instances.index(ledger, work.slices(1, series="1.2.3.2"))
    work.planned(ledger, work.job_plan(claim.job.job_id, claim.job.inputs["image"]))
    assert rows.stop(ledger, claim, [ODD], nothing)
    assert [(entry["study"], entry["revision"]) for entry in rows.held(ledger)] == [("1.2.3", 2)]


def test_a_released_revision_brings_its_jobs_back(ledger: Ledger) -> None:
    """Planned again, the same job is queued at its first stage."""
    claim = compose_claim(ledger)
    rows.stop(ledger, claim, [ODD], nothing)
    assert rows.end(ledger, "1.2.3", GO, nothing)
    (complete,) = revisions.in_state(ledger, RevisionState.COMPLETE)
    plan = work.job_plan(claim.job.job_id, claim.job.inputs["image"])
    assert revisions.plan(ledger, complete.revision_id, work.Plan(jobs=(plan,), declined=()))
    again = jobs.get(ledger, claim.job.job_id)
    assert (again.state, again.stage) == (JobState.QUEUED, Stage.PREPARE)
    assert rows.released_keys(ledger, "1.2.3") == {"k1"}


def test_whose_results_they_are_is_written_once(ledger: Ledger) -> None:
    """The first word stays; whoever lost the claim writes nothing and gets nothing."""
    claim = compose_claim(ledger)
    assert rows.note_patient(ledger, claim, {"said": "first"}) == {"said": "first"}
    assert rows.note_patient(ledger, claim, {"said": "second"}) == {"said": "first"}
    assert jobs.get(ledger, claim.job.job_id).patient == {"said": "first"}
    jobs.release(ledger, claim, "again", 0)
    assert rows.note_patient(ledger, claim, {"said": "third"}) is None


def test_a_study_is_found_by_the_patient_that_its_results_carry(ledger: Ledger) -> None:
    """After a merge a purge asks for the new ID."""
    rows.note_patient(ledger, compose_claim(ledger), {"said": "merged", "use": {"PatientID": "NEW-1"}})
    assert [study for study, _ in removal.studies_of_patient(ledger, "NEW-1")] == ["1.2.3"]


def test_a_trace_that_cannot_be_left_takes_the_move_back(ledger: Ledger) -> None:
    """Neither held, nor released, nor dropped."""
    instances.index(ledger, work.slices(2))
    frozen = work.freeze(ledger)
    with pytest.raises(OSError, match="No space"):
        rows.hold(ledger, frozen, [ODD], failing)
    assert revisions.of_study(ledger, "1.2.3")[-1].state is RevisionState.COMPLETE
    assert rows.hold(ledger, frozen, [ODD], nothing)
    with pytest.raises(OSError, match="No space"):
        rows.end(ledger, "1.2.3", GO, failing)
    assert len(rows.held(ledger)) == 1


def test_a_revision_held_without_findings_is_listed_and_released_too(ledger: Ledger, clock: Clock) -> None:
    """One that lacks images by the archive's count is held by assembly."""
    instances.index(ledger, work.slices(2))
    assert revisions.hold(ledger, work.freeze(ledger), "archive has 3 images of series 1, 2 came")
    assert [(entry["kinds"], entry["held_at"]) for entry in rows.held(ledger)] == [([], clock.now)]
    assert rows.end(ledger, "1.2.3", GO, nothing)
    with ledger.reading() as connection:
        (told,) = rows.history(connection, "1.2.3")
    assert (told["outcome"], told["by_whom"], told["because"], told["kinds"]) == ("RELEASED", "A. Clerk", "seen", [])


def from_pacs(entry: Instance) -> Instance:
    """Give the same image as another sender sends it."""
    fields = {name: getattr(entry, name) for name in Instance.__dataclass_fields__}
    return Instance(**fields | {"calling_ae": "PACS", "peer_host": "10.0.0.2"})


def test_a_second_sender_of_the_same_bytes_is_noted_once(ledger: Ledger) -> None:
    """Whether it comes later or in the same batch."""
    first, second = work.slices(2)
    instances.index(ledger, [first, second, from_pacs(second)])
    for _ in range(2):
        instances.index(ledger, [from_pacs(first), first])
    assert {entry.sop_instance_uid: entry.senders[1:] for entry in rows.sent(ledger, "1.2.3", 1)} == {
        first.sop_instance_uid: ("PACS 10.0.0.2",),
        second.sop_instance_uid: ("PACS 10.0.0.2",),
    }
