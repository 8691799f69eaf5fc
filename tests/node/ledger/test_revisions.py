"""Revisions: what had arrived when, and what a late, a changed or a repeated image does."""

from __future__ import annotations

import dataclasses

from node.ledger import Ledger, deliveries, instances, jobs, revisions
from node.study import DeliveryState, JobState, Plan, RevisionState, Stage
from tests.node import work
from tests.node.conftest import Clock


def states(ledger: Ledger) -> list[str]:
    """Give the states of the study's revisions, oldest first."""
    return [str(entry.state) for entry in revisions.of_study(ledger, "1.2.3")]


def test_indexing_twice_changes_nothing(ledger: Ledger) -> None:
    """The same instance again, by a restart or a second send, is not new."""
    stack = work.slices(5)
    assert instances.index(ledger, [*stack, stack[0]]) == 5
    assert instances.index(ledger, stack) == 0
    (only,) = revisions.of_study(ledger, "1.2.3")
    assert (only.number, only.state) == (1, RevisionState.RECEIVING)


def test_a_study_reads_back_ordered_and_whole(ledger: Ledger) -> None:
    """Series by their UID, instances by theirs, headers and all."""
    stack = work.slices(3, series="1.2.3.2") + work.slices(2)
    instances.index(ledger, stack)
    read = instances.study(ledger, "1.2.3", 1)
    assert [entry.series_instance_uid for entry in read.series] == ["1.2.3.1", "1.2.3.2"]
    assert read.series[1].instances == tuple(stack[:3])
    assert instances.paths(ledger, ["1.2.3.1.1", "9.9"]) == {"1.2.3.1.1": stack[3].path}


def test_a_revision_is_due_after_its_quiet_time(ledger: Ledger, clock: Clock) -> None:
    """Each arrival starts the quiet time anew."""
    instances.index(ledger, work.slices(2))
    clock.now += 59
    assert revisions.due(ledger, clock.now, work.QUIET) == []
    instances.index(ledger, work.slices(1, first=3))
    clock.now += 59
    assert revisions.due(ledger, clock.now, work.QUIET) == []
    clock.now += 1
    assert len(revisions.due(ledger, clock.now, work.QUIET)) == 1


def test_an_arrival_between_the_look_and_the_freeze_stops_it(ledger: Ledger) -> None:
    """A decision taken on an older look is refused."""
    instances.index(ledger, work.slices(2))
    (seen,) = revisions.of_study(ledger, "1.2.3")
    instances.index(ledger, work.slices(1, first=3))
    assert not revisions.complete(ledger, seen, {"said": "no arrival for 60 s"})
    assert states(ledger) == ["RECEIVING"]


def test_a_late_image_opens_a_revision_and_the_frozen_one_stays_as_it_was(ledger: Ledger, clock: Clock) -> None:
    """Revision 1 keeps its list, revision 2 has the late image too; its quiet time is doubled, up to the cap."""
    instances.index(ledger, work.slices(2))
    work.freeze(ledger)
    instances.index(ledger, work.slices(1, first=3))
    assert states(ledger) == ["SUPERSEDED", "RECEIVING"]
    assert len(instances.study(ledger, "1.2.3", 1).series[0].instances) == 2
    assert len(instances.study(ledger, "1.2.3", 2).series[0].instances) == 3
    clock.now += 119
    assert revisions.due(ledger, clock.now, work.QUIET) == []
    clock.now += 1
    assert len(revisions.due(ledger, clock.now, work.QUIET)) == 1
    for number in range(4, 8):
        work.freeze(ledger)
        instances.index(ledger, work.slices(1, first=number))
    clock.now += 300
    assert len(revisions.due(ledger, clock.now, work.QUIET)) == 1


def test_a_late_slice_of_the_analysed_series_replaces_the_unsent_job_at_once(ledger: Ledger) -> None:
    """Nothing incomplete is sent: the job and its running worker lose their right when the slice arrives."""
    job = work.queued_job(ledger)
    held = jobs.claim(ledger, job.job_id, Stage.PREPARE, 8)
    assert held is not None
    instances.index(ledger, work.slices(1, first=4))
    old = jobs.get(ledger, job.job_id)
    assert old.state is JobState.SUPERSEDED
    assert old.reason == "revision 2 of the study replaces it: images arrived late"
    assert not jobs.advance(ledger, held, Stage.INFER)
    assert states(ledger) == ["SUPERSEDED", "RECEIVING"]


def test_a_late_image_of_another_series_does_not_stop_the_job(ledger: Ledger) -> None:
    """The same inputs are the same job: it goes on and belongs to the newer revision."""
    job = work.queued_job(ledger)
    held = jobs.claim(ledger, job.job_id, Stage.PREPARE, 8)
    assert held is not None
    instances.index(ledger, work.slices(1, series="1.2.3.9"))
    work.planned(ledger, work.job_plan(job.job_id, job.inputs["image"]))
    assert jobs.advance(ledger, held, Stage.INFER)
    assert jobs.get(ledger, job.job_id).revision == 2
    assert states(ledger) == ["PLANNED", "PLANNED"]


def test_a_newer_plan_replaces_what_it_does_not_repeat(ledger: Ledger) -> None:
    """When the late series is the better one, the unsent job on the first is replaced."""
    job = work.queued_job(ledger)
    better = work.slices(6, series="1.2.3.9")
    instances.index(ledger, better)
    work.planned(ledger, work.job_plan("job-2", [entry.sop_instance_uid for entry in better]))
    assert jobs.get(ledger, job.job_id).state is JobState.SUPERSEDED
    assert jobs.get(ledger, "job-2").state is JobState.QUEUED


def test_written_but_unsent_results_are_replaced_and_sent_ones_stay(ledger: Ledger) -> None:
    """What the archive has, or is just getting, stays; what only lies here is not sent any more."""
    job = work.written_job(ledger)
    (delivery,) = deliveries.of_job(ledger, job.job_id, 1)
    instances.index(ledger, work.slices(1, first=4))
    assert jobs.get(ledger, job.job_id).state is JobState.SUPERSEDED
    assert deliveries.get(ledger, delivery.delivery_id).state is DeliveryState.FAILED
    assert deliveries.claim(ledger, delivery.delivery_id, 8) is None


def test_results_being_sent_are_not_stopped_half_way(ledger: Ledger) -> None:
    """A delivery in somebody's hands goes on."""
    job = work.written_job(ledger)
    (delivery,) = deliveries.of_job(ledger, job.job_id, 1)
    held = deliveries.claim(ledger, delivery.delivery_id, 8)
    assert held is not None
    instances.index(ledger, work.slices(1, first=4))
    assert jobs.get(ledger, job.job_id).state is JobState.WRITTEN
    assert deliveries.object_sent(ledger, held, "2.25.7", 0)


def test_a_replaced_job_that_is_asked_for_again_comes_back(ledger: Ledger) -> None:
    """The same job id planned after all: an unwritten job is queued anew, a written parcel is sent as it is."""
    job = work.written_job(ledger)
    parcel = jobs.parcel(ledger, job.job_id)
    instances.index(ledger, work.slices(1, first=4))
    work.planned(ledger, work.job_plan(job.job_id, job.inputs["image"]))
    assert jobs.get(ledger, job.job_id).state is JobState.WRITTEN
    assert jobs.parcel(ledger, job.job_id) == parcel
    (delivery,) = deliveries.of_job(ledger, job.job_id, 1)
    assert deliveries.claim(ledger, delivery.delivery_id, 8) is not None


def test_the_same_study_months_later_makes_no_second_job(ledger: Ledger, clock: Clock) -> None:
    """After its images were removed, the study sent again ends PLANNED with the note that it was analysed."""
    job = work.written_job(ledger)
    (delivery,) = deliveries.of_job(ledger, job.job_id, 1)
    held = deliveries.claim(ledger, delivery.delivery_id, 8)
    assert held is not None
    deliveries.object_sent(ledger, held, "2.25.7", 0)
    deliveries.sent(ledger, held, None)
    instances.remove(ledger, [row for row, _ in instances.files(ledger, "1.2.3")])
    assert instances.paths(ledger, job.inputs["image"]) == {}
    clock.now += 200 * 86400
    again = [dataclasses.replace(entry, path=f"incoming/again-{entry.path[-12:]}") for entry in work.slices(3)]
    assert instances.index(ledger, again) == 3
    assert states(ledger) == ["PLANNED", "RECEIVING"]
    assert instances.study(ledger, "1.2.3", 2).series[0].instances == tuple(again)
    work.planned(ledger, work.job_plan(job.job_id, job.inputs["image"]))
    second = revisions.of_study(ledger, "1.2.3")[-1]
    assert (second.state, second.reason) == (RevisionState.PLANNED, "already analysed")
    assert jobs.get(ledger, job.job_id).state is JobState.WRITTEN
    assert jobs.get(ledger, job.job_id).created_at == job.created_at
    assert len(deliveries.of_job(ledger, job.job_id, 1)) == 1


def test_other_bytes_of_the_same_uid_are_kept_beside_the_first(ledger: Ledger) -> None:
    """The first is what is analysed; the conflict is on record."""
    first, other = work.image("1.2.3.1.1"), work.image("1.2.3.1.1", content="other")
    instances.index(ledger, [first])
    assert instances.index(ledger, [other]) == 1
    assert instances.paths(ledger, ["1.2.3.1.1"]) == {"1.2.3.1.1": first.path}
    assert instances.study(ledger, "1.2.3", 1).series[0].instances == (first,)
    assert instances.conflicts(ledger, "1.2.3", 1) == [(other, first)]


def test_two_of_one_uid_in_one_batch_conflict_too(ledger: Ledger) -> None:
    """The order of arrival decides, not the batch."""
    first, other = work.image("1.2.3.1.1"), work.image("1.2.3.1.1", content="other")
    instances.index(ledger, [first, other])
    assert instances.conflicts(ledger, "1.2.3", 1) == [(other, first)]


def test_our_own_results_coming_back_open_no_revision(ledger: Ledger) -> None:
    """A PACS that forwards our SEG to us does not start the study anew."""
    work.written_job(ledger)
    mirror = work.image("2.25.7", series="2.25.17", header={"Modality": "SEG"})
    named = work.image("9.9.9", series="9.9", header={"Manufacturer": "Overread"})
    assert instances.index(ledger, [mirror, named]) == 2
    assert states(ledger) == ["PLANNED"]


def test_a_plan_without_jobs_is_declined_with_its_reasons(ledger: Ledger) -> None:
    """A technologist reads why no model took the study."""
    instances.index(ledger, work.slices(2))
    frozen = work.freeze(ledger)
    why = work.declined("1.2.3.1", "series 1: 2 slices, chest-ct needs at least 20")
    assert revisions.plan(ledger, frozen.revision_id, Plan(jobs=(), declined=(why,)))
    (ended,) = revisions.of_study(ledger, "1.2.3")
    assert ended.state is RevisionState.DECLINED
    assert ended.reason == "no model takes this study: series 1: 2 slices, chest-ct needs at least 20"
    assert not revisions.plan(ledger, frozen.revision_id, Plan(jobs=(), declined=()))


def test_a_held_revision_goes_on_only_when_released(ledger: Ledger) -> None:
    """A hold keeps its reason until a human has looked."""
    instances.index(ledger, work.slices(2))
    frozen = work.freeze(ledger)
    assert revisions.hold(ledger, frozen, "two patients in one study")
    (held,) = revisions.in_state(ledger, RevisionState.HELD)
    assert held.reason == "two patients in one study"
    assert not revisions.plan(ledger, frozen.revision_id, Plan(jobs=(), declined=()))
    assert revisions.release(ledger, held)
    (again,) = revisions.in_state(ledger, RevisionState.COMPLETE)
    assert again.released


def test_a_rebuild_reads_the_spool_and_leaves_the_work(ledger: Ledger) -> None:
    """Files that are there are entered, files that are gone are marked; the job stays as it was."""
    job = work.queued_job(ledger)
    stack = work.slices(3)
    new = work.slices(2, study="1.2.4", series="1.2.4.1")
    assert instances.rebuild(ledger, [*new, *stack[1:]]) == 2
    there = [*stack[1:], *new]
    found = instances.paths(ledger, [entry.sop_instance_uid for entry in [*stack, *new]])
    assert found == {entry.sop_instance_uid: entry.path for entry in there}
    assert jobs.get(ledger, job.job_id) == job
    assert [entry.state for entry in revisions.of_study(ledger, "1.2.4")] == [RevisionState.RECEIVING]
