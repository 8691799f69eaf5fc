"""Sequences as their bytes: what an object holds hundreds or thousands of, read without a data set for each. Nothing here writes.

Ref: PS3.5 7.1.2 (Explicit VR Little Endian), 7.5 (items of explicit length)
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any

from pydicom.dataset import Dataset

from node.errors import Refused

LONG = frozenset({b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"})
EVIDENCE, SERIES, IN_EVIDENCE, IN_SERIES = 0x0040A375, 0x00081115, 0x00081199, 0x0008114A
STUDY_UID, SERIES_UID, CLASS_UID, INSTANCE_UID = 0x0020000D, 0x0020000E, 0x00081150, 0x00081155


def sequence(dataset: Dataset, tag: int) -> bytes:
    """Give a sequence's items; raises Refused where they are not as they should be written, or were read by pydicom before."""
    value: object = getattr(dataset.get_item(tag), "value", None)
    if not isinstance(value, bytes):
        raise Refused("a sequence of the result cannot be read")
    return value


def evidence(report: Dataset) -> list[tuple[str, str, str, str]]:
    """Give study, series, class and instance of everything that a report builds on."""
    named = []
    for item in items(sequence(report, EVIDENCE)):
        study = dict(elements(item))
        for inner in items(study.get(SERIES, b"")):
            series = dict(elements(inner))
            place = text(study.get(STUDY_UID)), text(series.get(SERIES_UID))
            named += [(*place, *image) for image in images(series.get(IN_EVIDENCE, b""))]
    return named


def referred(dataset: Dataset) -> list[tuple[str, list[tuple[str, str]]]]:
    """Give each series that an object refers to, with class and instance of its images."""
    told = [dict(elements(series)) for series in items(sequence(dataset, SERIES))]
    return [(text(series.get(SERIES_UID)), images(series.get(IN_SERIES, b""))) for series in told]


def images(sequence_: bytes) -> list[tuple[str, str]]:
    """Give class and instance of each image that is referred to."""
    told = [dict(elements(item)) for item in items(sequence_)]
    return [(text(image.get(CLASS_UID)), text(image.get(INSTANCE_UID))) for image in told]


def items(sequence: bytes) -> Iterator[bytes]:
    """Give the items of a sequence, each of explicit length; raises Refused where these do not fill it."""
    at = 0
    while at < len(sequence):
        group, element, length = _unpacked("<HHL", sequence, at)
        if (group, element) != (0xFFFE, 0xE000) or at + 8 + length > len(sequence):
            raise Refused("a sequence of the result cannot be read")
        yield sequence[at + 8 : at + 8 + length]
        at += 8 + length


def elements(item: bytes) -> Iterator[tuple[int, bytes]]:
    """Give the elements of an item: tag and value; raises Refused where these do not fill it."""
    at = 0
    while at < len(item):
        group, element, vr, length = _unpacked("<HH2sH", item, at)
        at += 8
        if vr in LONG:
            (length,) = _unpacked("<L", item, at)
            at += 4
        if at + length > len(item):
            raise Refused("a sequence of the result cannot be read")
        yield group << 16 | element, item[at : at + length]
        at += length


def _unpacked(form: str, within: bytes, at: int) -> tuple[Any, ...]:
    if at + struct.calcsize(form) > len(within):
        raise Refused("a sequence of the result cannot be read")
    return struct.unpack_from(form, within, at)


def text(value: bytes | None) -> str:
    """Give a value of text without its padding; what is not there is empty."""
    return (value or b"").decode("ascii").strip(" \0")
