"""Storage commitment: asked for, reported on whichever association, missing, late, doubled, foreign, never."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydicom import Dataset
from pydicom.uid import generate_uid

from node import commitment, deliver
from node.archive import Archive, Faults
from node.ledger import Ledger, deliveries
from node.listener import Listener
from node.settings import Settings
from node.spool import Spool
from node.study import DeliveryState, Parcel
from tests.node.conftest import Clock
from tests.node.delivery import claim_of, peer_at, proof_of, settings_for, state_of, sweep, written
from tests.real.processes import wait_for


@pytest.fixture
def ledger_url() -> str:
    """Use SQLite: the ledger's own tests run on both databases."""
    return "sqlite"


@pytest.fixture
def archive(tmp_path: Path, ledger: Ledger) -> Iterator[Archive]:
    """Run an archive that knows where the node's own listener takes reports."""
    settings = settings_for(ledger)
    settings = settings.model_copy(update={"node": settings.node.model_copy(update={"port": 0})})
    listener = Listener(settings, ledger, Spool(ledger.data_dir, 0))
    listener.start()
    try:
        with Archive(tmp_path / "archive", "PACS", peers={"OVERREAD": ("127.0.0.1", listener.port)}) as running:
            yield running
    finally:
        listener.stop()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Do not hold the asking association for reports that come on another."""
    monkeypatch.setattr(commitment, "SAME_ASSOCIATION_S", 0.0)


def committing(ledger: Ledger, archive: Archive, **peer: Any) -> Settings:
    """Give settings with the archive as a peer that commits."""
    return settings_for(ledger, peer_at(archive.port, **{"storage_commitment": True} | peer))


def sent(ledger: Ledger, archive: Archive, **peer: Any) -> tuple[Settings, Parcel]:
    """Send a parcel to the archive; gives the settings and the parcel."""
    settings, parcel = committing(ledger, archive, **peer), written(ledger)
    deliver.send(settings, ledger, claim_of(ledger, parcel))
    return settings, parcel


def reaches(ledger: Ledger, parcel: Parcel, state: DeliveryState) -> None:
    """Wait until the delivery is in that state."""
    wait_for(lambda: state_of(ledger, parcel).state is state, seconds=10, what=f"the delivery to be {state}", every_s=0.02)


def uids(parcel: Parcel) -> list[str]:
    """Give the parcel's SOP Instance UIDs."""
    return [entry.sop_instance_uid for entry in parcel.objects]


def information(transaction_uid: str, committed: list[str], failed: dict[str, int] | None = None) -> Dataset:
    """Make the event information of a report."""
    made = Dataset()
    made.TransactionUID = transaction_uid
    for keyword, entries in (("ReferencedSOPSequence", dict.fromkeys(committed)), ("FailedSOPSequence", failed or {})):
        items = []
        for uid, reason in entries.items():
            item = Dataset()
            item.ReferencedSOPClassUID = "1.2.840.10008.5.1.4.1.1.66.4"
            item.ReferencedSOPInstanceUID = uid
            if reason is not None:
                item.FailureReason = reason
            items.append(item)
        if items:
            setattr(made, keyword, items)
    return made


@pytest.mark.parametrize("fault", [{}, {"report_after_s": 0.2}, {"report_first": True}, {"report_twice": True}])
def test_a_report_on_a_new_association_commits_the_delivery(ledger: Ledger, archive: Archive, fault: dict[str, Any]) -> None:
    """COMMITTED by the node's own listener: a report in time, late, before the N-ACTION response, or told twice."""
    archive.faults = Faults(**fault)
    _, parcel = sent(ledger, archive)
    reaches(ledger, parcel, DeliveryState.COMMITTED)
    assert archive.transactions == deliveries.transactions(ledger, state_of(ledger, parcel).delivery_id)


def test_a_report_on_the_asking_association_commits_too(ledger: Ledger, archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    """The association that asked stays open long enough for a peer that reports on it, and takes the report."""
    monkeypatch.setattr(commitment, "SAME_ASSOCIATION_S", 5.0)
    archive.peers.clear()
    archive.faults = Faults(report_on_same=True)
    _, parcel = sent(ledger, archive)
    assert state_of(ledger, parcel).state is DeliveryState.COMMITTED


def test_a_missing_object_alone_is_sent_again(ledger: Ledger, archive: Archive, clock: Clock) -> None:
    """Event type 2, reason 0112: PENDING with that object unsent and a reason; the next send carries it alone and commits."""
    settings, parcel = committing(ledger, archive), written(ledger)
    archive.faults = Faults(missing=frozenset(uids(parcel)[1:]))
    deliver.send(settings, ledger, claim_of(ledger, parcel))
    reaches(ledger, parcel, DeliveryState.PENDING)
    waiting = state_of(ledger, parcel)
    assert waiting.sent == tuple(uids(parcel)[:1])
    assert "did not commit 1" in (waiting.reason or "")
    archive.faults = Faults()
    clock.now += 1000
    before = len(archive.received)
    deliver.send(settings, ledger, claim_of(ledger, parcel))
    assert [reception.sop_instance_uid for reception in archive.received[before:]] == uids(parcel)[1:]
    reaches(ledger, parcel, DeliveryState.COMMITTED)


def test_an_object_lost_again_and_again_ends_in_a_failure(ledger: Ledger, archive: Archive, clock: Clock) -> None:
    """Sending again is bounded by max_attempts; the last reason is told."""
    settings, parcel = committing(ledger, archive, max_attempts=2), written(ledger)
    archive.faults = Faults(missing=frozenset(uids(parcel)))
    for _ in range(2):
        deliver.send(settings, ledger, claim_of(ledger, parcel))
        reaches(ledger, parcel, DeliveryState.PENDING)
        clock.now += 1000
    deliver.send(settings, ledger, claim_of(ledger, parcel))
    failed = state_of(ledger, parcel)
    assert failed.state is DeliveryState.FAILED
    assert "gave up after 2 attempts" in (failed.reason or "")
    assert "did not commit 2" in (failed.reason or "")


def test_no_report_is_asked_for_again_and_the_second_answer_counts(ledger: Ledger, archive: Archive, clock: Clock) -> None:
    """After the peer's time-out, not before, a fresh transaction goes out; its report commits."""
    archive.faults = Faults(drop_reports=1)
    settings, parcel = sent(ledger, archive, commitment_timeout_s=300)
    clock.now += 299
    assert sweep(settings, ledger, clock.now) == 0
    clock.now += 2
    assert sweep(settings, ledger, clock.now) == 1
    reaches(ledger, parcel, DeliveryState.COMMITTED)
    assert len(set(archive.transactions)) == 2


def test_a_late_report_of_an_older_transaction_still_commits(ledger: Ledger, archive: Archive, clock: Clock) -> None:
    """Several transactions may be open; an answer to any of them counts."""
    archive.faults = Faults(drop_reports=2)
    settings, parcel = sent(ledger, archive)
    clock.now += 301
    sweep(settings, ledger, clock.now)
    first, second = archive.transactions
    assert first != second
    assert commitment.on_report(ledger, 1, information(first, uids(parcel))) == 0x0000
    assert state_of(ledger, parcel).state is DeliveryState.COMMITTED


def chase_to_the_end(settings: Settings, ledger: Ledger, clock: Clock) -> None:
    """Let time-outs pass until nothing is left to ask."""
    for _ in range(commitment.ASKS_MAX):
        clock.now += 301
        sweep(settings, ledger, clock.now)


def test_without_any_report_a_query_is_the_proof(ledger: Ledger, archive: Archive, clock: Clock) -> None:
    """After three requests C-FIND shows the objects: ACCEPTED, and the proof says that no report came."""
    archive.faults = Faults(drop_reports=99)
    settings, parcel = sent(ledger, archive, query=True)
    chase_to_the_end(settings, ledger, clock)
    assert len(archive.transactions) == 3
    assert state_of(ledger, parcel).state is DeliveryState.ACCEPTED
    assert proof_of(ledger, parcel) == "C-FIND: 2 of 2 instances; no commitment report after 3 requests"


def test_without_report_or_proof_an_alert_says_what_to_do(ledger: Ledger, archive: Archive, clock: Clock) -> None:
    """FAILED after three requests when the archive may not be queried; the reason names the setting and the archive's side."""
    archive.faults = Faults(drop_reports=99)
    settings, parcel = sent(ledger, archive)
    chase_to_the_end(settings, ledger, clock)
    failed = state_of(ledger, parcel)
    assert failed.state is DeliveryState.FAILED
    assert "3 requests" in (failed.reason or "")
    assert "storage_commitment" in (failed.reason or "")


def test_what_a_query_does_not_show_is_sent_again(ledger: Ledger, archive: Archive, clock: Clock) -> None:
    """No report and an object that C-FIND does not show: PENDING again."""
    settings, parcel = committing(ledger, archive, query=True), written(ledger)
    archive.faults = Faults(drop_reports=99, hidden=frozenset(uids(parcel)[:1]))
    deliver.send(settings, ledger, claim_of(ledger, parcel))
    chase_to_the_end(settings, ledger, clock)
    assert state_of(ledger, parcel).state is DeliveryState.PENDING


def test_without_commitment_a_query_that_never_shows_an_object_fails(
    ledger: Ledger, archive: Archive, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The archive indexes late: SENT stays open; after the time-out what is still not there is an alert."""
    monkeypatch.setattr(deliver, "FIND_PAUSE_S", 0.0)
    settings, parcel = committing(ledger, archive, storage_commitment=False, query=True), written(ledger)
    archive.faults = Faults(hidden=frozenset(uids(parcel)[:1]))
    deliver.send(settings, ledger, claim_of(ledger, parcel))
    assert state_of(ledger, parcel).state is DeliveryState.SENT
    clock.now += 301
    sweep(settings, ledger, clock.now)
    failed = state_of(ledger, parcel)
    assert failed.state is DeliveryState.FAILED
    assert "C-FIND shows 1 of 2" in (failed.reason or "")


def test_an_object_indexed_late_is_found_by_the_sweep(
    ledger: Ledger, archive: Archive, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SENT becomes ACCEPTED once C-FIND shows everything."""
    monkeypatch.setattr(deliver, "FIND_PAUSE_S", 0.0)
    settings, parcel = committing(ledger, archive, storage_commitment=False, query=True), written(ledger)
    archive.faults = Faults(hidden=frozenset(uids(parcel)))
    deliver.send(settings, ledger, claim_of(ledger, parcel))
    archive.faults = Faults()
    clock.now += 301
    sweep(settings, ledger, clock.now)
    assert state_of(ledger, parcel).state is DeliveryState.ACCEPTED


def test_an_archive_that_is_away_at_a_time_out_is_asked_later(ledger: Ledger, archive: Archive, clock: Clock) -> None:
    """A sweep that reaches nobody leaves the delivery SENT."""
    archive.faults = Faults(drop_reports=99)
    settings, parcel = sent(ledger, archive, query=True)
    archive.stop()
    for _ in range(5):
        clock.now += 301
        sweep(settings, ledger, clock.now)
        assert state_of(ledger, parcel).state is DeliveryState.SENT


@pytest.mark.parametrize("status", [0x0110, 0x0112, 0x0122, 0x0213])
def test_a_refused_request_leaves_the_delivery_to_the_sweep(ledger: Ledger, archive: Archive, clock: Clock, status: int) -> None:
    """An N-ACTION answered with a failure is asked again after the time-out."""
    archive.faults = Faults(refuse_action=status)
    settings, parcel = sent(ledger, archive)
    assert state_of(ledger, parcel).state is DeliveryState.SENT
    archive.faults = Faults()
    clock.now += 301
    sweep(settings, ledger, clock.now)
    reaches(ledger, parcel, DeliveryState.COMMITTED)


def test_only_one_of_two_sweeps_asks(ledger: Ledger, archive: Archive, clock: Clock) -> None:
    """Processes that sweep at the same moment ask once."""
    archive.faults = Faults(drop_reports=99)
    settings, _ = sent(ledger, archive)
    clock.now += 301
    counts: list[int] = []
    threads = [threading.Thread(target=lambda: counts.append(sweep(settings, ledger, clock.now))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(counts) == [0, 1]
    assert len(archive.transactions) == 2


def test_reports_that_say_nothing_to_us_change_nothing(ledger: Ledger, archive: Archive) -> None:
    """An unknown transaction, no information, no sequence, an unknown event type: refused, and the delivery stays SENT."""
    archive.faults = Faults(drop_reports=99)
    _, parcel = sent(ledger, archive)
    [transaction] = archive.transactions
    assert commitment.on_report(ledger, 1, information(str(generate_uid()), uids(parcel))) == 0x0110
    assert commitment.on_report(ledger, 1, None) == 0x0115
    assert commitment.on_report(ledger, 1, Dataset()) == 0x0115
    assert commitment.on_report(ledger, 1, information(transaction, [])) == 0x0115
    assert commitment.on_report(ledger, 2, information(transaction, uids(parcel))) == 0x0115
    assert commitment.on_report(ledger, 3, information(transaction, uids(parcel))) == 0x0113
    unchanged = state_of(ledger, parcel)
    assert unchanged.state is DeliveryState.SENT
    assert unchanged.sent == tuple(uids(parcel))


def test_a_report_reaches_no_other_parcel(ledger: Ledger, archive: Archive) -> None:
    """A report that names another parcel's objects as failed leaves that delivery alone."""
    archive.faults = Faults(drop_reports=99)
    settings = committing(ledger, archive)
    first, second = written(ledger), written(ledger, job_id="job-2")
    for parcel in (first, second):
        deliver.send(settings, ledger, claim_of(ledger, parcel))
    report = information(archive.transactions[0], uids(first), dict.fromkeys(uids(second), 0x0112))
    assert commitment.on_report(ledger, 2, report) == 0x0000
    assert state_of(ledger, first).state is DeliveryState.COMMITTED
    assert state_of(ledger, second).state is DeliveryState.SENT
    assert state_of(ledger, second).sent == tuple(uids(second))


def test_an_object_both_committed_and_failed_is_failed(ledger: Ledger, archive: Archive) -> None:
    """A contradictory report never counts as a promise."""
    archive.faults = Faults(drop_reports=99)
    _, parcel = sent(ledger, archive)
    [transaction] = archive.transactions
    report = information(transaction, uids(parcel), {uids(parcel)[0]: 0x0110})
    assert commitment.on_report(ledger, 2, report) == 0x0000
    assert state_of(ledger, parcel).state is DeliveryState.PENDING
    assert state_of(ledger, parcel).sent == tuple(uids(parcel)[1:])


def test_the_same_report_twice_and_after_the_end_is_harmless(ledger: Ledger, archive: Archive) -> None:
    """A COMMITTED delivery stays so, whatever its transaction reports later."""
    archive.faults = Faults(drop_reports=99)
    _, parcel = sent(ledger, archive)
    [transaction] = archive.transactions
    assert commitment.on_report(ledger, 1, information(transaction, uids(parcel))) == 0x0000
    assert commitment.on_report(ledger, 1, information(transaction, uids(parcel))) == 0x0000
    assert commitment.on_report(ledger, 2, information(transaction, [], {uids(parcel)[0]: 0x0112})) == 0x0000
    assert state_of(ledger, parcel).state is DeliveryState.COMMITTED
    assert state_of(ledger, parcel).sent == tuple(uids(parcel))
