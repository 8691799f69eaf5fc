"""Fill an RT Structure Set's lines again and compare with the prediction, voxel by voxel, each line where its own points lie.

Ref: PS3.3 C.8.8.5, C.8.8.6, C.8.8.8
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from node.errors import Refused
from workers.results.check_place import on_image
from workers.results.marks import Mark
from workers.results.request import ComposeRequest

Mask = NDArray[np.bool_]


def verify(request: ComposeRequest, written: Sequence[Dataset], found: Mapping[str, Mark]) -> None:
    """Raise Refused unless there is one region for each mark with voxels, and its lines enclose exactly these."""
    wanted = {mark.name: mark for mark in found.values() if not mark.boxed}
    if len(written) != (1 if wanted and not request.prediction.grid.is_projection else 0):
        raise Refused("the result has not the one structure set that it should have")
    for entry in written:
        _check_references(request, entry)
        regions = {int(item.ROINumber): item for item in entry.StructureSetROISequence}
        if sorted(str(item.ROIName) for item in regions.values()) != sorted(wanted) or len(regions) != len(wanted):
            raise Refused("the structure set has not one region for each mark")
        drawn = {int(item.ReferencedROINumber): item for item in entry.ROIContourSequence}
        told = {int(item.ReferencedROINumber): item for item in entry.RTROIObservationsSequence}
        if drawn.keys() != regions.keys() or told.keys() != regions.keys():
            raise Refused("the structure set does not draw and describe each of its regions once")
        for number, region in regions.items():
            mark = wanted[str(region.ROIName)]
            if (
                region.ReferencedFrameOfReferenceUID != request.sources[0].FrameOfReferenceUID
                or region.ROIGenerationAlgorithm != "AUTOMATIC"
            ):
                raise Refused("a region of the structure set lies in another frame of reference, or is not said to be automatic")
            if [code.CodeValue for code in told[number].RTROIIdentificationCodeSequence] != [mark.part.type.value]:
                raise Refused("a region of the structure set is said to be of another type than its mark")
            _check_lines(request, drawn[number], mark)


def _check_references(request: ComposeRequest, entry: Dataset) -> None:
    """Look for frame of reference, study, series and every image, and for nothing else."""
    named = {
        (frame.FrameOfReferenceUID, study.ReferencedSOPInstanceUID, series.SeriesInstanceUID, image.ReferencedSOPInstanceUID)
        for frame in entry.ReferencedFrameOfReferenceSequence
        for study in frame.RTReferencedStudySequence
        for series in study.RTReferencedSeriesSequence
        for image in series.ContourImageSequence
    }
    wanted = {
        (source.FrameOfReferenceUID, source.StudyInstanceUID, source.SeriesInstanceUID, source.SOPInstanceUID) for source in request.sources
    }
    if named != wanted or entry.FrameOfReferenceUID != request.sources[0].FrameOfReferenceUID:
        raise Refused("the structure set does not refer to the images in their frame of reference")
    if entry.ApprovalStatus != "UNAPPROVED":
        raise Refused("the structure set does not say that nobody approved it")


def _check_lines(request: ComposeRequest, drawn: Dataset, mark: Mark) -> None:
    """Fill what lies on each image; a line inside another cuts a hole."""
    filled: dict[int, Mask] = {}
    for index, points in _lines(request, drawn):
        inside = _filled(points, request.prediction.grid.shape[1:])
        filled[index] = filled[index] ^ inside if index in filled else inside
    if filled.keys() != mark.areas.keys() or len(list(drawn.get("ROIDisplayColor", ()))) != 3:
        raise Refused("a region of the structure set does not lie on the images that its mark touches, or has no colour")
    if any(not np.array_equal(inside, mark.plane(index)) for index, inside in filled.items()):
        raise Refused("a region of the structure set is not the mask that was predicted")


def _lines(request: ComposeRequest, drawn: Dataset) -> Iterator[tuple[int, NDArray[np.float64]]]:
    """Give each line's slice and its points as (row, column), counted from the first pixel's corner."""
    for line in drawn.ContourSequence:
        points_mm = np.array(line.ContourData, dtype=float).reshape(-1, 3)
        if line.ContourGeometricType != "CLOSED_PLANAR" or len(points_mm) != int(line.NumberOfContourPoints) or len(points_mm) < 4:
            raise Refused("a line of the structure set is not closed, or has another number of points than it says")
        index, places = on_image(request, points_mm)
        source = request.sources[index]
        named = [
            (item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID, item.get("ReferencedFrameNumber"))
            for item in line.ContourImageSequence
        ]
        if named != [(source.SOPClassUID, source.SOPInstanceUID, request.frame(index))]:
            raise Refused("a line of the structure set names another image than the one it lies on")
        yield index, places + 0.5


def _filled(points: NDArray[np.float64], shape: tuple[int, ...]) -> Mask:
    """Give the pixels whose centres have an odd number of the line's sides to their left."""
    sides = np.zeros((shape[0], shape[1] + 1), dtype=np.int64)
    rows = np.arange(shape[0]) + 0.5
    for (row0, column0), (row1, column1) in pairwise([*points, points[0]]):
        low, high = min(row0, row1), max(row0, row1)
        crossed = np.flatnonzero((rows > low) & (rows < high))
        if len(crossed):
            at = column0 + (rows[crossed] - row0) / (row1 - row0) * (column1 - column0)
            np.add.at(sides, (crossed, np.clip(np.ceil(at - 0.5), 0, shape[1]).astype(int)), 1)
    return np.asarray(np.cumsum(sides, axis=1)[:, :-1] % 2 == 1)
