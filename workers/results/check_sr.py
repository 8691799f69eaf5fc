"""Read an SR back: its groups, references, numbers and outlines.

Ref: PS3.16 TID 1500; docs/results.md
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
from pydicom.dataset import Dataset

from node.errors import Refused
from workers.results.check_seg import Marked
from workers.results.request import ComposeRequest

REPORT, GROUP, REGION, SEGMENT, TRACKING = "126000", "125007", "111030", "121191", "112040"
VOLUME, PROBABILITY_OF_CANCER = "118565006", "111047"
MM3_PER_UNIT = {"mm3": 1.0, "mL": 1000.0}
FORBIDDEN_WORDS = ("diagnos", "cornerstone")


def verify(request: ComposeRequest, report: Dataset, segs: Sequence[Dataset], marked: Sequence[Marked]) -> None:
    """Raise Refused unless the SR speaks of the same marks as the SEGs and keeps what viewers need."""
    if (report.VerificationFlag, report.CompletionFlag, report.PreliminaryFlag) != ("UNVERIFIED", "COMPLETE", "PRELIMINARY"):
        raise Refused("the SR does not say that it is complete, preliminary and unverified")
    _check_evidence(request, report, segs)
    _check_predecessor(request, report)
    for item in _walk(report):
        _check_item(item)
    groups = [item for item in _walk(report) if _name(item) == GROUP]
    texts = [item.TextValue for item in _walk(report) if item.ValueType == "TEXT"]
    if not any("Not verified by a physician." in text for text in texts):
        raise Refused("the SR does not say that no physician verified it")
    expected = bool(request.prediction.findings) or (bool(segs) and not request.card.card.finds)
    if (_name(report) == REPORT) != expected or bool(groups) != expected:
        raise Refused("the SR's title and its groups do not fit what was found")
    if expected:
        _check_pairs(request, groups, marked)


def _check_evidence(request: ComposeRequest, report: Dataset, segs: Sequence[Dataset]) -> None:
    evidence = [
        instance.ReferencedSOPInstanceUID
        for study in report.CurrentRequestedProcedureEvidenceSequence
        for series in study.ReferencedSeriesSequence
        for instance in series.ReferencedSOPSequence
    ]
    wanted = [dataset.SOPInstanceUID for dataset in (*request.sources, *segs)]
    if sorted(evidence) != sorted(set(wanted)):
        raise Refused("the SR's evidence is not the images and the SEG")


def _check_predecessor(request: ComposeRequest, report: Dataset) -> None:
    """Look that the report replaces the one the job's row names, and no other."""
    named = [
        (study.StudyInstanceUID, series.SeriesInstanceUID, instance.ReferencedSOPClassUID, instance.ReferencedSOPInstanceUID)
        for study in report.get("PredecessorDocumentsSequence", ())
        for series in study.ReferencedSeriesSequence
        for instance in series.ReferencedSOPSequence
    ]
    told = request.job.predecessor
    keys = ("series_instance_uid", "sop_class_uid", "sop_instance_uid")
    if named != ([] if told is None else [(request.job.study_instance_uid, *(told[key] for key in keys))]):
        raise Refused("the SR does not name the report that it replaces")


def _check_item(item: Dataset) -> None:
    """Look at one content item by itself."""
    if item.ValueType == "NUM":
        measured = item.MeasuredValueSequence[0]
        value = float(measured.NumericValue)
        exact = float(measured.get("FloatingPointValue", value))
        if not math.isfinite(exact) or not math.isclose(value, exact, rel_tol=1e-6, abs_tol=1e-6):
            raise Refused("a number of the SR is not a number")
        if _name(item) == PROBABILITY_OF_CANCER:
            raise Refused("a number of the SR is called probability of cancer, which no model here gives")
    if item.ValueType == "TEXT":
        text = str(item.TextValue)
        if not text.isascii() or any(word in text.lower() for word in FORBIDDEN_WORDS):
            raise Refused("a text of the SR holds a word or character it must not")


def _check_pairs(request: ComposeRequest, groups: list[Dataset], marked: Sequence[Marked]) -> None:
    """Look for exactly one volume group and one outline group for each segment, and for none besides."""
    found: dict[tuple[str, str], list[Dataset]] = {}
    for group in groups:
        uids = [str(item.UID) for item in group.ContentSequence if _name(item) == TRACKING]
        names = {_name(item) for item in group.ContentSequence}
        if len(uids) != 1 or (SEGMENT in names) == (REGION in names):
            raise Refused("a group of the SR has no tracking UID, or is neither numbers nor outline")
        found.setdefault((uids[0], "A" if SEGMENT in names else "B"), []).append(group)
    wanted = {(segment.tracking_uid, form) for segment in marked for form in "AB"}
    if set(found) != wanted or any(len(members) != 1 for members in found.values()):
        raise Refused("the SR has not one group of numbers and one outline for each segment")
    for segment in marked:
        _check_numbers(request, found[segment.tracking_uid, "A"][0], segment)
        if _child(found[segment.tracking_uid, "B"][0], "NUM"):
            raise Refused("an outline group of the SR holds numbers")
        _check_outline(request, found[segment.tracking_uid, "B"][0], segment)


def _check_numbers(request: ComposeRequest, group: Dataset, segment: Marked) -> None:
    """Follow the reference to the segment and count its voxels again."""
    seg = segment.seg
    reference = next(item for item in group.ContentSequence if _name(item) == SEGMENT).ReferencedSOPSequence[0]
    if reference.ReferencedSOPInstanceUID != seg.SOPInstanceUID or reference.ReferencedSOPClassUID != seg.SOPClassUID:
        raise Refused("the SR refers to another SEG")
    if reference.ReferencedSegmentNumber != segment.number:
        raise Refused("a group of the SR refers to another segment than its tracking UID")
    if any(str(item.UID) != request.sources[0].SeriesInstanceUID for item in group.ContentSequence if _name(item) == "121232"):
        raise Refused("a group of the SR refers to another series than the images'")
    for item in _child(group, "NUM"):
        measured = item.MeasuredValueSequence[0]
        factor = MM3_PER_UNIT.get(measured.MeasurementUnitsCodeSequence[0].CodeValue)
        if _name(item) == VOLUME and factor is None:
            raise Refused("a volume of the SR has a unit that is none")
        if _name(item) == VOLUME and factor is not None:
            true_mm3 = segment.voxels * request.prediction.grid.voxel_mm3
            if abs(float(measured.NumericValue) * factor - true_mm3) > max(factor, 0.01 * true_mm3):
                raise Refused("a volume of the SR is not that of its segment")


def _check_outline(request: ComposeRequest, group: Dataset, segment: Marked) -> None:
    """Compare the outline with the mask on the image it was drawn on."""
    region = next(item for item in group.ContentSequence if _name(item) == REGION)
    points = np.array(region.GraphicData, dtype=float).reshape(-1, 2)
    if region.GraphicType != "POLYLINE" or len(points) < 6 or not np.array_equal(points[0], points[-1]) or not np.isfinite(points).all():
        raise Refused("an outline of the SR is not a closed line of six or more points")
    named = region.ContentSequence[0].ReferencedSOPSequence[0]
    image = (named.ReferencedSOPInstanceUID, named.get("ReferencedFrameNumber"))
    places = [index for index, source in enumerate(request.sources) if (source.SOPInstanceUID, request.frame(index)) == image]
    mask = segment.plane(places[0]) if places else None
    if mask is None or not mask.any():
        raise Refused("an outline of the SR lies on an image that its segment does not touch")
    # The centre of the first pixel is (0.5, 0.5), so a mask's columns c0..c1 reach from c0 to c1 + 1. Ref: PS3.3 C.18.6.1.2
    rows, columns = np.nonzero(mask)
    low, high = (columns.min(), rows.min()), (columns.max() + 1, rows.max() + 1)
    area = abs(np.dot(points[:-1, 0], points[1:, 1]) - np.dot(points[:-1, 1], points[1:, 0])) / 2
    if (points.min(axis=0) < low).any() or (points.max(axis=0) > high).any() or area < 0.5:
        raise Refused("an outline of the SR does not lie on its segment")


def _child(item: Dataset, value_type: str) -> list[Dataset]:
    return [child for child in item.get("ContentSequence", ()) if child.ValueType == value_type]


def _walk(item: Dataset) -> Iterator[Dataset]:
    """Give every content item below the root."""
    for child in item.get("ContentSequence", ()):
        yield child
        yield from _walk(child)


def _name(item: Dataset) -> str:
    """Give the code of an item's concept name; an item by reference has none."""
    names = item.get("ConceptNameCodeSequence")
    return str(names[0].get("CodeValue", "")) if names else ""
