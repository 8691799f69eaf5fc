"""Sending a parcel to an archive that behaves, misbehaves or is away."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from node import deliver
from node.archive import Archive, Faults
from node.archive.holdings import data_set_of
from node.errors import Retryable
from node.ledger import Ledger, deliveries
from node.ledger.schema import DELIVERIES
from node.study import DeliveryState, Parcel
from tests.node.conftest import Clock
from tests.node.delivery import SEG, SR, claim_of, peer_at, proof_of, settings_for, state_of, written
from tests.node.listening import soon
from tests.real.processes import free_port


@pytest.fixture
def ledger_url() -> str:
    """Use SQLite: the ledger's own tests run on both databases."""
    return "sqlite"


@pytest.fixture
def archive(tmp_path: Path) -> Iterator[Archive]:
    """Run an archive that offers neither queries nor commitment as far as the settings tell."""
    with Archive(tmp_path / "archive", "PACS") as running:
        yield running


@pytest.fixture(autouse=True)
def no_outages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forget which peers other tests could not reach."""
    monkeypatch.setattr(deliver, "OUTAGES", deliver.Outages())


def send(ledger: Ledger, parcel: Parcel, archive: Archive, **peer: Any) -> None:
    """Claim and send the parcel to the archive."""
    deliver.send(settings_for(ledger, peer_at(archive.port, **peer)), ledger, claim_of(ledger, parcel))


def uids(parcel: Parcel) -> list[str]:
    """Give the parcel's SOP Instance UIDs in sending order."""
    return [entry.sop_instance_uid for entry in parcel.objects]


def stored(archive: Archive) -> list[str]:
    """Give the SOP Instance UIDs of every C-STORE the archive answered, in order."""
    return [reception.sop_instance_uid for reception in archive.received]


def test_a_parcel_arrives_byte_for_byte_in_its_order(ledger: Ledger, archive: Archive) -> None:
    """Every data set in the archive equals the stored one, SEG before SR; without queries the C-STOREs are the proof."""
    parcel = written(ledger)
    send(ledger, parcel, archive)
    assert stored(archive) == uids(parcel)
    for entry in parcel.objects:
        kept = archive.path_of(entry.sop_instance_uid)
        assert kept is not None
        assert data_set_of(kept) == data_set_of(ledger.data_dir / entry.path)
    assert state_of(ledger, parcel).state is DeliveryState.ACCEPTED
    assert proof_of(ledger, parcel) == "C-STORE responses only"


def test_a_query_proves_what_an_archive_without_commitment_holds(ledger: Ledger, archive: Archive) -> None:
    """ACCEPTED with the count that C-FIND shows, image by image."""
    parcel = written(ledger)
    send(ledger, parcel, archive, query=True)
    assert state_of(ledger, parcel).state is DeliveryState.ACCEPTED
    assert proof_of(ledger, parcel) == "C-FIND: 2 of 2 instances"


@pytest.mark.parametrize("status", [0xB000, 0xB006, 0xB007])
def test_a_warning_is_stored_and_recorded(ledger: Ledger, archive: Archive, status: int) -> None:
    """Coerced, discarded or mismatching elements do not fail a delivery; the status is kept with the object."""
    from node.ledger.schema import DELIVERY_OBJECTS  # noqa: PLC0415 -- no public reader of one column

    archive.faults = Faults(warn_status=status)
    parcel = written(ledger)
    send(ledger, parcel, archive)
    assert state_of(ledger, parcel).state is DeliveryState.ACCEPTED
    with ledger.reading() as connection:
        kept = list(connection.execute(DELIVERY_OBJECTS.select().with_only_columns(DELIVERY_OBJECTS.c.status)).scalars())
    assert kept == [status, status]


def test_only_the_unsent_go_after_an_abort(ledger: Ledger, archive: Archive, clock: Clock) -> None:
    """An association that dies after the first object: back-off, then the second object alone."""
    archive.faults = Faults(abort_after=1)
    parcel = written(ledger)
    send(ledger, parcel, archive)
    waiting = state_of(ledger, parcel)
    assert waiting.state is DeliveryState.PENDING
    assert waiting.sent == (uids(parcel)[0],)
    assert "ended the association" in (waiting.reason or "")
    assert deliveries.claim(ledger, waiting.delivery_id, 8) is None  # not before the back-off has passed
    clock.now += 5
    before = len(stored(archive))
    send(ledger, parcel, archive)
    assert stored(archive)[before:] == [uids(parcel)[1]]
    assert state_of(ledger, parcel).state is DeliveryState.ACCEPTED


def test_an_association_that_ends_between_two_objects_is_retryable(ledger: Ledger, archive: Archive) -> None:
    """The peer closes after an answer: the next object is a lost association, not a crash."""
    peer = peer_at(archive.port)
    [first, _] = written(ledger).objects
    contexts = [deliver.build_context(first.sop_class_uid, first.transfer_syntax_uid)]
    with deliver.association(settings_for(ledger, peer), peer, contexts) as link:
        assert deliver._store(link, peer, first, ledger.data_dir / first.path) == 0x0000
        link.abort()
        with pytest.raises(Retryable):
            deliver._store(link, peer, first, ledger.data_dir / first.path)


def test_out_of_resources_is_tried_again_until_the_attempts_are_spent(ledger: Ledger, archive: Archive, clock: Clock) -> None:
    """A700 twice with growing pauses, then FAILED with the last reason; nothing is tried again."""
    archive.faults = Faults(fail_stores=99, fail_status=0xA700)
    parcel = written(ledger)
    for pause_s in (5, 10):
        send(ledger, parcel, archive, max_attempts=3)
        waiting = state_of(ledger, parcel)
        assert waiting.state is DeliveryState.PENDING
        assert "A700" in (waiting.reason or "")
        clock.now += pause_s - 0.1
        assert deliveries.claim(ledger, waiting.delivery_id, 8) is None
        clock.now += 0.2
    send(ledger, parcel, archive, max_attempts=3)
    failed = state_of(ledger, parcel)
    assert failed.state is DeliveryState.FAILED
    assert "gave up after 3 attempts" in (failed.reason or "")
    assert "A700" in (failed.reason or "")


@pytest.mark.parametrize("status", [0xA900, 0xA9FF, 0xC000, 0xC123, 0x0124])
def test_a_refusal_fails_at_once_with_its_status(ledger: Ledger, archive: Archive, status: int) -> None:
    """The peer will not have it: FAILED after one try, the status in the reason, the second object not sent."""
    archive.faults = Faults(fail_stores=1, fail_status=status)
    parcel = written(ledger)
    send(ledger, parcel, archive)
    failed = state_of(ledger, parcel)
    assert failed.state is DeliveryState.FAILED
    assert f"{status:04X}" in (failed.reason or "")
    assert stored(archive) == uids(parcel)[:1]


def test_an_instance_the_archive_already_has_counts_as_stored(ledger: Ledger, archive: Archive) -> None:
    """0111, duplicate SOP instance: an earlier send arrived although its answer was lost."""
    archive.faults = Faults(fail_stores=1, fail_status=0x0111)
    parcel = written(ledger)
    send(ledger, parcel, archive)
    assert state_of(ledger, parcel).state is DeliveryState.ACCEPTED


@pytest.mark.parametrize("refused", [{SEG}, {SR}, {SEG, SR}])
def test_a_rejected_class_fails_before_anything_is_sent(ledger: Ledger, archive: Archive, refused: set[str]) -> None:
    """Of a profile without a fallback: the reason names the SOP class in words and number, and who can change it."""
    archive.faults = Faults(refused_classes=frozenset(refused))
    parcel = written(ledger, profile="basic")
    send(ledger, parcel, archive)
    failed = state_of(ledger, parcel)
    assert failed.state is DeliveryState.FAILED
    assert all(sop_class in (failed.reason or "") for sop_class in refused)
    assert ("Segmentation Storage" in (failed.reason or "")) == (SEG in refused)
    assert "administrator of PACS" in (failed.reason or "")
    assert stored(archive) == []


def test_a_peer_that_does_not_know_our_title_fails_with_its_reason(ledger: Ledger, archive: Archive) -> None:
    """An association rejected for good is not tried again."""
    parcel = written(ledger)
    send(ledger, parcel, archive, ae_title="WRONG")
    failed = state_of(ledger, parcel)
    assert failed.state is DeliveryState.FAILED
    assert "rejects the association" in (failed.reason or "")


def test_a_dead_destination_does_not_hold_up_another(ledger: Ledger, archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first delivery learns that a peer is away; the next to it waits without a connection; the other peer gets its own."""
    dead = peer_at(free_port(), name="dead")
    settings = settings_for(ledger, peer_at(archive.port), dead)
    first, second = written(ledger, "dead"), written(ledger, "dead", "archive", job_id="job-2")
    deliver.send(settings, ledger, claim_of(ledger, first, "dead"))
    assert "cannot be reached" in (state_of(ledger, first, "dead").reason or "")
    tried = []
    real = deliver.association
    monkeypatch.setattr(deliver, "association", lambda settings, peer, contexts: tried.append(peer.name) or real(settings, peer, contexts))
    deliver.send(settings, ledger, claim_of(ledger, second, "dead"))
    deliver.send(settings, ledger, claim_of(ledger, second, "archive"))
    assert tried == ["archive"]
    assert "cannot be reached" in (state_of(ledger, second, "dead").reason or "")
    assert state_of(ledger, second, "dead").state is DeliveryState.PENDING
    assert state_of(ledger, second, "archive").state is DeliveryState.ACCEPTED


def test_an_outage_ends_when_the_peer_answers(ledger: Ledger, archive: Archive, clock: Clock) -> None:
    """A delivery that waited for a dead peer arrives once the peer is back."""
    port = archive.port
    archive.stop()
    parcel = written(ledger)
    peer = peer_at(port, retry_first_s=0.05)
    deliver.send(settings_for(ledger, peer), ledger, claim_of(ledger, parcel))
    assert state_of(ledger, parcel).state is DeliveryState.PENDING
    with Archive(archive.holdings.directory, "PACS", port):
        threading.Event().wait(0.06)
        clock.now += 1
        deliver.send(settings_for(ledger, peer), ledger, claim_of(ledger, parcel))
    assert state_of(ledger, parcel).state is DeliveryState.ACCEPTED


def test_a_last_attempt_is_always_a_real_one_and_ends_the_outage(ledger: Ledger, archive: Archive) -> None:
    """A delivery does not fail unseen because its peer was away a moment ago; when it gets through, the next goes at once."""
    peer = peer_at(archive.port)
    deliver.OUTAGES.begin(peer, 3600, "away")
    first, second = written(ledger), written(ledger, job_id="job-2")
    deliver.send(settings_for(ledger, peer.model_copy(update={"max_attempts": 1})), ledger, claim_of(ledger, first))
    assert state_of(ledger, first).state is DeliveryState.ACCEPTED
    deliver.send(settings_for(ledger, peer), ledger, claim_of(ledger, second))
    assert state_of(ledger, second).state is DeliveryState.ACCEPTED


def test_an_outage_is_over_after_its_time(clock: Clock) -> None:
    """One real attempt a while finds out whether the peer is back."""
    outages, peer = deliver.Outages(clock), peer_at(1)
    outages.begin(peer, 5, "away")
    clock.now += 4.9
    assert outages.reason(peer) == "away"
    clock.now += 0.2
    assert outages.reason(peer) is None


def test_the_back_off_doubles_up_to_its_limit() -> None:
    """5, 10, 20 ... 640, 900, 900 s by the default settings."""
    peer = peer_at(1)
    assert [deliver.backoff_s(peer, attempt) for attempt in range(1, 11)] == [5, 10, 20, 40, 80, 160, 320, 640, 900, 900]


@pytest.mark.parametrize("fault", ["gone", "changed"])
def test_a_stored_file_that_is_not_what_was_written_is_never_sent(ledger: Ledger, archive: Archive, fault: str) -> None:
    """FAILED with a reason that tells a missing file from a changed one, before anything is sent."""
    parcel = written(ledger)
    path = ledger.data_dir / parcel.objects[1].path
    if fault == "gone":
        path.unlink()
    else:
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(content)
    send(ledger, parcel, archive)
    failed = state_of(ledger, parcel)
    assert failed.state is DeliveryState.FAILED
    assert fault in (failed.reason or "")
    assert stored(archive) == []


def test_a_destination_without_a_peer_fails_with_what_to_do(ledger: Ledger, archive: Archive) -> None:
    """A peer that was removed from the settings ends its deliveries."""
    parcel = written(ledger, "removed")
    deliver.send(settings_for(ledger, peer_at(archive.port)), ledger, claim_of(ledger, parcel, "removed"))
    failed = state_of(ledger, parcel, "removed")
    assert failed.state is DeliveryState.FAILED
    assert "[[peers]]" in (failed.reason or "")


def _lease_until(ledger: Ledger) -> float:
    with ledger.engine.connect() as connection:  # of the one delivery there is
        return float(connection.execute(sa.select(DELIVERIES.c.lease_until)).scalar_one() or 0)


def test_a_long_send_keeps_its_lease_and_a_lost_claim_stops_it(ledger: Ledger, archive: Archive, clock: Clock) -> None:
    """While the archive is slow the lease is renewed; once another has the delivery, the rest is not sent by us."""
    archive.faults = Faults(answer_after_s=2)
    parcel = written(ledger)
    settings = settings_for(ledger, peer_at(archive.port))
    settings = settings.model_copy(update={"workers": settings.workers.model_copy(update={"renew_s": 0.05})})
    claim = claim_of(ledger, parcel)
    sender = threading.Thread(target=deliver.send, args=(settings, ledger, claim))
    sender.start()
    for _ in range(2):
        clock.now += 7  # the lease would end a second later
        soon(lambda: _lease_until(ledger) > clock.now + 7)
    assert deliveries.lost_senders(ledger, clock.now) == []
    clock.now += 1000  # beyond the stage's time limit nothing renews
    assert len(deliveries.lost_senders(ledger, clock.now)) == 1
    other = claim_of(ledger, parcel)
    sender.join(10)
    assert not sender.is_alive()
    mine = state_of(ledger, parcel)
    assert mine.state is DeliveryState.PENDING
    assert mine.fence == other.fence
    assert len(stored(archive)) == 1
