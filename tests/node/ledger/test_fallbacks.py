"""A parcel's class is refused: the delivery asks for another profile, and goes on from wherever somebody was killed."""

from __future__ import annotations

from dataclasses import replace

import pytest

from node.ledger import Ledger, again, deliveries, fallbacks, instances, jobs, parcels, removal
from node.ledger.deliveries import DeliveryClaim
from node.study import DeliveryState, Job, JobState, Parcel, Stage
from tests.node import work
from tests.node.conftest import Clock

WHY = "archive does not accept Segmentation Storage"


def basic(job: Job, *, summary: str = "1 nodule") -> Parcel:
    """Make the job's results in the profile `basic`: a report of its own."""
    report = replace(work.parcel_of(job).objects[1], sop_instance_uid="2.25.99", path=f"parcels/{job.job_id}/basic.dcm")
    return replace(work.parcel_of(job), profile="basic", profile_digest="b", summary=summary, objects=(report,))


def sending(ledger: Ledger, job: Job, destination: str = "archive") -> DeliveryClaim:
    """Claim a delivery for sending."""
    held = deliveries.claim(ledger, jobs.delivery_id(job.job_id, job.generation, destination), 8)
    assert held is not None
    return held


def refused(ledger: Ledger, job: Job, destination: str = "archive") -> str:
    """Have a destination refuse the job's parcel; give the delivery's id."""
    held = sending(ledger, job, destination)
    assert fallbacks.ask(ledger, held, "basic", WHY) is Stage.RECOMPOSE
    return held.delivery.delivery_id


def writing(ledger: Ledger, delivery_id: str) -> DeliveryClaim:
    """Claim a delivery for writing what it wants."""
    held = deliveries.claim(ledger, delivery_id, 8, Stage.RECOMPOSE)
    assert held is not None
    return held


def test_a_refused_parcel_is_written_anew_and_sent_from_its_first_object(ledger: Ledger, clock: Clock) -> None:
    """The whole step: nothing is sent while it is written, then all of the other parcel is, under the same delivery."""
    job = work.written_job(ledger)
    ident = refused(ledger, job)
    asked = deliveries.get(ledger, ident)
    assert (asked.state, asked.profile, asked.wants_profile) == (DeliveryState.PENDING, "ohif", "basic")
    assert asked.refusals == ({"profile": "ohif", "to": "basic", "reason": WHY, "at": clock.now},)
    assert deliveries.claim(ledger, ident, 8) is None
    held = writing(ledger, ident)
    assert fallbacks.point(ledger, held, basic(job))
    now = deliveries.get(ledger, ident)
    assert (now.state, now.profile, now.wants_profile, now.attempt, now.sent) == (DeliveryState.PENDING, "basic", None, 0, ())
    again_sent = sending(ledger, job)
    assert [entry.sop_instance_uid for entry in again_sent.parcel.objects] == ["2.25.99"]
    assert deliveries.object_sent(ledger, again_sent, "2.25.99", 0)
    assert deliveries.sent(ledger, again_sent, "2.25.500")
    assert deliveries.report(ledger, "2.25.500", {"2.25.99"}, {})
    done = deliveries.get(ledger, ident)
    assert (done.state, len(done.refusals)) == (DeliveryState.COMMITTED, 1)
    assert {entry.profile for entry in parcels.of_job(ledger, job.job_id)} == {"ohif", "basic"}


def test_the_first_parcel_of_a_profile_stays(ledger: Ledger) -> None:
    """Another destination's fallback to the same profile gets those bytes, whatever its worker wrote."""
    job = work.written_job(ledger, destinations=("archive", "viewer"))
    first, second = refused(ledger, job), refused(ledger, job, "viewer")
    one, two = writing(ledger, first), writing(ledger, second)
    assert fallbacks.point(ledger, one, basic(job))
    assert fallbacks.point(ledger, two, basic(job, summary="other words"))
    assert jobs.parcel(ledger, job.job_id, 1, "basic") == basic(job)
    assert deliveries.get(ledger, second).profile == "basic"


def test_a_parcel_that_is_there_already_is_sent_at_once(ledger: Ledger) -> None:
    """No second writing: the other destination was given that profile from the start."""
    job = work.queued_job(ledger, destinations=("archive", "viewer"))
    both = {"archive": "ohif", "viewer": "basic"}
    assert jobs.written(ledger, work.at_compose(ledger, job), [work.parcel_of(job), basic(job)], both)
    held = sending(ledger, job)
    assert fallbacks.ask(ledger, held, "basic", WHY) is Stage.DELIVER
    assert [entry.sop_instance_uid for entry in sending(ledger, job).parcel.objects] == ["2.25.99"]


def test_half_a_parcel_is_never_replaced(ledger: Ledger) -> None:
    """One object is stored there: the result would be twice in the archive, once broken."""
    job = work.written_job(ledger)
    held = sending(ledger, job)
    assert deliveries.object_sent(ledger, held, "2.25.7", 0)
    assert fallbacks.ask(ledger, held, "basic", WHY) is None
    assert deliveries.fail(ledger, held, WHY)


def test_each_step_done_twice_is_done_once(ledger: Ledger) -> None:
    """A second sender that was told the same, a second worker that wrote the same: neither moves anything."""
    job = work.written_job(ledger)
    held = sending(ledger, job)
    assert fallbacks.ask(ledger, held, "basic", WHY) is Stage.RECOMPOSE
    assert fallbacks.ask(ledger, held, "basic", WHY) is None
    assert not deliveries.renew(ledger, held, 8)
    mine = writing(ledger, held.delivery.delivery_id)
    assert deliveries.claim(ledger, held.delivery.delivery_id, 8, Stage.RECOMPOSE) is None
    assert fallbacks.point(ledger, mine, basic(job))
    assert not fallbacks.point(ledger, mine, basic(job))
    assert len(deliveries.get(ledger, held.delivery.delivery_id).refusals) == 1


def test_a_worker_killed_while_it_writes_loses_its_claim_to_the_next(ledger: Ledger, clock: Clock) -> None:
    """The sweep frees the delivery and gives it out again; the dead one's late answer is refused."""
    job = work.written_job(ledger)
    ident = refused(ledger, job)
    clock.now += jobs.SUBMIT_GRACE_S
    assert [(entry.delivery_id, entry.wants_profile) for entry in deliveries.due(ledger, clock.now)] == [(ident, "basic")]
    lost = writing(ledger, ident)
    clock.now += 8.1
    (freed,) = deliveries.lost_senders(ledger, clock.now)
    assert (freed.wants_profile, freed.state) == ("basic", DeliveryState.PENDING)
    next_one = writing(ledger, ident)
    assert next_one.delivery.attempt == 2
    assert not fallbacks.point(ledger, lost, basic(job, summary="too late"))
    assert jobs.parcel(ledger, job.job_id, 1, "basic") is None
    assert fallbacks.point(ledger, next_one, basic(job))


def test_the_writing_has_its_own_time_limit(ledger: Ledger, clock: Clock) -> None:
    """A hung worker loses the claim at the limit of `recompose`, not of `deliver`."""
    ledger.limits = replace(ledger.limits, time_limit_s=dict(ledger.limits.time_limit_s) | {"recompose": 20.0})
    held = writing(ledger, refused(ledger, work.written_job(ledger)))
    clock.now += 19
    assert deliveries.renew(ledger, held, 8)
    clock.now += 1
    assert not deliveries.renew(ledger, held, 8)
    assert deliveries.lost_senders(ledger, clock.now)


def test_writing_that_goes_wrong_is_bounded_and_a_full_disk_is_not(ledger: Ledger, clock: Clock) -> None:
    """Attempts are counted but for a full disk; spent, the delivery is FAILED with the last reason."""
    ident = refused(ledger, work.written_job(ledger))
    assert fallbacks.postpone(ledger, writing(ledger, ident), "the disk is full", 30)
    assert deliveries.claim(ledger, ident, 8, Stage.RECOMPOSE) is None
    for _ in range(ledger.limits.max_attempts):
        assert deliveries.get(ledger, ident).state is DeliveryState.PENDING
        clock.now += 30
        assert fallbacks.release(ledger, writing(ledger, ident), "unexpected KeyError", 1)
    failed = deliveries.get(ledger, ident)
    assert (failed.state, failed.wants_profile) == (DeliveryState.FAILED, None)
    assert failed.reason == "unexpected KeyError (gave up after 3 attempts)"


def test_a_retry_by_hand_starts_with_the_sending(ledger: Ledger) -> None:
    """The archive may take the class by now: the parcel it refused goes first."""
    job = work.written_job(ledger)
    ident = refused(ledger, job)
    assert deliveries.fail(ledger, writing(ledger, ident), "the work files have gone")
    assert again.retry(ledger, "1.2.3").deliveries == (ident,)
    assert sending(ledger, job).delivery.profile == "ohif"


def test_what_is_asked_about_an_old_parcel_says_nothing_of_the_new(ledger: Ledger, clock: Clock) -> None:
    """A commitment that failed for all of it, then a refusal: a late report on the old objects changes nothing."""
    job = work.written_job(ledger)
    held = sending(ledger, job)
    for uid in ("2.25.7", "2.25.8"):
        assert deliveries.object_sent(ledger, held, uid, 0)
    assert deliveries.sent(ledger, held, "2.25.500")
    clock.now += 5
    assert deliveries.report(ledger, "2.25.500", set(), {"2.25.7": 0x0112, "2.25.8": 0x0112})
    clock.now += deliveries.UNSENT_FIRST_S
    ident = refused(ledger, job)
    assert fallbacks.point(ledger, writing(ledger, ident), basic(job))
    assert not deliveries.report(ledger, "2.25.500", {"2.25.7", "2.25.8"}, {})
    assert deliveries.get(ledger, ident).state is DeliveryState.PENDING


@pytest.mark.parametrize("written", [False, True])
def test_a_newer_revision_replaces_what_is_being_written_anew(ledger: Ledger, written: bool) -> None:  # noqa: FBT001 -- one of two points
    """Nothing of it was sent: the job is SUPERSEDED, and the worker's late answer is refused."""
    job = work.written_job(ledger)
    held = writing(ledger, refused(ledger, job))
    if written:
        assert fallbacks.point(ledger, held, basic(job))
    instances.index(ledger, work.slices(1, first=4))
    assert jobs.get(ledger, job.job_id).state is JobState.SUPERSEDED
    assert not fallbacks.point(ledger, held, basic(job))
    stopped = deliveries.get(ledger, held.delivery.delivery_id)
    assert (stopped.state, stopped.wants_profile) == (DeliveryState.FAILED, None)


def test_the_work_files_stay_while_a_destination_may_still_refuse(ledger: Ledger) -> None:
    """A job goes on until every delivery has ended: until then its prediction is kept."""
    job = work.written_job(ledger, destinations=("archive", "viewer"))
    assert removal.ended_jobs(ledger, [job.job_id])[job.job_id].ended_at == float("inf")
    assert deliveries.fail(ledger, sending(ledger, job), "no")
    ident = refused(ledger, job, "viewer")
    assert removal.ended_jobs(ledger, [job.job_id])[job.job_id].ended_at == float("inf")
    assert deliveries.fail(ledger, writing(ledger, ident), "no")
    assert removal.ended_jobs(ledger, [job.job_id])[job.job_id].ended_at == ledger.clock()
