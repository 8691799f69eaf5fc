"""Write and read the DICOM file format around a data set whose bytes stay as they came.

Ref: PS3.10 7.1
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from node.element_walk import EXPLICIT_BIG, EXPLICIT_LITTLE, IMPLICIT_LITTLE, Buffer, Unreadable

IMPLEMENTATION_CLASS_UID = "2.25.21331116543576074229560142649334537238"
IMPLEMENTATION_VERSION = "OVERREAD_0_1"
PREAMBLE = bytes(128) + b"DICM"


@dataclass(frozen=True, slots=True, kw_only=True)
class FileMeta:
    """What our file meta information says about an instance and how it reached us."""

    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    calling_ae: str
    called_ae: str
    peer_host: str


# Ref: PS3.10 Table 7.1-1. The source's presentation address is what a restart knows the peer's host from.
_CLASS, _INSTANCE, _SYNTAX, _IMPLEMENTATION, _VERSION = 0x0002, 0x0003, 0x0010, 0x0012, 0x0013
_SOURCE, _SENDING, _RECEIVING, _ADDRESS = 0x0016, 0x0017, 0x0018, 0x0026
_ADDRESS_SCHEME = "dicom://"


def write_meta(meta: FileMeta) -> bytes:
    """Give preamble, prefix and file meta information; the data set's bytes follow it."""
    body = b"".join(
        (
            struct.pack("<HH2sHL2s", 0x0002, 0x0001, b"OB", 0, 2, b"\0\1"),
            _short(_CLASS, b"UI", meta.sop_class_uid, b"\0"),
            _short(_INSTANCE, b"UI", meta.sop_instance_uid, b"\0"),
            _short(_SYNTAX, b"UI", meta.transfer_syntax_uid, b"\0"),
            _short(_IMPLEMENTATION, b"UI", IMPLEMENTATION_CLASS_UID, b"\0"),
            _short(_VERSION, b"SH", IMPLEMENTATION_VERSION, b" "),
            _short(_SOURCE, b"AE", meta.calling_ae, b" "),
            _short(_SENDING, b"AE", meta.calling_ae, b" "),
            _short(_RECEIVING, b"AE", meta.called_ae, b" "),
            _long(_ADDRESS, b"UR", _ADDRESS_SCHEME + meta.peer_host, b" "),
        )
    )
    return PREAMBLE + struct.pack("<HH2sHL", 0x0002, 0x0000, b"UL", 4, len(body)) + body


def read_meta(data: Buffer) -> tuple[FileMeta, int]:
    """Read the file meta information of a Part-10 file; give it and where the data set starts.

    A bare data set is told by its first bytes and has only a transfer syntax. Raises Unreadable.
    """
    if bytes(data[128:132]) != b"DICM":
        return _meta({_SYNTAX: _guess_syntax(data)}), 0
    values: dict[int, str] = {}
    at = len(PREAMBLE)
    try:
        while at < len(data) and bytes(data[at : at + 2]) == b"\2\0":
            _, element, vr, length = struct.unpack_from("<HH2sH", data, at)
            at += 8
            if vr in {b"OB", b"UR", b"UN", b"UT"}:
                (length,) = struct.unpack_from("<L", data, at)
                at += 4
            if length <= 1024:
                values[element] = bytes(data[at : at + length]).decode("ascii", "replace").strip(" \0")
            at += length
    except struct.error:
        raise Unreadable("the file ends inside its meta information") from None
    if at > len(data) or _SYNTAX not in values:
        raise Unreadable("the file meta information is cut off or names no transfer syntax")
    return _meta(values), at


def _meta(values: dict[int, str]) -> FileMeta:
    return FileMeta(
        sop_class_uid=values.get(_CLASS, ""),
        sop_instance_uid=values.get(_INSTANCE, ""),
        transfer_syntax_uid=values[_SYNTAX],
        calling_ae=values.get(_SENDING) or values.get(_SOURCE, ""),
        called_ae=values.get(_RECEIVING, ""),
        peer_host=values.get(_ADDRESS, "").removeprefix(_ADDRESS_SCHEME),
    )


def _guess_syntax(data: Buffer) -> str:
    """Tell a bare data set's syntax by its first element, whose group is small and whose VR is two capitals or none."""
    head = bytes(data[:6])
    if len(head) < 6:
        raise Unreadable("the file is too short for a data set")
    explicit = head[4:6].isalpha() and head[4:6].isupper()
    if explicit and head[0] == 0 and head[1]:
        return EXPLICIT_BIG
    return EXPLICIT_LITTLE if explicit else IMPLICIT_LITTLE


def _short(element: int, vr: bytes, text: str, pad: bytes) -> bytes:
    value = text.encode("ascii", "replace")
    value += pad * (len(value) % 2)
    return struct.pack("<HH2sH", 0x0002, element, vr, len(value)) + value


def _long(element: int, vr: bytes, text: str, pad: bytes) -> bytes:
    value = text.encode("ascii", "replace")
    value += pad * (len(value) % 2)
    return struct.pack("<HH2sHL", 0x0002, element, vr, 0, len(value)) + value
