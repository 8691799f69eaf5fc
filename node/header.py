"""Decode the few attributes that assembly and routing need from a walked data set."""

from __future__ import annotations

import mmap
import struct
import tempfile
import zlib
from collections.abc import Callable, Mapping
from math import isfinite
from typing import IO, Any

from pydicom.charset import decode_bytes, python_encoding
from pydicom.datadict import dictionary_VR, tag_for_keyword

from node.element_walk import EXPLICIT_BIG, Buffer, Unreadable, Value, is_deflated, walk

# Kept in Instance.header, by keyword.
INDEXED: tuple[str, ...] = (
    "Modality", "SOPClassUID", "ImageType", "SeriesDescription", "StudyDescription", "ProtocolName", "BodyPartExamined",
    "Laterality", "ImageLaterality", "SeriesNumber", "InstanceNumber", "AcquisitionNumber", "TemporalPositionIdentifier",
    "EchoNumbers", "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness", "SpacingBetweenSlices",
    "GantryDetectorTilt", "Rows", "Columns", "NumberOfFrames", "BitsAllocated", "SamplesPerPixel", "PhotometricInterpretation",
    "ConvolutionKernel", "ContrastBolusAgent", "FrameOfReferenceUID", "SpecificCharacterSet", "PatientID", "IssuerOfPatientID",
    "PatientName", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyDate", "StudyTime", "SeriesDate", "SeriesTime",
    "StudyID", "Manufacturer", "DeviceSerialNumber", "BurnedInAnnotation", "PatientPosition", "ContentDate", "TemporalPositionIndex",
    "ViewPosition", "PresentationIntentType", "ScanningSequence", "SequenceName", "EchoTime", "RepetitionTime", "InversionTime",
    "DiffusionBValue", "CorrectedImage", "StationName", "ManufacturerModelName", "InstitutionName", "PatientAge",
    "RequestedProcedureDescription", "PerformedProcedureStepDescription",
)  # fmt: skip
_IDENTITY = ("SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID")
# Multi-valued by definition: a list even when a sender wrote one value.
_ALWAYS_LIST = frozenset({"ImageType", "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"})
_INFLATE_STEP = 1024**2
_MAX_VALUE_BYTES = 4096  # far above any legal length of these attributes; what is longer is left out


def _tag(keyword: str) -> int:
    tag = tag_for_keyword(keyword)
    assert tag is not None, keyword
    return int(tag)


_TAGS: Mapping[int, tuple[str, str]] = {_tag(keyword): (keyword, dictionary_VR(keyword)) for keyword in (*INDEXED, *_IDENTITY)}
_CHARACTER_SET = _tag("SpecificCharacterSet")
_BINARY = {"US": "H", "UL": "L", "FD": "d"}
_ENCODED = frozenset({"LO", "SH", "PN"})  # the others of INDEXED are in the default repertoire: PS3.5 6.1.2.3
_NUMBER: Mapping[str, Callable[[str], float | int]] = {"IS": int, "DS": float}


def read_header(data: Buffer, transfer_syntax_uid: str, max_bytes: int = 4 * 1024**3) -> dict[str, Any]:
    """Walk the data set and decode INDEXED and the three UIDs; raises Unreadable as `element_walk.walk` does.

    Values are strings, numbers or lists of them; an absent, empty or undecodable value is left out. Text in a character set
    that is wrong, missing or unknown never raises: what cannot be decoded comes as replacement characters, the file keeps its bytes.
    A deflated data set is inflated to a temporary file, `max_bytes` at most.
    """
    if not is_deflated(transfer_syntax_uid):
        return _decoded(data, transfer_syntax_uid)
    with tempfile.TemporaryFile() as file:
        _inflate(data, file, max_bytes)
        if not file.tell():
            raise Unreadable("the data set is empty")
        file.flush()
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as whole:
            return _decoded(whole, transfer_syntax_uid)


def _decoded(data: Buffer, transfer_syntax_uid: str) -> dict[str, Any]:
    found = walk(data, transfer_syntax_uid, _TAGS)
    order = ">" if transfer_syntax_uid == EXPLICIT_BIG else "<"
    encodings = _encodings(_raw(data, found.get(_CHARACTER_SET)))
    header: dict[str, Any] = {}
    for tag, (keyword, vr) in _TAGS.items():
        value = _decode(_raw(data, found.get(tag)), vr, order, encodings)
        if not value:
            continue
        header[keyword] = value if len(value) > 1 or keyword in _ALWAYS_LIST else value[0]
    return header


def _inflate(data: Buffer, file: IO[bytes], limit: int) -> None:
    """Inflate step by step: a small stream may unfold a thousandfold. Ref: PS3.5 A.5."""
    stream = zlib.decompressobj(-zlib.MAX_WBITS)
    at, pending = 0, b""
    try:
        while not stream.eof:
            if not pending:
                pending = bytes(data[at : at + _INFLATE_STEP])
                at += len(pending)
            inflated = stream.decompress(pending, _INFLATE_STEP)  # of nothing: what it still holds back
            if not (pending or inflated or stream.eof):
                raise Unreadable("the deflated data set is cut off")
            file.write(inflated)
            pending = stream.unconsumed_tail
            if file.tell() > limit:
                raise Unreadable(f"the data set inflates to more than {limit} bytes")
    except zlib.error:
        raise Unreadable("the deflated data set is damaged") from None


def _raw(data: Buffer, value: Value | None) -> bytes:
    if value is None or value.length > _MAX_VALUE_BYTES:
        return b""
    return bytes(data[value.start : value.start + value.length])


def _decode(raw: bytes, vr: str, order: str, encodings: list[str]) -> list[Any]:
    if vr in _BINARY:
        size = struct.calcsize(_BINARY[vr])
        binary = struct.unpack(f"{order}{len(raw) // size}{_BINARY[vr]}", raw[: len(raw) // size * size])
        return list(binary) if all(map(isfinite, binary)) else []
    text = _text(raw, encodings) if vr in _ENCODED else raw.decode("ascii", "replace")
    values: list[Any] = [part.replace("\0", " ").strip() for part in text.split("\\")]  # no database keeps a NUL
    if vr == "PN":
        values = [name.rstrip("=") for name in values]  # empty component groups: PS3.5 6.2.1
    if not any(values):
        return []
    if vr in _NUMBER:
        try:
            numbers = [_NUMBER[vr](part) for part in values]
        except ValueError:
            return []
        return numbers if all(map(isfinite, numbers)) else []  # JSON has no infinity
    return values


def _text(raw: bytes, encodings: list[str]) -> str:
    if b"\x1b" not in raw:
        return raw.decode(encodings[0], "replace")
    try:
        return decode_bytes(raw, encodings, set())  # ISO 2022 escapes: PS3.5 6.1.2.5
    except (LookupError, ValueError, TypeError, Warning):
        return raw.decode("ascii", "replace")


def _encodings(raw: bytes) -> list[str]:
    """Give Python's codecs for a Specific Character Set; an unknown one counts as ISO 8859-1, which decodes anything."""
    terms = raw.decode("ascii", "replace").split("\\")
    return [python_encoding.get(term.strip(" \0").replace("ISO IR", "ISO_IR"), "iso8859") for term in terms]
