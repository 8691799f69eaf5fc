"""Compare the numbers and lines of an SR with the prediction, in each form that lays marks on the images.

Ref: PS3.16 TID 1410, TID 1411, TID 1501; PS3.3 C.18.6.1.2
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from node.errors import Refused
from workers.results.check_items import children, name, number, unit
from workers.results.marks import Mark, attenuation_hu
from workers.results.request import ComposeRequest

GROUP, REGION, SEGMENT, SERIES, TRACKING, IDENTIFIER = "125007", "111030", "121191", "121232", "112040", "112039"
VOLUME, ATTENUATION, LONG, SHORT, CERTAINTY = "118565006", "112031", "103339001", "103340004", "111012"
DERIVATION, MEAN, DEVIATION = "121401", "373098007", "386136009"
TOOL = "Cornerstone3DTools@^0.1.0:"
MM3_PER_UNIT = {"mm3": 1.0, "mL": 1000.0}
Points = NDArray[np.float64]


def verify_measurements(request: ComposeRequest, groups: Sequence[Dataset], marks: Mapping[str, Mark], segs: Sequence[Dataset]) -> None:
    """Look for numbers and an outline of each mark, and for nothing besides: in two groups where a SEG holds it, else in one."""
    held = {str(item.TrackingUID): (seg, int(item.SegmentNumber)) for seg in segs for item in seg.SegmentSequence}
    found: dict[tuple[str, str], list[Dataset]] = {}
    for group in groups:
        uid, names = _tracked(group), {name(item) for item in group.ContentSequence}
        if (SEGMENT in names) == (REGION in names):
            raise Refused("a group of the SR is neither numbers nor outline")
        found.setdefault((uid, SEGMENT if SEGMENT in names else REGION), []).append(group)
    wanted = {(uid, REGION) for uid in marks} | {(uid, SEGMENT) for uid in held}
    if set(found) != wanted or any(len(members) != 1 for members in found.values()):
        raise Refused("the SR has not one group of numbers and one outline for each segment")
    for uid, mark in marks.items():
        outline = found[uid, REGION][0]
        if uid in held:
            numbers = found[uid, SEGMENT][0]
            _check_reference(request, numbers, held[uid])
            _check_named(numbers, mark)
            check_numbers(request, children(numbers, "NUM"), mark)
            if children(outline, "NUM"):
                raise Refused("an outline group of the SR holds numbers")
        else:
            check_numbers(request, children(outline, "NUM"), mark)
        _check_named(outline, mark)
        region = next(item for item in outline.ContentSequence if name(item) == REGION)
        _check_outline(request, region, mark)


def verify_editable(request: ComposeRequest, groups: Sequence[Dataset], marks: Mapping[str, Mark]) -> None:
    """Look for one group of OHIF's tools for each mark, each of whose numbers is read off exactly one line."""
    found = {_tracked(group): group for group in groups}
    if set(found) != set(marks) or len(found) != len(groups):
        raise Refused("the SR has not one group for each mark")
    for uid, group in found.items():
        templates = {item.TemplateIdentifier for item in group.get("ContentTemplateSequence", ())}
        tool = _identifier(group).removeprefix(TOOL)
        if templates != {"1501"} or tool not in {"Bidirectional", "PlanarFreehandROI"}:
            raise Refused("a group of the SR is not one that a viewer's tool takes over")
        _check_finding(group, marks[uid])
        lines = [(item, children(item, "SCOORD")) for item in children(group, "NUM")]
        if not lines or any(len(drawn) != 1 for _, drawn in lines):
            raise Refused("a number of the SR is not read off exactly one line")
        if tool == "Bidirectional":
            _check_axes(request, {name(item): (item, drawn[0]) for item, drawn in lines}, marks[uid])
        else:
            _check_area(request, lines[0][0], _check_outline(request, lines[0][1][0], marks[uid]))


def check_numbers(request: ComposeRequest, items: Sequence[Dataset], mark: Mark) -> None:
    """Measure the mark again, and compare what is told of it; no value may be told twice."""
    told: dict[tuple[str, str], Dataset] = {}
    for item in items:
        ways = [str(child.ConceptCodeSequence[0].CodeValue) for child in children(item, "CODE") if name(child) == DERIVATION]
        told[name(item), ways[0] if ways else ""] = item
    if len(told) != len(items) or (ATTENUATION, "") in told:
        raise Refused("the SR tells one number of a mark twice, or not how it came about")
    if (VOLUME, "") in told:
        _check_volume(request, told[VOLUME, ""], mark)
    if (ATTENUATION, MEAN) in told or (ATTENUATION, DEVIATION) in told:
        for derived, true_hu in zip((MEAN, DEVIATION), mark.hu or attenuation_hu(request, mark), strict=True):
            if (ATTENUATION, derived) in told and not abs(number(told[ATTENUATION, derived]) - true_hu) <= 0.51:
                raise Refused("an attenuation of the SR is not that of its segment")
    if (CERTAINTY, "") in told and (mark.finding is None or abs(number(told[CERTAINTY, ""]) - 100 * mark.finding.score) > 0.51):
        raise Refused("a certainty of the SR is not the model's")
    if (CERTAINTY, DEVIATION) in told and not _is_deviation(number(told[CERTAINTY, DEVIATION]), mark):
        raise Refused("the deviation of a certainty of the SR is not the model's")
    if (LONG, "") in told and number(told[LONG, ""]) < number(told.get((SHORT, ""), told[LONG, ""])):
        raise Refused("a short axis of the SR is longer than the long one")


def _is_deviation(percent: float, mark: Mark) -> bool:
    known = None if mark.finding is None else mark.finding.deviation
    return known is not None and abs(percent - 100 * known) <= 0.51


def _check_volume(request: ComposeRequest, item: Dataset, mark: Mark) -> None:
    factor, true_mm3 = MM3_PER_UNIT[unit(item)], mark.voxels * request.prediction.grid.voxel_mm3
    if mark.boxed or abs(number(item) * factor - true_mm3) > max(factor, 0.01 * true_mm3):
        raise Refused("a volume of the SR is not that of its segment")


def _tracked(group: Dataset) -> str:
    uids = [str(item.UID) for item in group.ContentSequence if name(item) == TRACKING]
    if len(uids) != 1:
        raise Refused("a group of the SR has no tracking UID")
    return uids[0]


def _identifier(group: Dataset) -> str:
    return next((str(item.TextValue) for item in group.ContentSequence if name(item) == IDENTIFIER), "")


def _check_named(group: Dataset, mark: Mark) -> None:
    if _identifier(group) != mark.name:
        raise Refused("a group of the SR has another name than its mark")
    _check_finding(group, mark)


def _check_finding(group: Dataset, mark: Mark) -> None:
    """Compare the coded finding with the card's; a lesion called an organ would be a wrong report."""
    said = [item.ConceptCodeSequence[0].CodeValue for item in group.ContentSequence if name(item) == "121071"]
    if said != [mark.part.type.value]:
        raise Refused("a group of the SR names another finding than its mark")


def _check_reference(request: ComposeRequest, group: Dataset, place: tuple[Dataset, int]) -> None:
    """Follow the reference to the segment."""
    seg, segment_number = place
    reference = next(item for item in group.ContentSequence if name(item) == SEGMENT).ReferencedSOPSequence[0]
    if reference.ReferencedSOPInstanceUID != seg.SOPInstanceUID or reference.ReferencedSOPClassUID != seg.SOPClassUID:
        raise Refused("the SR refers to another SEG")
    if reference.ReferencedSegmentNumber != segment_number:
        raise Refused("a group of the SR refers to another segment than its tracking UID")
    if any(str(item.UID) != request.sources[0].SeriesInstanceUID for item in group.ContentSequence if name(item) == SERIES):
        raise Refused("a group of the SR refers to another series than the images'")


def slice_of(request: ComposeRequest, image: Dataset) -> int | None:
    """Give the slice that an IMAGE item names, None where it is none of ours."""
    named = image.ReferencedSOPSequence[0]
    told = (named.ReferencedSOPInstanceUID, named.get("ReferencedFrameNumber"))
    places = ((source.SOPInstanceUID, request.frame(index)) for index, source in enumerate(request.sources))
    return next((index for index, place in enumerate(places) if place == told), None)


def _line(request: ComposeRequest, region: Dataset, mark: Mark) -> tuple[Points, NDArray[np.bool_]]:
    """Give a line's points, and the mask on the image that it was drawn on."""
    points = np.array(region.GraphicData, dtype=float).reshape(-1, 2)
    place = slice_of(request, region.ContentSequence[0])
    mask = None if place is None else mark.plane(place)
    if region.GraphicType != "POLYLINE" or not np.isfinite(points).all():
        raise Refused("a line of the SR is none")
    if mask is None or not mask.any():
        raise Refused("an outline of the SR lies on an image that its segment does not touch")
    # The centre of the first pixel is (0.5, 0.5), so a mask's columns c0..c1 reach from c0 to c1 + 1. Ref: PS3.3 C.18.6.1.2
    rows, columns = np.nonzero(mask)
    low, high = np.array([columns.min(), rows.min()]), np.array([columns.max() + 1, rows.max() + 1])
    if (points.min(axis=0) < low - 1e-3).any() or (points.max(axis=0) > high + 1e-3).any():
        raise Refused("an outline of the SR does not lie on its segment")
    return points, mask


def _check_outline(request: ComposeRequest, region: Dataset, mark: Mark) -> float:
    """Compare the outline with the mask on the image it was drawn on; give the area inside in pixels."""
    points, mask = _line(request, region, mark)
    if len(points) < 6 or not np.array_equal(points[0], points[-1]):
        raise Refused("an outline of the SR is not a closed line of six or more points")
    area = abs(np.dot(points[:-1, 0], points[1:, 1]) - np.dot(points[:-1, 1], points[1:, 0])) / 2
    inside = _inside(points, mask.shape)
    if area < 0.5 or abs(area - np.count_nonzero(inside)) > 0.01 * area or not (inside & mask).any():
        raise Refused("an outline of the SR does not lie on its segment")
    # Its border is the mask's: what it encloses and the mask leaves out are holes, which touch no outside pixel.
    if not mask[_rim(inside)].all():
        raise Refused("an outline of the SR does not lie on its segment")
    return float(area)


def _inside(points: Points, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """Give the pixels whose centres lie inside a closed line of pixel borders: an odd number of its sides to their left."""
    crossings = np.zeros((shape[0], shape[1] + 1), dtype=np.int64)
    for (x0, y0), (_, y1) in pairwise(points.tolist()):
        low, high = sorted((y0, y1))
        crossings[math.ceil(low - 0.5) : math.ceil(high - 0.5), round(x0)] += 1
    return np.asarray(np.cumsum(crossings, axis=1)[:, :-1] % 2 == 1)


def _rim(inside: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Give the inside pixels with an outside neighbour at one of their sides."""
    padded = np.pad(inside, 1)
    within = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return inside & ~within


def _check_area(request: ComposeRequest, item: Dataset, pixels: float) -> None:
    grid = request.prediction.grid
    per_pixel = grid.spacing_mm[1] * grid.spacing_mm[2] if unit(item) == "mm2" else 1.0
    if (unit(item) == "mm2") != grid.calibrated or abs(number(item) - pixels * per_pixel) > 0.051:
        raise Refused("an area of the SR is not that inside its outline")


def _check_axes(request: ComposeRequest, drawn: Mapping[str, tuple[Dataset, Dataset]], mark: Mark) -> None:
    """Measure both axes again, between their ends; they lie on the segment, at right angles to each other."""
    if set(drawn) != {LONG, SHORT}:
        raise Refused("the axes of a mark of the SR are not a long and a short one")
    grid, along = request.prediction.grid, []
    for item, line in drawn.values():
        points, mask = _line(request, line, mark)
        if points.shape != (2, 2):
            raise Refused("an axis of the SR has not two ends")
        step = (points[1] - points[0]) * (grid.spacing_mm[2], grid.spacing_mm[1])
        if abs(float(np.hypot(*step)) - number(item)) > 0.06:
            raise Refused("an axis of the SR is not as long as its line")
        along.append(step)
        if name(item) == LONG and not all(_touches(mask, point) for point in points):
            raise Refused("an axis of the SR does not lie on its segment")
    if abs(float(along[0] @ along[1])) > 0.01 * float(np.linalg.norm(along[0]) * np.linalg.norm(along[1])) + 1e-6:
        raise Refused("the axes of a mark of the SR are not at right angles")


def _touches(mask: NDArray[np.bool_], point: NDArray[np.float64]) -> bool:
    """Tell whether one of the pixels around a place on a pixel border is marked."""
    rows = {int(np.floor(point[1] + away)) for away in (-1e-3, 1e-3)}
    columns = {int(np.floor(point[0] + away)) for away in (-1e-3, 1e-3)}
    return any(0 <= r < mask.shape[0] and 0 <= c < mask.shape[1] and mask[r, c] for r in rows for c in columns)
