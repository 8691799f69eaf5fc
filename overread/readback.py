"""Read an archive's SEG and SR with pydicom alone: the demo's witness shares no code with what wrote them.

Voxels are placed in the patient by each frame's own position and orientation. Ref: PS3.3 C.7.6.2.1.1, C.8.20; PS3.16 TID 1500
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataset import Dataset

SEG_CLASSES = ("1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7")
SR_CLASSES = ("1.2.840.10008.5.1.4.1.1.88.34", "1.2.840.10008.5.1.4.1.1.88.33")
SC_CLASSES = ("1.2.840.10008.5.1.4.1.1.7",)
KINDS = {"SEG": SEG_CLASSES, "SR": SR_CLASSES, "SC": SC_CLASSES}
MEASUREMENT_GROUP = "125007"
TRACKING_UID = "112040"
TRACKING_IDENTIFIER = "112039"
COMMENT = "121106"
DERIVATION = "121401"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plane:
    """One segment on one source image: a (rows, columns) mask and the image it was derived from."""

    mask: NDArray[np.bool_]
    source_uid: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """One segment as the archive holds it; points and centroid in LPS millimetres."""

    number: int
    label: str
    tracking_uid: str
    colour: tuple[int, int, int]
    points_mm: NDArray[np.float64]
    volume_ml: float
    planes: tuple[Plane, ...]

    @property
    def centroid_mm(self) -> NDArray[np.float64]:
        """Give the mean of its voxels' centres."""
        return np.asarray(self.points_mm.mean(axis=0))


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """A measurement group of an SR: what it measures and its numbers, as (name, value, unit)."""

    tracking_uid: str
    tracking_identifier: str
    numbers: tuple[tuple[str, float, str], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """An SR: its groups (those of one tracking UID joined), its sentences, every image it refers to."""

    groups: tuple[Group, ...]
    sentences: tuple[str, ...]
    referenced: frozenset[str]


def kind(path: Path) -> str:
    """Give "SEG", "SR", "SC" (a page) or "" for anything else."""
    sop_class = str(pydicom.dcmread(path, stop_before_pixels=True, specific_tags=["SOPClassUID"]).SOPClassUID)
    return next((name for name, classes in KINDS.items() if sop_class in classes), "")


def segments(path: Path) -> list[Segment]:
    """Read a SEG, BINARY or LABELMAP."""
    dataset = pydicom.dcmread(path)
    frames = np.asarray(dataset.pixel_array)
    if frames.ndim == 2:
        frames = frames[np.newaxis]
    labelmap = dataset.SegmentationType == "LABELMAP"
    found: dict[int, list[tuple[Plane, NDArray[np.float64], float]]] = {}
    for frame, groups in zip(frames, dataset.PerFrameFunctionalGroupsSequence, strict=True):
        numbers = [int(n) for n in np.unique(frame) if n] if labelmap else [_segment_of(dataset, groups)]
        for number in numbers:
            mask = frame == number if labelmap else frame != 0
            if mask.any():
                placed, voxel_mm3 = _place(dataset, groups, mask)
                found.setdefault(number, []).append((Plane(mask=mask, source_uid=_source_of(groups)), placed, voxel_mm3))
    return [_segment(item, found[int(item.SegmentNumber)]) for item in dataset.SegmentSequence if int(item.SegmentNumber) in found]


def report(path: Path) -> Report:
    """Read an SR."""
    dataset = pydicom.dcmread(path)
    groups: dict[str, Group] = {}
    for item in _walk(dataset):
        if item.get("ValueType") == "CONTAINER" and _name(item) == MEASUREMENT_GROUP:
            group = _group(item)
            before = groups.get(group.tracking_uid)
            groups[group.tracking_uid] = group if before is None else _joined(before, group)
    sentences = tuple(str(item.TextValue) for item in _walk(dataset) if item.get("ValueType") == "TEXT" and _name(item) == COMMENT)
    referenced = frozenset(
        str(reference.ReferencedSOPInstanceUID) for item in _walk(dataset) for reference in item.get("ReferencedSOPSequence") or []
    )
    return Report(groups=tuple(groups.values()), sentences=sentences, referenced=referenced)


def _segment(item: Dataset, parts: list[tuple[Plane, NDArray[np.float64], float]]) -> Segment:
    return Segment(
        number=int(item.SegmentNumber),
        label=str(item.SegmentLabel),
        tracking_uid=str(item.get("TrackingUID", "")),
        colour=_rgb(item.get("RecommendedDisplayCIELabValue")),
        points_mm=np.concatenate([points for _plane, points, _mm3 in parts]),
        volume_ml=sum(len(points) * mm3 for _plane, points, mm3 in parts) / 1000,
        planes=tuple(plane for plane, _points, _mm3 in parts),
    )


def _segment_of(dataset: Dataset, groups: Dataset) -> int:
    place = groups if "SegmentIdentificationSequence" in groups else dataset.SharedFunctionalGroupsSequence[0]
    return int(place.SegmentIdentificationSequence[0].ReferencedSegmentNumber)


def _source_of(groups: Dataset) -> str:
    return str(groups.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID)


def _place(dataset: Dataset, groups: Dataset, mask: NDArray[np.bool_]) -> tuple[NDArray[np.float64], float]:
    """Give the centres of a mask's voxels in LPS mm, and a voxel's volume.

    Example: position (10, 20, 30), along a row (1,0,0), down a column (0,1,0), spacing 0.5 between rows and 2 between
    columns: row 4, column 3 lies at (10 + 3*2, 20 + 4*0.5, 30) = (16, 22, 30).
    """
    shared = dataset.SharedFunctionalGroupsSequence[0]
    orientation = _either(groups, shared, "PlaneOrientationSequence").ImageOrientationPatient
    measures = _either(groups, shared, "PixelMeasuresSequence")
    between_rows, between_columns = (float(value) for value in measures.PixelSpacing)
    along_row, down_column = np.asarray(orientation[:3], dtype=float), np.asarray(orientation[3:], dtype=float)
    origin = np.asarray(_either(groups, shared, "PlanePositionSequence").ImagePositionPatient, dtype=float)
    rows, columns = np.nonzero(mask)
    points = origin + np.outer(columns * between_columns, along_row) + np.outer(rows * between_rows, down_column)
    step = float(measures.get("SpacingBetweenSlices") or measures.SliceThickness)
    return points, between_rows * between_columns * step


def _either(groups: Dataset, shared: Dataset, keyword: str) -> Dataset:
    item: Dataset = (groups if keyword in groups else shared)[keyword].value[0]
    return item


def _rgb(cielab: Any) -> tuple[int, int, int]:
    """Take DICOM's scaled CIELab to sRGB (Ref: PS3.3 C.10.7.1.1)."""
    if not cielab:
        return 255, 64, 64
    scaled = np.asarray(cielab, dtype=float) / 65535
    light, a, b = scaled[0] * 100, scaled[1] * 255 - 128, scaled[2] * 255 - 128
    y = (light + 16) / 116
    cubes = np.asarray([y + a / 500, y, y - b / 200])
    xyz = np.where(cubes > 6 / 29, cubes**3, 3 * (6 / 29) ** 2 * (cubes - 4 / 29)) * (0.9642, 1.0, 0.8249)
    to_rgb = np.asarray([[3.1339, -1.6169, -0.4906], [-0.9788, 1.9161, 0.0335], [0.0719, -0.2290, 1.4052]])
    linear = np.clip(to_rgb @ xyz, 0, 1)
    values = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    red, green, blue = (round(float(value) * 255) for value in values)
    return red, green, blue


def _walk(item: Dataset) -> Iterator[Dataset]:
    for child in item.get("ContentSequence") or []:
        yield child
        yield from _walk(child)


def _name(item: Dataset) -> str:
    sequence = item.get("ConceptNameCodeSequence")
    return str(sequence[0].CodeValue) if sequence else ""


def _meaning(number: Dataset) -> str:
    """Give what a number measures, and how it was derived: "Attenuation Coefficient (Mean)". Ref: PS3.16 TID 1419."""
    derived = [str(child.ConceptCodeSequence[0].CodeMeaning) for child in number.get("ContentSequence") or [] if _name(child) == DERIVATION]
    meaning = str(number.ConceptNameCodeSequence[0].CodeMeaning)
    return f"{meaning} ({', '.join(derived)})" if derived else meaning


def _group(container: Dataset) -> Group:
    uid = identifier = ""
    numbers = []
    for item in container.get("ContentSequence") or []:
        if _name(item) == TRACKING_UID:
            uid = str(item.UID)
        elif _name(item) == TRACKING_IDENTIFIER:
            identifier = str(item.TextValue)
        elif item.get("ValueType") == "NUM" and item.get("MeasuredValueSequence"):
            value = item.MeasuredValueSequence[0]
            unit = str(value.MeasurementUnitsCodeSequence[0].CodeValue)
            numbers.append((_meaning(item), float(value.NumericValue), unit))
    return Group(tracking_uid=uid, tracking_identifier=identifier, numbers=tuple(numbers))


def _joined(first: Group, second: Group) -> Group:
    return Group(tracking_uid=first.tracking_uid, tracking_identifier=first.tracking_identifier, numbers=first.numbers + second.numbers)
