"""Deliveries: what was stored is not sent again, what is not committed is."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from node.ledger import Ledger, deliveries, jobs
from node.ledger.deliveries import DeliveryClaim
from node.study import Delivery, DeliveryState
from tests.node import work
from tests.node.conftest import Clock


def one_delivery(ledger: Ledger) -> Delivery:
    """Give the delivery of a written job."""
    job = work.written_job(ledger)
    (delivery,) = deliveries.of_job(ledger, job.job_id, job.generation)
    return delivery


def claimed(ledger: Ledger, delivery: Delivery) -> DeliveryClaim:
    """Take a delivery for sending."""
    held = deliveries.claim(ledger, delivery.delivery_id, 8)
    assert held is not None
    return held


def all_sent(ledger: Ledger, delivery: Delivery, transaction_uid: str | None = None) -> None:
    """Send every object that is not there yet."""
    held = claimed(ledger, delivery)
    for entry in held.parcel.objects:
        if entry.sop_instance_uid not in held.delivery.sent:
            assert deliveries.object_sent(ledger, held, entry.sop_instance_uid, 0)
    assert deliveries.sent(ledger, held, transaction_uid)


def test_a_delivery_is_claimed_once_and_brings_its_parcel(ledger: Ledger) -> None:
    """One sender has the stored bytes in sending order; a duplicate message finds nothing to do."""
    delivery = one_delivery(ledger)
    held = claimed(ledger, delivery)
    assert [entry.kind for entry in held.parcel.objects] == ["seg", "sr"]
    assert held.delivery.attempt == 1
    assert deliveries.claim(ledger, delivery.delivery_id, 8) is None
    assert deliveries.claim(ledger, "no such delivery", 8) is None


def test_a_resumed_delivery_names_what_was_sent_already(ledger: Ledger, clock: Clock) -> None:
    """A sender that dies half-way leaves the second object to the next one."""
    delivery = one_delivery(ledger)
    lost = claimed(ledger, delivery)
    assert deliveries.object_sent(ledger, lost, "2.25.7", 0)
    clock.now += 8.1
    (freed,) = deliveries.lost_senders(ledger, clock.now)
    assert freed.sent == ("2.25.7",)
    assert [entry.delivery_id for entry in deliveries.due(ledger, clock.now)] == [delivery.delivery_id]
    again = claimed(ledger, delivery)
    assert again.delivery.sent == ("2.25.7",)
    assert again.delivery.attempt == 2
    assert not deliveries.object_sent(ledger, lost, "2.25.8", 0)
    assert not deliveries.sent(ledger, lost, None)
    assert not deliveries.retry(ledger, lost, "x", 1)
    assert not deliveries.fail(ledger, lost, "x")
    assert not deliveries.renew(ledger, lost, 8)
    assert deliveries.get(ledger, delivery.delivery_id).sent == ("2.25.7",)


def test_a_retried_delivery_waits_for_its_time(ledger: Ledger, clock: Clock) -> None:
    """A destination that is away is tried again after the delay, not before."""
    delivery = one_delivery(ledger)
    assert deliveries.retry(ledger, claimed(ledger, delivery), "the archive does not answer", 30)
    clock.now += 29
    assert deliveries.due(ledger, clock.now) == []
    assert deliveries.claim(ledger, delivery.delivery_id, 8) is None
    clock.now += 1
    (due,) = deliveries.due(ledger, clock.now)
    assert due.reason == "the archive does not answer"
    claimed(ledger, delivery)


def test_a_delivery_s_heartbeat_is_bounded(ledger: Ledger, clock: Clock) -> None:
    """A hung association loses the delivery at the absolute limit."""
    delivery = one_delivery(ledger)
    held = claimed(ledger, delivery)
    clock.now += ledger.limits.time_limit_s["deliver"] - 1
    assert deliveries.renew(ledger, held, 8)
    clock.now += 1
    assert not deliveries.renew(ledger, held, 8)
    assert deliveries.lost_senders(ledger, clock.now)


def test_committed_needs_every_object(ledger: Ledger, clock: Clock) -> None:
    """The archive's word for all objects ends the delivery; told twice it changes nothing."""
    delivery = one_delivery(ledger)
    all_sent(ledger, delivery, "2.25.100")
    assert deliveries.get(ledger, delivery.delivery_id).transaction_uid == "2.25.100"
    for _ in range(2):
        assert deliveries.report(ledger, "2.25.100", {"2.25.7", "2.25.8"}, {})
        assert deliveries.get(ledger, delivery.delivery_id).state is DeliveryState.COMMITTED
        clock.now += 1
    assert not deliveries.report(ledger, "2.25.999", {"2.25.7", "2.25.8"}, {})


def test_an_object_the_archive_does_not_vouch_for_is_sent_again(ledger: Ledger, clock: Clock) -> None:
    """A failed object makes the delivery PENDING with that object unsent; the committed one stays."""
    delivery = one_delivery(ledger)
    all_sent(ledger, delivery, "2.25.100")
    clock.now += 5
    assert deliveries.report(ledger, "2.25.100", {"2.25.7"}, {"2.25.8": 0x0112})
    back = deliveries.get(ledger, delivery.delivery_id)
    assert (back.state, back.sent) == (DeliveryState.PENDING, ("2.25.7",))
    clock.now += deliveries.UNSENT_FIRST_S
    all_sent(ledger, delivery, "2.25.101")
    assert deliveries.report(ledger, "2.25.101", {"2.25.8"}, {})
    assert deliveries.get(ledger, delivery.delivery_id).state is DeliveryState.COMMITTED


def test_an_old_transaction_s_failure_does_not_undo_a_later_send(ledger: Ledger, clock: Clock) -> None:
    """A late failure report about objects sent again since is only news of the past."""
    delivery = one_delivery(ledger)
    all_sent(ledger, delivery, "2.25.100")
    clock.now += 5
    deliveries.report(ledger, "2.25.100", set(), {"2.25.7": 1, "2.25.8": 1})
    clock.now += deliveries.UNSENT_FIRST_S
    all_sent(ledger, delivery, "2.25.101")
    clock.now += 5
    assert deliveries.report(ledger, "2.25.100", set(), {"2.25.7": 1, "2.25.8": 1})
    assert deliveries.get(ledger, delivery.delivery_id).state is DeliveryState.SENT


def test_any_open_transaction_may_commit(ledger: Ledger, clock: Clock) -> None:
    """After asking again the first transaction's late report still counts."""
    delivery = one_delivery(ledger)
    all_sent(ledger, delivery)
    assert deliveries.asked(ledger, delivery.delivery_id, "2.25.100")
    clock.now += 300
    assert deliveries.asked(ledger, delivery.delivery_id, "2.25.101")
    assert deliveries.transactions(ledger, delivery.delivery_id) == ["2.25.100", "2.25.101"]
    assert deliveries.report(ledger, "2.25.100", {"2.25.7", "2.25.8"}, {})
    assert deliveries.get(ledger, delivery.delivery_id).state is DeliveryState.COMMITTED
    assert not deliveries.asked(ledger, delivery.delivery_id, "2.25.102")


def test_a_sent_delivery_waits_for_commitment_until_its_peer_s_time_out(ledger: Ledger, clock: Clock) -> None:
    """Only one of several sweeps gets the next look, and each look starts the time-out anew."""
    delivery = one_delivery(ledger)
    all_sent(ledger, delivery, "2.25.100")
    timeout = {"archive": 300.0}
    clock.now += 299
    assert deliveries.waiting_for_commitment(ledger, clock.now, timeout) == []
    clock.now += 1
    (waiting,) = deliveries.waiting_for_commitment(ledger, clock.now, timeout)
    assert deliveries.checked(ledger, waiting, clock.now - 300)
    assert not deliveries.checked(ledger, waiting, clock.now - 300)
    assert deliveries.waiting_for_commitment(ledger, clock.now, timeout) == []
    assert len(deliveries.waiting_for_commitment(ledger, clock.now)) == 1


def test_a_destination_without_commitment_is_accepted_with_its_proof(ledger: Ledger) -> None:
    """SENT becomes ACCEPTED once; a delivery that was never sent cannot."""
    delivery = one_delivery(ledger)
    assert not deliveries.accepted(ledger, delivery.delivery_id, "C-STORE status only")
    all_sent(ledger, delivery)
    assert deliveries.accepted(ledger, delivery.delivery_id, "C-STORE status only")
    assert not deliveries.accepted(ledger, delivery.delivery_id, "again")
    assert deliveries.get(ledger, delivery.delivery_id).state is DeliveryState.ACCEPTED


def test_a_failed_delivery_keeps_its_reason_and_leaves_the_others(ledger: Ledger) -> None:
    """One destination that says no does not stop another."""
    job = work.written_job(ledger, destinations=("archive", "viewer"))
    archive, viewer = deliveries.of_job(ledger, job.job_id, 1)
    assert deliveries.fail(ledger, claimed(ledger, archive), "the archive takes no SEG")
    failed = deliveries.get(ledger, archive.delivery_id)
    assert (failed.state, failed.reason) == (DeliveryState.FAILED, "the archive takes no SEG")
    all_sent(ledger, viewer)
    assert deliveries.get(ledger, viewer.delivery_id).state is DeliveryState.SENT


def test_giving_up_leaves_a_delivery_that_is_being_sent(ledger: Ledger, clock: Clock) -> None:
    """Attempts that are spent end a delivery only when nobody holds it."""
    delivery = one_delivery(ledger)
    claimed(ledger, delivery)
    assert not deliveries.give_up(ledger, delivery.delivery_id, "too often")
    clock.now += 9
    assert deliveries.give_up(ledger, delivery.delivery_id, "too often")
    assert deliveries.get(ledger, delivery.delivery_id).state is DeliveryState.FAILED


def test_a_lost_delivery_message_is_sent_again_by_age(ledger: Ledger, clock: Clock) -> None:
    """The worker that wrote the parcel submits first; the sweep follows when nothing happens."""
    delivery = one_delivery(ledger)
    assert deliveries.due(ledger, clock.now) == []
    clock.now += jobs.SUBMIT_GRACE_S
    assert deliveries.due(ledger, clock.now)
    assert deliveries.submitted(ledger, delivery.delivery_id)
    assert deliveries.due(ledger, clock.now + 29) == []
    assert deliveries.due(ledger, clock.now + 30)


@pytest.mark.parametrize("end", [deliveries.accepted, deliveries.give_up])
def test_a_report_that_comes_late_still_counts(ledger: Ledger, end: Callable[[Ledger, str, str], bool]) -> None:
    """The archive vouches for the objects after we had settled for a C-FIND, or given up: the delivery is COMMITTED."""
    delivery = one_delivery(ledger)
    all_sent(ledger, delivery, "2.25.90")
    assert end(ledger, delivery.delivery_id, "no report came")
    assert deliveries.report(ledger, "2.25.90", {"2.25.7", "2.25.8"}, {})
    assert deliveries.get(ledger, delivery.delivery_id).state is DeliveryState.COMMITTED


def test_an_archive_that_loses_objects_is_given_time(ledger: Ledger, clock: Clock) -> None:
    """A failed commitment does not spend the attempts in seconds."""
    delivery = one_delivery(ledger)
    all_sent(ledger, delivery, "2.25.90")
    assert deliveries.report(ledger, "2.25.90", {"2.25.7"}, {"2.25.8": 0x0112})
    assert deliveries.claim(ledger, delivery.delivery_id, 8) is None
    assert deliveries.due(ledger, clock.now + deliveries.UNSENT_FIRST_S - 1) == []
    assert deliveries.due(ledger, clock.now + deliveries.UNSENT_FIRST_S)
