"""The archive's storage commitment reports: N-EVENT-REPORT, by default on a new association. Ref: PS3.4 J.3."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

from pydicom import Dataset
from pynetdicom import build_context, build_role

from node import journal
from node.archive.faults import Faults

log = journal.get("archive")

PUSH_MODEL = "1.2.840.10008.1.20.1"
WELL_KNOWN_INSTANCE = "1.2.840.10008.1.20.1.1"  # Ref: PS3.4 J.3.5
_NO_SUCH_OBJECT = 0x0112
_CLASS_CONFLICT = 0x0119


class Reporter:
    """Sends reports from threads of its own; `peers` says where a requesting AE listens."""

    def __init__(self, ae: Any, peers: Mapping[str, tuple[str, int]]) -> None:
        self._ae = ae
        self._peers = peers
        self._stopping = threading.Event()
        self._threads: list[threading.Thread] = []

    def report(self, association: Any, asked: Dataset, kept: Mapping[str, str], faults: Faults) -> None:
        """Answer an accepted N-ACTION; `kept` maps SOP Instance UIDs to SOP classes."""
        event_type, information = judge(asked, kept)
        thread = threading.Thread(
            target=self._deliver, args=(association, event_type, information, faults), name="archive-report", daemon=True
        )
        self._threads.append(thread)
        thread.start()
        if faults.report_first:
            thread.join(10)

    def stop(self) -> None:
        """Drop reports that wait for their time and wait for those under way."""
        self._stopping.set()
        for thread in self._threads:
            thread.join(5)

    def _deliver(self, association: Any, event_type: int, information: Dataset, faults: Faults) -> None:
        # Without a pause a report on the same association could overtake the N-ACTION response.
        pause_s = max(faults.report_after_s, 0.05 if faults.report_on_same else 0)
        if self._stopping.wait(pause_s):
            return
        for _ in range(2 if faults.report_twice else 1):
            if faults.report_on_same:
                self._send(association, event_type, information)
            else:
                self._on_new_association(association.requestor.ae_title.strip(), event_type, information)

    def _on_new_association(self, ae_title: str, event_type: int, information: Dataset) -> None:
        if ae_title not in self._peers:
            log.warning("commitment.unknown_peer", ae_title=ae_title)
            return
        host, port = self._peers[ae_title]
        # The requestor of this association is the SCP: it has to say so. Ref: PS3.4 J.3.3, PS3.7 D.3.3.4
        role = build_role(PUSH_MODEL, scp_role=True)
        association = self._ae.associate(host, port, [build_context(PUSH_MODEL)], ae_title=ae_title, ext_neg=[role])
        if not association.is_established:
            log.warning("commitment.report_undelivered", ae_title=ae_title)
            return
        try:
            self._send(association, event_type, information)
        finally:
            if association.is_established:
                association.release()

    def _send(self, association: Any, event_type: int, information: Dataset) -> None:
        try:
            status, _ = association.send_n_event_report(information, event_type, PUSH_MODEL, WELL_KNOWN_INSTANCE)
        except (RuntimeError, ValueError) as error:  # released meanwhile, or the role was not granted
            log.warning("commitment.report_undelivered", reason=str(error))
            return
        log.info("commitment.reported", event_type=event_type, status=f"{status.Status:04X}" if "Status" in status else "none")


def judge(asked: Dataset, kept: Mapping[str, str]) -> tuple[int, Dataset]:
    """Give the event type (1 all kept, 2 failures exist) and the event information. Ref: PS3.4 J.3.3.1."""
    committed, failed = [], []
    for item in asked.ReferencedSOPSequence:
        reference = Dataset()
        reference.ReferencedSOPClassUID = item.ReferencedSOPClassUID
        reference.ReferencedSOPInstanceUID = item.ReferencedSOPInstanceUID
        known = kept.get(str(item.ReferencedSOPInstanceUID))
        if known == str(item.ReferencedSOPClassUID):
            committed.append(reference)
        else:
            reference.FailureReason = _NO_SUCH_OBJECT if known is None else _CLASS_CONFLICT
            failed.append(reference)
    information = Dataset()
    information.TransactionUID = asked.TransactionUID
    if committed:
        information.ReferencedSOPSequence = committed
    if failed:
        information.FailedSOPSequence = failed
    return (2 if failed else 1), information
