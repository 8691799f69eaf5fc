"""Pixel data of images and of frames to a calibrated stack."""

from __future__ import annotations

import os
import struct
import warnings
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import imagecodecs
import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.encaps import get_frame
from pydicom.pixels.utils import pixel_array
from pydicom.uid import (
    HTJ2K,
    JPEG2000,
    UID,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
)

from node.errors import Refused

Stack = NDArray[np.int16] | NDArray[np.int32] | NDArray[np.float32]

# What pydicom and its decoders raise on files that are not what they claim; every one ends as a reason, never as a traceback.
UNREADABLE = (
    ArithmeticError, AssertionError, AttributeError, EOFError, LookupError, MemoryError, NotImplementedError,
    OSError, RuntimeError, TypeError, ValueError, struct.error, zlib.error,
)  # fmt: skip

# Ref: PS3.6 A. What is not here (RLE, big endian) pydicom decodes itself.
_CODECS = {
    JPEGBaseline8Bit: "jpeg8_decode",
    JPEGExtended12Bit: "jpeg8_decode",
    JPEGLossless: "jpeg8_decode",
    JPEGLosslessSV1: "jpeg8_decode",
    JPEGLSLossless: "jpegls_decode",
    JPEGLSNearLossless: "jpegls_decode",
    JPEG2000Lossless: "jpeg2k_decode",
    JPEG2000: "jpeg2k_decode",
    HTJ2KLossless: "jpeg2k_decode",
    HTJ2KLosslessRPCL: "jpeg2k_decode",
    HTJ2K: "jpeg2k_decode",
}

THREADS = min(4, os.cpu_count() or 1)
UNDEFINED = 0xFFFFFFFF  # a length that is not told
AIR_HU = -1024  # what lies outside a CT's field of view is given as air
HIGHEST_TISSUE_HU = 3071  # above it a padding value cannot be taken for tissue


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """How one image's stored values become real ones: value = stored * slope + intercept.

    padding  inclusive range of stored values that are no image, or None. Ref: PS3.3 C.7.5.1.1.2
    """

    slope: float
    intercept: float
    padding: tuple[int, int] | None


@contextmanager
def quiet() -> Iterator[None]:
    """Keep pydicom's warnings off the log: they quote element values, which may be a patient's."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def read(path: Path, *, pixels: bool) -> Dataset:
    """Read one file, also a bare data set; raises Refused."""
    try:
        with quiet():
            return pydicom.dcmread(path, force=True, stop_before_pixels=not pixels)
    except UNREADABLE:
        raise Refused("A file of the series cannot be read as DICOM; send the series again.") from None


def read_header(path: Path) -> tuple[Dataset, int | None]:
    """Read one file's header, and where the bytes of its pixels begin; None where they must be decoded. Raises Refused."""
    try:
        with quiet(), path.open("rb") as file:
            header = pydicom.dcmread(file, force=True, stop_before_pixels=True)
            return header, _beginning(file, header)
    except UNREADABLE:
        raise Refused("A file of the series cannot be read as DICOM; send the series again.") from None


def _beginning(file: BinaryIO, header: Dataset) -> int | None:
    """Give the place of one native image's bytes, from where the reader stopped; None where anything is unusual."""
    meta = getattr(header, "file_meta", None)
    syntax = meta.get("TransferSyntaxUID") if meta is not None else None
    if syntax not in {ImplicitVRLittleEndian, ExplicitVRLittleEndian} or int(header.get("NumberOfFrames") or 1) != 1:
        return None
    head, wanted = file.read(12), b"\xe0\x7f\x10\x00"
    explicit = syntax == ExplicitVRLittleEndian
    if head[:4] != wanted or (explicit and head[4:6] not in {b"OW", b"OB"}):
        return None
    length = int.from_bytes(head[8:12] if explicit else head[4:8], "little")
    needed = int(header.get("Rows") or 0) * int(header.get("Columns") or 0) * (int(header.get("BitsAllocated") or 0) // 8)
    begin = file.tell() - (0 if explicit else 4)
    return begin if length != UNDEFINED and 0 < needed <= length else None


def calibration(header: Dataset) -> Calibration:
    """Read an image's rescale and padding; raises Refused where a CT is not in Hounsfield units.

    Ref: PS3.3 C.11.1.1.2, C.8.2.1
    """
    if "ModalityLUTSequence" in header:
        raise Refused("The pixel values go through a modality look-up table, which is not read here.")
    slope, intercept = header.get("RescaleSlope"), header.get("RescaleIntercept")
    if header.Modality == "CT" and (slope is None or intercept is None):
        raise Refused("The CT has no rescale slope and intercept, so its values are not Hounsfield units.")
    # In an enhanced CT (class ...1.2.1, ...1.2.2) US says that it is no attenuation: a perfusion map. Ref: PS3.3 C.8.15.3.10
    units = {"HU"} if str(header.get("SOPClassUID", "")).startswith("1.2.840.10008.5.1.4.1.1.2.") else {"HU", "US"}
    if header.Modality == "CT" and str(header.get("RescaleType") or "HU").strip() not in units:
        raise Refused("The CT's values are rescaled to another unit than Hounsfield units.")
    slope, intercept = float(slope if slope is not None else 1), float(intercept if intercept is not None else 0)
    if not (np.isfinite(slope) and np.isfinite(intercept)) or slope == 0:
        raise Refused("The rescale slope or intercept is not a usable number.")
    return Calibration(slope=slope, intercept=intercept, padding=_padding(header))


def _padding(header: Dataset) -> tuple[int, int] | None:
    """Give the padding range in the sign of the pixels: a writer may store -2000 as 63536.

    Example: PixelRepresentation 1, 16 bits, PixelPaddingValue 63536: (-2000, -2000).
    """
    value = header.get("PixelPaddingValue")
    if value is None:
        return None
    limit = header.get("PixelPaddingRangeLimit")
    bits, signed = int(header.BitsAllocated), int(header.PixelRepresentation) == 1
    ends = []
    for end in (int(value), int(value if limit is None else limit)):
        folded = end % (1 << bits)
        ends.append(folded - (1 << bits) if signed and folded >= 1 << (bits - 1) else folded)
    return min(ends), max(ends)


def stored_values(dataset: Dataset, frame: int = 1, native: bytes | None = None) -> NDArray[Any]:
    """Decode one frame, counted from 1, to its stored values (rows, columns), unused bits cleared; raises Refused.

    native  the bytes of its pixels, where they are little endian and were read beside the header
    Ref: PS3.3 C.7.6.3.1, PS3.5 8.1.1
    """
    bits, used, high = int(dataset.BitsAllocated), int(dataset.BitsStored), int(dataset.HighBit)
    if bits not in {8, 16, 32} or not 0 < used <= bits or not used - 1 <= high < bits:
        raise Refused("The pixels' bit depth is one that is not read here.")
    if native is None and "PixelData" not in dataset:
        raise Refused("An image of the series has no integer pixel data.")
    signed = int(dataset.PixelRepresentation) == 1
    shape = (int(dataset.Rows), int(dataset.Columns))
    if native is not None or _is_plain(dataset):
        kind = np.dtype(f"<{'i' if signed else 'u'}{bits // 8}")
        size = shape[0] * shape[1] * kind.itemsize
        content = dataset.PixelData if native is None else native
        if len(content) < size * frame:
            raise Refused("An image's pixel data is shorter than its rows and columns ask for.")
        values = np.frombuffer(content, dtype=kind, count=shape[0] * shape[1], offset=size * (frame - 1)).reshape(shape)
    else:
        values = _decompressed(dataset, frame, np.dtype(f"{'i' if signed else 'u'}{bits // 8}"))
    if values.shape != shape:
        raise Refused("An image's pixel data does not have the rows and columns it claims.")
    if used < bits and high >= used - 1:
        # Bits above HighBit may hold an overlay, and a sign need not be extended into them.
        kind = values.dtype
        values = (values << (bits - 1 - high)) >> (bits - used)
        values = values.astype(kind, copy=False)
    return values


def _decompressed(dataset: Dataset, frame: int, kind: np.dtype[Any]) -> NDArray[Any]:
    """Decode an encapsulated or big endian frame into the container its header names.

    A codestream may call signed values unsigned and the other way round; the bits are the same, and the header counts.
    """
    codec = _CODECS.get(UID(dataset.file_meta.TransferSyntaxUID))
    if codec is None:
        return pixel_array(dataset, index=frame - 1)
    offsets = (dataset.ExtendedOffsetTable, dataset.ExtendedOffsetTableLengths) if "ExtendedOffsetTable" in dataset else None
    count = int(dataset.get("NumberOfFrames") or 1)
    stream = get_frame(dataset.PixelData, frame - 1, number_of_frames=count, extended_offsets=offsets)
    decoded: NDArray[Any] = getattr(imagecodecs, codec)(stream)
    if decoded.dtype.kind not in "iu" or decoded.dtype.itemsize > kind.itemsize:
        raise Refused("An image's compressed pixels are of another depth than its header says.")
    return decoded.astype(f"{decoded.dtype.kind}{kind.itemsize}", copy=False).view(kind)


def _is_plain(dataset: Dataset) -> bool:
    """Tell whether the pixels are little endian and not encapsulated."""
    meta = getattr(dataset, "file_meta", None)
    syntax = UID(meta.get("TransferSyntaxUID", "")) if meta is not None else UID("")
    if not syntax:
        return bool(dataset.original_encoding[1]) and not dataset["PixelData"].is_undefined_length
    return syntax.is_transfer_syntax and not syntax.is_compressed and syntax != ExplicitVRBigEndian


class Located(Protocol):
    """A frame: its file, its header, and its number there, None in a file that holds no other."""

    @property
    def path(self) -> Path: ...  # noqa: D102
    @property
    def header(self) -> Dataset: ...  # noqa: D102
    @property
    def number(self) -> int | None: ...  # noqa: D102
    @property
    def pixels_at(self) -> int | None: ...  # noqa: D102


def decode(frames: Sequence[Located]) -> Stack:
    """Decode and calibrate frames of one size, in the order given, reading each file once; raises Refused.

    int16 where that is exact, else int32, else float32. CT padding becomes air; elsewhere padding becomes the darkest
    value. MONOCHROME1 of a modality without absolute values is inverted, so that bright is bright.
    """
    first = frames[0].header
    rules = [calibration(frame.header) for frame in frames]
    stack: Any = np.empty((len(frames), int(first.Rows), int(first.Columns)), dtype=_kind([frame.header for frame in frames], rules))
    outside: list[NDArray[np.bool_] | None] = [None] * len(frames)
    of_file: dict[Path, list[int]] = {}
    for index, frame in enumerate(frames):
        of_file.setdefault(frame.path, []).append(index)

    def fill(path: Path) -> None:
        for index, values in _stored(path, [(index, frames[index]) for index in of_file[path]]):
            outside[index] = _calibrate(values, rules[index], stack[index])

    # Decoders and copies let other threads run; warnings are one filter for all threads, so it is set around them.
    with quiet(), ThreadPoolExecutor(THREADS) as threads:
        list(threads.map(fill, of_file))
    if first.Modality == "CT":
        _fill_with_air(stack, rules, outside)
    else:
        _fill_with_darkest(stack, outside, inverted=first.PhotometricInterpretation == "MONOCHROME1")
    checked: Stack = stack
    return checked


def _stored(path: Path, frames: Sequence[tuple[int, Located]]) -> Iterator[tuple[int, NDArray[Any]]]:
    """Give the stored values of a file's frames, each with its number; raises Refused."""
    native = _native(frames[0][1])
    dataset = read(path, pixels=True) if native is None else frames[0][1].header
    for index, frame in frames:
        try:
            yield index, stored_values(dataset, frame.number or 1, native)
        except UNREADABLE:
            raise Refused("An image's pixel data cannot be decoded; the file is damaged or its compression is not known.") from None


def _native(frame: Located) -> bytes | None:
    """Read the bytes of a native image's pixels, which spares reading its header again; raises Refused."""
    if frame.pixels_at is None:
        return None
    header = frame.header
    try:
        with frame.path.open("rb") as file:
            file.seek(frame.pixels_at)
            return file.read(int(header.Rows) * int(header.Columns) * (int(header.BitsAllocated) // 8))
    except UNREADABLE:
        raise Refused("A file of the series cannot be read as DICOM; send the series again.") from None


def _kind(headers: Sequence[Dataset], rules: Sequence[Calibration]) -> type[np.int16 | np.int32 | np.float32]:
    """Choose the smallest type that holds every possible value exactly.

    Example: 12 bits unsigned, slope 1, intercept -1024: -1024..3071, so int16.
    """
    if any(rule.slope % 1 or rule.intercept % 1 for rule in rules):
        return np.float32
    ends = []
    for header, rule in zip(headers, rules, strict=True):
        used, signed = int(header.BitsStored), int(header.PixelRepresentation) == 1
        low, high = (-(1 << (used - 1)), (1 << (used - 1)) - 1) if signed else (0, (1 << used) - 1)
        ends += [low * rule.slope + rule.intercept, high * rule.slope + rule.intercept]
    for kind in (np.int16, np.int32):
        if np.iinfo(kind).min <= min(ends) and max(ends) <= np.iinfo(kind).max:
            return kind
    return np.float32


def _calibrate(values: NDArray[Any], rule: Calibration, into: NDArray[Any]) -> NDArray[np.bool_] | None:
    """Write one slice's real values; give where its padding is."""
    outside = None
    if rule.padding is not None:
        outside = (values >= rule.padding[0]) & (values <= rule.padding[1])
    if into.dtype == np.float32:
        into[...] = values.astype(np.float64) * rule.slope + rule.intercept
    elif rule.slope == 1 and into.dtype == np.int16 and values.dtype in {np.dtype(np.int16), np.dtype(np.uint16)}:
        # Sums modulo 2^16 are exact, because the results fit.
        np.add(values.view(np.int16), np.array(int(rule.intercept) & 0xFFFF, np.uint16).view(np.int16), out=into)
    elif rule.slope == 1:
        np.add(values, int(rule.intercept), out=into, dtype=np.int64, casting="unsafe")
    else:
        into[...] = values.astype(np.int64) * int(rule.slope) + int(rule.intercept)
    return outside


def _fill_with_air(stack: Stack, rules: Sequence[Calibration], outside: Sequence[NDArray[np.bool_] | None]) -> None:
    """Give air to a CT's padding, unless its value could be tissue: some writers declare 0 and mean nothing by it."""
    for plane, rule, where in zip(stack, rules, outside, strict=True):
        if where is None or rule.padding is None:
            continue
        ends_hu = [end * rule.slope + rule.intercept for end in rule.padding]
        if max(ends_hu) <= AIR_HU or min(ends_hu) > HIGHEST_TISSUE_HU:
            plane[where] = AIR_HU


def _fill_with_darkest(stack: Stack, outside: Sequence[NDArray[np.bool_] | None], *, inverted: bool) -> None:
    """Give padding the darkest value: 0 where no image value is below it. Inverts first where asked."""
    if inverted:
        # One range for the whole stack: values of different slices stay comparable.
        low, high = stack.min().item(), stack.max().item()
        for plane in stack:
            plane[...] = low + (high - plane.astype(np.float64))
    if all(where is None or not where.any() for where in outside):
        return
    inside = np.ones(stack.shape, dtype=bool)
    for plane, where in zip(inside, outside, strict=True):
        if where is not None:
            plane[where] = False
    lowest = stack[inside].min() if inside.any() else 0
    stack[~inside] = min(0, lowest)
