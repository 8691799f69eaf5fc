"""Data elements as bytes, for what an object holds hundreds or thousands of: only a UID or a number is new in each.

Ref: PS3.5 7.1.2 (Explicit VR Little Endian), 7.5 (items of explicit length), 6.2 (padding)
"""

from __future__ import annotations

import struct
from collections.abc import Iterable

from pydicom.datadict import tag_for_keyword
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.tag import BaseTag, Tag

ITEM = struct.pack("<HH", 0xFFFE, 0xE000)


def text(keyword: str, vr: str, *values: object) -> bytes:
    """Give a short element of text; a UID is padded with 0, all else with a blank."""
    value = "\\".join(map(str, values)).encode("ascii")
    return short(keyword, vr, value + (b"\0" if vr == "UI" else b" ") * (len(value) % 2))


def short(keyword: str, vr: str, value: bytes) -> bytes:
    """Give an element of a VR whose length takes two bytes."""
    tag = _tag(keyword)
    return struct.pack("<HH2sH", tag.group, tag.element, vr.encode(), len(value)) + value


def sequence(keyword: str, bodies: Iterable[bytes]) -> bytes:
    """Give a sequence of items."""
    tag, value = _tag(keyword), items(bodies)
    return struct.pack("<HH2sHL", tag.group, tag.element, b"SQ", 0, len(value)) + value


def items(bodies: Iterable[bytes]) -> bytes:
    """Give the items of a sequence, each of explicit length."""
    return b"".join([ITEM + struct.pack("<L", len(body)) + body for body in bodies])


def encoded(dataset: Dataset) -> bytes:
    """Let pydicom encode all of an item's elements."""
    buffer = DicomBytesIO()
    buffer.is_little_endian, buffer.is_implicit_VR = True, False
    write_dataset(buffer, dataset)
    return bytes(buffer.getvalue())


def around(dataset: Dataset, *keywords: str) -> tuple[bytes, bytes]:
    """Encode the elements of an item before and behind certain ones, whose own bytes are put between them."""
    low, high = min(map(_tag, keywords)), max(map(_tag, keywords))
    before, after = Dataset(), Dataset()
    before.update({element.tag: element for element in dataset if element.tag < low})
    after.update({element.tag: element for element in dataset if element.tag > high})
    return encoded(before), encoded(after)


def put(dataset: Dataset, keyword: str, bodies: Iterable[bytes]) -> None:
    """Put a sequence into a data set as the bytes of its items; all of the data set counts as read from these bytes' encoding."""
    tag, value = _tag(keyword), items(bodies)
    dataset[tag] = RawDataElement(tag, "SQ", len(value), value, 0, is_implicit_VR=False, is_little_endian=True)
    dataset.set_original_encoding(is_implicit_vr=False, is_little_endian=True, character_encoding=dataset._character_set)  # noqa: SLF001


def _tag(keyword: str) -> BaseTag:
    tag = tag_for_keyword(keyword)
    assert tag is not None, keyword
    return Tag(tag)
