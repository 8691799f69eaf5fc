"""Send a parcel to one destination: one association, the stored bytes verbatim, each object's answer in the ledger.

| answer of the peer                  | what follows                                                            |
|-------------------------------------|-------------------------------------------------------------------------|
| 0000; B000, B006, B007; 0111        | stored; the status is recorded (0111: the peer has that instance)       |
| A9xx, Cxxx, 0124                    | FAILED: the peer will not have it                                       |
| any other status, no answer         | again after a back-off, only what is not stored; max_attempts bound it  |
| no connection                       | the same, and other deliveries to this peer do not wait for it either   |
| a rejected presentation context,    | nothing is stored there yet: all of it again in the fallback profile    |
| 0122 for the first object           | (node/ledger/fallbacks.py); without one FAILED, naming class and remedy |
| the same later                      | FAILED: half a parcel is there, and it cannot be replaced               |

Ref: PS3.4 B.2.3, PS3.7 9.1.1.1.9
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydicom.uid import UID
from pynetdicom import _config
from pynetdicom.presentation import build_context

from node import audit, commitment, journal
from node.errors import Misconfigured, NoContext, OverreadError, Refused, Retryable
from node.ledger import Ledger, deliveries, fallbacks, jobs
from node.ledger.deliveries import DeliveryClaim
from node.peers import association
from node.settings import Peer, Settings
from node.study import ParcelObject, Stage

log = journal.get("deliver")

# send_c_store(path) then sends the file's bytes behind the file meta information as they are, never decoded.
_config.STORE_SEND_CHUNKED_DATASET = True

# Stored, with a remark (PS3.4 B.2.3), or there already from a send whose answer was lost (PS3.7 C.5.8).
STORED_WITH_REMARK = frozenset({0xB000, 0xB006, 0xB007, 0x0111})
NO_CLASS = 0x0122  # SOP class not supported. Ref: PS3.7 C.5
NOT_AUTHORISED = 0x0124
_REMEDY = "have the administrator of {} enable this storage class and transfer syntax for this node"
OUTAGE_MAX_S = 60.0  # a fresh result does not wait for the long back-off of an old one
FIND_TRIES = 3  # an archive may index a moment after it has acknowledged
FIND_PAUSE_S = 1.0


class Outages:
    """Peers that could not be reached, until they may be tried again; the memory of one process.

    Deliveries to a dead peer then cost no connection time-out each, so that they do not hold up the others.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._known: dict[tuple[str, int, str], tuple[float, str]] = {}

    def begin(self, peer: Peer, seconds: float, reason: str) -> None:
        """Note that the peer did not answer."""
        with self._lock:
            self._known[(peer.host, peer.port, peer.ae_title)] = (self._clock() + seconds, reason)

    def end(self, peer: Peer) -> None:
        """Note that it answers."""
        with self._lock:
            self._known.pop((peer.host, peer.port, peer.ae_title), None)

    def reason(self, peer: Peer) -> str | None:
        """Give why the peer is not to be tried now, or None."""
        with self._lock:
            until, reason = self._known.get((peer.host, peer.port, peer.ae_title), (0.0, ""))
            return reason if self._clock() < until else None


OUTAGES = Outages()


def send(settings: Settings, ledger: Ledger, claim: DeliveryClaim) -> Stage | None:
    """Send what is unsent, then ask for commitment or find a proof; every outcome is a move in the ledger.

    Gives the delivery's next stage where the peer is to get the result in another profile, else None.
    Raises Retryable only while the ledger is away. A claim lost meanwhile stops the sending between two objects.
    """
    try:
        peer = settings.peer(claim.delivery.destination)
        _require_attempt(claim, peer)
        unsent = [entry for entry in claim.parcel.objects if entry.sop_instance_uid not in claim.delivery.sent]
        with _renewed(settings, ledger, claim) as lost:
            if unsent:
                _send_unsent(settings, ledger, claim, unsent, lost)
            done = not lost.is_set() and deliveries.sent(ledger, claim, None)
    except Retryable as error:
        _retry(settings, ledger, claim, error.reason)
    except NoContext as error:
        return _fall_back(settings, ledger, claim, error.reason)
    except (Refused, Misconfigured) as error:
        _fail(ledger, claim, error.reason)
    else:
        if done:
            log.info("delivery.sent", delivery=claim.delivery.delivery_id, destination=peer.name, objects=len(claim.parcel.objects))
            audit.note(ledger.data_dir, _event(claim, peer), ledger.clock())
            _settle(settings, ledger, claim, peer)
        else:
            log.warning("delivery.claim_lost", delivery=claim.delivery.delivery_id, destination=peer.name)
    return None


def _event(claim: DeliveryClaim, peer: Peer, action: str = "results sent", reason: str = "") -> audit.Event:
    return audit.Event(
        action=action,
        study_instance_uid=claim.parcel.study_instance_uid,
        reason=reason,
        peers=(f"{peer.ae_title} {peer.host}",),
        objects=len(claim.parcel.objects),
        details={"job": claim.parcel.job_id, "delivery": claim.delivery.delivery_id, "profile": claim.parcel.profile},
    )


def _fall_back(settings: Settings, ledger: Ledger, claim: DeliveryClaim, reason: str) -> Stage | None:
    """Have the result written in the fallback of the refused profile; FAILED without one, or where part of it is stored."""
    delivery, peer = claim.delivery, settings.peer(claim.delivery.destination)
    try:
        profile = settings.profile(delivery.profile).fallback
    except Misconfigured as error:
        _fail(ledger, claim, f"{reason}; {error.reason}")
        return None
    following = None if profile is None else fallbacks.ask(ledger, claim, profile, reason)
    if profile is None or following is None:
        before = "".join(f"; refused before as {entry['profile']}" for entry in delivery.refusals)
        _fail(ledger, claim, f"{reason}{before}")
        return None
    names = {"delivery": delivery.delivery_id, "destination": peer.name, "refused": delivery.profile, "to": profile}
    log.warning("delivery.falls_back", **names, reason=reason)
    audit.note(ledger.data_dir, _event(claim, peer, "results refused", reason), ledger.clock())
    return following


def _require_attempt(claim: DeliveryClaim, peer: Peer) -> None:
    """Bound what no answer of this send bounds: lost senders, objects that the archive loses again and again. Nothing is no parcel."""
    if not claim.parcel.objects:
        raise Refused(jobs.nothing_written(claim.parcel))
    if claim.delivery.attempt > peer.max_attempts:
        raise Refused(f"gave up after {peer.max_attempts} attempts; the last: {claim.delivery.reason}")


def backoff_s(peer: Peer, attempt: int) -> float:
    """Give the pause after the n-th attempt (from 1): 5, 10, 20 ... s by the default settings, up to `retry_max_s`."""
    return float(min(peer.retry_first_s * 2 ** min(attempt - 1, 30), peer.retry_max_s))


def _send_unsent(settings: Settings, ledger: Ledger, claim: DeliveryClaim, unsent: Sequence[ParcelObject], lost: threading.Event) -> None:
    """Send on one association; a peer known to be away is tried again only by a delivery's last attempt."""
    peer = settings.peer(claim.delivery.destination)
    away = OUTAGES.reason(peer)
    if away is not None and claim.delivery.attempt < peer.max_attempts:
        raise Retryable(away)
    paths = [_stored_file(settings, entry) for entry in unsent]
    pairs = dict.fromkeys((entry.sop_class_uid, entry.transfer_syntax_uid) for entry in unsent)
    reached = False
    try:
        with association(settings, peer, [build_context(*pair) for pair in pairs]) as open_association:
            reached = True
            OUTAGES.end(peer)
            _require_contexts(open_association, peer, pairs)
            for entry, path in zip(unsent, paths, strict=True):
                if lost.is_set():
                    return
                status = _store(open_association, peer, entry, path)
                if not deliveries.object_sent(ledger, claim, entry.sop_instance_uid, status):
                    lost.set()
    except Retryable as error:
        if not reached:
            OUTAGES.begin(peer, min(backoff_s(peer, claim.delivery.attempt), OUTAGE_MAX_S), error.reason)
        raise
    except Refused as error:
        if reached:
            raise
        raise type(error)(f"{error.reason}; offered were {_names(pairs)}: {_REMEDY.format(peer.ae_title)}") from error


def _stored_file(settings: Settings, entry: ParcelObject) -> Path:
    """Give the object's file; raises Refused unless its bytes are those that were written."""
    path = settings.data_dir / entry.path
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError as error:
        raise Refused(f"the stored {entry.kind} object is gone from this node; run the job again") from error
    if digest != entry.sha256:
        raise Refused(f"the stored {entry.kind} object has changed on this node's disk; run the job again and have the disk checked")
    return path


def _require_contexts(open_association: Any, peer: Peer, pairs: Iterable[tuple[str, str]]) -> None:
    accepted = {(str(context.abstract_syntax), str(context.transfer_syntax[0])) for context in open_association.accepted_contexts}
    for sop_class, syntax in pairs:
        if (sop_class, syntax) not in accepted:
            raise NoContext(f"{peer.name} does not accept {_names([(sop_class, syntax)])}: {_REMEDY.format(peer.ae_title)}")


def _names(pairs: Iterable[tuple[str, str]]) -> str:
    return ", ".join(f"{UID(sop_class).name} ({sop_class}) in {UID(syntax).name}" for sop_class, syntax in pairs)


def _store(open_association: Any, peer: Peer, entry: ParcelObject, path: Path) -> int:
    """Send one file; gives the status with which it is stored. Raises Retryable or Refused for the others."""
    try:
        answer = open_association.send_c_store(path)
    except RuntimeError:  # ended between two objects
        answer = {}
    if "Status" not in answer:
        raise Retryable(f"{peer.name} ended the association or gave no answer in time for the {entry.kind} object")
    status = int(answer.Status)
    if status == 0x0000:
        return status
    if status in STORED_WITH_REMARK:
        log.warning("delivery.remark", destination=peer.name, sop=entry.sop_instance_uid, status=f"{status:04X}")
        return status
    # The comment of the status may quote the data set: it stays out of reasons and journal.
    if status == NO_CLASS:
        kind = _names([(entry.sop_class_uid, entry.transfer_syntax_uid)])
        raise NoContext(f"{peer.name} does not support {kind} (status {status:04X}): {_REMEDY.format(peer.ae_title)}")
    if status == NOT_AUTHORISED or status >> 8 == 0xA9 or status >> 12 == 0xC:
        raise Refused(f"{peer.name} refuses the {entry.kind} object (status {status:04X}); its log says why")
    raise Retryable(f"{peer.name} cannot store the {entry.kind} object now (status {status:04X})")


@contextmanager
def _renewed(settings: Settings, ledger: Ledger, claim: DeliveryClaim) -> Iterator[threading.Event]:
    """Keep the lease while the block runs; the event given is set once the claim is lost."""
    lost, over = threading.Event(), threading.Event()

    def keep() -> None:
        while not over.wait(settings.workers.renew_s):
            try:
                if not deliveries.renew(ledger, claim, settings.workers.lease_s):
                    lost.set()
                    return
            except Retryable as error:  # the ledger is away: the lease may outlast that
                log.warning("delivery.not_renewed", delivery=claim.delivery.delivery_id, reason=error.reason)

    thread = threading.Thread(target=keep, name="delivery-lease", daemon=True)
    thread.start()
    try:
        yield lost
    finally:
        over.set()
        thread.join()


def _settle(settings: Settings, ledger: Ledger, claim: DeliveryClaim, peer: Peer) -> None:
    """Ask for commitment, or prove what is there; what stays open, the dispatch loop looks after."""
    delivery = deliveries.get(ledger, claim.delivery.delivery_id)
    try:
        if peer.storage_commitment:
            commitment.ask(settings, ledger, delivery)
            return
        for _ in range(FIND_TRIES):
            if commitment.prove(settings, ledger, delivery, final=False):
                return
            time.sleep(FIND_PAUSE_S)
    except OverreadError as error:
        log.warning("delivery.unproven", delivery=delivery.delivery_id, destination=peer.name, reason=error.reason)


def _retry(settings: Settings, ledger: Ledger, claim: DeliveryClaim, reason: str) -> None:
    peer = settings.peer(claim.delivery.destination)
    attempt = claim.delivery.attempt
    if attempt >= peer.max_attempts:
        _fail(ledger, claim, f"gave up after {attempt} attempts; the last: {reason}")
        return
    delay_s = backoff_s(peer, attempt)
    if deliveries.retry(ledger, claim, reason, delay_s):
        log.warning(
            "delivery.retry", delivery=claim.delivery.delivery_id, destination=peer.name, attempt=attempt, delay_s=delay_s, reason=reason
        )


def _fail(ledger: Ledger, claim: DeliveryClaim, reason: str) -> None:
    if deliveries.fail(ledger, claim, reason):
        delivery = claim.delivery
        log.error("delivery.failed", alert=True, delivery=delivery.delivery_id, destination=delivery.destination, reason=reason)
