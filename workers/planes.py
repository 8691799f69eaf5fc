"""Frames to planes: where each lies in the patient, and whether they belong together.

Geometry comes from Image Position and Image Orientation alone: slice thickness, slice location, instance numbers and file
names are never used to place a slice. Ref: PS3.3 C.7.6.2
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue

from node.errors import Refused
from workers.frames import Frame
from workers.pixels import UNREADABLE, quiet

Vector = NDArray[np.float64]

TURN = 1e-3  # largest difference of direction cosines between parallel planes, 0.06 degrees
SQUARE = 2e-3  # largest cosine between rows and columns


@dataclass(frozen=True, slots=True, kw_only=True)
class Plane:
    """One frame's place: direction cosines along a row and down a column, and (between rows, between columns) spacing."""

    frame: Frame
    origin_mm: Vector
    row: Vector
    column: Vector
    spacing_mm: Vector

    @property
    def header(self) -> Dataset:
        """Give the header that the place was taken from."""
        return self.frame.header

    @property
    def name(self) -> str:
        """Name the plane for a technologist."""
        return self.frame.name


def placed(frame: Frame) -> Plane:
    """Take from one header what places it; raises Refused."""
    header = frame.header
    with quiet():
        check_greyscale(header)
        origin = numbers(header, "ImagePositionPatient", 3)
        cosines = numbers(header, "ImageOrientationPatient", 6)
        spacing = numbers(header, "PixelSpacing", 2)
    if origin is None or cosines is None:
        raise Refused("An image does not say where it lies in the patient (no usable image position or orientation).")
    if spacing is None or (spacing <= 0).any():
        raise Refused("An image has no usable pixel spacing, so nothing in it can be measured.")
    row, column = cosines[:3], cosines[3:]
    lengths = np.array([np.linalg.norm(row), np.linalg.norm(column)])
    if (np.abs(lengths - 1) > 0.01).any() or abs(row @ column) > SQUARE:
        raise Refused("An image's orientation is contradictory: its rows and columns are not at right angles.")
    return Plane(frame=frame, origin_mm=origin, row=row / lengths[0], column=column / lengths[1], spacing_mm=spacing)


def check_greyscale(header: Dataset) -> None:
    """Refuse what is not a greyscale image."""
    try:
        rows, columns = int(header.get("Rows") or 0), int(header.get("Columns") or 0)
        samples, colours = int(header.get("SamplesPerPixel") or 1), str(header.get("PhotometricInterpretation") or "")
        modality = str(header.get("Modality") or "")
    except UNREADABLE:
        raise Refused("An image's description of its pixels is damaged.") from None
    if rows < 1 or columns < 1:
        raise Refused("A file of the series is not an image: it has no rows and columns.")
    if samples != 1 or colours not in {"MONOCHROME1", "MONOCHROME2"}:
        raise Refused("The series holds images in colour or of an unknown pixel kind; only greyscale slices are analysed.")
    if not modality:
        raise Refused("An image does not name its modality.")


def numbers(header: Dataset, keyword: str, count: int) -> Vector | None:
    """Give an element's finite numbers, or None where it is absent, damaged or of another length."""
    try:
        value = header.get(keyword)
        if not isinstance(value, (MultiValue, list, tuple)) or len(value) != count:
            return None
        found = np.array([float(number) for number in value])
    except UNREADABLE:
        return None
    return found if np.isfinite(found).all() else None


def text(header: Dataset, keyword: str) -> str:
    """Give an element as text; a damaged one is a value of its own, an absent one is empty."""
    try:
        value: Any = header.get(keyword)
    except UNREADABLE:
        return "damaged"
    return "" if value is None else str(value)


def one_series(planes: Sequence[Plane]) -> None:
    """Refuse images that do not belong together, whatever their places."""
    together = (
        ("PatientID", "The images belong to more than one patient."),
        ("StudyInstanceUID", "The images belong to more than one study."),
        ("SeriesInstanceUID", "The images belong to more than one series."),
        ("Modality", "The images are of more than one modality."),
        ("FrameOfReferenceUID", "The images' positions do not refer to one frame of reference, so they cannot be stacked."),
        ("PhotometricInterpretation", "Some images are inverted against the others (MONOCHROME1 and MONOCHROME2)."),
    )
    for keyword, reason in together:
        if len({text(plane.header, keyword) for plane in planes}) > 1:
            raise Refused(reason)
    if not text(planes[0].header, "FrameOfReferenceUID"):
        raise Refused("The images name no frame of reference, so a result could not be laid over them.")
    sources = [plane.frame.source for plane in planes if plane.frame.source.sop_instance_uid]
    if len(set(sources)) < len(sources):
        raise Refused("Two files of the series are the same image.")


def alike(planes: Sequence[Plane]) -> None:
    """Refuse planes of several sizes, turned against each other, or differing in pixel spacing."""
    sizes = sorted({(int(plane.header.Rows), int(plane.header.Columns)) for plane in planes})
    if len(sizes) > 1:
        raise Refused("The images differ in size: " + " and ".join(f"{rows} x {columns}" for rows, columns in sizes[:3]) + " pixels.")
    first = planes[0]
    turned = sum(not parallel(first, plane) for plane in planes)
    if turned:
        few = min(turned, len(planes) - turned)
        raise Refused(f"The series mixes orientations: {few} of {len(planes)} images lie in another plane than the rest.")
    if any((np.abs(plane.spacing_mm - first.spacing_mm) > 1e-3 * first.spacing_mm).any() for plane in planes):
        raise Refused("The images differ in pixel spacing.")


def parallel(one: Plane, other: Plane) -> bool:
    """Tell whether two planes have the same rows and columns."""
    return bool(max(np.abs(one.row - other.row).max(), np.abs(one.column - other.column).max()) <= TURN)


def along_normal(planes: Sequence[Plane]) -> tuple[list[Plane], Vector]:
    """Sort along cross(row, column) and give each place on it in mm.

    Example: row (1,0,0), column (0,1,0): the normal is (0,0,1), so axial slices run from the feet to the head.
    """
    normal = np.cross(planes[0].row, planes[0].column)
    places = np.array([plane.origin_mm @ normal for plane in planes])
    keys = [(places[index], plane.frame.source.sop_instance_uid, plane.frame.number or 0) for index, plane in enumerate(planes)]
    order = sorted(range(len(planes)), key=keys.__getitem__)
    return [planes[index] for index in order], places[order]
