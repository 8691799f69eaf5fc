"""What differs between two kept files of one SOP Instance UID: patient, place, geometry, values, pixels, or only remarks.

Both files are read when a conflict is judged, never while images come in.
Ref: PS3.3 C.7.6.2, C.7.6.3; PS3.5 A.4 (encapsulated pixel data)
"""

from __future__ import annotations

import hashlib
import mmap
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np
from pydicom import Dataset, dcmread
from pydicom.datadict import tag_for_keyword

from node.element_walk import DEFLATED, EXPLICIT_BIG, ITEM, PIXEL_DATA, Unreadable, Value, walk
from node.part10 import read_meta


class Kind(StrEnum):
    """What a difference touches, in the words of a reason."""

    PATIENT = "patient"
    PLACE = "study, series or class"
    GEOMETRY = "geometry"
    VALUES = "meaning of the pixel values"
    PIXELS = "pixels"
    CODING = "coding of the pixels (another transfer syntax)"
    UNREADABLE = "content that cannot be read back"
    REMARKS = "remarks"


_NAMED: Mapping[Kind, tuple[str, ...]] = {
    Kind.PLACE: ("StudyInstanceUID", "SeriesInstanceUID", "SOPClassUID"),
    Kind.GEOMETRY: (
        *("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing"),
        *("SliceThickness", "SpacingBetweenSlices", "GantryDetectorTilt", "Rows", "Columns", "NumberOfFrames", "FrameOfReferenceUID"),
        *("PatientPosition", "Laterality", "ImageLaterality", "PatientOrientation", "PixelAspectRatio"),
        *("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence", "DetectorInformationSequence"),
    ),
    Kind.VALUES: (
        *("Modality", "ImageType", "PatientWeight", "PatientSize", "RealWorldValueMappingSequence", "ContrastBolusAgent"),
        *("EchoTime", "TemporalPositionIdentifier", "AcquisitionNumber", "RadiopharmaceuticalInformationSequence"),
    ),
    # Within groups that matter, what does not: windows for viewing, extremes, notes on lossy coding and burned-in text.
    Kind.REMARKS: (
        *("WindowCenter", "WindowWidth", "WindowCenterWidthExplanation", "VOILUTFunction", "VOILUTSequence", "SmallestImagePixelValue"),
        *("LargestImagePixelValue", "SmallestPixelValueInSeries", "LargestPixelValueInSeries", "BurnedInAnnotation"),
        *("LossyImageCompression", "LossyImageCompressionRatio", "LossyImageCompressionMethod", "RecognizableVisualFeatures"),
    ),
}
_KIND_OF = {tag_for_keyword(keyword): kind for kind, keywords in _NAMED.items() for keyword in keywords}
_VALUE_GROUPS = frozenset({0x0028, 0x0054})


@dataclass(frozen=True, slots=True, kw_only=True)
class _Opened:
    header: Dataset
    syntax: str
    encapsulated: bool
    pixels: str


def between(first: Path, other: Path) -> frozenset[Kind]:
    """Give what the two files tell differently; UNREADABLE when one of them is gone or cannot be read."""
    try:
        one, two = _open(first), _open(other)
    except (OSError, Unreadable):
        return frozenset({Kind.UNREADABLE})
    kinds = {_kind(tag) for tag in {*one.header.keys(), *two.header.keys()} if not _same(one.header, two.header, tag)}
    if one.pixels != two.pixels:
        recoded = one.syntax != two.syntax and (one.encapsulated or two.encapsulated)
        kinds.add(Kind.CODING if recoded else Kind.PIXELS)
    return frozenset(kinds)


def _kind(tag: int) -> Kind:
    if tag in _KIND_OF:
        return _KIND_OF[tag]
    if tag >> 16 == 0x0010:
        return Kind.PATIENT
    return Kind.VALUES if tag >> 16 in _VALUE_GROUPS else Kind.REMARKS


def _same(one: Dataset, two: Dataset, tag: Any) -> bool:
    """Compare values, not their encoding; a group length is encoding."""
    if tag & 0xFFFF == 0:
        return True
    values = []
    for header in (one, two):
        try:
            element = header.get(tag)
            values.append(None if element is None or element.is_empty else element.value)
        except Exception:  # noqa: BLE001 -- whatever a device wrote: what cannot be decoded is compared as bytes
            values.append(header.get_item(tag).value)
    return bool(values[0] == values[1])


def _open(path: Path) -> _Opened:
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as whole, memoryview(whole) as view:
        meta, start = read_meta(view)
        syntax = meta.transfer_syntax_uid
        try:
            header = dcmread(path, stop_before_pixels=True, force=True)
            if syntax in DEFLATED:
                bulk = bytes(dcmread(path, force=True).get("PixelData", b""))
                return _Opened(header=header, syntax=syntax, encapsulated=False, pixels=hashlib.sha256(bulk).hexdigest())
        except Exception as error:
            raise Unreadable("the file cannot be read") from error
        with view[start:] as body:
            found = walk(body, syntax, {})
            value = found.get(PIXEL_DATA)
            digest = "" if value is None else _digest(body, value, syntax, int(header.get("BitsAllocated") or 16))
            return _Opened(header=header, syntax=syntax, encapsulated=value is not None and value.fragments is not None, pixels=digest)


def _digest(body: memoryview, value: Value, syntax: str, bits: int) -> str:
    """Digest the pixels without what is only encoding: byte order, the offset table, how fragments are cut."""
    digest = hashlib.sha256()
    with body[value.start : value.start + value.length] as raw:
        if value.fragments is not None:
            for begin, end in _fragments(raw):
                digest.update(raw[begin:end])
        elif syntax == EXPLICIT_BIG and bits == 16:
            digest.update(np.frombuffer(raw[: len(raw) // 2 * 2], ">u2").astype("<u2").tobytes())
        else:
            digest.update(raw)
    return digest.hexdigest()


def _fragments(raw: memoryview) -> Iterator[tuple[int, int]]:
    """Give where each fragment lies, the offset table left out."""
    at, first = 0, True
    while at + 8 <= len(raw):
        group, element, length = struct.unpack_from("<HHL", raw, at)
        if group << 16 | element != ITEM:
            return
        if not first:
            yield at + 8, at + 8 + length
        first = False
        at += 8 + length
