"""The DICOM listener: C-ECHO, C-STORE into the spool, N-EVENT-REPORT of storage commitment, notices of availability.

    acceptor.py   associations: who may, in which contexts, within which limits
    wire.py       their bytes: deadlines, limits, waiting
    intake.py     C-STORE: fragments into the spool, the answer
    indexer.py    the ledger's index, behind the acknowledgement's back

Ref: PS3.4 A, B, J, R
"""

from __future__ import annotations

import contextlib
import hashlib
import socket
import threading
import time
from collections.abc import Mapping
from typing import Any

from pydicom.dataset import Dataset
from pynetdicom import evt
from pynetdicom.sop_class import StorageCommitmentPushModel, Verification  # type: ignore[attr-defined]

from node import availability, journal
from node.errors import Retryable
from node.ledger import Ledger, open_ledger, presence
from node.listener.acceptor import CALLED_AE_UNKNOWN, CALLING_AE_UNKNOWN, Door, Link
from node.listener.indexer import Ended, Indexer
from node.listener.intake import Counters
from node.peers import application_entity, may_call, server_tls
from node.settings import Settings
from node.spool import Spool, Stored

__all__ = ["Counters", "Listener", "serve"]

log = journal.get("listener")
GRACE_S = 10.0
PROCESSING_FAILURE = 0x0110


class Listener:
    """The node's DICOM port, from start() to stop()."""

    def __init__(self, settings: Settings, ledger: Ledger, spool: Spool) -> None:
        self.settings = settings
        self.spool = spool
        self.counters = Counters()
        self._ledger = ledger
        self._indexer = Indexer(ledger, spool)
        self._door: Door | None = None
        self._ending = threading.Event()
        spool.max_bytes = settings.node.max_instance_bytes

    @property
    def port(self) -> int:
        """Give the bound port; start() comes first."""
        assert self._door is not None
        return int(self._door.server_address[1])

    @property
    def not_indexed(self) -> int:
        """Give how many acknowledged instances wait for the ledger."""
        return self._indexer.waiting

    @property
    def connections(self) -> list[Link]:
        """Give the open connections, associated or not."""
        return self._door.links if self._door is not None else []

    def start(self) -> None:
        """Bind the port and listen; images of an earlier run are indexed meanwhile. Raises Misconfigured, OSError."""
        ae = application_entity(self.settings, self.settings.node.ae_titles[0])
        ae.add_supported_context(Verification)
        # The archive that reports proposes itself as SCP; one that proposes no role is heard as well: PS3.4 J.3.3
        ae.add_supported_context(StorageCommitmentPushModel, scu_role=True, scp_role=True)
        ae.add_supported_context(availability.SOP_CLASS)
        handlers: list[Any] = [(evt.EVT_N_EVENT_REPORT, self._on_report), (evt.EVT_N_CREATE, self._on_notice)]
        self._door = Door(ae, self.settings.node, self, ssl_context=server_tls(self.settings), evt_handlers=handlers)
        self._indexer.start()
        threading.Thread(target=self._note_presence, args=(self._ledger.clock(),), name="presence", daemon=True).start()
        threading.Thread(target=self._door.serve_forever, kwargs={"poll_interval": 0.1}, name="door", daemon=True).start()
        log.info("listener.started", port=self.port, ae_titles=list(self.settings.node.ae_titles), tls=self._door.ssl_context is not None)

    def stop(self, grace_s: float = GRACE_S) -> None:
        """Accept no more, let running C-STOREs end, abort what is left, index what was received."""
        door, until = self._door, time.monotonic() + grace_s
        if door is None:
            return
        self._ending.set()
        door.close()
        while (links := door.links) and time.monotonic() < until:
            for link in links:
                if not link.requested:
                    link.end()
                elif not link.dimse.busy:
                    link.abort(block=False)
            time.sleep(0.01)
        for link in door.links:
            link.end()
        self._indexer.stop(max(until - time.monotonic(), 2.0))
        log.info("listener.stopped", received=self.counters.received, not_indexed=self.not_indexed)

    def refusal(self, calling_ae: str, called_ae: str, host: str) -> tuple[int, int, int] | None:
        """Give the rejection for a caller we do not know or who calls another, or None."""
        if called_ae not in self.settings.node.ae_titles:
            return CALLED_AE_UNKNOWN
        return None if may_call(self.settings, calling_ae, host) else CALLING_AE_UNKNOWN

    def stored(self, stored: Stored) -> None:
        """Count a durable instance and hand it to the indexer."""
        instance = stored.instance
        self.counters.add(received=1, repeated=int(not stored.fresh), conflicts=int(stored.conflict), bytes=instance.size_bytes)
        if stored.conflict:
            log.warning(
                "instance.conflict", sop=instance.sop_instance_uid, study=instance.study_instance_uid, calling_ae=instance.calling_ae
            )
        self._indexer.put(instance)

    def ended(self, calling_ae: str, brought: Mapping[str, int], *, released: bool) -> None:
        """Note with each study how the association ended that brought images of it."""
        now = self._ledger.clock()
        for study_uid, images in brought.items():
            self._indexer.remark(Ended(study_instance_uid=study_uid, calling_ae=calling_ae, images=images, released=released, at=now))

    def _note_presence(self, since: float) -> None:
        """Tell the ledger every few seconds that we hear what is sent; while the ledger is away nobody could ask."""
        name = hashlib.sha256(f"{socket.gethostname()} {self.settings.data_dir}".encode()).hexdigest()[:16]
        while not self._ending.is_set():
            with contextlib.suppress(Retryable):
                presence.beat(self._ledger, name, since, self._indexer.indexed_until)
            self._ending.wait(presence.BEAT_S)

    def _on_notice(self, event: evt.Event) -> tuple[int, Dataset | None]:
        """Keep an Instance Availability Notification; whatever goes wrong, the peer is told so."""
        request = event.request
        told_by = event.assoc.requestor.ae_title.strip()
        try:
            return availability.on_notice(self._ledger, str(request.AffectedSOPInstanceUID or ""), event.attribute_list, told_by)  # type: ignore[union-attr]
        except Exception as error:  # noqa: BLE001 -- the process edge
            log.error("notice.failed", error=type(error).__name__, peer=event.assoc.requestor.address)  # noqa: TRY400 -- values
            return PROCESSING_FAILURE, None

    def _on_report(self, event: evt.Event) -> tuple[int, None]:
        """Hand a commitment report to its room; whatever goes wrong, the peer is told to try again."""
        from node import commitment  # noqa: PLC0415 -- it asks on associations of its own and is not needed to receive

        try:
            return commitment.on_report(self._ledger, int(event.request.EventTypeID), event.event_information), None  # type: ignore[union-attr,arg-type]
        except Exception as error:  # noqa: BLE001 -- the process edge
            log.error("report.failed", error=type(error).__name__, peer=event.assoc.requestor.address)  # noqa: TRY400 -- values
            return PROCESSING_FAILURE, None


def serve(settings: Settings, stop: threading.Event) -> None:
    """Listen until `stop` is set."""
    ledger = open_ledger(settings)
    listener = Listener(settings, ledger, Spool(settings.data_dir, settings.node.free_disk_min_mb))
    listener.start()
    stop.wait()
    listener.stop()
    ledger.close()
