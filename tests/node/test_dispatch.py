"""The loop: from received images to messages, over outages, restarts and switches."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import redis

from models.card import ShelvedCard
from node import dispatch, holds
from node.archive import Archive
from node.dispatch import Dispatcher
from node.errors import Misconfigured
from node.ledger import Ledger, deliveries, failures, fallbacks, instances, jobs, open_ledger, revisions
from node.settings import Settings
from node.study import DeliveryState, JobState, RevisionState, Stage
from tests import shelf
from tests.node import work
from tests.node.brokers import settings_in, valkey
from tests.node.conftest import Clock
from tests.node.test_routing import card

CARDS: dict[str, ShelvedCard] = {"chest-ct": card()}


@pytest.fixture
def settings(ledger: Ledger) -> Settings:
    """Give settings of the ledger's data folder, with an embedded broker."""
    return settings_in(ledger.data_dir)


@pytest.fixture
def dispatcher(settings: Settings, ledger: Ledger) -> Iterator[Dispatcher]:
    """Give a dispatcher that moves when told."""
    made = Dispatcher(settings, ledger, CARDS)
    yield made
    made.close()


def messages(client: redis.Redis) -> list[tuple[str, str]]:
    """Take every message off the broker: the task and its id."""
    found = []
    for key in ("cpu", "gpu", "io"):
        for queue in (key, f"{key}\x06\x163", f"{key}\x06\x166", f"{key}\x06\x169"):
            raw: Any = client.lrange(queue, 0, -1)
            client.delete(queue)
            found += [(json.loads(each)["headers"]["task"], json.loads(each)["headers"]["argsrepr"].strip("[']")) for each in raw]
    return found


def received(ledger: Ledger, count: int = 30, **header: Any) -> None:
    """Receive a study."""
    instances.index(ledger, work.slices(count, header=header))


def only_job(ledger: Ledger) -> str:
    """Give the id of the one job there is."""
    (job,) = jobs.queued(ledger)
    return job.job_id


def test_a_quiet_study_becomes_a_job_and_one_message(dispatcher: Dispatcher, settings: Settings, ledger: Ledger, clock: Clock) -> None:
    """From the last image to the queue in one step; the next steps add nothing."""
    with valkey(settings) as client:
        received(ledger)
        dispatcher.step()
        assert messages(client) == []
        clock.now += 61
        dispatcher.step()
        ((task, ident),) = messages(client)
        assert task == "overread.prepare"
        assert jobs.get(ledger, ident).state is JobState.QUEUED
        for _ in range(3):
            clock.now += 5
            dispatcher.step()
        assert messages(client) == []
        assert revisions.of_study(ledger, "1.2.3")[-1].state is RevisionState.PLANNED


def test_a_lost_message_comes_again(dispatcher: Dispatcher, settings: Settings, ledger: Ledger, clock: Clock) -> None:
    """Kombu may lose a message it has popped: the ledger's age brings it back."""
    with valkey(settings) as client:
        received(ledger)
        clock.now += 61
        dispatcher.step()
        first = messages(client)
        clock.now += 31
        dispatcher.step()
        assert messages(client) == first


def test_work_goes_on_after_a_broker_outage(dispatcher: Dispatcher, settings: Settings, ledger: Ledger, clock: Clock) -> None:
    """Without a broker studies are still assembled and routed; a new, empty broker gets every message at once."""
    received(ledger)
    clock.now += 61
    dispatcher.step()
    ident = only_job(ledger)
    with valkey(settings) as client:
        clock.now += 6
        dispatcher.step()
        assert messages(client) == [("overread.prepare", ident)]
    clock.now += 6
    dispatcher.step()
    with valkey(settings) as client:
        clock.now += 6
        dispatcher.step()
        assert messages(client) == [("overread.prepare", ident)]


def test_a_lost_worker_s_job_is_submitted_again(dispatcher: Dispatcher, settings: Settings, ledger: Ledger, clock: Clock) -> None:
    """An expired lease is enough: same job, same stage, one message."""
    with valkey(settings) as client:
        job = work.queued_job(ledger)
        dispatcher.step()
        messages(client)
        assert jobs.claim(ledger, job.job_id, Stage.PREPARE, 8)
        clock.now += 8.5
        dispatcher.step()
        assert messages(client) == [("overread.prepare", job.job_id)]


def test_deliveries_that_are_due_are_submitted(dispatcher: Dispatcher, settings: Settings, ledger: Ledger, clock: Clock) -> None:
    """Also when the sender died."""
    with valkey(settings) as client:
        job = work.written_job(ledger)
        (delivery,) = deliveries.of_job(ledger, job.job_id, 1)
        clock.now += 2
        dispatcher.step()
        assert messages(client) == [("overread.deliver", delivery.delivery_id)]
        assert deliveries.claim(ledger, delivery.delivery_id, 8)
        clock.now += 7
        dispatcher.step()
        assert messages(client) == []
        clock.now += 2
        dispatcher.step()
        assert messages(client) == [("overread.deliver", delivery.delivery_id)]


def test_a_model_switched_off_stops_queued_jobs(settings: Settings, ledger: Ledger, clock: Clock, tmp_path: Path) -> None:
    """A changed settings file takes effect without a restart; a file with a mistake changes nothing."""
    config = tmp_path / "overread.toml"
    config.write_text("")
    dispatcher = Dispatcher(settings, ledger, CARDS, config)
    received(ledger)
    clock.now += 61
    dispatcher.step()
    ident = only_job(ledger)
    with valkey(settings) as client:
        config.write_text('[[rules]]\nmodel = "no-such-model"\nmode = "off"\n')
        clock.now += 6
        dispatcher.step()
        assert messages(client) == [("overread.prepare", ident)]
        config.write_text('[[rules]]\nmodel = "chest-ct"\nmode = "off"\n')
        clock.now += 31
        dispatcher.step()
        assert messages(client) == []
    off = jobs.get(ledger, ident)
    assert (off.state, off.reason) == (JobState.CANCELLED, "the rules switch this model off")
    dispatcher.close()


def test_two_patients_in_one_study_are_held_and_released(dispatcher: Dispatcher, ledger: Ledger, clock: Clock) -> None:
    """Nothing is analysed until a human has looked."""
    received(ledger)
    instances.index(ledger, [work.image("1.2.3.1.31", header={"PatientID": "P2"})])
    clock.now += 61
    dispatcher.step()
    dispatcher.wait()
    assert [entry.study_instance_uid for entry in revisions.in_state(ledger, RevisionState.HELD)] == ["1.2.3"]
    assert jobs.queued(ledger) == []
    holds.release(ledger, "1.2.3", "A. Clerk", "the second ID is a typing error")
    dispatcher.step()
    dispatcher.wait()
    assert len(jobs.queued(ledger)) == 1


def test_what_breaks_routing_holds_the_study(
    dispatcher: Dispatcher, ledger: Ledger, clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    """A fault of ours is told once, as a hold with a reason, and is not tried again twice a second; headers stay out of the journal."""
    broken = [work.image("6.6.1.1", study="6.6", series="6.6.1", header={"NumberOfFrames": {"odd": "SECRET"}, "ImageType": 7})]
    instances.index(ledger, broken)
    nonsense: Any = {"broken": None}
    dispatcher.cards = CARDS | nonsense
    received(ledger)
    clock.now += 61
    dispatcher.step()
    assert {entry.state for uid in ("6.6", "1.2.3") for entry in revisions.of_study(ledger, uid)} == {RevisionState.HELD}
    dispatcher.cards = CARDS
    for held in revisions.in_state(ledger, RevisionState.HELD):
        revisions.release(ledger, held)
    dispatcher.step()
    assert [entry.state for uid in ("6.6", "1.2.3") for entry in revisions.of_study(ledger, uid)] == ["DECLINED", "PLANNED"]
    assert "SECRET" not in "".join(capsys.readouterr())


def test_two_dispatchers_make_one_job(dispatcher: Dispatcher, settings: Settings, ledger: Ledger, clock: Clock) -> None:
    """Any number may run: every move is a compare-and-set."""
    other = Dispatcher(settings, ledger, CARDS)
    received(ledger)
    clock.now += 61
    runners = [threading.Thread(target=each.guarded_step) for each in (dispatcher, other)]
    for runner in runners:
        runner.start()
    for runner in runners:
        runner.join()
    assert len(jobs.queued(ledger)) == 1
    assert len(revisions.of_study(ledger, "1.2.3")) == 1
    other.close()


def test_a_sent_delivery_without_a_report_is_looked_after(ledger: Ledger, clock: Clock, tmp_path: Path) -> None:
    """A destination that does not commit and cannot be asked ends ACCEPTED by its C-STORE responses."""
    archive = Archive(tmp_path / "archive", "ARCHIVE")
    archive.start()
    peer = {"name": "archive", "ae_title": "ARCHIVE", "host": "127.0.0.1", "port": archive.port}
    settings = Settings.model_validate({"node": {"data_dir": str(ledger.data_dir)}, "peers": [peer]})
    dispatcher = Dispatcher(settings, ledger, CARDS)
    job = work.written_job(ledger)
    (delivery,) = deliveries.of_job(ledger, job.job_id, 1)
    held = deliveries.claim(ledger, delivery.delivery_id, 8)
    assert held
    for entry in held.parcel.objects:
        deliveries.object_sent(ledger, held, entry.sop_instance_uid, 0)
    assert deliveries.sent(ledger, held, None)
    clock.now += 301
    dispatcher.step()
    dispatcher.wait()
    assert deliveries.get(ledger, delivery.delivery_id).state is DeliveryState.ACCEPTED
    dispatcher.close()
    archive.stop()


def test_serve_runs_until_it_is_told_to_stop(tmp_path: Path) -> None:
    """The real loop, with the project's own cards and the real clock."""
    settings = settings_in(tmp_path / "data").model_copy(update={"assembly": work.QUIET.model_copy(update={"quiet_s": 0.2})})
    ledger, stop = open_ledger(settings), threading.Event()
    instances.index(ledger, work.slices(3))
    runner = threading.Thread(target=dispatch.serve, args=(settings, stop))
    runner.start()
    deadline = time.monotonic() + 60
    while revisions.of_study(ledger, "1.2.3")[-1].state is not RevisionState.DECLINED:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    stop.set()
    runner.join(30)
    assert not runner.is_alive()
    assert "slices" in (revisions.of_study(ledger, "1.2.3")[-1].reason or "")
    ledger.close()


def test_a_rule_for_a_model_that_is_not_there_stops_the_start(tmp_path: Path) -> None:
    """A mistake in the settings is told at start, not found after a week of silence."""
    settings = Settings.model_validate({"node": {"data_dir": str(tmp_path)}, "rules": [{"model": "chest-tc"}]})
    with pytest.raises(Misconfigured, match="chest-tc"):
        dispatch.serve(settings, threading.Event())


def test_a_format_that_this_node_cannot_run_stops_the_start(tmp_path: Path) -> None:
    """Its first patient would find out else."""
    folder = shelf.put(tmp_path / "models")
    card = folder / "two-parts" / "card.toml"
    card.write_text(card.read_text().replace('format = "state-dict"', 'format = "wishful"'))
    settings = Settings.model_validate({"node": {"data_dir": str(tmp_path)}, "models": {"dir": str(folder)}})
    with pytest.raises(Misconfigured, match="'wishful' is not one this node has"):
        dispatch.serve(settings, threading.Event())


def test_a_delivery_that_wants_another_profile_goes_to_the_cpu(
    dispatcher: Dispatcher, settings: Settings, ledger: Ledger, clock: Clock
) -> None:
    """Also where its own worker's message was lost; when it is written the next message is for sending."""
    job = work.written_job(ledger)
    (delivery,) = deliveries.of_job(ledger, job.job_id, 1)
    held = deliveries.claim(ledger, delivery.delivery_id, 8)
    assert held
    assert fallbacks.ask(ledger, held, "basic", "no such class") is Stage.RECOMPOSE
    clock.now += jobs.SUBMIT_GRACE_S
    with valkey(settings) as client:
        dispatcher.step()
        assert messages(client) == [("overread.recompose", delivery.delivery_id)]
        writing = deliveries.claim(ledger, delivery.delivery_id, 8, Stage.RECOMPOSE)
        assert writing
        clock.now += 8.1  # the worker is killed
        dispatcher.step()
        assert messages(client) == [("overread.recompose", delivery.delivery_id)]
        writing = deliveries.claim(ledger, delivery.delivery_id, 8, Stage.RECOMPOSE)
        assert writing
        assert fallbacks.point(ledger, writing, replace(work.parcel_of(job), profile="basic"))
        clock.now += jobs.SUBMIT_GRACE_S
        dispatcher.step()
        assert messages(client) == [("overread.deliver", delivery.delivery_id)]


@pytest.mark.parametrize("asks", [False, True])
def test_a_failed_job_is_told_only_where_a_site_asks(settings: Settings, ledger: Ledger, clock: Clock, asks: bool) -> None:  # noqa: FBT001 -- one of two sites
    """A message for the report, and after the last one in vain an end; without a wish the matter is closed at once."""
    peer = {"name": "archive", "ae_title": "A", "host": "127.0.0.1", "port": 1, "profile": "told" if asks else "ohif"}
    told = {"profiles": [{"name": "told", "base": "ohif", "send_failures": True}], "peers": [peer]}
    job = work.queued_job(ledger)
    held = jobs.claim(ledger, job.job_id, Stage.PREPARE, 8)
    assert held
    assert jobs.fail(ledger, held, "no memory")
    made = Dispatcher(Settings.model_validate(settings.model_dump() | told), ledger, CARDS)
    with valkey(settings) as client:
        made.step()
        assert messages(client) == ([("overread.tell", job.job_id)] if asks else [])
        assert failures.is_untold(ledger, job.job_id) is asks
        for _ in range(failures.SUBMISSIONS_MAX):
            clock.now += jobs.RESUBMIT_MAX_S
            made.step()
        assert len(messages(client)) == (failures.SUBMISSIONS_MAX - 1 if asks else 0)
        assert not failures.is_untold(ledger, job.job_id)
    made.close()
