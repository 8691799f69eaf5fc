"""The functional groups of a SEG's frames, written as bytes: for each frame only two numbers are new.

A SEG has thousands of frames on a few hundred slices. What a slice gives its frames (source image, place) is encoded once.
Ref: PS3.3 C.7.6.16.2, C.8.20.3; PS3.5 7.5 (items of explicit length)
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from pydicom.dataset import Dataset
from pydicom.filewriter import correct_ambiguous_vr
from pydicom.valuerep import DS

from workers.results import elements, references
from workers.results.request import ComposeRequest
from workers.results.segments import Segment

PER_FRAME = "PerFrameFunctionalGroupsSequence"


def in_space(request: ComposeRequest, slices: Sequence[int]) -> list[int]:
    """Sort slices as frames are: along the cross product of columns and rows, which is how highdicom numbers planes."""
    through, down, right = np.asarray(request.prediction.grid.axes, dtype=float)
    return sorted(slices, reverse=bool(through @ np.cross(down, right) < 0))


def splice(request: ComposeRequest, dataset: Dataset, frames: Sequence[tuple[Segment | None, int]]) -> None:
    """Put the groups of all frames, (segment, slice index) each, into a SEG that highdicom wrote for one frame.

    The one frame of a projection's LABELMAP is highdicom's own.
    From here on the dataset counts as read from Explicit VR Little Endian: pydicom writes these bytes as they are.
    """
    correct_ambiguous_vr(dataset, is_little_endian=True)
    if not request.prediction.grid.is_projection or frames[0][0] is not None:
        elements.put(dataset, PER_FRAME, _groups(request, dataset, frames))


def _groups(request: ComposeRequest, dataset: Dataset, frames: Sequence[tuple[Segment | None, int]]) -> Iterator[bytes]:
    """Give each frame's groups, in the order of their tags."""
    projection = request.prediction.grid.is_projection
    order = {index: place for place, index in enumerate(in_space(request, list({index for _, index in frames})), start=1)}
    alone = len(dataset.SegmentSequence) == 1
    sources = _sources(request, dataset[PER_FRAME][0].DerivationImageSequence[0], order)
    places = {index: b"" if projection else _place(request, index) for index in order}
    named = {segment.number for segment, _ in frames if segment is not None and not alone}
    numbers = {number: _of_segment(number) for number in sorted(named)}
    for segment, index in frames:
        dimensions = ([] if segment is None else [segment.number]) + ([] if projection else [order[index]])
        identification = numbers.get(segment.number, b"") if segment is not None else b""
        yield b"".join((sources[index], _of_frame(dimensions), places[index], identification))


def _sources(request: ComposeRequest, derivation: Dataset, slices: Iterable[int]) -> dict[int, bytes]:
    """Encode for each slice the one item of Derivation Image Sequence, which names its image."""
    before, after = elements.around(derivation, "SourceImageSequence")
    head, tail = elements.around(derivation.SourceImageSequence[0], *references.KEYWORDS)
    found = {}
    for index in slices:
        source = elements.sequence("SourceImageSequence", [head + references.encoded(request, index) + tail])
        found[index] = elements.sequence("DerivationImageSequence", [before + source + after])
    return found


def _place(request: ComposeRequest, index: int) -> bytes:
    """Encode where a slice lies."""
    values = [DS(part, auto_format=True) for part in request.sources[index].ImagePositionPatient]
    position = elements.text("ImagePositionPatient", "DS", *(getattr(value, "original_string", value) for value in values))
    return elements.sequence("PlanePositionSequence", [position])


def _of_segment(number: int) -> bytes:
    reference = elements.short("ReferencedSegmentNumber", "US", struct.pack("<H", number))
    return elements.sequence("SegmentIdentificationSequence", [reference])


def _of_frame(dimensions: Sequence[int]) -> bytes:
    value = struct.pack(f"<{len(dimensions)}L", *dimensions)
    return elements.sequence("FrameContentSequence", [elements.short("DimensionIndexValues", "UL", value)])
