"""Take C-STORE requests fragment by fragment into the spool, and answer them.

The data set's bytes go from the PDU to the spool's part as they are: nothing is decoded, and at most one part an association
is open. It all happens in the association's one reading thread, so a peer that sends faster than the disk is slowed by TCP.
Every other message is pynetdicom's.

Ref: PS3.7 9.1.1, E.1; PS3.8 E.2
"""

from __future__ import annotations

import struct
import threading
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from pynetdicom.dimse import DIMSEServiceProvider
from pynetdicom.pdu_primitives import P_DATA

from node import journal
from node.spool import CANNOT_UNDERSTAND, DOES_NOT_MATCH_CLASS, Part, Spool, SpoolRefusal, StoreCommand, Stored

if TYPE_CHECKING:
    from node.listener.acceptor import Link

log = journal.get("listener")

COMMAND_MAX_BYTES = 16384
MESSAGE_MAX_BYTES = 16 * 1024**2  # of anything that is not a C-STORE: a commitment report of 100,000 instances
C_STORE_RQ, C_STORE_RSP, NO_DATA_SET = 0x0001, 0x8001, 0x0101
PROCESSING_FAILURE = 0x0110
_CLASS, _FIELD, _MESSAGE_ID, _DATA_SET, _INSTANCE = 0x0002, 0x0100, 0x0110, 0x0800, 0x1000


@dataclass(slots=True)
class Counters:
    """What the listener has done since its start; `refused` by status."""

    associations: int = 0
    rejected: int = 0
    broken: int = 0
    received: int = 0
    repeated: int = 0
    conflicts: int = 0
    bytes: int = 0
    refused: dict[int, int] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def add(self, **counts: int) -> None:
        """Add to counters by name; associations count in parallel."""
        with self._lock:
            for name, count in counts.items():
                setattr(self, name, getattr(self, name) + count)

    def refuse(self, status: int) -> None:
        """Count a refused data set."""
        with self._lock:
            self.refused[status] = self.refused.get(status, 0) + 1


class Reception(Protocol):
    """What a data set's fate is told to."""

    spool: Spool
    counters: Counters

    def stored(self, stored: Stored) -> None:
        """Take note of a durable instance; must not block."""


class Violation(Exception):  # noqa: N818 -- it is the peer's
    """The peer breaks the protocol: the association is aborted."""


@dataclass(slots=True)
class _Store:
    """A C-STORE on its way in: its open part, or why it will be refused."""

    context_id: int
    message_id: int
    raw: dict[int, bytes]
    part: Part | None = None
    refusal: SpoolRefusal | None = None

    def refuse(self, refusal: SpoolRefusal) -> None:
        self.refusal = refusal
        self.close()

    def close(self) -> None:
        if self.part is not None:
            self.part.close()
            self.part = None


class Intake(DIMSEServiceProvider):
    """The DIMSE layer of one association with a caller."""

    unanswered_max = 8  # messages that nobody has taken yet

    def __init__(self, link: Link, reception: Reception) -> None:
        super().__init__(link)
        self._link = link
        self._reception = reception
        self._command = bytearray()
        self._store: _Store | None = None
        self._other = False  # whether a data set of another message is expected
        self._other_bytes = 0
        self.brought: Counter[str] = Counter()  # images kept, by study
        self._lock = threading.Lock()  # between the reading thread and whoever ends the association
        self._closed = False

    @property
    def busy(self) -> bool:
        """Tell whether a C-STORE is being received."""
        return self._store is not None

    def receive_primitive(self, primitive: P_DATA) -> None:
        """Take the fragments of one PDU; a violation or an error of ours aborts the association, never the thread."""
        try:
            with self._lock:
                for context_id, fragment in primitive.presentation_data_value_list:
                    self._take(context_id, fragment)
        except Violation as violation:
            self._abort(str(violation))
        except Exception as error:  # noqa: BLE001 -- the process edge
            self._abort(type(error).__name__)

    def abandon(self) -> None:
        """Remove what an ended association left half-received."""
        with self._lock:
            self._closed = True
            if self._store is not None:
                log.warning("instance.abandoned", peer=self._link.host, calling_ae=self._link.calling_ae)
                self._store.close()
                self._store = None

    def _abort(self, why: str) -> None:
        log.warning("association.broken", why=why, peer=self._link.host, calling_ae=self._link.calling_ae)
        self._reception.counters.add(broken=1)
        self.dul.event_queue.put("Evt19")  # invalid PDU: PS3.8 Table 9-10, A-ABORT

    def _take(self, context_id: int, fragment: bytes) -> None:
        if not fragment or self._closed:
            raise Violation("empty_fragment" if not fragment else "after_the_end")
        control, body = fragment[0], memoryview(fragment)[1:]
        last = bool(control & 2)
        if control & 1:
            self._take_command(context_id, body, last=last)
        elif self._store is not None:
            self._take_data(self._store, context_id, body, last=last)
        elif self._other:
            self._other = not last
            self._other_bytes += len(body)
            self._pass_on(context_id, fragment)
        else:
            raise Violation("data_set_without_a_command")

    def _take_command(self, context_id: int, body: memoryview, *, last: bool) -> None:
        self._command += body
        if self._store is not None or len(self._command) > COMMAND_MAX_BYTES:
            raise Violation("command_inside_a_data_set" if self._store is not None else "command_too_long")
        if not last:
            return
        command, self._command = bytes(self._command), bytearray()
        raw = _elements(command)
        if _number(raw, _FIELD) != C_STORE_RQ:
            self._other = _number(raw, _DATA_SET) != NO_DATA_SET
            self._other_bytes = 0
            self._pass_on(context_id, b"\x03" + command)
            return
        store = self._store = self._begin(context_id, raw)
        if _number(raw, _DATA_SET) == NO_DATA_SET:
            store.refuse(SpoolRefusal(CANNOT_UNDERSTAND, "the request comes without a data set"))
            self._finish(store)

    def _pass_on(self, context_id: int, fragment: bytes) -> None:
        """Leave a fragment to pynetdicom, which keeps the whole message in memory."""
        if self._other_bytes > MESSAGE_MAX_BYTES or self.msg_queue.qsize() > self.unanswered_max:
            raise Violation("message_too_long_or_unanswered")
        primitive = P_DATA()
        primitive.presentation_data_value_list.append((context_id, fragment))
        super().receive_primitive(primitive)

    def _begin(self, context_id: int, raw: dict[int, bytes]) -> _Store:
        message_id = _number(raw, _MESSAGE_ID)
        context = self._link._accepted_cx.get(context_id)  # noqa: SLF001
        if context is None or message_id is None:
            raise Violation("no_such_context" if context is None else "no_message_id")
        store = _Store(context_id, message_id, raw)
        command = StoreCommand(
            sop_class_uid=_uid(raw, _CLASS),
            sop_instance_uid=_uid(raw, _INSTANCE),
            transfer_syntax_uid=str(context.transfer_syntax[0]),
            calling_ae=self._link.calling_ae,
            called_ae=self._link.called_ae,
            peer_host=self._link.host,
        )
        try:
            store.part = self._reception.spool.begin(command)
            if command.sop_class_uid != context.abstract_syntax:
                store.refuse(SpoolRefusal(DOES_NOT_MATCH_CLASS, "the SOP class is not the presentation context's"))
        except SpoolRefusal as refusal:
            store.refuse(refusal)
        return store

    def _take_data(self, store: _Store, context_id: int, body: memoryview, *, last: bool) -> None:
        if context_id != store.context_id:
            raise Violation("data_set_in_another_context")
        if store.part is not None:
            try:
                store.part.write(body)
            except SpoolRefusal as refusal:
                store.refuse(refusal)
        if last:
            self._finish(store)

    def _finish(self, store: _Store) -> None:
        """Make the data set durable and answer: 0x0000 is sent from here alone, after `Part.finish` has returned."""
        status, comment = self._keep(store)
        store.close()
        self._store = None
        if status:
            self._note_refusal(status, comment)
        self._respond(store, status, comment)

    def _keep(self, store: _Store) -> tuple[int, str]:
        """Give the status and, for a refusal, its reason."""
        if store.part is None:
            assert store.refusal is not None
            return store.refusal.status, store.refusal.reason
        try:
            stored = store.part.finish()
        except SpoolRefusal as refusal:
            return refusal.status, refusal.reason
        except Exception as error:  # noqa: BLE001 -- the process edge: the sender keeps its copy
            log.error("instance.failed", error=type(error).__name__)  # noqa: TRY400 -- a traceback's values may be a patient's
            return PROCESSING_FAILURE, "the node failed to keep the instance"
        self.brought[stored.instance.study_instance_uid] += 1
        self._reception.stored(stored)
        return 0x0000, ""

    def _note_refusal(self, status: int, reason: str) -> None:
        self._reception.counters.refuse(status)
        log.warning("instance.refused", status=f"{status:04X}", reason=reason, peer=self._link.host, calling_ae=self._link.calling_ae)

    def _respond(self, store: _Store, status: int, comment: str) -> None:
        """Queue a C-STORE-RSP built by hand: through pydicom it costs a third of a C-STORE."""
        command = _response(store, status, comment)
        room = max(self.maximum_pdu_size - 6, 64) if self.maximum_pdu_size else len(command)
        for at in range(0, len(command), room):
            flag = b"\x03" if at + room >= len(command) else b"\x01"
            primitive = P_DATA()
            primitive.presentation_data_value_list.append((store.context_id, flag + command[at : at + room]))
            self.dul.send_pdu(primitive)


def _elements(command: bytes) -> dict[int, bytes]:
    """Read a command set: group 0000, implicit VR little endian. Ref: PS3.7 6.3.1."""
    values: dict[int, bytes] = {}
    at = 0
    while at + 8 <= len(command):
        group, element, length = struct.unpack_from("<HHL", command, at)
        at += 8 + length
        if group != 0 or at > len(command):
            raise Violation("command_damaged")
        values[element] = command[at - length : at]
    if at != len(command):
        raise Violation("command_damaged")
    return values


def _number(raw: dict[int, bytes], element: int) -> int | None:
    value = raw.get(element, b"")
    return int.from_bytes(value, "little") if len(value) == 2 else None


def _uid(raw: dict[int, bytes], element: int) -> str:
    return raw.get(element, b"").decode("ascii", "replace").rstrip(" \0")


def _response(store: _Store, status: int, comment: str) -> bytes:
    """Encode the response; the UIDs go back as they came. Ref: PS3.7 9.3.1.2."""

    def element(number: int, value: bytes) -> bytes:
        return struct.pack("<HHL", 0, number, len(value)) + value

    def short(number: int, value: int) -> bytes:
        return element(number, value.to_bytes(2, "little"))

    text = comment.encode("ascii", "replace")[:64]
    parts: list[Any] = [
        element(_CLASS, store.raw.get(_CLASS, b"")[:64]),
        short(_FIELD, C_STORE_RSP),
        short(0x0120, store.message_id),
        short(_DATA_SET, NO_DATA_SET),
        short(0x0900, status),
        element(0x0902, text + b" " * (len(text) % 2)) if text else b"",
        element(_INSTANCE, store.raw.get(_INSTANCE, b"")[:64]),
    ]
    body = b"".join(parts)
    return element(0x0000, len(body).to_bytes(4, "little")) + body
