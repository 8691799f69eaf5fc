"""A second chance by hand: what failed goes on, under the same identity."""

from __future__ import annotations

from node.ledger import Ledger, again, deliveries, jobs
from node.study import DeliveryState, JobState, Stage
from tests.node import work

STUDY = "1.2.3"


def test_a_failed_job_starts_again_under_its_own_id(ledger: Ledger) -> None:
    """The job is claimable from its first stage; whoever still holds the old fence writes nothing."""
    held = work.at_compose(ledger, work.queued_job(ledger))
    assert jobs.fail(ledger, held, "the device is gone")
    restarted = again.retry(ledger, STUDY)
    assert restarted.jobs == (held.job.job_id,)
    job = jobs.get(ledger, held.job.job_id)
    assert (job.state, job.stage, job.attempt, job.reason, job.generation) == (JobState.QUEUED, Stage.PREPARE, 0, None, held.job.generation)
    assert [entry.job_id for entry in jobs.queued(ledger)] == [job.job_id]
    assert not jobs.advance(ledger, held, Stage.INFER)
    assert again.retry(ledger, STUDY) == again.Restarted(jobs=(), deliveries=())


def test_a_failed_delivery_sends_what_it_has_not_sent(ledger: Ledger) -> None:
    """The archive gets the rest of the stored parcel, and the attempts count from the start."""
    job = work.written_job(ledger)
    (delivery,) = deliveries.of_job(ledger, job.job_id, job.generation)
    held = deliveries.claim(ledger, delivery.delivery_id, 8)
    assert held is not None
    first = held.parcel.objects[0].sop_instance_uid
    assert deliveries.object_sent(ledger, held, first, 0)
    assert deliveries.fail(ledger, held, "refused")
    assert again.retry(ledger, STUDY).deliveries == (delivery.delivery_id,)
    resumed = deliveries.claim(ledger, delivery.delivery_id, 8)
    assert resumed is not None
    assert (resumed.delivery.state, resumed.delivery.attempt, resumed.delivery.sent) == (DeliveryState.PENDING, 1, (first,))


def test_other_studies_and_other_states_are_left_alone(ledger: Ledger) -> None:
    """Only what failed, and only in the study that was named."""
    held = work.at_compose(ledger, work.queued_job(ledger))
    assert jobs.decline(ledger, held, "not a chest")
    assert again.retry(ledger, STUDY) == again.Restarted(jobs=(), deliveries=())
    assert jobs.get(ledger, held.job.job_id).state is JobState.DECLINED
    assert again.retry(ledger, "9.9.9") == again.Restarted(jobs=(), deliveries=())
