"""A DICOM caller made of bytes: it can say what no library would."""

from __future__ import annotations

import socket
import struct
from collections.abc import Sequence
from typing import Self

from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

ASSOCIATE_AC, ASSOCIATE_RJ, P_DATA, RELEASE_RP, ABORT = 2, 3, 4, 6, 7
Contexts = Sequence[tuple[str, Sequence[str]]]
CT_CONTEXT: Contexts = [(CTImageStorage, [ExplicitVRLittleEndian])]


def item(kind: int, body: bytes) -> bytes:
    """Encode an item of an A-ASSOCIATE PDU."""
    return struct.pack(">BBH", kind, 0, len(body)) + body


def pdu(kind: int, body: bytes) -> bytes:
    """Encode a PDU."""
    return struct.pack(">BBL", kind, 0, len(body)) + body


def request(contexts: Contexts = CT_CONTEXT, called: str = "OVERREAD", calling: str = "RAW", max_pdu: int = 16384) -> bytes:
    """Encode an A-ASSOCIATE-RQ; contexts get the ids 1, 3, 5 ..."""
    body = struct.pack(">HH16s16s32x", 1, 0, called.ljust(16).encode(), calling.ljust(16).encode())
    body += item(0x10, b"1.2.840.10008.3.1.1.1")
    for number, (abstract, syntaxes) in enumerate(contexts):
        names = item(0x30, abstract.encode()) + b"".join(item(0x40, syntax.encode()) for syntax in syntaxes)
        body += item(0x20, struct.pack(">BBBB", 2 * number + 1, 0, 0, 0) + names)
    body += item(0x50, item(0x51, struct.pack(">L", max_pdu)) + item(0x52, b"1.2.3.4"))
    return pdu(1, body)


def pdv(data: bytes, *, command: bool = False, last: bool = True, context: int = 1) -> bytes:
    """Encode a P-DATA-TF PDU with one fragment."""
    return pdu(P_DATA, struct.pack(">LBB", len(data) + 2, context, command | last << 1) + data)


def store_command(sop_class: str, sop_instance: str, *, message_id: int = 1, data_set: int = 1) -> bytes:
    """Encode a C-STORE-RQ command set."""

    def element(number: int, value: bytes) -> bytes:
        return struct.pack("<HHL", 0, number, len(value)) + value

    def uid(text: str) -> bytes:
        value = text.encode()
        return value + b"\0" * (len(value) % 2)

    body = element(0x0002, uid(sop_class)) + element(0x0100, b"\1\0") + element(0x0110, message_id.to_bytes(2, "little"))
    body += element(0x0700, b"\0\0") + element(0x0800, data_set.to_bytes(2, "little")) + element(0x1000, uid(sop_instance))
    return element(0x0000, len(body).to_bytes(4, "little")) + body


class Caller:
    """A connection to the listener."""

    def __init__(self, port: int, timeout_s: float = 10) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout_s)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def __enter__(self) -> Self:
        """Give itself; closed at the end of the block."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the connection without a word."""
        self.socket.close()

    def send(self, *pdus: bytes) -> None:
        """Send bytes."""
        self.socket.sendall(b"".join(pdus))

    def associate(self, contexts: Contexts = CT_CONTEXT, **options: object) -> list[int]:
        """Ask for an association; give each context's result (0: accepted)."""
        self.send(request(contexts, **options))  # type: ignore[arg-type]
        kind, body = self.read()
        assert kind == ASSOCIATE_AC, (kind, body)
        results, at = {}, 68
        while at < len(body):
            kind, length = body[at], int.from_bytes(body[at + 2 : at + 4], "big")
            if kind == 0x21:
                results[body[at + 4]] = body[at + 6]
            at += 4 + length
        return [results[number] for number in sorted(results)]

    def store(self, sop_class: str, sop_instance: str, data: bytes, *, context: int = 1) -> int:
        """Send one data set in PDUs of 16 kB; give the status."""
        self.send(pdv(store_command(sop_class, sop_instance), command=True, context=context))
        for at in range(0, len(data), 16000):
            self.send(pdv(data[at : at + 16000], last=at + 16000 >= len(data), context=context))
        return self.status()

    def status(self) -> int:
        """Read a response's status."""
        kind, body = self.read()
        assert kind == P_DATA, (kind, body)
        at = body.index(b"\x00\x00\x00\x09\x02\x00\x00\x00")
        return int.from_bytes(body[at + 8 : at + 10], "little")

    def read(self) -> tuple[int, bytes]:
        """Read a PDU; (0, b"") when the listener closed the connection."""
        head = self._exactly(6)
        if len(head) < 6:
            return 0, b""
        return head[0], self._exactly(int.from_bytes(head[2:6], "big"))

    def closed_by_peer(self) -> bool:
        """Read until the listener closes; a time-out raises."""
        while self.read()[0]:
            pass
        return True

    def _exactly(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            try:
                piece = self.socket.recv(count - len(data))
            except ConnectionResetError:
                return data
            if not piece:
                return data
            data += piece
        return data
