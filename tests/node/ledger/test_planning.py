"""Plans as rows: jobs prepared ahead of the proof, and whose report each job replaces."""

from __future__ import annotations

from dataclasses import replace

from node.ledger import Ledger, deliveries, fallbacks, instances, jobs, looks, revisions
from node.study import JobState, ParcelObject, Plan, RevisionState, Stage
from tests.node import work
from tests.node.conftest import Clock

SR = "1.2.840.10008.5.1.4.1.1.88.34"


def ahead(ledger: Ledger, *names: str) -> revisions.Revision:
    """Plan jobs of these names on a receiving study, as on a hint."""
    newest = revisions.of_study(ledger, "1.2.3")[-1]
    assert looks.note(ledger, newest, {"said": "hint"}, 0.0)
    uids = [entry.sop_instance_uid for entry in instances.study(ledger, "1.2.3", newest.number).series[0].instances]
    plans = tuple(work.job_plan(name, uids) for name in names)
    assert revisions.plan_ahead(ledger, newest, Plan(jobs=plans, declined=()))
    return newest


def prepare(ledger: Ledger, job_id: str) -> None:
    """Do the first stage."""
    held = jobs.claim(ledger, job_id, Stage.PREPARE, 8)
    assert held
    assert jobs.advance(ledger, held, Stage.INFER)


def sent(ledger: Ledger, job_id: str, *, number: int) -> ParcelObject:
    """Write a queued job's parcel, its report under a UID of its own, and send it."""
    job = jobs.get(ledger, job_id)
    report = replace(
        work.parcel_of(job).objects[1], sop_class_uid=SR, sop_instance_uid=f"2.25.{number}", series_instance_uid=f"2.25.{number}0"
    )
    parcel = replace(work.parcel_of(job), objects=(report,))
    assert jobs.written(ledger, work.at_compose(ledger, job), [parcel], dict.fromkeys(job.destinations, "ohif"))
    (delivery,) = deliveries.of_job(ledger, job_id, 1)
    held = deliveries.claim(ledger, delivery.delivery_id, 8)
    assert held
    deliveries.object_sent(ledger, held, report.sop_instance_uid, 0)
    assert deliveries.sent(ledger, held, None)
    return report


def revise(ledger: Ledger, job_id: str, first: int) -> None:
    """Receive a late slice, and plan one job on all."""
    instances.index(ledger, work.slices(1, first=first))
    uids = [f"1.2.3.1.{number}" for number in range(1, first + 1)]
    work.planned(ledger, work.job_plan(job_id, uids))


def test_a_job_ahead_of_the_proof_is_prepared_and_waits(ledger: Ledger, clock: Clock) -> None:
    """No worker gets its second stage, no message is due for it, until the plan confirms it; then at once."""
    instances.index(ledger, work.slices(3))
    ahead(ledger, "job-1")
    prepare(ledger, "job-1")
    clock.now += 3600
    assert jobs.queued(ledger) == []
    assert jobs.claim(ledger, "job-1", Stage.INFER, 8) is None
    work.planned(ledger, work.job_plan("job-1", ["1.2.3.1.1", "1.2.3.1.2", "1.2.3.1.3"], priority=0))
    (due,) = jobs.queued(ledger)
    assert (due.stage, due.priority, due.provisional) == (Stage.INFER, 0, False)
    assert jobs.claim(ledger, "job-1", Stage.INFER, 8)


def test_an_arrival_ends_what_was_planned_ahead_on_its_series(ledger: Ledger) -> None:
    """Also in the first revision, and whoever works on it."""
    instances.index(ledger, work.slices(3))
    seen = ahead(ledger, "job-1")
    held = jobs.claim(ledger, "job-1", Stage.PREPARE, 8)
    assert held
    instances.index(ledger, work.slices(1, first=4))
    assert jobs.get(ledger, "job-1").state is JobState.SUPERSEDED
    assert not jobs.advance(ledger, held, Stage.INFER)
    assert not revisions.plan_ahead(ledger, seen, Plan(jobs=(), declined=()))


def test_a_plan_ends_what_was_prepared_ahead_and_is_not_asked_for(ledger: Ledger) -> None:
    """The proof may find another series, or other rules."""
    instances.index(ledger, work.slices(3))
    ahead(ledger, "job-1", "job-2")
    work.planned(ledger, work.job_plan("job-2", ["1.2.3.1.1"]))
    assert [jobs.get(ledger, name).state for name in ("job-1", "job-2")] == [JobState.SUPERSEDED, JobState.QUEUED]


def test_what_a_held_study_had_ahead_comes_back_with_its_release(ledger: Ledger) -> None:
    """HELD ends it; the plan after the release revives the same job."""
    instances.index(ledger, work.slices(3))
    ahead(ledger, "job-1")
    frozen = work.freeze(ledger)
    assert revisions.hold(ledger, frozen, "two patients")
    assert jobs.get(ledger, "job-1").state is JobState.SUPERSEDED
    (held,) = revisions.of_study(ledger, "1.2.3")
    assert revisions.release(ledger, held)
    (released,) = revisions.of_study(ledger, "1.2.3")
    assert revisions.plan(ledger, released.revision_id, Plan(jobs=(work.job_plan("job-1", ["1.2.3.1.1"]),), declined=()))
    job = jobs.get(ledger, "job-1")
    assert (job.state, job.provisional) == (JobState.QUEUED, False)


def test_a_study_declined_for_what_it_lacks_keeps_no_job(ledger: Ledger) -> None:
    """What was prepared ahead ends with it; a look out of date declines nothing."""
    instances.index(ledger, work.slices(3))
    seen = ahead(ledger, "job-1")
    stale = seen
    instances.index(ledger, work.slices(1, series="1.2.3.9"))
    assert not looks.decline(ledger, stale, {"said": "x"}, "lacks images")
    (now,) = revisions.of_study(ledger, "1.2.3")
    assert looks.decline(ledger, now, {"said": "x"}, "lacks images")
    assert jobs.get(ledger, "job-1").state is JobState.SUPERSEDED
    assert revisions.of_study(ledger, "1.2.3")[0].state is RevisionState.DECLINED


def test_a_new_revision_s_job_names_the_report_it_replaces(ledger: Ledger) -> None:
    """The newest one that was sent; the chain goes back one revision at a time."""
    first = sent(ledger, work.queued_job(ledger).job_id, number=71)
    revise(ledger, "job-2", 4)
    told = jobs.get(ledger, "job-2").predecessor
    report = {
        "profile": "ohif",
        "of_revision": 1,
        "sop_class_uid": SR,
        "sop_instance_uid": first.sop_instance_uid,
        "series_instance_uid": first.series_instance_uid,
    }
    assert told == {"revision": 2, "newest": report, "held": {"archive": report}}
    second = sent(ledger, "job-2", number=72)
    revise(ledger, "job-3", 5)
    assert (jobs.get(ledger, "job-3").predecessor or {})["newest"]["sop_instance_uid"] == second.sop_instance_uid
    assert jobs.get(ledger, "job-2").predecessor == told


def test_a_report_that_nobody_has_is_no_predecessor(ledger: Ledger) -> None:
    """One that was replaced before it was sent is passed over for the one before it."""
    first = sent(ledger, work.queued_job(ledger).job_id, number=71)
    revise(ledger, "job-2", 4)
    job = jobs.get(ledger, "job-2")
    assert jobs.written(ledger, work.at_compose(ledger, job), [work.parcel_of(job)], dict.fromkeys(job.destinations, "ohif"))
    revise(ledger, "job-3", 5)
    assert jobs.get(ledger, "job-2").state is JobState.SUPERSEDED
    told = jobs.get(ledger, "job-3").predecessor or {}
    newest = told["newest"]
    assert (newest["sop_instance_uid"], told["revision"], newest["of_revision"]) == (first.sop_instance_uid, 3, 1)


def test_another_model_s_report_is_no_predecessor(ledger: Ledger) -> None:
    """Each model's reports replace its own."""
    sent(ledger, work.queued_job(ledger, model="other").job_id, number=71)
    revise(ledger, "job-2", 4)
    assert jobs.get(ledger, "job-2").predecessor is None


def test_each_destination_s_own_report_is_remembered(ledger: Ledger) -> None:
    """One got `ohif`, the other fell back to `basic`, a third got nothing: the next revision's job knows each."""
    job = work.queued_job(ledger, destinations=("archive", "strict", "down"))
    report = replace(work.parcel_of(job).objects[1], sop_class_uid=SR, sop_instance_uid="2.25.71")
    parcel = replace(work.parcel_of(job), objects=(report,))
    assert jobs.written(ledger, work.at_compose(ledger, job), [parcel], dict.fromkeys(job.destinations, "ohif"))
    for name in job.destinations:
        held = deliveries.claim(ledger, jobs.delivery_id(job.job_id, 1, name), 8)
        assert held
        if name == "strict":
            assert fallbacks.ask(ledger, held, "basic", "no such class")
            writing = deliveries.claim(ledger, held.delivery.delivery_id, 8, Stage.RECOMPOSE)
            assert writing
            other = replace(parcel, profile="basic", objects=(replace(report, sop_instance_uid="2.25.72"),))
            assert fallbacks.point(ledger, writing, other)
            held = deliveries.claim(ledger, held.delivery.delivery_id, 8)
            assert held
        if name == "down":
            assert deliveries.fail(ledger, held, "gone")
            continue
        assert deliveries.object_sent(ledger, held, held.parcel.objects[0].sop_instance_uid, 0)
        assert deliveries.sent(ledger, held, None)
    revise(ledger, "job-2", 4)
    told = jobs.get(ledger, "job-2").predecessor
    assert told is not None
    held_by = {name: (entry["profile"], entry["sop_instance_uid"]) for name, entry in told["held"].items()}
    assert held_by == {"archive": ("ohif", "2.25.71"), "strict": ("basic", "2.25.72")}
    assert told["newest"]["sop_instance_uid"] == "2.25.71"


def test_what_a_destination_refuses_is_not_its_report(ledger: Ledger) -> None:
    """The one parcel is out at an archive; the other destination waits for another form of it and has nothing yet."""
    job = work.queued_job(ledger, destinations=("archive", "strict"))
    assert jobs.written(ledger, work.at_compose(ledger, job), [work.parcel_of(job)], dict.fromkeys(job.destinations, "ohif"))
    for name in job.destinations:
        held = deliveries.claim(ledger, jobs.delivery_id(job.job_id, 1, name), 8)
        assert held
        if name == "strict":
            assert fallbacks.ask(ledger, held, "basic", "no such class")
        else:
            assert deliveries.object_sent(ledger, held, "2.25.7", 0)
    revise(ledger, "job-2", 4)
    assert set((jobs.get(ledger, "job-2").predecessor or {})["held"]) == {"archive"}
