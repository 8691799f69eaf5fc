"""A fault in what writes the SEG never leaves: the last gate reads the bytes and shares no code with it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from node.errors import Refused
from tests.workers.results import scans
from tests.workers.results.scans import Scan
from tests.workers.results.test_seg import FORMS, asked, overlapping
from workers.results import ComposeRequest, check_place, compose, packing, references, seg, seg_frames
from workers.results.request import Draft
from workers.results.segments import mask_on

Plant = Callable[[pytest.MonkeyPatch], None]
ODD = Scan(shape=(10, 25, 31))


def masks(change: Callable[..., Any]) -> Plant:
    """Give a fault in the masks of BINARY frames: `change` takes the mask's function, request, segment and slice."""
    return lambda patch: patch.setattr(packing, "mask_on", lambda *given: change(mask_on, *given))


def bits(change: Callable[[bytes], bytes]) -> Plant:
    """Give a fault in the packed bits."""
    right = packing.bits
    return lambda patch: patch.setattr(packing, "bits", lambda *given: change(right(*given)))


def numbers(change: Callable[[Any], Any]) -> Plant:
    """Give a fault in a LABELMAP's frames."""
    right = packing._numbers
    return lambda patch: patch.setattr(packing, "_numbers", lambda *given: map(change, right(*given)))


def sources(patch: pytest.MonkeyPatch) -> None:
    """Let each frame name the source of the next slice."""
    right = references.encoded
    patch.setattr(seg_frames.references, "encoded", lambda request, index: right(request, (index + 1) % len(request.sources)))


def groups(change: Callable[[Any], Any]) -> Plant:
    """Give a fault in the list of frames whose groups are written."""
    right = seg_frames.splice
    return lambda patch: patch.setattr(seg_frames, "splice", lambda request, dataset, frames: right(request, dataset, change(frames)))


def each_frame_to_bytes(data: bytes) -> bytes:
    """End every frame on a byte, as if bits did not run on."""
    size = 25 * 31
    values = np.unpackbits(np.frombuffer(data, np.uint8), bitorder="little")
    frames = values[: len(values) // size * size].reshape(-1, size)
    out = np.packbits(frames, axis=1, bitorder="little").tobytes()
    return out + b"\0" * (len(out) % 2)


def of_even_size(data: bytes) -> bytes:
    """Begin one frame late."""
    return data[96:] + data[:96]


def one_bit_late(data: bytes) -> bytes:
    """Move all bits by one."""
    values = np.unpackbits(np.frombuffer(data, np.uint8), bitorder="little")
    return np.packbits(np.roll(values, 1), bitorder="little").tobytes()


FAULTS: dict[str, tuple[str, Plant, str]] = {
    "mirrored left to right": ("binary", masks(lambda right, *given: right(*given)[:, ::-1]), "not the mask"),
    "mirrored top to bottom": ("binary", masks(lambda right, *given: right(*given)[::-1]), "not the mask"),
    "the mask of the next slice": ("binary", masks(lambda right, r, part, z, *rows: right(r, part, (z + 1) % 10, *rows)), "not the mask"),
    "one frame late": ("binary", bits(of_even_size), "not the mask"),
    "bits from the wrong end": (
        "binary",
        bits(lambda data: np.packbits(np.unpackbits(np.frombuffer(data, np.uint8)), bitorder="little").tobytes()),
        "not the mask",
    ),
    "a frame missing": ("binary", bits(lambda data: data[96:]), "short"),
    "a frame too many": ("binary", bits(lambda data: data + data[:96]), "longer"),
    "each frame ends on a byte": ("odd binary", bits(each_frame_to_bytes), "longer|not the mask"),
    "each frame one bit late": (
        "odd binary",
        bits(one_bit_late),
        "not the mask",
    ),
    "the source of the next slice": ("binary", sources, "another source image"),
    "the places of the next frame": ("binary", groups(lambda frames: [*frames[1:], frames[0]]), "not the mask|two frames"),
    "a description missing": ("binary", groups(lambda frames: frames[:-1]), "one description for each frame"),
    "a labelmap mirrored": ("labelmap", numbers(lambda plane: np.ascontiguousarray(plane[:, ::-1])), "not the mask"),
    "a labelmap of other numbers": ("labelmap RLE", numbers(lambda plane: np.minimum(plane, 1)), "not the mask"),
    "a labelmap of numbers one too high": ("labelmap", numbers(lambda plane: plane + (plane > 0).astype(plane.dtype)), "does not describe"),
    "a labelmap JPEG-LS off by a line": ("labelmap JPEG-LS", numbers(lambda plane: np.roll(plane, 1, axis=0)), "not the mask"),
    "a labelmap's places of the next slice": ("labelmap", groups(lambda frames: [*frames[1:], frames[0]]), "not the mask"),
    "a labelmap RLE cut short": (
        "labelmap RLE",
        lambda patch: patch.setitem(packing.ENCODERS, "rle", lambda plane: packing._rle(plane)[:-20]),
        "short or cannot be decoded|not the mask",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_in_the_writer_is_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever goes wrong while writing is found by reading."""
    form, plant, reason = FAULTS[name]
    scan = ODD if form == "odd binary" else Scan()
    request = asked(scans.request(scan), sr_form="text", **FORMS[form.removeprefix("odd ")])
    compose(request)
    plant(monkeypatch)
    with pytest.raises(Refused, match=reason):
        compose(request)


def without_the_second(right: Callable[[Draft], Any]) -> Callable[[Draft], Any]:
    """Leave one of several SEGs out."""
    return lambda draft: right(draft)[:1]


def the_first_twice(right: Callable[[Draft], Any]) -> Callable[[Draft], Any]:
    """Write the segments of the first SEG into another one too."""

    def write(draft: Draft) -> Any:
        more = [(replace(segment, seg=9 if segment.seg else 0), measures) for segment, measures in draft.measured]
        return (*right(draft), *right(replace(draft, measured=tuple(pair for pair in more if pair[0].seg == 0))))

    return write


@pytest.mark.parametrize(("fault", "reason"), [(without_the_second, "one segment for each"), (the_first_twice, "share a UID")])
def test_every_segment_is_in_exactly_one_seg(fault: Any, reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A set of segments that is left out, or written twice, is refused."""
    import workers.results as package  # noqa: PLC0415

    request = asked(overlapping(), seg_type="labelmap", sr_form="text")
    monkeypatch.setitem(package.WRITERS, "seg", fault(seg.write))
    with pytest.raises(Refused, match=reason):
        compose(request)


def test_segments_that_overlap_must_be_said_to(monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader that is told of no overlap puts segments into one array, where one covers the other."""
    monkeypatch.setattr(seg, "_overlap", lambda *_: False)
    with pytest.raises(Refused, match="overlap, which it does not say"):
        compose(asked(overlapping(), seg_type="binary", sr_form="text"))


def test_an_organ_lost_from_the_plan_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The gate finds the organs in the prediction itself, not in what the plan and the measures were told that labels cover."""
    import workers.results as package  # noqa: PLC0415

    right = package.covers
    monkeypatch.setattr(package, "covers", lambda array: {value: found for value, found in right(array).items() if value != 2})
    request: ComposeRequest = asked(scans.request(nodules=0), sr_form="text")
    with pytest.raises(Refused, match="one segment for each"):
        compose(request)


def test_the_gate_itself_refuses_images_in_another_order() -> None:
    """Slices in the wrong order would put every mark on another image, whatever was looked at before writing."""
    request = asked(scans.request(), sr_form="text")
    check_place.check_images(request)
    with pytest.raises(Refused, match="order of the volume"):
        check_place.check_images(replace(request, sources=request.sources[::-1]))
