"""A job without a result: an archive is told once, only where a site asks, and never instead of a result."""

from __future__ import annotations

from dataclasses import replace

import pytest

from node import ending
from node.ledger import Ledger, again, deliveries, failures, instances, jobs, parcels, removal
from node.study import DeliveryState, Job, JobState, Mode, Parcel, Stage
from tests.node import work
from tests.node.conftest import Clock

WHY = "the device has no memory"


def ended(ledger: Ledger, state: JobState = JobState.FAILED, mode: Mode = Mode.LIVE) -> Job:
    """End a job without a result."""
    job = work.queued_job(ledger, mode=mode)
    held = jobs.claim(ledger, job.job_id, Stage.PREPARE, 8)
    assert held
    assert (jobs.fail if state is JobState.FAILED else jobs.decline)(ledger, held, WHY)
    return jobs.get(ledger, job.job_id)


def report(job: Job, uid: str = "2.25.70") -> Parcel:
    """Make the report that the job failed."""
    return replace(work.parcel_of(job), summary="failed", objects=(replace(work.parcel_of(job).objects[1], sop_instance_uid=uid),))


@pytest.mark.parametrize("state", [JobState.FAILED, JobState.DECLINED])
def test_a_live_job_without_a_result_is_told_once(ledger: Ledger, state: JobState) -> None:
    """Of two workers that write it the first counts: one parcel, one delivery a destination; the job stays what it was."""
    job = ended(ledger, state)
    assert [entry.job_id for entry in failures.due(ledger)] == [job.job_id]
    assert failures.is_untold(ledger, job.job_id)
    (ident,) = failures.written(ledger, job, [report(job)], {"archive": "ohif"})
    assert failures.written(ledger, job, [report(job, "2.25.71")], {"archive": "ohif"}) == []
    assert not failures.is_untold(ledger, job.job_id)
    assert failures.due(ledger) == []
    held = deliveries.claim(ledger, ident, 8)
    assert held
    assert held.parcel == report(job)
    assert jobs.get(ledger, job.job_id).state is state


def test_a_worker_that_was_lost_for_good_is_told_too(ledger: Ledger, clock: Clock) -> None:
    """The sweep that ends the job leaves the same mark."""
    job = work.queued_job(ledger)
    for _ in range(ledger.limits.max_attempts):
        assert jobs.claim(ledger, job.job_id, Stage.PREPARE, 8)
        clock.now += 8.1
        jobs.expired(ledger)
    assert jobs.get(ledger, job.job_id).state is JobState.FAILED
    assert [entry.job_id for entry in failures.due(ledger)] == [job.job_id]


def test_nobody_is_told_of_what_nobody_would_have_got(ledger: Ledger) -> None:
    """A job in shadow, one that was cancelled, one that goes on."""
    ended(ledger, mode=Mode.SHADOW)
    assert failures.due(ledger) == []
    stack = work.slices(2, study="1.2.4", series="1.2.4.1")
    instances.index(ledger, stack)
    work.planned(ledger, work.job_plan("job-2", [stack[0].sop_instance_uid], study_instance_uid="1.2.4"), study="1.2.4")
    assert failures.due(ledger) == []
    assert jobs.cancel(ledger, "job-2", "off")
    assert failures.due(ledger) == []


def test_a_decision_to_tell_nobody_stands(ledger: Ledger) -> None:
    """Nothing is written after it."""
    job = ended(ledger)
    assert failures.close(ledger, job)
    assert not failures.close(ledger, job)
    assert failures.written(ledger, job, [report(job)], {"archive": "ohif"}) == []
    assert parcels.of_job(ledger, job.job_id) == []


def test_messages_for_a_report_are_bounded(ledger: Ledger, clock: Clock) -> None:
    """Each later than the one before; after the last nobody is told."""
    job = ended(ledger)
    for _ in range(failures.SUBMISSIONS_MAX):
        assert failures.submitted(ledger, job)
        assert failures.due(ledger) == []
        clock.now += jobs.RESUBMIT_MAX_S
    assert failures.due(ledger)
    assert not failures.submitted(ledger, job)


def test_a_job_tried_again_is_a_new_generation_only_after_its_failure_was_told(ledger: Ledger) -> None:
    """The report of the failure has the first one's UIDs; a result under them would never arrive."""
    job = ended(ledger)
    assert again.retry(ledger, "1.2.3").jobs == (job.job_id,)
    assert jobs.get(ledger, job.job_id).generation == 1
    assert failures.written(ledger, job, [report(job)], {"archive": "ohif"}) == []
    held = jobs.claim(ledger, job.job_id, Stage.PREPARE, 8)
    assert held
    assert jobs.fail(ledger, held, WHY)
    failed = jobs.get(ledger, job.job_id)
    (told,) = failures.written(ledger, failed, [report(failed)], {"archive": "ohif"})
    assert again.retry(ledger, "1.2.3").jobs == (job.job_id,)
    second = jobs.get(ledger, job.job_id)
    assert (second.generation, second.state) == (2, JobState.QUEUED)
    assert jobs.written(ledger, work.at_compose(ledger, second), [work.parcel_of(second)], {"archive": "ohif"})
    (result,) = deliveries.of_job(ledger, job.job_id, 2)
    assert result.delivery_id != told
    assert [entry.generation for entry in parcels.of_job(ledger, job.job_id)] == [2]


def test_a_retry_sends_no_report_of_an_old_failure(ledger: Ledger) -> None:
    """What the archive did not take then is not true any more."""
    job = ended(ledger)
    (told,) = failures.written(ledger, job, [report(job)], {"archive": "ohif"})
    held = deliveries.claim(ledger, told, 8)
    assert held
    assert deliveries.fail(ledger, held, "no")
    again.retry(ledger, "1.2.3")
    second = jobs.get(ledger, job.job_id)
    assert jobs.written(ledger, work.at_compose(ledger, second), [work.parcel_of(second)], {"archive": "ohif"})
    assert again.retry(ledger, "1.2.3").deliveries == ()
    assert deliveries.get(ledger, told).state is DeliveryState.FAILED


def test_a_report_that_waits_is_not_sent_once_its_job_is_tried_again(ledger: Ledger, clock: Clock) -> None:
    """The archive was away; "AI FAILED" would stand beside the result of the second try. It failed nobody."""
    job = ended(ledger)
    (told,) = failures.written(ledger, job, [report(job)], {"archive": "ohif"})
    again.retry(ledger, "1.2.3")
    assert deliveries.get(ledger, told).state is DeliveryState.FAILED
    assert deliveries.claim(ledger, told, 8) is None
    second = jobs.get(ledger, job.job_id)
    assert second.generation == 2
    assert jobs.written(ledger, work.at_compose(ledger, second), [work.parcel_of(second)], {"archive": "ohif"})
    (result,) = deliveries.of_job(ledger, job.job_id, 2)
    held = deliveries.claim(ledger, result.delivery_id, 8)
    assert held
    assert deliveries.sent(ledger, held, None)
    assert deliveries.accepted(ledger, result.delivery_id, "C-FIND")
    finished = ending.of(removal.work_of(ledger, ["1.2.3"])[0])
    assert finished is not None
    assert finished.ending is ending.Ending.ACCEPTED


def test_a_report_that_is_being_sent_goes_on(ledger: Ledger) -> None:
    """What may be half there is not called back."""
    job = ended(ledger)
    (told,) = failures.written(ledger, job, [report(job)], {"archive": "ohif"})
    held = deliveries.claim(ledger, told, 8)
    assert held
    again.retry(ledger, "1.2.3")
    assert deliveries.get(ledger, told).state is DeliveryState.PENDING
    assert deliveries.object_sent(ledger, held, held.parcel.objects[0].sop_instance_uid, 0)
    assert deliveries.sent(ledger, held, None)


@pytest.mark.parametrize("written", [True, False])
def test_a_newer_revision_s_job_answers_for_the_failed_one(ledger: Ledger, written: bool) -> None:  # noqa: FBT001
    """Its report is not sent, nor written any more; one of another model's failure is."""
    job = ended(ledger)
    (told,) = failures.written(ledger, job, [report(job)], {"archive": "ohif"}) if written else [""]
    instances.index(ledger, work.slices(1, first=4))
    work.planned(ledger, work.job_plan("job-2", ["1.2.3.1.4"], model="another"))
    assert not written or deliveries.get(ledger, told).state is DeliveryState.PENDING
    assert failures.is_untold(ledger, job.job_id) is not written
    instances.index(ledger, work.slices(1, first=5))
    work.planned(ledger, work.job_plan("job-3", ["1.2.3.1.5"]))
    assert not written or deliveries.get(ledger, told).state is DeliveryState.FAILED
    assert not failures.is_untold(ledger, job.job_id)
    assert failures.written(ledger, job, [report(job)], {"archive": "ohif"}) == []


def test_the_report_of_a_failure_is_no_predecessor(ledger: Ledger) -> None:
    """A later result replaces results."""
    job = ended(ledger)
    failures.written(ledger, job, [report(job)], {"archive": "ohif"})
    instances.index(ledger, work.slices(1, first=4))
    work.planned(ledger, work.job_plan("job-2", ["1.2.3.1.4"]))
    assert jobs.get(ledger, "job-2").predecessor is None
