"""A disk that fills: what goes, in which order, what stays, and that images are taken again without anybody's help."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import SecretStr

from node import retention
from node.dispatch import Dispatcher
from node.errors import Retryable
from node.ledger import Ledger, deliveries, instances, jobs, revisions
from node.ledger.jobs import delivery_id
from node.send import store
from node.settings import BrokerSection, Settings
from node.spool import Spool, SpoolRefusal, read_instance
from node.study import DeliveryState, Plan
from tests.disks import fill, small_disk
from tests.node import work
from tests.node.conftest import Clock
from tests.node.listening import listening, soon, us
from tests.node.wire import command, ct, encoded

MEGABYTE = 1024**2


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """Give a disk of 24 megabytes."""
    with small_disk(tmp_path / "disk", 24) as folder:
        yield folder


@pytest.fixture
def settings(disk: Path) -> Settings:
    """Refuse below 4 MB, evict below 6 MB."""
    node = {"data_dir": disk, "port": 0, "free_disk_min_mb": 4}
    return Settings.model_validate({"node": node, "assembly": {"quiet_s": 1}, "retention": {"images_days": 7}})


@pytest.fixture
def kept(settings: Settings, clock: Clock) -> Iterator[Ledger]:
    """Open a ledger on that disk."""
    ledger = Ledger("sqlite", settings.data_dir, clock)
    yield ledger
    ledger.close()


def study(ledger: Ledger, number: int, size_bytes: int = MEGABYTE) -> str:
    """Receive a study of one image; give its UID."""
    uid = f"1.2.{number}"
    image = work.image(f"{uid}.1.1", study=uid, series=f"{uid}.1")
    path = ledger.data_dir / image.path
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(bytes(size_bytes))
    os.utime(path, (ledger.clock(), ledger.clock()))
    instances.index(ledger, [image])
    return uid


def analysed(ledger: Ledger, uid: str, end: DeliveryState | None) -> None:
    """Bring a study's one job to that end of its delivery; None: the job itself fails."""
    work.planned(ledger, work.job_plan(f"job-{uid}", [f"{uid}.1.1"], study_instance_uid=uid), study=uid)
    job = jobs.get(ledger, f"job-{uid}")
    held = work.at_compose(ledger, job)
    if end is None:
        assert jobs.fail(ledger, held, "no")
        return
    assert jobs.written(ledger, held, [work.parcel_of(job)], {"archive": "ohif"})
    name = delivery_id(job.job_id, 1, "archive")
    claim = deliveries.claim(ledger, name, 8)
    assert claim
    for entry in claim.parcel.objects:
        assert deliveries.object_sent(ledger, claim, entry.sop_instance_uid, 0)
    transaction = f"2.25.9{uid.rsplit('.', 1)[-1]}"
    assert deliveries.sent(ledger, claim, transaction)
    if end is DeliveryState.ACCEPTED:
        assert deliveries.accepted(ledger, name, "C-FIND")
    elif end is DeliveryState.COMMITTED:
        assert deliveries.report(ledger, transaction, {entry.sop_instance_uid for entry in claim.parcel.objects}, {})


def declined(ledger: Ledger, uid: str) -> None:
    """Let nothing take a study."""
    assert revisions.plan(ledger, work.freeze(ledger, uid).revision_id, Plan(jobs=(), declined=()))


def test_finished_work_goes_in_order_and_unfinished_never(settings: Settings, kept: Ledger, clock: Clock) -> None:
    """Committed before accepted before declined before failed, the oldest of each first; only as much as is needed."""
    failed = study(kept, 1)
    analysed(kept, failed, None)
    refused = study(kept, 2)
    declined(kept, refused)
    accepted = study(kept, 3)
    analysed(kept, accepted, DeliveryState.ACCEPTED)
    clock.now += 60
    older, newer = study(kept, 5), study(kept, 4)
    analysed(kept, older, DeliveryState.COMMITTED)
    clock.now += 60
    analysed(kept, newer, DeliveryState.COMMITTED)
    waiting, sent = study(kept, 6), study(kept, 7)
    analysed(kept, sent, DeliveryState.SENT)
    clock.now += 60
    order = [older, newer, accepted, refused, failed]
    for gone in range(1, 6):
        other = fill(settings.data_dir, 7 * MEGABYTE - MEGABYTE // 8)  # one image is missing to the goal of 7.5 MB
        assert retention.relieve(settings, kept)
        assert [uid for uid in order if not instances.files(kept, uid)] == order[:gone]
        other.unlink()
    fill(settings.data_dir, MEGABYTE)
    assert not retention.relieve(settings, kept)
    assert [len(instances.files(kept, uid)) for uid in (waiting, sent)] == [1, 1]


def test_nothing_is_evicted_while_there_is_room(settings: Settings, kept: Ledger, clock: Clock) -> None:
    """Days are kept as long as the disk allows."""
    uid = study(kept, 1)
    declined(kept, uid)
    clock.now += 60
    assert retention.relieve(settings, kept)
    assert instances.files(kept, uid)


def test_a_disk_without_a_byte_left_recovers(settings: Settings, kept: Ledger, clock: Clock) -> None:
    """Even where the ledger cannot write that files went, they go, and then it can."""
    uids = [study(kept, number) for number in (1, 2)]
    for uid in uids:
        declined(kept, uid)
    clock.now += 60
    fill(settings.data_dir, 0)
    with pytest.raises(Retryable):
        _write_until_full(kept)
    assert not retention.relieve(settings, kept)  # two images of 1 MB are not enough for 6 MB
    assert [instances.files(kept, uid) for uid in uids] == [[], []]
    assert retention.free_bytes(settings.data_dir) > MEGABYTE


def _write_until_full(ledger: Ledger) -> None:
    """Use up what the ledger has of the disk already."""
    for number in range(1000):
        study(ledger, 100 + number, 0)


def test_a_listener_refuses_then_takes_images_again_without_a_restart(settings: Settings, clock: Clock, tmp_path: Path) -> None:
    """A700 while the disk is full; once finished work has made room the same listener answers 0x0000; nothing acknowledged is lost."""
    ledger = Ledger("sqlite", settings.data_dir)
    spool = Spool(settings.data_dir, settings.node.free_disk_min_mb)
    elsewhere, ds = Spool(tmp_path / "elsewhere"), ct()
    image = read_instance(elsewhere.data_dir / elsewhere.store(command(ds), encoded(ds)).instance.path)
    old = study(ledger, 1, 6 * MEGABYTE)
    declined(ledger, old)
    os.utime(ledger.data_dir / instances.files(ledger, old)[0][1], (clock.now, clock.now))
    with listening(settings.data_dir, spool=spool, ledger=ledger) as listener:
        fill(settings.data_dir, 3 * MEGABYTE)
        with pytest.raises(SpoolRefusal):
            spool.need_disk()
        assert store(settings, us(listener), [image]).stored == 0
        assert listener.counters.refused[0xA700] == 1
        soon(lambda: retention.relieve(settings, ledger))
        assert store(settings, us(listener), [image]).stored == 1
        soon(lambda: instances.reference(ledger, image.sop_instance_uid))
    ledger.close()
    assert instances.paths(Ledger("sqlite", settings.data_dir), [image.sop_instance_uid])


def test_a_store_that_meets_a_full_disk_is_refused_and_leaves_nothing(settings: Settings) -> None:
    """The disk may fill between the look at it and the last byte: A700, no part left, and the next one is kept."""
    spool = Spool(settings.data_dir)  # no watermark: only the disk itself says no
    image = ct(PixelData=bytes(2 * 1024**2))
    image.Rows = image.Columns = 1024
    large = encoded(image)
    other = fill(settings.data_dir, MEGABYTE)
    with pytest.raises(SpoolRefusal) as caught:
        spool.store(command(image), large)
    assert caught.value.status == 0xA700
    assert not list((settings.data_dir / "parts").iterdir())
    other.unlink()
    assert spool.store(command(image), large).fresh


def test_dispatch_makes_room_by_itself(settings: Settings, kept: Ledger, clock: Clock) -> None:
    """The loop sees the disk fill, broker or not, and evicts in a thread of its own."""
    uid = study(kept, 1, 6 * MEGABYTE)
    declined(kept, uid)
    clock.now += 60
    fill(settings.data_dir, 3 * MEGABYTE)
    away = settings.model_copy(update={"broker": BrokerSection(url=SecretStr("redis://127.0.0.1:1/0"))})
    dispatcher = Dispatcher(away, kept, {})
    dispatcher.guarded_step()
    dispatcher.wait()
    dispatcher.close()
    assert not instances.files(kept, uid)
    assert not retention.is_tight(settings)
