"""Storage commitment: ask (N-ACTION), take the report (N-EVENT-REPORT), ask again, prove, or raise an alert.

The promise to keep the objects is what ends a delivery to a peer with `storage_commitment`. No report within its
`commitment_timeout_s`: ask again, ASKS_MAX times in all; then C-FIND, where the peer may be queried, proves that the
objects are there (ACCEPTED, the proof says how) or that they are not (sent again); without a proof the delivery is
FAILED and an alert goes to the journal: the site demands a promise that its archive does not give.

Ref: PS3.4 J
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from pydicom import Dataset
from pydicom.uid import generate_uid
from pynetdicom import build_context, evt

from node import journal
from node.errors import OverreadError, Refused, Retryable
from node.ledger import Ledger, deliveries, jobs
from node.peers import association
from node.query import instances_present
from node.settings import Peer, Settings
from node.study import Delivery, DeliveryState, Parcel

log = journal.get("commitment")

PUSH_MODEL = "1.2.840.10008.1.20.1"
WELL_KNOWN_INSTANCE = "1.2.840.10008.1.20.1.1"  # Ref: PS3.4 J.3.5
ASKS_MAX = 3
SAME_ASSOCIATION_S = 1.0  # how long the asking association stays open for a peer that reports on it
_LOOK_S = 0.05

# Statuses of an N-EVENT-REPORT response. Ref: PS3.7 10.1.1.1.8, Annex C
SUCCESS = 0x0000
UNKNOWN_TRANSACTION = 0x0110
NO_SUCH_EVENT_TYPE = 0x0113
INVALID_INFORMATION = 0x0115


def ask(settings: Settings, ledger: Ledger, delivery: Delivery) -> bool:
    """Ask the destination to commit to every object of a SENT delivery; True: it took the request.

    The fresh transaction is in the ledger before the request goes out: a report may overtake the response.
    False, with the reason in the journal, is no end: the sweep asks again.
    """
    peer = settings.peer(delivery.destination)
    parcel = _parcel(ledger, delivery)
    transaction_uid = str(generate_uid(prefix=None))
    if not deliveries.asked(ledger, delivery.delivery_id, transaction_uid):
        return False
    reported = threading.Event()

    def take(event: Any) -> tuple[int, None]:
        status = on_report(ledger, event.request.EventTypeID, event.event_information)
        reported.set()
        return status, None

    try:
        with association(settings, peer, [build_context(PUSH_MODEL)], handlers=[(evt.EVT_N_EVENT_REPORT, take)]) as open_association:
            _request(open_association, parcel, transaction_uid)
            log.info("commitment.asked", delivery=delivery.delivery_id, destination=peer.name, transaction=transaction_uid)
            waiting = lambda: not reported.is_set() and _is_sent(ledger, delivery)  # noqa: E731
            _wait_while(waiting, SAME_ASSOCIATION_S)
    except OverreadError as error:
        log.warning("commitment.not_asked", delivery=delivery.delivery_id, destination=peer.name, reason=error.reason)
        return False
    return True


def on_report(ledger: Ledger, event_type: int, information: Dataset | None) -> int:
    """Take an N-EVENT-REPORT, whichever association it came on; gives the status to answer.

    An unknown transaction, or a report without its sequences, changes nothing. A report told twice is harmless,
    and UIDs outside the transaction's parcel are ignored. Ref: PS3.4 J.3.3
    """
    if event_type not in {1, 2}:
        return NO_SUCH_EVENT_TYPE
    transaction_uid = str(information.get("TransactionUID", "")) if information is not None else ""
    if information is None or not transaction_uid:
        return INVALID_INFORMATION
    committed = {str(item.get("ReferencedSOPInstanceUID")) for item in information.get("ReferencedSOPSequence") or ()}
    failed = {
        str(item.get("ReferencedSOPInstanceUID")): int(item.get("FailureReason") or 0)
        for item in information.get("FailedSOPSequence") or ()
    }
    # Type 1 lists what is kept, type 2 what is not: without its sequence a report says nothing. Ref: PS3.4 J.3.3.1
    if not (committed if event_type == 1 else failed):
        return INVALID_INFORMATION
    if not deliveries.report(ledger, transaction_uid, committed - failed.keys(), failed):
        log.warning("commitment.unknown_transaction", transaction=transaction_uid)
        return UNKNOWN_TRANSACTION
    reasons = sorted({f"{reason:04X}" for reason in failed.values()})
    log.info("commitment.reported", transaction=transaction_uid, committed=len(committed), failed=len(failed), reasons=reasons)
    return SUCCESS


def chase(settings: Settings, ledger: Ledger, delivery: Delivery) -> bool:
    """Take the next step for a SENT delivery without a report: ask again, prove, or give up with an alert.

    For the dispatch loop, when the peer's time-out has passed; it waits for the peer, a dead one `association_timeout_s`.
    False: the peer could not be asked; the delivery stays SENT.
    """
    try:
        peer = settings.peer(delivery.destination)
        asks = len(deliveries.transactions(ledger, delivery.delivery_id))
        if peer.storage_commitment and asks < ASKS_MAX:
            return ask(settings, ledger, delivery)
        prove(settings, ledger, delivery)
    except Retryable as error:  # the ledger or the archive is away: a later sweep looks again
        log.warning("commitment.unproven", alert=True, delivery=delivery.delivery_id, destination=delivery.destination, reason=error.reason)
        return False
    except OverreadError as error:
        _give_up(ledger, delivery, error.reason)
    return True


def prove(settings: Settings, ledger: Ledger, delivery: Delivery, *, final: bool = True) -> bool:
    """End a SENT delivery with the best proof there is; True: it is ACCEPTED.

    Objects that C-FIND does not show: `final` False leaves the delivery SENT for another look, True sends them again
    where a transaction carries that, else the delivery is FAILED. Raises Retryable when the peer cannot be asked now.
    """
    peer = settings.peer(delivery.destination)
    parcel = _parcel(ledger, delivery)
    requests = _requests(ledger, delivery)
    if not peer.query:
        if peer.storage_commitment:
            _give_up(ledger, delivery, _unanswered(peer, requests))
            return False
        return deliveries.accepted(ledger, delivery.delivery_id, "C-STORE responses only")
    try:
        present = found(settings, peer, parcel)
    except Refused as error:
        if peer.storage_commitment:
            raise Refused(f"{_unanswered(peer, requests)}; {error.reason}") from error
        return deliveries.accepted(ledger, delivery.delivery_id, f"C-STORE responses only; {error.reason}")
    count = len(parcel.objects)
    if len(present) == count:
        remark = f"; no commitment report after {requests}" if peer.storage_commitment else ""
        return deliveries.accepted(ledger, delivery.delivery_id, f"C-FIND: {count} of {count} instances{remark}")
    if final:
        _missing(ledger, delivery, parcel, present)
    return False


def found(settings: Settings, peer: Peer, parcel: Parcel) -> set[str]:
    """Give the parcel's objects that C-FIND shows at the peer. Raises Retryable or Refused."""
    series_of = {entry.sop_instance_uid: entry.series_instance_uid for entry in parcel.objects}
    return instances_present(settings, peer, parcel.study_instance_uid, series_of)


def _missing(ledger: Ledger, delivery: Delivery, parcel: Parcel, present: set[str]) -> None:
    """Act on a C-FIND that does not show every object: as a report of type 2 would, or give up."""
    missing = {entry.sop_instance_uid: 0x0112 for entry in parcel.objects if entry.sop_instance_uid not in present}
    log.warning("commitment.missing", delivery=delivery.delivery_id, destination=delivery.destination, missing=len(missing))
    if delivery.transaction_uid is not None:
        deliveries.report(ledger, delivery.transaction_uid, set(), missing)
        return
    shown = f"{len(present)} of {len(parcel.objects)}"
    _give_up(ledger, delivery, f"{delivery.destination} acknowledged every object, but C-FIND shows {shown}; look at the archive")


def _give_up(ledger: Ledger, delivery: Delivery, reason: str) -> None:
    if deliveries.give_up(ledger, delivery.delivery_id, reason):
        log.error("delivery.failed", alert=True, delivery=delivery.delivery_id, destination=delivery.destination, reason=reason)


def _unanswered(peer: Peer, requests: str) -> str:
    return (
        f"{peer.name} stored every object but never reported storage commitment ({requests}); enter this node's AE title, "
        f"host and port at the archive, or set storage_commitment = false for this peer"
    )


def _requests(ledger: Ledger, delivery: Delivery) -> str:
    count = len(deliveries.transactions(ledger, delivery.delivery_id))
    return f"{count} request{'' if count == 1 else 's'}"


def _request(open_association: Any, parcel: Parcel, transaction_uid: str) -> None:
    """Send the N-ACTION; raises Retryable without an answer, Refused by a status or a rejected context."""
    information = Dataset()
    information.TransactionUID = transaction_uid
    information.ReferencedSOPSequence = []
    for entry in parcel.objects:
        item = Dataset()
        item.ReferencedSOPClassUID = entry.sop_class_uid
        item.ReferencedSOPInstanceUID = entry.sop_instance_uid
        information.ReferencedSOPSequence.append(item)
    try:
        status, _ = open_association.send_n_action(information, 1, PUSH_MODEL, WELL_KNOWN_INSTANCE)
    except ValueError as error:  # no accepted context
        raise Refused("the archive does not offer storage commitment") from error
    except RuntimeError as error:
        raise Retryable("the association was lost before the commitment request went out") from error
    if "Status" not in status:
        raise Retryable("the association was lost before the archive answered the commitment request")
    if status.Status != 0x0000:
        raise Refused(f"the archive refuses the commitment request (status {status.Status:04X})")


def _parcel(ledger: Ledger, delivery: Delivery) -> Parcel:
    parcel = jobs.parcel(ledger, delivery.job_id, delivery.generation, delivery.profile)
    if parcel is None:
        raise Refused("the ledger holds no parcel for this delivery")
    return parcel


def _is_sent(ledger: Ledger, delivery: Delivery) -> bool:
    return deliveries.get(ledger, delivery.delivery_id).state is DeliveryState.SENT


def _wait_while(condition: Callable[[], bool], limit_s: float) -> None:
    end = time.monotonic() + limit_s
    while condition() and time.monotonic() < end:
        time.sleep(_LOOK_S)
