"""The functional groups of a SEG's frames, written as bytes: for each frame only two numbers are new.

A SEG has thousands of frames on a few hundred slices. What a slice gives its frames (source image, place) is encoded once.
Ref: PS3.3 C.7.6.16.2, C.8.20.3; PS3.5 7.5 (items of explicit length)
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

import numpy as np
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import correct_ambiguous_vr, write_dataset
from pydicom.sequence import Sequence as Items
from pydicom.tag import Tag
from pydicom.valuerep import DS

from workers.results import references
from workers.results.request import ComposeRequest
from workers.results.segments import Segment

PER_FRAME = Tag(0x5200, 0x9230)
ITEM = struct.pack("<HH", 0xFFFE, 0xE000)


def in_space(request: ComposeRequest, slices: Sequence[int]) -> list[int]:
    """Sort slices as frames are: along the cross product of columns and rows, which is how highdicom numbers planes."""
    through, down, right = np.asarray(request.prediction.grid.axes, dtype=float)
    return sorted(slices, reverse=bool(through @ np.cross(down, right) < 0))


def splice(request: ComposeRequest, dataset: Dataset, frames: Sequence[tuple[Segment | None, int]]) -> None:
    """Put the groups of all frames, (segment, slice index) each, into a SEG that highdicom wrote for one frame.

    The one frame of a projection's LABELMAP is highdicom's own.
    From here on the dataset counts as read from Explicit VR Little Endian: pydicom writes these bytes as they are.
    """
    projection = request.prediction.grid.is_projection
    if projection and frames[0][0] is None:
        return
    template = dataset.PerFrameFunctionalGroupsSequence[0]
    order = {index: place for place, index in enumerate(in_space(request, list({index for _, index in frames})), start=1)}
    alone = len(dataset.SegmentSequence) == 1
    slices = {index: _of_slice(request, template, index) for index in order}
    named = {segment.number for segment, _ in frames if segment is not None and not alone}
    numbers = {number: _of_segment(number) for number in sorted(named)}
    items = []
    for segment, index in frames:
        dimensions = ([] if segment is None else [segment.number]) + ([] if projection else [order[index]])
        before, after = slices[index]
        parts = (before, _of_frame(dimensions), after, numbers.get(segment.number, b"") if segment is not None else b"")
        body = b"".join(parts)
        items.append(ITEM + struct.pack("<L", len(body)) + body)
    correct_ambiguous_vr(dataset, is_little_endian=True)
    _put(dataset, b"".join(items))


def _put(dataset: Dataset, value: bytes) -> None:
    dataset[PER_FRAME] = RawDataElement(PER_FRAME, "SQ", len(value), value, 0, is_implicit_VR=False, is_little_endian=True)
    dataset.set_original_encoding(is_implicit_vr=False, is_little_endian=True, character_encoding=dataset._character_set)  # noqa: SLF001


def _of_slice(request: ComposeRequest, template: Dataset, index: int) -> tuple[bytes, bytes]:
    """Encode the source image of a slice, and its place; a projection has none."""
    derivation = Dataset()
    derivation.DerivationImageSequence = template.DerivationImageSequence
    references.point(request, derivation.DerivationImageSequence[0].SourceImageSequence[0], index)
    place = Dataset()
    if not request.prediction.grid.is_projection:
        position = Dataset()
        position.ImagePositionPatient = [DS(part, auto_format=True) for part in request.sources[index].ImagePositionPatient]
        place.PlanePositionSequence = Items([position])
    return _encoded(derivation), _encoded(place)


def _of_segment(number: int) -> bytes:
    identification, segment = Dataset(), Dataset()
    segment.ReferencedSegmentNumber = number
    identification.SegmentIdentificationSequence = Items([segment])
    return _encoded(identification)


def _of_frame(dimensions: Sequence[int]) -> bytes:
    """Encode Frame Content Sequence with one item: Dimension Index Values, UL."""
    value = struct.pack(f"<{len(dimensions)}L", *dimensions)
    element = struct.pack("<HH2sH", 0x0020, 0x9157, b"UL", len(value)) + value
    item = ITEM + struct.pack("<L", len(element)) + element
    return struct.pack("<HH2sHL", 0x0020, 0x9111, b"SQ", 0, len(item)) + item


def _encoded(dataset: Any) -> bytes:
    buffer = DicomBytesIO()
    buffer.is_little_endian, buffer.is_implicit_VR = True, False
    write_dataset(buffer, dataset)
    return bytes(buffer.getvalue())
