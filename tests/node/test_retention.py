"""What is removed, when, and that unfinished work never is."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import pytest

from node import retention
from node.ledger import Ledger, deliveries, instances, jobs, revisions
from node.settings import Settings
from node.study import Instance, Plan, RevisionState, Stage
from tests.node import work
from tests.node.conftest import Clock

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
    assert jobs.written(ledger, work.at_compose(ledger, job), work.parcel_of(job), ("archive",))
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
