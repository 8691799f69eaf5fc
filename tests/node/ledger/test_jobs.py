"""Jobs: one claimer, one writer, nothing lost and nothing doubled."""

from __future__ import annotations

import pytest

from node.ledger import Ledger, deliveries, instances, jobs
from node.study import JobState, Mode, Stage
from tests.node import work
from tests.node.conftest import Clock


def test_a_queued_job_is_claimed_once(ledger: Ledger) -> None:
    """The first claim takes the job; a duplicate message finds nothing to do."""
    job = work.queued_job(ledger)
    held = jobs.claim(ledger, job.job_id, Stage.PREPARE, 8)
    assert held is not None
    assert (held.job.state, held.fence, held.job.attempt) == (JobState.RUNNING, 1, 1)
    assert jobs.claim(ledger, job.job_id, Stage.PREPARE, 8) is None


def test_a_message_for_another_stage_or_an_unknown_job_claims_nothing(ledger: Ledger) -> None:
    """A late message of a stage the job is not at is acknowledged and forgotten."""
    job = work.queued_job(ledger)
    assert jobs.claim(ledger, job.job_id, Stage.INFER, 8) is None
    assert jobs.claim(ledger, "no such job", Stage.PREPARE, 8) is None


def test_a_job_reads_back_as_it_was_planned(ledger: Ledger) -> None:
    """What routing asked for is what the worker gets."""
    job = work.queued_job(ledger, mode=Mode.SHADOW, priority=0, destinations=("a", "b"))
    assert job.inputs == {"image": ("1.2.3.1.1", "1.2.3.1.2", "1.2.3.1.3")}
    assert (job.mode, job.priority, job.destinations, job.stage) == (Mode.SHADOW, 0, ("a", "b"), Stage.PREPARE)
    assert (job.revision, job.generation, job.created_at) == (1, 1, ledger.clock())


def test_an_expired_lease_returns_the_job_and_the_old_worker_cannot_write(ledger: Ledger, clock: Clock) -> None:
    """A worker that comes back after losing its lease is refused at every move."""
    job = work.queued_job(ledger)
    lost = work.at_compose(ledger, job)
    assert jobs.expired(ledger) == []
    clock.now += 8.1
    (back,) = jobs.expired(ledger)
    assert (back.state, back.stage) == (JobState.QUEUED, Stage.COMPOSE)
    assert not jobs.renew(ledger, lost, 8)
    taken = jobs.claim(ledger, job.job_id, Stage.COMPOSE, 8)
    assert taken is not None
    assert taken.job.attempt == 2
    for move in (
        jobs.renew(ledger, lost, 8),
        jobs.advance(ledger, lost, Stage.COMPOSE),
        jobs.release(ledger, lost, "x", 1),
        jobs.send_back(ledger, lost, Stage.PREPARE, "x"),
        jobs.decline(ledger, lost, "x"),
        jobs.fail(ledger, lost, "x"),
        jobs.written(ledger, lost, [work.parcel_of(job)], {"archive": "ohif"}),
    ):
        assert move is False
    assert jobs.parcel(ledger, job.job_id) is None
    assert jobs.written(ledger, taken, [work.parcel_of(job)], {"archive": "ohif"})


def test_a_renewed_lease_does_not_expire(ledger: Ledger, clock: Clock) -> None:
    """A heartbeat keeps a long stage."""
    job = work.queued_job(ledger)
    held = jobs.claim(ledger, job.job_id, Stage.PREPARE, 8)
    assert held is not None
    for _ in range(10):
        clock.now += 6
        assert jobs.renew(ledger, held, 8)
        assert jobs.expired(ledger) == []


def test_a_heartbeat_cannot_outlive_the_stage_time_limit(ledger: Ledger, clock: Clock) -> None:
    """A hung GPU with a living heartbeat loses the job when the stage's absolute limit is over."""
    job = work.queued_job(ledger)
    held = jobs.claim(ledger, job.job_id, Stage.PREPARE, 8)
    assert held is not None
    clock.now += ledger.limits.time_limit_s["prepare"] - 3
    assert jobs.renew(ledger, held, 8)
    clock.now += 3
    assert not jobs.renew(ledger, held, 8)
    assert [entry.job_id for entry in jobs.expired(ledger)] == [job.job_id]


def test_attempts_of_a_stage_are_bounded_whoever_loses_them(ledger: Ledger, clock: Clock) -> None:
    """A job that kills its workers ends FAILED with a reason, not in a circle."""
    job = work.queued_job(ledger)
    for _ in range(ledger.limits.max_attempts):
        assert jobs.claim(ledger, job.job_id, Stage.PREPARE, 8)
        clock.now += 9
        jobs.expired(ledger)
    failed = jobs.get(ledger, job.job_id)
    assert failed.state is JobState.FAILED
    died = "the worker's process died in prepare, or stopped answering; its memory may have run out"
    assert failed.reason == f"{died} (gave up after 3 attempts of prepare)"


def test_a_job_lost_by_a_hang_says_so(ledger: Ledger, clock: Clock) -> None:
    """A lease that was renewed up to the stage's limit tells a hang from a death, with the limit."""
    job = work.queued_job(ledger)
    held = jobs.claim(ledger, job.job_id, Stage.PREPARE, 8)
    assert held is not None
    clock.now += ledger.limits.time_limit_s["prepare"] - 3
    assert jobs.renew(ledger, held, 8)
    clock.now += 3
    (lost,) = jobs.expired(ledger)
    assert lost.reason == "the stage prepare hung until its limit of 600 s; tried again"


def test_a_released_stage_waits_and_then_gives_up(ledger: Ledger, clock: Clock) -> None:
    """Passing trouble is tried again after a delay, a bounded number of times."""
    job = work.queued_job(ledger)
    for _ in range(2):
        held = jobs.claim(ledger, job.job_id, Stage.PREPARE, 8)
        assert held is not None
        assert jobs.release(ledger, held, "the disk is full", 10)
        assert jobs.claim(ledger, job.job_id, Stage.PREPARE, 8) is None
        assert jobs.queued(ledger) == []
        clock.now += 10
        assert [entry.job_id for entry in jobs.queued(ledger)] == [job.job_id]
    held = jobs.claim(ledger, job.job_id, Stage.PREPARE, 8)
    assert held is not None
    assert jobs.release(ledger, held, "the disk is full", 10)
    failed = jobs.get(ledger, job.job_id)
    assert (failed.state, failed.reason) == (JobState.FAILED, "the disk is full (gave up after 3 attempts of prepare)")


def test_attempts_are_counted_per_stage(ledger: Ledger) -> None:
    """A stage that needed two tries leaves the next one all of its own."""
    job = work.queued_job(ledger)
    held = jobs.claim(ledger, job.job_id, Stage.PREPARE, 8)
    assert held is not None
    assert jobs.release(ledger, held, "x", 0)
    held = jobs.claim(ledger, job.job_id, Stage.PREPARE, 8)
    assert held is not None
    assert jobs.advance(ledger, held, Stage.INFER)
    held = jobs.claim(ledger, job.job_id, Stage.INFER, 8)
    assert held is not None
    assert (held.job.attempt, held.fence) == (1, 3)


def test_a_lost_work_file_sends_the_job_back_and_not_for_ever(ledger: Ledger) -> None:
    """Work files that keep vanishing end in FAILED and name the work folder."""
    job = work.queued_job(ledger)
    for _ in range(ledger.limits.max_attempts):
        held = jobs.claim(ledger, job.job_id, Stage.PREPARE, 8)
        assert held is not None
        assert jobs.advance(ledger, held, Stage.INFER)
        held = jobs.claim(ledger, job.job_id, Stage.INFER, 8)
        assert held is not None
        assert jobs.send_back(ledger, held, Stage.PREPARE, "the volume is gone")
    failed = jobs.get(ledger, job.job_id)
    assert failed.state is JobState.FAILED
    assert "look at the work folder" in (failed.reason or "")


@pytest.mark.parametrize(("move", "state"), [(jobs.decline, JobState.DECLINED), (jobs.fail, JobState.FAILED)])
def test_an_ended_job_keeps_its_reason_and_is_claimed_no_more(ledger: Ledger, move: object, state: JobState) -> None:
    """DECLINED and FAILED are for good and say why."""
    job = work.queued_job(ledger)
    held = jobs.claim(ledger, job.job_id, Stage.PREPARE, 8)
    assert held is not None
    assert move(ledger, held, "a slice is missing")  # type: ignore[operator]
    ended = jobs.get(ledger, job.job_id)
    assert (ended.state, ended.reason) == (state, "a slice is missing")
    assert jobs.claim(ledger, job.job_id, Stage.PREPARE, 8) is None
    assert jobs.queued(ledger) == []


def test_the_first_written_parcel_is_the_truth(ledger: Ledger) -> None:
    """A second WRITTEN of the same claim is refused and changes no byte."""
    job = work.queued_job(ledger)
    held = work.at_compose(ledger, job)
    first = work.parcel_of(job)
    assert jobs.written(ledger, held, [first], {"archive": "ohif"})
    assert not jobs.written(ledger, held, [work.parcel_of(job)], {"archive": "ohif"})
    assert jobs.parcel(ledger, job.job_id) == first
    assert jobs.parcel(ledger, job.job_id, 1) == first
    assert jobs.parcel(ledger, job.job_id, 2) is None
    (delivery,) = deliveries.of_job(ledger, job.job_id, 1)
    assert delivery.destination == "archive"


def test_a_shadow_job_keeps_its_parcel_and_sends_nothing(ledger: Ledger) -> None:
    """Shadow mode writes results and opens no delivery."""
    job = work.written_job(ledger, mode=Mode.SHADOW)
    assert jobs.parcel(ledger, job.job_id) is not None
    assert deliveries.of_job(ledger, job.job_id, 1) == []


def test_a_cancelled_job_takes_its_worker_s_right_away(ledger: Ledger) -> None:
    """Who works on a cancelled job cannot write it any more."""
    job = work.queued_job(ledger)
    held = work.at_compose(ledger, job)
    assert jobs.cancel(ledger, job.job_id, "switched off")
    assert not jobs.written(ledger, held, [work.parcel_of(job)], {"archive": "ohif"})
    assert not jobs.cancel(ledger, job.job_id, "again")


def test_a_lost_message_is_sent_again_later_and_later(ledger: Ledger, clock: Clock) -> None:
    """A queued job gets a message at once, then after 30, 60, 120, 240, 480, 480 seconds."""
    job = work.queued_job(ledger)
    waits = []
    for _ in range(7):
        start = clock.now
        while not jobs.queued(ledger):
            clock.now += 1
        waits.append(clock.now - start)
        assert jobs.submitted(ledger, job, Stage.PREPARE)
    assert waits == [0, 30, 60, 120, 240, 480, 480]


def test_after_an_advance_the_sweep_leaves_the_worker_a_moment_to_submit(ledger: Ledger, clock: Clock) -> None:
    """The worker submits the next stage itself; only when it died in between does the sweep."""
    job = work.queued_job(ledger)
    held = jobs.claim(ledger, job.job_id, Stage.PREPARE, 8)
    assert held is not None
    assert jobs.advance(ledger, held, Stage.INFER)
    assert jobs.queued(ledger) == []
    clock.now += jobs.SUBMIT_GRACE_S
    (due,) = jobs.queued(ledger)
    assert due.stage is Stage.INFER
    assert not jobs.submitted(ledger, job, Stage.PREPARE)


def test_urgent_jobs_are_submitted_first(ledger: Ledger) -> None:
    """Priority 0 is the highest."""
    instances.index(ledger, work.slices(3))
    plans = [work.job_plan(f"job-{priority}", ["1.2.3.1.1"], priority=priority) for priority in (9, 0, 5)]
    work.planned(ledger, *plans)
    assert [entry.priority for entry in jobs.queued(ledger)] == [0, 5, 9]


def test_a_broker_that_lost_its_memory_gets_every_message_again(ledger: Ledger) -> None:
    """After a loss every waiting job is due at once."""
    job = work.queued_job(ledger)
    jobs.submitted(ledger, job, Stage.PREPARE)
    assert jobs.queued(ledger) == []
    assert jobs.resubmit_all(ledger) == 1
    assert [entry.job_id for entry in jobs.queued(ledger)] == [job.job_id]
