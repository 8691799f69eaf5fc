"""Read SEGs back voxel by voxel, from their bytes alone.

Ref: PS3.3 C.8.20.2
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.pixels.utils import iter_pixels

from node.errors import Refused
from workers.results import check_bytes, check_frames
from workers.results.check_frames import Bits, Frame, Group, Numbered
from workers.results.check_place import check_planes, place_of
from workers.results.marks import Mark
from workers.results.request import ComposeRequest

SYNTAXES = {"explicit": "1.2.840.10008.1.2.1", "rle": "1.2.840.10008.1.2.5", "jpeg-ls": "1.2.840.10008.1.2.4.80"}
Frames = Mapping[int, Frame]
"""By slice index."""


def verify(request: ComposeRequest, segs: Sequence[Dataset], found: Mapping[str, Mark]) -> None:
    """Raise Refused unless the SEGs hold exactly the prediction's marks, each in one of them."""
    wanted = {tracking: mark for tracking, mark in found.items() if not mark.boxed}
    if bool(wanted) != bool(segs):
        raise Refused("the prediction marks something but there is no SEG" if wanted else "the SEG is empty")
    if len({seg.SeriesInstanceUID for seg in segs}) != len(segs):
        raise Refused("two SEGs of the result share a series, of which a viewer shows one")
    held: Counter[str] = Counter()
    for seg in segs:
        groups = check_frames.groups(seg)  # first: what pydicom has read of them is no longer their bytes
        _check_geometry(request, seg)
        _check_references(request, seg)
        _check_form(request, seg)
        masks = _masks(request, seg, groups)
        held.update(_check_segments(request, seg, masks, wanted))
    if held != Counter(wanted.keys()):
        raise Refused("the SEG does not have one segment for each organ and finding")


def _values(plane: NDArray[Any]) -> list[int]:
    """Give the values besides 0, from the first pixel of each run of equal ones: there are few runs."""
    flat = plane.ravel()
    firsts = np.concatenate([[True], flat[1:] != flat[:-1]])
    return [value for value in np.unique(flat[firsts]).tolist() if value]


def _check_geometry(request: ComposeRequest, seg: Dataset) -> None:
    """Compare the SEG's plane with the images' and with the grid, in millimetres of the farthest corner."""
    grid, first = request.prediction.grid, request.sources[0]
    if (seg.Rows, seg.Columns) != grid.shape[1:]:
        raise Refused("the SEG is not on the images' grid")
    if grid.is_projection:
        _check_projection(request, seg)
        return
    if seg.FrameOfReferenceUID != first.FrameOfReferenceUID:
        raise Refused("the SEG lies in another frame of reference than the images")
    check_planes(request, seg.SharedFunctionalGroupsSequence[0], "SEG")


def _check_projection(request: ComposeRequest, seg: Dataset) -> None:
    """Look that a radiograph's SEG claims no place in the patient, and millimetres only where the picture is calibrated."""
    shared, grid = seg.SharedFunctionalGroupsSequence[0], request.prediction.grid
    placed = ("PlanePositionSequence", "PlaneOrientationSequence")
    if (
        any(keyword in group for group in (shared, *seg.PerFrameFunctionalGroupsSequence) for keyword in placed)
        or "FrameOfReferenceUID" in seg
    ):
        raise Refused("the SEG places a radiograph in the patient")
    told = [list(map(float, item.PixelSpacing)) for item in shared.get("PixelMeasuresSequence", ())]
    if len(told) != int(grid.calibrated) or any(np.abs(np.subtract(spacing, grid.spacing_mm[1:])).max() > 1e-6 for spacing in told):
        raise Refused("the SEG's pixel spacing is not that of the radiograph, or claims millimetres that are not known")


def _check_references(request: ComposeRequest, seg: Dataset) -> None:
    """Look for every slice in the SEG's references, and for nothing else."""
    series = check_bytes.referred(seg)
    named = [instance for _, images in series for _, instance in images]
    if [uid for uid, _ in series] != [request.sources[0].SeriesInstanceUID]:
        raise Refused("the SEG does not refer to the images' series")
    if sorted(named) != sorted({source.SOPInstanceUID for source in request.sources}):
        raise Refused("the SEG does not refer to every image of the series")


def _check_form(request: ComposeRequest, seg: Dataset) -> None:
    """Compare type and transfer syntax with what the profile asks for, and look at the segments' descriptions."""
    profile, binary = request.profile, seg.SegmentationType == "BINARY"
    whole_bytes = int(seg.Rows) * int(seg.Columns) % 8 == 0
    if binary and not whole_bytes and profile.seg_type != "binary":
        raise Refused("a BINARY SEG whose frames do not end on a byte is shown scrambled")
    if binary != (profile.seg_type == "binary" or (profile.seg_type == "auto" and whole_bytes)):
        raise Refused("the SEG is not of the type that the profile asks for")
    if seg.file_meta.TransferSyntaxUID != SYNTAXES["explicit" if binary else profile.seg_syntax]:
        raise Refused("the SEG is not in the transfer syntax that the profile asks for")
    if [int(item.SegmentNumber) for item in seg.SegmentSequence] != list(range(1, len(seg.SegmentSequence) + 1)):
        raise Refused("the SEG does not have one segment for each organ and finding, numbered from 1")
    for item in seg.SegmentSequence:
        if item.SegmentAlgorithmType != "AUTOMATIC" or not item.get("TrackingUID"):
            raise Refused(f"segment {item.SegmentNumber} of the SEG does not say that an algorithm made it, or cannot be tracked")
    most = profile.seg_segments_max
    if most is not None and len(seg.SegmentSequence) > most:
        raise Refused(f"the SEG has more than the {most} segments that the profile allows")
    if profile.frames_max is not None and int(seg.NumberOfFrames) > profile.frames_max:
        raise Refused(f"the SEG has more than the {profile.frames_max} frames that the profile allows")


def _check_segments(request: ComposeRequest, seg: Dataset, masks: Mapping[int, Frames], wanted: Mapping[str, Mark]) -> list[str]:
    """Compare each of the SEG's segments with the mask that its tracking UID stands for; give these UIDs."""
    numbers = [int(item.SegmentNumber) for item in seg.SegmentSequence]
    if masks.keys() - set(numbers):
        raise Refused("the SEG does not have one segment for each organ and finding: it marks one that it does not describe")
    if seg.SegmentsOverlap != "YES" and _overlap(request, list(masks.values())):
        raise Refused("two segments of the SEG overlap, which it does not say")
    for number, item in zip(numbers, seg.SegmentSequence, strict=True):
        mark = wanted.get(str(item.TrackingUID))
        if mark is None:
            raise Refused("the SEG does not have one segment for each organ and finding")
        _compare(request, number, masks.get(number, {}), mark)
        _check_description(item, mark)
    return [str(item.TrackingUID) for item in seg.SegmentSequence]


def _compare(request: ComposeRequest, number: int, masks: Frames, mark: Mark) -> None:
    """Compare every voxel, frame by frame, and look that no slice is left out.

    Pixels are compared on the rows that the mark has; as many on the frame as the mark has leave none for other rows.
    """
    if not mark.areas.keys() <= masks.keys():
        raise Refused(f"segment {number} of the SEG is not the mask that was predicted: a slice of it is missing")
    for index, frame in masks.items():
        band = mark.band(index)
        if frame.count() != mark.areas.get(index, 0) or not np.array_equal(frame.rows(band), mark.plane(index, band)):
            raise Refused(f"segment {number} of the SEG is not the mask that was predicted")
        if index not in mark.areas and not request.profile.seg_empty_frames:
            raise Refused(f"segment {number} of the SEG has a frame without a voxel")


def _check_description(item: Dataset, mark: Mark) -> None:
    """Look at what a viewer shows of a segment."""
    number, kind, code = int(item.SegmentNumber), item.SegmentedPropertyTypeCodeSequence[0], mark.part.type
    if item.SegmentLabel != mark.name or len(item.SegmentLabel) > 64 or not item.get("RecommendedDisplayCIELabValue"):
        raise Refused(f"segment {number} of the SEG does not carry its label and colour")
    if (kind.CodingSchemeDesignator, kind.get("CodeValue")) != (code.scheme, code.value):
        raise Refused(f"segment {number} of the SEG is said to be of another type than its label")


def _overlap(request: ComposeRequest, segments: Sequence[Frames]) -> bool:
    """Tell whether two segments of one SEG share a voxel; labels and instances alone are looked at as they are, which is fast."""
    prediction = request.prediction
    if prediction.masks:
        whole = slice(0, prediction.grid.shape[1])
        planes = ([masks[index].rows(whole) for masks in segments if index in masks] for index in range(prediction.grid.shape[0]))
        return any(len(marked) > 1 and np.any(np.sum(marked, axis=0, dtype=np.uint16) > 1) for marked in planes)
    if prediction.instances is None:
        return False
    return any(np.any((labels > 0) & (lesions > 0)) for labels, lesions in zip(prediction.labels, prediction.instances, strict=True))


def _masks(request: ComposeRequest, seg: Dataset, groups: Sequence[Group]) -> dict[int, dict[int, Frame]]:
    """Give the frames by segment number and slice; every frame lies where its own position says."""
    if len(groups) != int(seg.NumberOfFrames):
        raise Refused("the SEG has not one description for each frame")
    places = _places(request, groups)
    if seg.SegmentationType == "LABELMAP":
        return _masks_of_labelmap(request, seg, places)
    _check_length(seg)
    shape = (int(seg.Rows), int(seg.Columns))
    data, masks = memoryview(seg.PixelData), dict[int, dict[int, Frame]]()
    for frame, (group, index) in enumerate(zip(groups, places, strict=True)):
        number = _number_of(seg, group)
        if index in masks.setdefault(number, {}):
            raise Refused(f"segment {number} of the SEG has two frames on one image")
        masks[number][index] = Bits(data=data, first=frame * shape[0] * shape[1], shape=shape)
    if request.profile.seg_empty_frames and any(len(found) != len(request.sources) for found in masks.values()):
        raise Refused("the SEG leaves out frames without a voxel, which the profile asks for")
    return masks


def _places(request: ComposeRequest, groups: Sequence[Group]) -> list[int]:
    """Give each frame's slice; from equal bytes it is read once."""
    known: dict[tuple[bytes | None, bytes | None], int] = {}
    for group in groups:
        if group.place not in known:
            told, derivation = group.place
            position = None if request.prediction.grid.is_projection else check_frames.position(told)
            known[group.place] = place_of(request, position, check_frames.named(derivation), "SEG")
    return [known[group.place] for group in groups]


def _number_of(seg: Dataset, group: Group) -> int:
    """Give the segment of a BINARY frame; where the SEG has only one, all frames share it."""
    number = group.number
    if number is not None:
        return number
    return int(seg.SharedFunctionalGroupsSequence[0].SegmentIdentificationSequence[0].ReferencedSegmentNumber)


def _check_length(seg: Dataset) -> None:
    """Look that BINARY pixel data ends where the last frame does, padded to an even length. Ref: PS3.5 8.1.1."""
    size = -(-int(seg.NumberOfFrames) * int(seg.Rows) * int(seg.Columns) // 8)
    if int(seg.BitsAllocated) != 1 or len(seg.PixelData) != size + size % 2:
        raise Refused("the SEG's pixel data is " + ("short" if len(seg.PixelData) < size else "longer than its frames"))


def _masks_of_labelmap(request: ComposeRequest, seg: Dataset, places: Sequence[int]) -> dict[int, dict[int, Frame]]:
    """Decode a LABELMAP with pydicom and its plug-ins, never with what encoded it."""
    empty = request.profile.seg_empty_frames
    if len(set(places)) != len(places) or (empty and len(places) != len(request.sources)):
        raise Refused("the SEG has not one frame for each image")
    masks: dict[int, dict[int, Frame]] = {}
    try:
        frames = list(iter_pixels(seg, raw=True))
    except (ValueError, RuntimeError, AttributeError) as error:
        raise Refused(f"the SEG's pixel data is short or cannot be decoded ({type(error).__name__})") from None
    for pixels, index in zip(frames, places, strict=True):
        values = _values(pixels)
        if not values and not empty:
            raise Refused("the SEG has a frame without a voxel")
        for value in values:
            masks.setdefault(value, {})[index] = Numbered(pixels=pixels, value=value)
    return masks
