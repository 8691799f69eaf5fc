"""The archive's services over DIMSE. Ref: PS3.4 A, B, C, J."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from pydicom import Dataset
from pydicom.uid import UID
from pynetdicom import AE, _config, evt
from pynetdicom.presentation import PresentationContext, build_context

from node import journal
from node.archive.commitment import PUSH_MODEL, WELL_KNOWN_INSTANCE, Reporter
from node.archive.faults import Faults, outgoing
from node.archive.holdings import Held, Holdings, contexts_of
from node.archive.matching import answers, selected
from node.errors import Refused, Retryable
from node.peers import Mailbox

log = journal.get("archive")

_MAX_PDU_BYTES = 131072
_ENDING_S = 5.0
_VERIFICATION = "1.2.840.10008.1.1"
_FIND = "1.2.840.10008.5.1.4.1.2.2.1"  # Study Root
_MOVE = "1.2.840.10008.5.1.4.1.2.2.2"  # Study Root
_GET = "1.2.840.10008.5.1.4.1.2.2.3"  # Study Root
_FILM_SESSION = "1.2.840.10008.5.1.1.1"  # an archive never supports printing


@dataclass(frozen=True, slots=True, kw_only=True)
class Reception:
    """One C-STORE as it was answered."""

    calling_ae: str
    sop_instance_uid: str
    status: int


class _OnDisk(Dataset):
    """An instance that C-MOVE or C-GET names to pynetdicom, which takes data sets only; its bytes stay in the file."""

    def __init__(self, held: Held) -> None:
        super().__init__()
        self.SOPInstanceUID = held.sop_instance_uid  # reported by pynetdicom when the peer does not take it
        self.held_path = held.path


class _VerbatimAE(AE):
    """An AE whose associations send an _OnDisk from its file, never decoded."""

    def associate(self, *arguments: Any, **options: Any) -> Any:
        """Request an association."""
        association = super().associate(*arguments, **options)
        association.dimse = Mailbox(association)
        _send_files(association)
        return association


def _send_files(association: Any) -> None:
    """Have an association send an _OnDisk from its file."""
    send = association.send_c_store

    def send_file(dataset: Any, **more: Any) -> Dataset:
        answer: Dataset = send(dataset.held_path if isinstance(dataset, _OnDisk) else dataset, **more)
        return answer

    association.send_c_store = send_file


class Archive:
    """A PACS on a loopback port, from start() to stop(); `peers` maps AE titles to (host, port).

    `received` holds every C-STORE with its answer, `transactions` every commitment asked for, in order.
    """

    def __init__(
        self, directory: Path, ae_title: str, port: int = 0, peers: Mapping[str, tuple[str, int]] | None = None, *, host: str = "127.0.0.1"
    ) -> None:
        self.ae_title = ae_title
        self.peers: dict[str, tuple[str, int]] = dict(peers or {})
        self.received: list[Reception] = []
        self.transactions: list[str] = []
        self.holdings = Holdings(directory)
        self._address = (host, port)
        self._lock = threading.Lock()
        self._absent: set[str] = set()
        self._server: Any = None
        self._ae = self._build_ae()
        self._reporter = Reporter(self._ae, self.peers)
        self.faults = Faults()
        self.sleep: Callable[[float], None] = time.sleep  # of a forwarding that pauses; a test may let its own clock run

    @property
    def faults(self) -> Faults:
        """Give the planted faults; assigning starts their counts afresh."""
        return self._faults

    @faults.setter
    def faults(self, faults: Faults) -> None:
        with self._lock:
            self._faults = faults
            self._stores_to_fail = faults.fail_stores
            self._reports_to_drop = faults.drop_reports
            self._stores_before_abort = faults.abort_after

    @property
    def port(self) -> int:
        """Give the bound port; start() comes first."""
        return int(self._server.socket.getsockname()[1])

    def start(self) -> Self:
        """Listen; returns when the port is bound."""
        # Unknown and private storage classes are accepted in any syntax: an archive keeps what it cannot read.
        _config.UNRESTRICTED_STORAGE_SERVICE = True
        _config.STORE_SEND_CHUNKED_DATASET = True
        handlers = [
            (evt.EVT_CONN_OPEN, _no_delay),
            (evt.EVT_REQUESTED, self._on_requested),
            (evt.EVT_C_STORE, self._on_store),
            (evt.EVT_C_FIND, self._on_find),
            (evt.EVT_C_MOVE, self._on_move),
            (evt.EVT_C_GET, self._on_get),
            (evt.EVT_N_ACTION, self._on_action),
        ]
        self._server = self._ae.start_server(self._address, block=False, evt_handlers=handlers)
        return self

    def stop(self) -> None:
        """Close the port and every association; files stay."""
        self._reporter.stop()
        if self._server is None:
            return
        self._server.shutdown()
        self._server = None
        for association in self._ae.active_associations:
            if association.is_established:  # aborting one that is ending by itself trips its state machine
                association.abort()
            association.join(_ENDING_S)

    def __enter__(self) -> Self:
        """Start."""
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Stop."""
        self.stop()

    def path_of(self, sop_instance_uid: str) -> Path | None:
        """Give the Part-10 file of an instance, or None."""
        held = self.holdings.get(sop_instance_uid)
        return held.path if held else None

    def instances(self, study_instance_uid: str) -> list[str]:
        """Give the SOP Instance UIDs of a study that have arrived, series by series in InstanceNumber order."""
        return [held.sop_instance_uid for held in self._arrived(study_instance_uid)]

    def add(self, part10: Path) -> str:
        """Take a file into the archive without a network; returns its SOP Instance UID."""
        return self.holdings.keep(part10.read_bytes()).sop_instance_uid

    def forward(self, study_instance_uid: str, ae_title: str) -> int:
        """Send a study to a peer, file bytes verbatim, as a PACS routes it; returns how many the peer took.

        Raises Retryable when the association fails, Refused for an unknown peer or a rejected class. With the fault
        `grow_by` the last instances arrive here, and go out, only after the others.
        """
        study = self._arrived(study_instance_uid)
        late = study[len(study) - self._faults.grow_by :] if self._faults.grow_by else []
        self._absent.update(held.sop_instance_uid for held in late)
        taken = self._send(outgoing(study[: len(study) - len(late)], self._faults), ae_title)
        if late:
            self.sleep(self._faults.grow_after_s)
            self._absent.difference_update(held.sop_instance_uid for held in late)
            taken += self._send(late, ae_title)
        return taken

    def _send(self, study: list[Held], ae_title: str) -> int:
        if ae_title not in self.peers:
            raise Refused(f"the archive knows no peer {ae_title}")
        host, port = self.peers[ae_title]
        contexts = _requested(study)
        association = self._ae.associate(
            host, port, contexts, ae_title=ae_title, max_pdu=_MAX_PDU_BYTES, evt_handlers=[(evt.EVT_CONN_OPEN, _no_delay)]
        )
        if not association.is_established:
            raise Retryable(f"{ae_title} at {host}:{port} took no association")
        taken = 0
        try:
            for sent, held in enumerate(study):
                if sent == self._faults.pause_after:
                    self.sleep(self._faults.pause_s)
                try:
                    status = association.send_c_store(held.path)
                except ValueError as error:  # the context of this class was rejected
                    raise Refused(f"{ae_title} takes no {held.sop_class_uid} in {held.transfer_syntax_uid}") from error
                if "Status" not in status:
                    raise Retryable(f"{ae_title} ended the association after {taken} instances")
                taken += int(status.Status in {0x0000, 0xB000, 0xB006, 0xB007})
        finally:
            if association.is_established:
                association.release()
        return taken

    def _build_ae(self) -> Any:
        ae = _VerbatimAE(ae_title=self.ae_title)
        ae.require_called_aet = True
        ae.maximum_pdu_size = _MAX_PDU_BYTES
        ae.add_supported_context(_VERIFICATION)
        ae.add_supported_context(_FIND)
        ae.add_supported_context(_MOVE)
        ae.add_supported_context(_GET)
        ae.add_supported_context(PUSH_MODEL, scu_role=True, scp_role=True)
        return ae

    def _arrived(self, study_instance_uid: str | None = None) -> list[Held]:
        held = self.holdings.all() if study_instance_uid is None else self.holdings.study(study_instance_uid)
        return [item for item in held if item.sop_instance_uid not in self._absent]

    def _on_requested(self, event: Any) -> None:
        """Reject the contexts of refused classes: renamed to a class that is never supported, they get result 3."""
        for context in event.assoc.requestor.primitive.presentation_context_definition_list:
            if str(context.abstract_syntax) in self._faults.refused_classes:
                context.abstract_syntax = UID(_FILM_SESSION)

    def _on_store(self, event: Any) -> int | None:
        uid = str(event.request.AffectedSOPInstanceUID)
        time.sleep(self._faults.answer_after_s)
        status = self._planted_status(event)
        if status is None:
            try:
                held = self.holdings.keep(event.encoded_dataset())
            except Refused:
                status = 0xC000
            else:
                # Ref: PS3.4 B.2.3: the data set and the command name the same object
                same = (held.sop_instance_uid, held.sop_class_uid) == (uid, str(event.request.AffectedSOPClassUID))
                status = (self._faults.warn_status or 0x0000) if same else 0xA900
        self.received.append(Reception(calling_ae=event.assoc.requestor.ae_title.strip(), sop_instance_uid=uid, status=status))
        return status

    def _planted_status(self, event: Any) -> int | None:
        with self._lock:
            if self._stores_before_abort == 0:
                self._stores_before_abort = None
                event.assoc.abort()
                return 0xC000  # never sent: the association is gone
            if self._stores_to_fail:
                self._stores_to_fail -= 1
                return self._faults.fail_status
            if self._stores_before_abort is not None:
                self._stores_before_abort -= 1
        return None

    def _on_find(self, event: Any) -> Iterator[tuple[int, Dataset | None]]:
        shown = [held for held in self._arrived() if held.sop_instance_uid not in self._faults.hidden]
        try:
            for answer in answers(shown, event.identifier, self.ae_title):
                if event.is_cancelled:
                    yield 0xFE00, None
                    return
                yield 0xFF00, answer
        except Refused as error:
            log.info("find.refused", reason=error.reason)
            yield 0xA900, None

    def _on_move(self, event: Any) -> Iterator[Any]:
        peer = self.peers.get(str(event.move_destination).strip())
        if peer is None:
            yield None, None  # pynetdicom answers A801, move destination unknown
            return
        chosen = self._chosen(event)
        yield (*peer, {"contexts": _requested(chosen), "evt_handlers": [(evt.EVT_CONN_OPEN, _no_delay)]})
        yield len(chosen)
        for held in chosen:
            yield 0xFF00, _OnDisk(held)

    def _on_get(self, event: Any) -> Iterator[Any]:
        chosen = self._chosen(event)
        _send_files(event.assoc)
        yield len(chosen)
        for held in chosen:
            yield 0xFF00, _OnDisk(held)

    def _chosen(self, event: Any) -> list[Held]:
        """Give what a C-MOVE or C-GET identifier names, without what is withheld."""
        try:
            chosen = selected(self._arrived(), event.identifier)
        except Refused as error:
            log.info("retrieval.refused", reason=error.reason)
            return []
        return [held for held in chosen if held.sop_instance_uid not in self._faults.withheld]

    def _on_action(self, event: Any) -> tuple[int, None]:
        request = event.request
        if str(request.RequestedSOPInstanceUID) != WELL_KNOWN_INSTANCE:
            return 0x0112, None
        if request.ActionTypeID != 1:
            return 0x0123, None
        if self._faults.refuse_action is not None:
            return self._faults.refuse_action, None
        asked = event.action_information
        self.transactions.append(str(asked.TransactionUID))
        with self._lock:
            if self._reports_to_drop:
                self._reports_to_drop -= 1
                return 0x0000, None
        kept = {held.sop_instance_uid: held.sop_class_uid for held in self._arrived()}
        for uid in self._faults.missing:
            kept.pop(uid, None)
        self._reporter.report(event.assoc, asked, kept, self._faults)
        return 0x0000, None


def _requested(held: list[Held]) -> list[PresentationContext]:
    return [build_context(sop_class, syntax) for sop_class, syntax in contexts_of(held)]


def _no_delay(event: Any) -> None:
    """Send at once; Nagle's algorithm costs 40 ms a response against a peer that delays its acknowledgements."""
    event.assoc.dul.socket.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
