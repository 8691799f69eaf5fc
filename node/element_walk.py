"""Walk a data set's elements without decoding them: where each value lies, and whether anything is missing.

A data set that ends inside an element, or whose pixel data is shorter than its rows, columns and frames ask for, must not be
acknowledged: the sender would delete the only whole copy. pydicom reads such files without complaint.
The input is hostile by assumption: no recursion, a bound on depth and on elements, nothing allocated by a length it claims.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Mapping
from dataclasses import dataclass

from node.errors import Refused
from node.storage_classes import GE_PRIVATE, is_image_class

Buffer = bytes | bytearray | memoryview | mmap.mmap
UNDEFINED = 0xFFFFFFFF
MAX_DEPTH = 64
MAX_ELEMENTS = 8_000_000

ITEM, ITEM_END, SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
PIXEL_DATA = 0x7FE00010
# Any of these is an image's bulk: PS3.3 C.7.6.3, C.7.6.24, C.7.6.25 and C.8.14.2 (spectroscopy has Rows and Columns too).
SOP_CLASS = 0x00080016
BULK = (PIXEL_DATA, 0x7FE00008, 0x7FE00009, 0x00287FE0, 0x56000020)
SAMPLES, PHOTOMETRIC, FRAMES, ROWS, COLUMNS, BITS = 0x00280002, 0x00280004, 0x00280008, 0x00280010, 0x00280011, 0x00280100

IMPLICIT_LITTLE = "1.2.840.10008.1.2"
EXPLICIT_LITTLE = "1.2.840.10008.1.2.1"
EXPLICIT_BIG = "1.2.840.10008.1.2.2"
PAPYRUS = "1.2.840.10008.1.20"
DEFLATED = frozenset({"1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.4.95", "1.2.840.10008.1.2.4.205"})
_NATIVE = frozenset({IMPLICIT_LITTLE, EXPLICIT_LITTLE, EXPLICIT_BIG, GE_PRIVATE, PAPYRUS, "1.2.840.10008.1.2.1.99"})
# One fragment or more a frame: PS3.5 A.4. Video and multi-component codestreams hold many frames in one.
_FRAGMENT_A_FRAME = ("1.2.840.10008.1.2.4.5", "1.2.840.10008.1.2.4.6", "1.2.840.10008.1.2.4.7", "1.2.840.10008.1.2.4.8")
_FRAGMENT_A_FRAME_EXACT = frozenset(
    {
        "1.2.840.10008.1.2.5", "1.2.840.10008.1.2.1.98", "1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.91",
        "1.2.840.10008.1.2.4.201", "1.2.840.10008.1.2.4.202", "1.2.840.10008.1.2.4.203",
    }
)  # fmt: skip

_TAG_LENGTH_LITTLE, _TAG_LENGTH_BIG = struct.Struct("<HHL"), struct.Struct(">HHL")
_EXPLICIT_LITTLE, _EXPLICIT_BIG = struct.Struct("<HH2sH"), struct.Struct(">HH2sH")
_U32_LITTLE, _U32_BIG = struct.Struct("<L"), struct.Struct(">L")
# PS3.5 Table 7.1-2: these have a two-byte length; every other VR, future ones included, a four-byte one.
_SHORT = frozenset(b"AE AS AT CS DA DS DT FD FL IS LO LT PN SH SL SS ST TM UI UL US".split())
_MAY_BE_UNDEFINED = frozenset({b"SQ", b"UN", b"OB", b"OW", b""})


class Unreadable(Refused):
    """The bytes are no whole data set; the reason says where they break."""


@dataclass(frozen=True, slots=True)
class Value:
    """Where a value lies: [start, start + length) of the walked bytes; `fragments` of encapsulated pixel data."""

    start: int
    length: int
    fragments: int | None = None


@dataclass(frozen=True, slots=True)
class _Grammar:
    """How element headers are written. Ref: PS3.5 7.1, Annex A."""

    explicit: bool
    big: bool

    def header(self, data: Buffer, at: int) -> tuple[int, bytes, int, int]:
        """Read one element's header: tag, VR (empty when implicit), value length, where the value starts."""
        if self.explicit:
            group, element, vr, length = (_EXPLICIT_BIG if self.big else _EXPLICIT_LITTLE).unpack_from(data, at)
            if vr in _SHORT and group != 0xFFFE:  # an item's length may look like a value representation
                return group << 16 | element, vr, length, at + 8
            if group != 0xFFFE:
                if not (vr.isalpha() and vr.isupper()):
                    raise Unreadable(f"byte {at} starts no element: its value representation is not two capital letters")
                (length,) = (_U32_BIG if self.big else _U32_LITTLE).unpack_from(data, at + 8)
                return group << 16 | element, vr, length, at + 12
        group, element, length = (_TAG_LENGTH_BIG if self.big else _TAG_LENGTH_LITTLE).unpack_from(data, at)
        return group << 16 | element, b"", length, at + 8


_UN_CONTENT = _Grammar(explicit=False, big=False)  # PS3.5 6.2.2 Note 4: UN of undefined length is implicit little endian inside


def is_deflated(transfer_syntax_uid: str) -> bool:
    """Tell whether the whole data set is a deflate stream. Ref: PS3.5 A.5."""
    return transfer_syntax_uid in DEFLATED


def walk(data: Buffer, transfer_syntax_uid: str, wanted: Mapping[int, object]) -> dict[int, Value]:
    """Walk the (inflated) data set to its last byte; give where the wanted top-level values lie.

    A tag that comes twice counts once, as it came first. Raises Unreadable when an element runs past the end, a sequence or the
    fragments are not closed, or the pixel data is missing or short.
    """
    implicit = transfer_syntax_uid in {IMPLICIT_LITTLE, GE_PRIVATE, PAPYRUS}
    grammar = _Grammar(explicit=not implicit, big=transfer_syntax_uid == EXPLICIT_BIG)
    found: dict[int, Value] = {}
    try:
        _top_level(data, grammar, wanted, found)
    except struct.error:
        raise Unreadable("the data set ends inside an element's header") from None
    _pixels_are_whole(data, transfer_syntax_uid, found, grammar)
    return found


def _top_level(data: Buffer, grammar: _Grammar, wanted: Mapping[int, object], found: dict[int, Value]) -> None:
    at, end, count, header = 0, len(data), 0, grammar.header
    while at < end:
        tag, vr, length, start = header(data, at)
        fragments = None
        if tag >> 16 == 0xFFFE:
            raise Unreadable(f"byte {at} holds an item or delimiter outside a sequence")
        if length == UNDEFINED:
            at, fragments, inner = _skip_undefined(data, start, grammar, vr)
            count += inner
            length = at - start
        else:
            at = start + length
            if at > end:
                raise Unreadable(f"element ({tag >> 16:04X},{tag & 0xFFFF:04X}) runs {at - end} bytes past the end")
        count += 1
        if count > MAX_ELEMENTS:
            raise Unreadable(f"more than {MAX_ELEMENTS} elements")
        if tag in wanted or tag in _KEPT:
            found.setdefault(tag, Value(start, length, fragments))
    if not count:
        raise Unreadable("the data set is empty")


_KEPT = frozenset({*BULK, SOP_CLASS, SAMPLES, PHOTOMETRIC, FRAMES, ROWS, COLUMNS, BITS})


def _skip_undefined(data: Buffer, at: int, grammar: _Grammar, vr: bytes) -> tuple[int, int, int]:
    """Step over a value of undefined length: where it ends, its outermost items (or fragments), all elements inside."""
    if vr not in _MAY_BE_UNDEFINED:
        raise Unreadable(f"an element of value representation {vr.decode()} has an undefined length")
    levels: list[tuple[bool, _Grammar]] = [(False, _UN_CONTENT if vr == b"UN" else grammar)]  # (inside an item, grammar)
    end, items, count = len(data), 0, 0
    while levels:
        inside, current = levels[-1]
        tag, vr, length, start = current.header(data, at)
        count += 1
        if tag == (ITEM_END if inside else SEQUENCE_END):
            levels.pop()
            at = start
            continue
        if inside == (tag >> 16 == 0xFFFE) or not (inside or tag == ITEM):
            raise Unreadable(f"byte {at}: a sequence's items and delimiters do not nest")
        items += len(levels) == 1
        if length == UNDEFINED:
            if vr not in _MAY_BE_UNDEFINED or len(levels) >= MAX_DEPTH or count > MAX_ELEMENTS:
                raise Unreadable("a sequence is nested too deeply, too long or of undefined length where it may not be")
            levels.append((not inside, _UN_CONTENT if vr == b"UN" else current))
            at = start
        else:
            at = start + length
            if at > end:
                raise Unreadable("an item of a sequence runs past the end")
    return at, items, count


def _pixels_are_whole(data: Buffer, syntax: str, found: Mapping[int, Value], grammar: _Grammar) -> None:
    """Refuse an image whose bulk is absent or shorter than its description. Ref: PS3.3 C.7.6.3.1, PS3.5 8.1.1, A.4."""
    if not any(tag in found for tag in BULK) and is_image_class(_text(data, found.get(SOP_CLASS))):
        raise Unreadable("an image without pixel data: it was cut off")
    rows, columns, bits = (_us(data, found.get(tag), grammar) for tag in (ROWS, COLUMNS, BITS))
    pixels = found.get(PIXEL_DATA)
    if pixels is None or not (rows and columns and bits):
        return
    frames = max(_integer_string(data, found.get(FRAMES)), 1)
    if pixels.fragments is None:
        samples = _us(data, found.get(SAMPLES), grammar) or 1
        expected = (rows * columns * samples * bits * frames + 7) // 8
        if _text(data, found.get(PHOTOMETRIC)).startswith("YBR_FULL_422"):
            expected = expected * 2 // 3
        if syntax in _NATIVE and pixels.length < expected:
            raise Unreadable(f"the pixel data holds {pixels.length} bytes where {expected} are described")
    elif pixels.fragments < 2:  # the first is the offset table
        raise Unreadable("the encapsulated pixel data holds no frame")
    elif (syntax in _FRAGMENT_A_FRAME_EXACT or syntax[:-1] in _FRAGMENT_A_FRAME) and pixels.fragments - 1 < frames:
        raise Unreadable(f"the pixel data holds {pixels.fragments - 1} fragments where {frames} frames are described")


def _us(data: Buffer, value: Value | None, grammar: _Grammar) -> int:
    if value is None or value.length < 2:
        return 0
    return int.from_bytes(data[value.start : value.start + 2], "big" if grammar.big else "little")


def _text(data: Buffer, value: Value | None) -> str:
    return "" if value is None else bytes(data[value.start : value.start + min(value.length, 64)]).decode("ascii", "replace").strip(" \0")


def _integer_string(data: Buffer, value: Value | None) -> int:
    text = _text(data, value)
    return int(text) if text.isascii() and text.isdigit() else 0
