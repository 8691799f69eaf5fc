"""What is removed, when, and that unfinished work never is."""

from __future__ import annotations

import dataclasses
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from node import ending, retention, status
from node.ledger import Ledger, again, deliveries, fallbacks, instances, jobs, presence, removal, revisions
from node.settings import Settings
from node.spool import Spool
from node.study import Instance, JobState, Plan, RevisionState, Stage
from tests.node import work
from tests.node.conftest import Clock
from tests.node.wire import command, ct, encoded

DAY_S = 86400


@pytest.fixture
def settings(ledger: Ledger) -> Settings:
    """Keep images for 7 days and parcels for 90."""
    return Settings.model_validate({"node": {"data_dir": str(ledger.data_dir)}})


def received(ledger: Ledger, *, study: str = "1.2.3") -> list[Instance]:
    """Put three files into the spool and index them."""
    stack = [dataclasses.replace(entry, received_at=ledger.clock()) for entry in work.slices(3, study=study, series=f"{study}.1")]
    for entry in stack:
        path = ledger.data_dir / entry.path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"pixels")
        os.utime(path, (entry.received_at, entry.received_at))
    instances.index(ledger, stack)
    return stack


def there(ledger: Ledger, stack: list[Instance]) -> int:
    """Count the files that are in the spool."""
    return sum((ledger.data_dir / entry.path).exists() for entry in stack)


def swept(settings: Settings, ledger: Ledger, clock: Clock, days: float) -> None:
    """Let days pass and sweep."""
    clock.now += days * DAY_S
    retention.sweep(settings, ledger)


def test_images_of_ended_work_go_after_their_days(settings: Settings, ledger: Ledger, clock: Clock) -> None:
    """Not a day before; the rows stay."""
    stack = received(ledger)
    assert revisions.plan(ledger, work.freeze(ledger).revision_id, Plan(jobs=(), declined=()))
    swept(settings, ledger, clock, 6.9)
    assert there(ledger, stack) == 3
    swept(settings, ledger, clock, 0.2)
    assert there(ledger, stack) == 0
    assert instances.paths(ledger, [entry.sop_instance_uid for entry in stack]) == {}
    assert instances.reference(ledger, stack[0].sop_instance_uid) is not None


def test_images_are_kept_while_anything_is_left_to_do(settings: Settings, ledger: Ledger, clock: Clock) -> None:
    """Receiving, held, queued, running, written and unsent, sent and uncommitted: all of it is unfinished."""
    stack = received(ledger)
    swept(settings, ledger, clock, 30)
    assert there(ledger, stack) == 3
    frozen = work.freeze(ledger)
    revisions.hold(ledger, frozen, "look")
    swept(settings, ledger, clock, 30)
    assert there(ledger, stack) == 3
    revisions.release(ledger, revisions.of_study(ledger, "1.2.3")[-1])
    (again,) = revisions.in_state(ledger, RevisionState.COMPLETE)
    uids = [entry.sop_instance_uid for entry in stack]
    assert revisions.plan(ledger, again.revision_id, Plan(jobs=(work.job_plan("job-1", uids),), declined=()))
    swept(settings, ledger, clock, 30)
    assert there(ledger, stack) == 3
    job = jobs.get(ledger, "job-1")
    assert jobs.written(ledger, work.at_compose(ledger, job), [work.parcel_of(job)], {"archive": "ohif"})
    swept(settings, ledger, clock, 30)
    assert there(ledger, stack) == 3
    (delivery,) = deliveries.of_job(ledger, "job-1", 1)
    held = deliveries.claim(ledger, delivery.delivery_id, 8)
    assert held
    assert deliveries.sent(ledger, held, None)
    swept(settings, ledger, clock, 30)
    assert there(ledger, stack) == 3
    assert deliveries.accepted(ledger, delivery.delivery_id, "C-STORE responses only")
    swept(settings, ledger, clock, 6)
    assert there(ledger, stack) == 3
    swept(settings, ledger, clock, 2)
    assert there(ledger, stack) == 0


def test_one_study_s_work_does_not_keep_another_s_images(settings: Settings, ledger: Ledger, clock: Clock) -> None:
    """Each study goes by itself."""
    waiting, ended = received(ledger), received(ledger, study="1.2.4")
    assert revisions.plan(ledger, work.freeze(ledger, "1.2.4").revision_id, Plan(jobs=(), declined=()))
    swept(settings, ledger, clock, 8)
    assert (there(ledger, waiting), there(ledger, ended)) == (3, 0)


def test_a_study_sent_again_after_its_removal_is_entered_anew(settings: Settings, ledger: Ledger, clock: Clock) -> None:
    """Removed images that come again open a revision with all of them."""
    received(ledger)
    assert revisions.plan(ledger, work.freeze(ledger).revision_id, Plan(jobs=(), declined=()))
    swept(settings, ledger, clock, 8)
    received(ledger)
    assert [entry.state for entry in revisions.of_study(ledger, "1.2.3")] == [RevisionState.DECLINED, RevisionState.RECEIVING]
    assert len(instances.study(ledger, "1.2.3", 2).series[0].instances) == 3


def test_the_work_files_wait_for_the_last_archive_that_may_refuse(settings: Settings, ledger: Ledger, clock: Clock) -> None:
    """One archive has committed, the other is down for days and may then refuse the class: images and prediction are kept for it."""
    stack = received(ledger)
    work.planned(ledger, work.job_plan("job-1", [entry.sop_instance_uid for entry in stack], destinations=("archive", "strict")))
    job = jobs.get(ledger, "job-1")
    assert jobs.written(ledger, work.at_compose(ledger, job), [work.parcel_of(job)], dict.fromkeys(job.destinations, "ohif"))
    prediction = settings.work_dir / "job-1" / "2" / "prediction"
    prediction.mkdir(parents=True)
    done = deliveries.claim(ledger, jobs.delivery_id("job-1", 1, "archive"), 8)
    assert done
    assert deliveries.fail(ledger, done, "no")
    swept(settings, ledger, clock, 50)
    waiting = deliveries.claim(ledger, jobs.delivery_id("job-1", 1, "strict"), 8)
    assert waiting
    assert fallbacks.ask(ledger, waiting, "basic", "no such class") is Stage.RECOMPOSE
    swept(settings, ledger, clock, 50)
    assert prediction.exists()
    assert there(ledger, stack) == 3
    writing = deliveries.claim(ledger, waiting.delivery.delivery_id, 8, Stage.RECOMPOSE)
    assert writing
    assert deliveries.fail(ledger, writing, "no")
    swept(settings, ledger, clock, 1)
    assert not prediction.exists()


def test_work_files_and_parcels_go_when_their_job_has_ended(settings: Settings, ledger: Ledger, clock: Clock) -> None:
    """Work files soon, parcels after their days; a job that goes on keeps both."""
    job = work.written_job(ledger)
    (delivery,) = deliveries.of_job(ledger, job.job_id, 1)
    scratch, parcel = settings.work_dir / job.job_id / "3", settings.data_dir / "parcels" / job.job_id / "1"
    for folder in (scratch, parcel):
        folder.mkdir(parents=True)
        (folder / "file").write_bytes(b"x")
    swept(settings, ledger, clock, 100)
    assert scratch.exists()
    assert parcel.exists()
    held = deliveries.claim(ledger, delivery.delivery_id, 8)
    assert held
    assert deliveries.fail(ledger, held, "no")
    swept(settings, ledger, clock, 1)
    assert not scratch.exists()
    assert parcel.exists()
    swept(settings, ledger, clock, 90)
    assert not parcel.exists()


def test_a_failed_job_s_work_files_wait_for_a_stale_worker(settings: Settings, ledger: Ledger, clock: Clock) -> None:
    """Who lost its claim may still be writing for a moment."""
    job = work.queued_job(ledger)
    held = jobs.claim(ledger, job.job_id, Stage.PREPARE, 8)
    assert held
    assert jobs.fail(ledger, held, "no")
    scratch = settings.work_dir / job.job_id
    scratch.mkdir(parents=True)
    swept(settings, ledger, clock, 0.001)
    assert scratch.exists()
    swept(settings, ledger, clock, 0.001)
    assert not scratch.exists()


def test_a_folder_of_no_known_job_goes_after_a_day(settings: Settings, ledger: Ledger, clock: Clock, tmp_path: Path) -> None:
    """What a crash left before the ledger knew of it does not stay for ever."""
    stray = settings.work_dir / "unknown"
    stray.mkdir(parents=True)
    clock.now = stray.stat().st_mtime
    swept(settings, ledger, clock, 0.9)
    assert stray.exists()
    swept(settings, ledger, clock, 0.2)
    assert not stray.exists()


@pytest.mark.parametrize(
    ("ends", "days"),
    [("committed", 3), ("failed", 30), ("declined", 7)],
)
def test_days_count_by_how_the_work_ended(ledger: Ledger, clock: Clock, ends: str, days: float) -> None:
    """Each ending has its own days; what the settings do not name keeps ours."""
    given = {"node": {"data_dir": str(ledger.data_dir)}, "retention": {"images_days": {"committed": 3}}}
    settings = Settings.model_validate(given)
    stack = received(ledger)
    if ends == "declined":
        assert revisions.plan(ledger, work.freeze(ledger).revision_id, Plan(jobs=(), declined=()))
    else:
        work.planned(ledger, work.job_plan("job-1", [entry.sop_instance_uid for entry in stack]))
        held = work.at_compose(ledger, jobs.get(ledger, "job-1"))
        if ends == "failed":
            assert jobs.fail(ledger, held, "no")
        else:
            assert jobs.written(ledger, held, [work.parcel_of(held.job)], {"archive": "ohif"})
            (delivery,) = deliveries.of_job(ledger, "job-1", 1)
            claim = deliveries.claim(ledger, delivery.delivery_id, 8)
            assert claim
            assert deliveries.sent(ledger, claim, "2.25.1")
            clock.now += 1
            assert deliveries.report(ledger, "2.25.1", {entry.sop_instance_uid for entry in claim.parcel.objects}, {})
    swept(settings, ledger, clock, days - 0.1)
    assert there(ledger, stack) == 3
    swept(settings, ledger, clock, 0.2)
    assert there(ledger, stack) == 0


def test_a_superseded_parcel_goes_sooner(settings: Settings, ledger: Ledger, clock: Clock) -> None:
    """Nobody has it: a newer revision replaced it before it was sent."""
    job = work.written_job(ledger)
    parcel = settings.data_dir / "parcels" / job.job_id / "1"
    parcel.mkdir(parents=True)
    instances.index(ledger, work.slices(1, first=4))
    assert jobs.get(ledger, job.job_id).state is JobState.SUPERSEDED
    swept(settings, ledger, clock, 6.9)
    assert parcel.exists()
    swept(settings, ledger, clock, 0.2)
    assert not parcel.exists()


def test_rows_of_removed_images_are_forgotten_and_the_story_stays(settings: Settings, ledger: Ledger, clock: Clock) -> None:
    """After their days only counts are left of the images; the same study sent again makes no second job."""
    stack = received(ledger)
    wanted = work.job_plan("job-1", [entry.sop_instance_uid for entry in stack])
    work.planned(ledger, wanted)
    assert jobs.decline(ledger, work.at_compose(ledger, jobs.get(ledger, "job-1")), "tilted")
    swept(settings, ledger, clock, 8)
    assert instances.reference(ledger, stack[0].sop_instance_uid) is not None
    swept(settings, ledger, clock, 23)
    assert instances.reference(ledger, stack[0].sop_instance_uid) is None
    (shown,) = status.of_study(ledger, "1.2.3")["studies"]
    assert (shown["images"], shown["series"], shown["jobs"][0]["images"], shown["jobs"][0]["reason"]) == (3, 1, 3, "tilted")
    assert again.retry(ledger, "1.2.3").jobs == ()
    received(ledger)
    work.planned(ledger, wanted)
    job = jobs.get(ledger, "job-1")
    assert (job.state, job.inputs, job.revision) == (JobState.DECLINED, wanted.inputs, 2)


def duplicate(spool: Spool, *, study: str = "1.2.3") -> Instance:
    """Send the one image of a study through the spool."""
    image = ct(SOPInstanceUID=f"{study}.1.1", StudyInstanceUID=study, SeriesInstanceUID=f"{study}.1")
    return spool.store(command(image), encoded(image)).instance


def ended_study(ledger: Ledger, clock: Clock) -> tuple[Spool, Instance]:
    """Receive one image, and let nothing take it, a month ago."""
    spool = Spool(ledger.data_dir, clock=clock)
    image = duplicate(spool)
    os.utime(ledger.data_dir / image.path, (clock.now, clock.now))
    instances.index(ledger, [image])
    assert revisions.plan(ledger, work.freeze(ledger).revision_id, Plan(jobs=(), declined=()))
    clock.now += 30 * DAY_S
    return spool, image


def test_a_duplicate_acknowledged_just_now_keeps_its_study(settings: Settings, ledger: Ledger, clock: Clock) -> None:
    """Somebody sends it again: its days begin anew."""
    spool, image = ended_study(ledger, clock)
    assert duplicate(spool).path == image.path
    swept(settings, ledger, clock, 6.9)
    assert there(ledger, [image]) == 1
    swept(settings, ledger, clock, 0.2)
    assert there(ledger, [image]) == 0


def test_a_duplicate_acknowledged_between_mark_and_removal_is_kept(ledger: Ledger, clock: Clock) -> None:
    """The file stays, and its row comes back as if the image had come anew."""
    spool, image = ended_study(ledger, clock)
    before = clock.now - DAY_S
    ((_, path),) = removal.take(ledger, "1.2.3", before)
    again_image = duplicate(spool)
    assert path == again_image.path
    assert retention.unlink(ledger, [path], before) == 0
    instances.index(ledger, [again_image])
    assert there(ledger, [image]) == 1
    assert instances.paths(ledger, [image.sop_instance_uid]) == {image.sop_instance_uid: path}
    assert revisions.of_study(ledger, "1.2.3")[-1].state is RevisionState.RECEIVING


def test_whatever_is_acknowledged_while_retention_runs_is_there_afterwards(ledger: Ledger, clock: Clock) -> None:
    """A sender, the index and retention race for one file; what was acknowledged last is in the spool and in the index."""
    spool, image = ended_study(ledger, clock)
    spool.clock = time.time
    ended = ending.Ended(study_instance_uid="1.2.3", ending=ending.Ending.DECLINED, at=0.0)
    stop = threading.Event()
    # Retention may take what was acknowledged and indexed: that is days, in life, and here all but the copy on its way.
    indexed_until = [clock.now]

    def evict() -> None:
        while not stop.is_set():
            retention.remove_images(ledger, ended, indexed_until[0])

    def send() -> None:
        sent, at = duplicate(spool), time.time()
        instances.index(ledger, [sent])
        indexed_until[0] = at

    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(evict)
        try:
            for _ in range(60):
                send()
                newest = revisions.of_study(ledger, "1.2.3")[-1]
                if newest.state is RevisionState.RECEIVING:
                    assert there(ledger, [image]) == 1
                    revisions.complete(ledger, newest, {"said": "at once"})
                    revisions.plan(ledger, newest.revision_id, Plan(jobs=(), declined=()))
            send()
        finally:
            stop.set()
        running.result()
    assert there(ledger, [image]) == len(instances.paths(ledger, [image.sop_instance_uid]))
    assert len(revisions.of_study(ledger, "1.2.3")) > 1, "retention never won"


def test_an_image_that_comes_while_retention_removes_its_study_is_in_a_revision(ledger: Ledger, clock: Clock) -> None:
    """Nothing is removed of a study that receives again."""
    _, image = ended_study(ledger, clock)
    late = dataclasses.replace(work.image("1.2.3.1.2"), received_at=clock.now)
    instances.index(ledger, [late])
    assert removal.take(ledger, "1.2.3", clock.now) == []
    assert instances.paths(ledger, [image.sop_instance_uid])


def sent_again_with_one_more(spool: Spool, ledger: Ledger, clock: Clock) -> list[Instance]:
    """Send an ended study's image again and a new one; neither reaches the index, for the ledger is away from now on."""
    presence.beat(ledger, "one", clock.now, clock.now)
    clock.now += 1
    late = ct(SOPInstanceUID="1.2.3.1.2", StudyInstanceUID="1.2.3", SeriesInstanceUID="1.2.3.1")
    acknowledged = [duplicate(spool), spool.store(command(late), encoded(late)).instance]
    os.utime(ledger.data_dir / acknowledged[1].path, (clock.now, clock.now))
    return acknowledged


@pytest.mark.parametrize("how", ["relieve", "sweep"])
def test_what_was_acknowledged_while_the_ledger_was_away_is_analysed_whole(ledger: Ledger, clock: Clock, how: str) -> None:
    """A tight disk evicts no copy and no companion of an image that waits for the index, however long the outage was."""
    section = {"images_days": 0, "evict_below_mb": 10**9}
    settings = Settings.model_validate({"node": {"data_dir": str(ledger.data_dir)}, "retention": section})
    spool, image = ended_study(ledger, clock)
    acknowledged = sent_again_with_one_more(spool, ledger, clock)
    evict = {"relieve": retention.relieve, "sweep": retention.sweep}[how]
    # The outage: an hour, after which dispatch is back before the indexer has written a line.
    clock.now += 3600
    presence.beat(ledger, "one", clock.now - 7200, clock.now - 3601)
    evict(settings, ledger)
    assert there(ledger, acknowledged) == 2
    instances.index(ledger, acknowledged)
    presence.beat(ledger, "one", clock.now - 7200, clock.now)
    evict(settings, ledger)
    assert there(ledger, acknowledged) == 2
    study = instances.study(ledger, "1.2.3", 2)
    assert [entry.sop_instance_uid for entry in study.series[0].instances] == [image.sop_instance_uid, "1.2.3.1.2"]
    assert revisions.plan(ledger, work.freeze(ledger).revision_id, Plan(jobs=(), declined=()))
    clock.now += 61
    presence.beat(ledger, "one", clock.now - 7200, clock.now)
    evict(settings, ledger)
    assert there(ledger, acknowledged) == 0


def test_an_index_a_moment_behind_keeps_what_was_sent_again_since(ledger: Ledger, clock: Clock) -> None:
    """A listener at work is always a little behind; its quiet time counts from what is indexed."""
    settings = Settings.model_validate({"node": {"data_dir": str(ledger.data_dir)}, "retention": {"evict_below_mb": 10**9}})
    spool, image = ended_study(ledger, clock)
    presence.beat(ledger, "one", clock.now, clock.now)
    clock.now += 1
    assert duplicate(spool).path == image.path
    clock.now += settings.assembly.quiet_s + 5
    presence.beat(ledger, "one", clock.now - 7200, clock.now - 10)
    retention.relieve(settings, ledger)
    assert there(ledger, [image]) == 1
    presence.beat(ledger, "one", clock.now - 7200, clock.now)
    retention.relieve(settings, ledger)
    assert there(ledger, [image]) == 0
