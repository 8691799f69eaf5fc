"""Read a SEG back voxel by voxel.

Ref: PS3.3 C.8.20.2; PS3.5 8.1.1 (bits run from the least significant upwards)
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from node.errors import Refused
from workers.results.request import ComposeRequest

PLACE_MM = 1e-3
EXPLICIT_LITTLE_ENDIAN = "1.2.840.10008.1.2.1"
Numbers = NDArray[np.uint16]
"""Segment numbers on the prediction's grid."""


def verify(request: ComposeRequest, seg: Dataset | None) -> Numbers | None:
    """Raise Refused unless the SEG holds exactly the prediction's marks; give the decoded segment numbers."""
    wanted = _wanted(request)
    if seg is None:
        if wanted:
            raise Refused("the prediction marks something but there is no SEG")
        return None
    if not wanted:
        raise Refused("the SEG is empty")
    _check_geometry(request, seg)
    _check_references(request, seg)
    if [int(item.SegmentNumber) for item in seg.SegmentSequence] != list(range(1, len(wanted) + 1)):
        raise Refused("the SEG does not have one segment for each organ and finding")
    decoded = _decode(request, seg)
    _compare(request, wanted, decoded)
    for (label, _, _), item in zip(wanted, seg.SegmentSequence, strict=True):
        number = int(item.SegmentNumber)
        if not item.SegmentLabel.startswith(label) or len(item.SegmentLabel) > 64 or not item.get("RecommendedDisplayCIELabValue"):
            raise Refused(f"segment {number} of the SEG does not carry its label and colour")
        if item.SegmentAlgorithmType != "AUTOMATIC" or not item.get("TrackingUID"):
            raise Refused(f"segment {number} of the SEG does not say that an algorithm made it, or cannot be tracked")
    return decoded


def _wanted(request: ComposeRequest) -> list[tuple[str, str, int]]:
    """Give label, array and value of every segment there must be, straight from the prediction."""
    prediction, card = request.prediction, request.card.card
    wanted = [
        (part.label, "labels", part.index)
        for part in card.output.labels
        if part.kind == "organ" and any((plane == part.index).any() for plane in prediction.labels)
    ]
    findings = [] if prediction.instances is None else sorted(prediction.findings, key=lambda entry: entry.number)
    return wanted + [(card.label(finding.label).label, "instances", finding.number) for finding in findings]


def _compare(request: ComposeRequest, wanted: list[tuple[str, str, int]], decoded: Numbers) -> None:
    """Compare every voxel, slice by slice: a whole mask a segment would take gigabytes."""
    seen: set[int] = set()
    for index, plane in enumerate(decoded):
        seen |= set(np.unique(plane).tolist())
        for number, (_, array, value) in enumerate(wanted, start=1):
            if not np.array_equal(plane == number, getattr(request.prediction, array)[index] == value):
                raise Refused(f"segment {number} of the SEG is not the mask that was predicted")
    if seen - {0} != set(range(1, len(wanted) + 1)):
        raise Refused("the SEG does not have one segment for each organ and finding")


def _check_geometry(request: ComposeRequest, seg: Dataset) -> None:
    """Compare the SEG's plane with the images' and with the grid, in millimetres of the farthest corner."""
    grid, first = request.prediction.grid, request.sources[0]
    if seg.FrameOfReferenceUID != first.FrameOfReferenceUID:
        raise Refused("the SEG lies in another frame of reference than the images")
    if (seg.Rows, seg.Columns) != grid.shape[1:] or len(request.sources) != grid.shape[0]:
        raise Refused("the prediction's grid is not that of the images")
    shared = seg.SharedFunctionalGroupsSequence[0]
    orientation = np.array(shared.PlaneOrientationSequence[0].ImageOrientationPatient, dtype=float)
    spacing = np.array(shared.PixelMeasuresSequence[0].PixelSpacing, dtype=float)
    # x grows along the row's direction by the distance between columns, the second spacing. Ref: PS3.3 C.7.6.2.1.1
    along_x, along_y = orientation[:3] * spacing[1], orientation[3:] * spacing[0]
    affine = grid.affine
    reach = np.array([affine[:3, 2] - along_x, affine[:3, 1] - along_y]) * np.array([[grid.shape[2]], [grid.shape[1]]])
    if np.abs(reach).max() > PLACE_MM:
        raise Refused("the SEG's orientation or spacing is not that of the images")
    step, normal = affine[:3, 0], np.cross(affine[:3, 2], affine[:3, 1])
    apart = abs(float(step @ normal)) / float(np.linalg.norm(normal))
    if abs(float(shared.PixelMeasuresSequence[0].get("SpacingBetweenSlices", apart)) - apart) > PLACE_MM:
        raise Refused("the SEG's slice spacing is not that of the images")
    for index, source in enumerate(request.sources):
        place = grid.to_world_mm(np.array([[index, 0.0, 0.0]]))[0]
        if np.abs(place - np.array(source.ImagePositionPatient, dtype=float)).max() > PLACE_MM:
            raise Refused("the source images are not in the order of the volume's slices")


def _check_references(request: ComposeRequest, seg: Dataset) -> None:
    """Look for every slice in the SEG's references, and for nothing else."""
    series = seg.ReferencedSeriesSequence
    named = [item.ReferencedSOPInstanceUID for entry in series for item in entry.ReferencedInstanceSequence]
    if len(series) != 1 or series[0].SeriesInstanceUID != request.sources[0].SeriesInstanceUID:
        raise Refused("the SEG does not refer to the images' series")
    if sorted(named) != sorted({source.SOPInstanceUID for source in request.sources}):
        raise Refused("the SEG does not refer to every image of the series")


def _decode(request: ComposeRequest, seg: Dataset) -> Numbers:
    """Put every frame where its own position says; raises Refused where that is no slice of the images."""
    shared = seg.SharedFunctionalGroupsSequence[0]
    decoded = np.zeros(request.prediction.grid.shape, np.uint16)
    taken: set[tuple[int, int]] = set()
    groups = seg.PerFrameFunctionalGroupsSequence
    if len(groups) != int(seg.NumberOfFrames):
        raise Refused("the SEG has not one description for each frame")
    for frame, group in zip(_frames(seg), groups, strict=True):
        index = _slice_of(request, group)
        number = _number_of(seg, group, shared)
        if (index, number) in taken:
            raise Refused(f"segment {number} of the SEG has two frames on one image")
        taken.add((index, number))
        marked = frame > 0
        if (decoded[index][marked] > 0).any():
            raise Refused("two segments of the SEG overlap")
        decoded[index][marked] = number or frame[marked]
    return decoded


def _slice_of(request: ComposeRequest, group: Dataset) -> int:
    """Find the slice a frame lies on by its position alone, and compare with the source it names."""
    grid = request.prediction.grid
    position = np.array([group.PlanePositionSequence[0].ImagePositionPatient], dtype=float)
    index = round(float(grid.to_index(position)[0, 0]))
    off_mm = np.abs(grid.to_world_mm(np.array([[index, 0.0, 0.0]])) - position).max()
    if not 0 <= index < grid.shape[0] or off_mm > PLACE_MM:
        raise Refused("a frame of the SEG lies on none of the images")
    images = [item for entry in group.DerivationImageSequence for item in entry.SourceImageSequence]
    derived = [(item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID, item.get("ReferencedFrameNumber")) for item in images]
    source = request.sources[index]
    if derived != [(source.SOPClassUID, source.SOPInstanceUID, request.frame(index))]:
        raise Refused("a frame of the SEG names another source image than the one it lies on")
    return index


def _number_of(seg: Dataset, group: Dataset, shared: Dataset) -> int:
    """Give the segment of a BINARY frame, 0 for a LABELMAP's, whose values are the numbers."""
    if seg.SegmentationType == "LABELMAP":
        return 0
    identification = group.get("SegmentIdentificationSequence") or shared.SegmentIdentificationSequence
    return int(identification[0].ReferencedSegmentNumber)


def _frames(seg: Dataset) -> Iterator[NDArray[np.unsignedinteger[Any]]]:
    """Unpack the pixel data frame by frame."""
    if seg.file_meta.TransferSyntaxUID != EXPLICIT_LITTLE_ENDIAN:
        raise Refused("the SEG is not Explicit VR Little Endian")
    count, rows, columns = int(seg.NumberOfFrames), int(seg.Rows), int(seg.Columns)
    bits = rows * columns * int(seg.BitsAllocated)
    if bits % 8:
        raise Refused("a BINARY SEG whose frames do not end on a byte is shown scrambled")
    if len(seg.PixelData) < count * bits // 8:
        raise Refused("the SEG's pixel data is short")
    for start in range(0, count * bits // 8, bits // 8):
        data = seg.PixelData[start : start + bits // 8]
        if seg.SegmentationType == "BINARY":
            yield np.unpackbits(np.frombuffer(data, np.uint8), bitorder="little").reshape(rows, columns)
        else:
            yield np.frombuffer(data, "<u2" if seg.BitsAllocated == 16 else np.uint8).reshape(rows, columns)
