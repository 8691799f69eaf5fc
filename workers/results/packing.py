"""Pixel data of SEGs and maps: bits, or one number a pixel, encoded as the profile asks.

Ref: PS3.5 8.1.1 (bits), 8.2, annex A.4 and G (RLE)
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import imagecodecs
import numpy as np
from numpy.typing import NDArray
from pydicom.encaps import encapsulate
from pydicom.uid import UID, ExplicitVRLittleEndian, JPEGLSLossless, RLELossless

from workers.results.request import ComposeRequest
from workers.results.segments import Segment, mask_on

Numbers = NDArray[np.unsignedinteger[Any]]
SYNTAXES: Mapping[str, UID] = {"explicit": ExplicitVRLittleEndian, "rle": RLELossless, "jpeg-ls": JPEGLSLossless}


def bits(request: ComposeRequest, frames: Sequence[tuple[Segment, int]]) -> bytes:
    """Pack one mask a frame, a (segment, slice index) each; the bits of a frame follow those of the one before without a gap.

    Eight frames always end on a byte: 8 frames of 25 x 31 pixels are 775 bytes.
    Ref: PS3.5 8.1.1
    """
    rows, columns = request.prediction.grid.shape[1:]
    if columns % 8 == 0:
        return _rows_of_bytes(request, frames)
    step = 1 if rows * columns % 8 == 0 else 8
    packed = []
    for start in range(0, len(frames), step):
        masks = [mask_on(request, segment, index).ravel() for segment, index in frames[start : start + step]]
        packed.append(np.packbits(np.concatenate(masks) if step > 1 else masks[0], bitorder="little").tobytes())
    size = sum(map(len, packed))
    return b"".join([*packed, b"\0" * (size % 2)])


def _rows_of_bytes(request: ComposeRequest, frames: Sequence[tuple[Segment, int]]) -> bytes:
    """Pack masks whose rows end on a byte: of each the rows that it covers, the others stay 0."""
    rows, columns = request.prediction.grid.shape[1:]
    width = columns // 8
    empty = memoryview(bytes(rows * width))
    packed: list[memoryview] = []
    for segment, index in frames:
        top, bottom = segment.covered[index].rows if index in segment.covered else (0, 0)
        marked = np.packbits(mask_on(request, segment, index, slice(top, bottom)).ravel(), bitorder="little")
        packed += [empty[: top * width], marked.data, empty[bottom * width :]]
    return b"".join([*packed, b"\0" * (len(frames) * rows * width % 2)])


def labelmap(request: ComposeRequest, segments: Sequence[Segment], slices: Sequence[int]) -> bytes:
    """Give one frame of segment numbers a slice, encoded as the profile asks."""
    return encoded(_numbers(request, segments, slices), request.profile.seg_syntax)


def encoded(planes: Iterable[Numbers], syntax: str) -> bytes:
    """Give pixel data of one frame a plane, all of one type, in one of `SYNTAXES`."""
    frames = [ENCODERS[syntax](plane) for plane in planes]
    if syntax != "explicit":
        return bytes(encapsulate(frames))
    size = sum(map(len, frames))
    return b"".join([*frames, b"\0" * (size % 2)])


def _numbers(request: ComposeRequest, segments: Sequence[Segment], slices: Sequence[int]) -> Iterator[Numbers]:
    """Give each slice's segment numbers; the segments of one LABELMAP share no voxel."""
    prediction = request.prediction
    dtype = np.uint8 if len(segments) < 256 else np.uint16
    organs, lesions = np.zeros(256, dtype), np.zeros(65536, dtype)
    for segment in segments:
        if segment.finding is not None:
            lesions[segment.finding.number] = segment.number
        elif not segment.overlapping:
            organs[segment.part.index] = segment.number
    for index in slices:
        plane = np.take(organs, prediction.labels[index])
        if prediction.instances is not None:
            plane += np.take(lesions, prediction.instances[index])
        for segment in segments:
            if segment.overlapping:
                plane[prediction.masks[segment.part.index][index]] = segment.number
        yield plane


def _rle(plane: Numbers) -> bytes:
    """Encode one frame: a header of 16 numbers, then a byte plane each, most significant first; rows end runs.

    Ref: PS3.5 G.3 to G.5
    """
    shifts = range(8 * (plane.dtype.itemsize - 1), -1, -8)
    parts = [imagecodecs.packbits_encode((plane >> shift).astype(np.uint8)) for shift in shifts]
    parts = [part + b"\0" * (len(part) % 2) for part in parts]
    offsets = [64 + sum(map(len, parts[:index])) for index in range(len(parts))]
    return struct.pack("<16L", len(parts), *offsets, *[0] * (15 - len(parts))) + b"".join(parts)


def _jpeg_ls(plane: Numbers) -> bytes:
    data = bytes(imagecodecs.jpegls_encode(plane))
    return data + b"\0" * (len(data) % 2)


ENCODERS: Mapping[str, Callable[[Numbers], bytes]] = {
    "explicit": lambda plane: plane.astype(plane.dtype.newbyteorder("<"), copy=False).tobytes(),
    "rle": _rle,
    "jpeg-ls": _jpeg_ls,
}
