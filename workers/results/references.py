"""References to frames: highdicom takes one multi-frame image as source, and all of its frames.

So frames stand in as single images with UIDs of their own while an object is built, and the references are put right
afterwards. Ref: PS3.3 Table 10-3 (Referenced Frame Number), C.7.6.16.2.6 (Derivation Image)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pydicom.dataset import Dataset

from workers.frames import ENHANCED
from workers.results import elements
from workers.results.request import ComposeRequest

KEYWORDS = ("ReferencedSOPClassUID", "ReferencedSOPInstanceUID", "ReferencedFrameNumber")
"""The elements that name an image and a frame."""


def stand_ins(request: ComposeRequest, headers: Sequence[Dataset], indices: Sequence[int] | None = None) -> list[Dataset]:
    """Give each slice's header as that of a single-frame image; where all sources are such images, the headers as they are.

    `indices` tell which slices the headers are, where they are not all.
    """
    if not request.frames:
        return list(headers)
    return [_stand_in(header, index) for index, header in zip(indices or range(len(headers)), headers, strict=True)]


def _stand_in(header: Dataset, index: int) -> Dataset:
    single = Dataset()
    single.update(header)
    # New elements: a copy of a data set shares its elements with the original.
    single.add_new("SOPClassUID", "UI", ENHANCED.get(header.SOPClassUID, header.SOPClassUID))
    single.add_new("SOPInstanceUID", "UI", _uid(index))
    return single


def _uid(index: int) -> str:
    return f"2.25.{index + 1}"


def put_right(request: ComposeRequest, dataset: Dataset) -> None:
    """Let every reference to a stand-in name its image and frame; a list of images names each once."""
    if not request.frames:
        return
    by_uid = {_uid(index): index for index in range(len(request.sources))}
    for item in _items(dataset):
        index = by_uid.get(item.get("ReferencedSOPInstanceUID", ""))
        if index is not None:
            point(request, item, index)
    for series in dataset.get("ReferencedSeriesSequence", ()):
        if "ReferencedImageSequence" in series:
            series.ReferencedImageSequence = _together(series.ReferencedImageSequence)
            continue
        images = {item.ReferencedSOPInstanceUID: item for item in series.ReferencedInstanceSequence}
        for item in images.values():
            if "ReferencedFrameNumber" in item:
                del item.ReferencedFrameNumber
        series.ReferencedInstanceSequence = list(images.values())


def _together(items: Sequence[Dataset]) -> list[Dataset]:
    """List an image once, with all the frames that are named of it. Ref: PS3.3 C.11.11."""
    frames: dict[str, list[int]] = {}
    images: dict[str, Dataset] = {}
    for item in items:
        frames.setdefault(item.ReferencedSOPInstanceUID, []).append(item.get("ReferencedFrameNumber"))
        images.setdefault(item.ReferencedSOPInstanceUID, item)
    for uid, item in images.items():
        if None not in frames[uid]:
            item.ReferencedFrameNumber = sorted(frames[uid])
    return list(images.values())


def point(request: ComposeRequest, item: Dataset, index: int) -> None:
    """Let a reference name a slice's image, and its frame there."""
    source, frame = request.sources[index], request.frame(index)
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = source.SOPClassUID, source.SOPInstanceUID
    if frame is not None:
        item.ReferencedFrameNumber = frame


def encoded(request: ComposeRequest, index: int) -> bytes:
    """Give the elements of a reference to a slice's image, and to its frame there, as bytes."""
    source, frame = request.sources[index], request.frame(index)
    named = image(source.SOPClassUID, source.SOPInstanceUID)
    return named if frame is None else named + elements.text("ReferencedFrameNumber", "IS", frame)


def image(sop_class_uid: str, sop_instance_uid: str) -> bytes:
    """Give the elements of a reference to an image as bytes."""
    return elements.text(KEYWORDS[0], "UI", sop_class_uid) + elements.text(KEYWORDS[1], "UI", sop_instance_uid)


def _items(dataset: Dataset) -> Iterator[Dataset]:
    """Give every item of every sequence below a data set."""
    for element in dataset:
        if element.VR == "SQ":
            for item in element.value:
                yield item
                yield from _items(item)
