"""Files of one series to a Volume. Everything that could make its geometry wrong is refused with a reason.

Geometry comes from Image Position and Image Orientation alone: slice thickness, slice location, instance numbers and file
names are never used to place a slice. Ref: PS3.3 C.7.6.2
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue

from models.vocabulary import Grid, Triple, Volume
from node.errors import Refused
from workers.pixels import UNREADABLE, decode, quiet, read

Vector = NDArray[np.float64]

TURN = 1e-3  # largest difference of direction cosines between parallel planes, 0.06 degrees
SHEAR = 1e-3  # largest sideways step per step along the normal; Grid.is_orthogonal draws the same line
SAME_PLACE = 0.1  # of a step: closer slices lie on one another
MISSING = 1.5  # of a step: a wider gap has lost a slice
UNEVEN = 0.02  # of a step: how far a slice may lie from its even place
ROUNDED_MM = 0.06  # writers that round positions to 0.1 mm put them up to 0.05 mm off

# What may tell two images of one place apart, and how a technologist calls it.
KINDS = (
    ("AcquisitionNumber", "acquisitions"),
    ("TemporalPositionIdentifier", "time points"),
    ("EchoNumbers", "echoes"),
    ("EchoTime", "echoes"),
    ("DiffusionBValue", "diffusion weightings"),
    ("ImageType", "image types"),
    ("ConvolutionKernel", "reconstruction kernels"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """A series as an array on its grid, and the headers (without pixels) in the array's z order."""

    volume: Volume
    sources: tuple[Dataset, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plane:
    """One image's place: direction cosines along a row and down a column, and (between rows, between columns) spacing."""

    path: Path
    header: Dataset
    origin_mm: Vector
    row: Vector
    column: Vector
    spacing_mm: Vector

    @property
    def name(self) -> str:
        """Name the image for a technologist: its number, never its UID."""
        try:
            return f"image {int(self.header.InstanceNumber)}"
        except UNREADABLE:
            return "an image without a number"


def headers(paths: Sequence[Path]) -> list[Dataset]:
    """Read the headers only, in the order given; raises Refused."""
    return [read(path, pixels=False) for path in paths]


def load(paths: Sequence[Path]) -> Loaded:
    """Load one series; raises Refused with a reason for a technologist.

    The array is (z, y, x) with z along cross(row, column); the headers follow the same order. The order of `paths`
    does not matter. Ref: PS3.3 C.7.6.2.1.1
    """
    planes = [_plane(path, header) for path, header in zip(paths, headers(paths), strict=True)]
    if len(planes) < 2:
        raise Refused("The series has fewer than two images; a volume needs at least two.")
    with quiet():
        _one_series(planes)
        _parallel(planes)
        planes, places_mm = _sorted_along_normal(planes)
        _one_stack(planes, places_mm)
        grid = _grid(planes)
        try:
            array = decode([plane.path for plane in planes], [plane.header for plane in planes])
        except UNREADABLE:
            raise Refused("The images' pixel description is incomplete or contradicts itself.") from None
    modality = str(planes[0].header.Modality)
    volume = Volume(array=array, grid=grid, unit="HU" if modality == "CT" else "1", modality=modality)
    return Loaded(volume=volume, sources=tuple(plane.header for plane in planes))


def _plane(path: Path, header: Dataset) -> _Plane:
    """Take from one header what places it; raises Refused."""
    with quiet():
        _is_plain_image(header)
        origin = _numbers(header, "ImagePositionPatient", 3)
        cosines = _numbers(header, "ImageOrientationPatient", 6)
        spacing = _numbers(header, "PixelSpacing", 2)
    if origin is None or cosines is None:
        raise Refused("An image does not say where it lies in the patient (no usable image position or orientation).")
    if spacing is None or (spacing <= 0).any():
        raise Refused("An image has no usable pixel spacing, so nothing in it can be measured.")
    row, column = cosines[:3], cosines[3:]
    lengths = np.array([np.linalg.norm(row), np.linalg.norm(column)])
    if (np.abs(lengths - 1) > 0.01).any() or abs(row @ column) > SHEAR * 2:
        raise Refused("An image's orientation is contradictory: its rows and columns are not at right angles.")
    return _Plane(path=path, header=header, origin_mm=origin, row=row / lengths[0], column=column / lengths[1], spacing_mm=spacing)


def _is_plain_image(header: Dataset) -> None:
    """Refuse what is not a single-frame greyscale image."""
    try:
        rows, columns = int(header.get("Rows") or 0), int(header.get("Columns") or 0)
        frames = int(header.get("NumberOfFrames") or 1)
        samples, colours = int(header.get("SamplesPerPixel") or 1), str(header.get("PhotometricInterpretation") or "")
        modality = str(header.get("Modality") or "")
    except UNREADABLE:
        raise Refused("An image's description of its pixels is damaged.") from None
    if rows < 1 or columns < 1:
        raise Refused("A file of the series is not an image: it has no rows and columns.")
    if frames > 1:
        raise Refused("The series holds multi-frame images, which are not read yet; send it as single slices.")
    if samples != 1 or colours not in {"MONOCHROME1", "MONOCHROME2"}:
        raise Refused("The series holds images in colour or of an unknown pixel kind; only greyscale slices are analysed.")
    if not modality:
        raise Refused("An image does not name its modality.")


def _numbers(header: Dataset, keyword: str, count: int) -> Vector | None:
    """Give an element's finite numbers, or None where it is absent, damaged or of another length."""
    try:
        value = header.get(keyword)
        if not isinstance(value, (MultiValue, list, tuple)) or len(value) != count:
            return None
        numbers = np.array([float(number) for number in value])
    except UNREADABLE:
        return None
    return numbers if np.isfinite(numbers).all() else None


def _distinct(planes: Sequence[_Plane], keyword: str) -> set[str]:
    """Give the different values of an element as text; a damaged one counts as a value of its own."""
    return {_text(plane.header, keyword) for plane in planes}


def _text(header: Dataset, keyword: str) -> str:
    try:
        value: Any = header.get(keyword)
    except UNREADABLE:
        return "damaged"
    return "" if value is None else str(value)


def _one_series(planes: Sequence[_Plane]) -> None:
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
        if len(_distinct(planes, keyword)) > 1:
            raise Refused(reason)
    if not _text(planes[0].header, "FrameOfReferenceUID"):
        raise Refused("The images name no frame of reference, so a result could not be laid over them.")
    uids = [uid for plane in planes if (uid := _text(plane.header, "SOPInstanceUID"))]
    if len(set(uids)) < len(uids):
        raise Refused("Two files of the series are the same image.")
    sizes = sorted({(int(plane.header.Rows), int(plane.header.Columns)) for plane in planes})
    if len(sizes) > 1:
        raise Refused("The images differ in size: " + " and ".join(f"{rows} x {columns}" for rows, columns in sizes[:3]) + " pixels.")


def _parallel(planes: Sequence[_Plane]) -> None:
    """Refuse planes that are turned against each other or differ in pixel spacing."""
    first = planes[0]
    turned = sum(max(np.abs(plane.row - first.row).max(), np.abs(plane.column - first.column).max()) > TURN for plane in planes)
    if turned:
        few = min(turned, len(planes) - turned)
        raise Refused(f"The series mixes orientations: {few} of {len(planes)} images lie in another plane than the rest.")
    if any((np.abs(plane.spacing_mm - first.spacing_mm) > 1e-3 * first.spacing_mm).any() for plane in planes):
        raise Refused("The images differ in pixel spacing.")


def _sorted_along_normal(planes: Sequence[_Plane]) -> tuple[list[_Plane], Vector]:
    """Sort along cross(row, column) and give each place on it in mm.

    Example: row (1,0,0), column (0,1,0): the normal is (0,0,1), so axial slices run from the feet to the head.
    """
    normal = np.cross(planes[0].row, planes[0].column)
    places = np.array([plane.origin_mm @ normal for plane in planes])
    order = sorted(range(len(planes)), key=lambda index: (places[index], _text(planes[index].header, "SOPInstanceUID")))
    return [planes[index] for index in order], places[order]


def _one_stack(planes: Sequence[_Plane], places_mm: Vector) -> None:
    """Refuse anything but one stack of evenly spaced slices without a gap.

    Example: places 0, 2, 4, 8, 10 mm: gaps 2, 2, 4, 2, the step is 2, and 4 > 1.5 * 2: one slice is missing.
    """
    gaps = np.diff(places_mm)
    step = float(np.sort(gaps)[(len(gaps) - 1) // 2])
    close = np.flatnonzero(gaps <= max(SAME_PLACE * step, 0.01))
    if len(close):
        raise Refused(_why_twice(planes, int(close[0])))
    _one_acquisition(planes, places_mm)
    _straight(planes, places_mm)
    wide = np.flatnonzero(gaps > MISSING * step)
    if 0 < len(wide) <= max(2, len(gaps) // 4):
        at = int(wide[0])
        more = f", and at {len(wide) - 1} more places" if len(wide) > 1 else ""
        raise Refused(
            f"Slices are missing: {planes[at].name} and {planes[at + 1].name} lie {gaps[at]:.1f} mm apart, "
            f"where the step is {step:.1f} mm{more}. Send the whole series again."
        )
    even = np.linspace(places_mm[0], places_mm[-1], len(places_mm))
    off = np.abs(places_mm - even)
    if off.max() > max(ROUNDED_MM, UNEVEN * step):
        raise Refused(f"The slices are unevenly spaced: gaps range from {gaps.min():.2f} to {gaps.max():.2f} mm.")
    _as_dense_as_declared(planes, step)


def _why_twice(planes: Sequence[_Plane], at: int) -> str:
    """Say why two images share one place, as far as their headers tell."""
    one, other = planes[at], planes[at + 1]
    for keyword, kind in KINDS:
        if _text(one.header, keyword) != _text(other.header, keyword):
            return f"The series mixes several {kind}: {one.name} and {other.name} lie at the same position."
    return f"Two images lie at the same position: {one.name} and {other.name}. It is not clear which one counts."


def _one_acquisition(planes: Sequence[_Plane], places_mm: Vector) -> None:
    """Refuse acquisitions that reach into one another: the patient may have breathed or moved between them.

    Acquisitions that follow each other along the normal (one a table step) are one stack.
    Example: acquisition 1 at 0, 2, 4 mm and 2 at 1, 3, 5 mm overlap; 1 at 0, 1, 2 and 2 at 3, 4, 5 mm do not.
    """
    numbers = np.array([_text(plane.header, "AcquisitionNumber") for plane in planes])
    spans = sorted((places_mm[numbers == number].min(), places_mm[numbers == number].max()) for number in set(numbers.tolist()))
    if any(later[0] < earlier[1] for earlier, later in pairwise(spans)):
        raise Refused(f"The series mixes {len(spans)} acquisitions of the same region; they cannot be stacked into one volume.")


def _as_dense_as_declared(planes: Sequence[_Plane], step: float) -> None:
    """Refuse a stack from which every second slice is gone: even, but wider than it declares.

    Some writers put the gap between slices, not their distance, into Spacing Between Slices; where the slices are
    thicker than the declared distance it proves nothing. Ref: PS3.3 C.8.15.3.9
    """
    try:
        declared = float(planes[0].header.get("SpacingBetweenSlices") or 0)
        thickness = float(planes[0].header.get("SliceThickness") or 0)
    except UNREADABLE:
        return
    if 0 < thickness <= declared * 1.01 and step > MISSING * declared:
        raise Refused(f"Slices are missing: they lie {step:.1f} mm apart and declare {declared:.1f} mm. Send the whole series again.")


def _straight(planes: Sequence[_Plane], places_mm: Vector) -> None:
    """Refuse a stack that does not rise along its normal: a tilted gantry, or slices shifted sideways.

    Example: origins (0, 0, 0), (0, 1.27, 3.79) with normal (0, 0, 1): 1.27 mm sideways for 3.79 mm along the normal
    is a tilt of atan(1.27 / 3.79) = 18.5 degrees.
    """
    normal = np.cross(planes[0].row, planes[0].column)
    origins = np.array([plane.origin_mm for plane in planes])
    sideways = origins - origins[0] - (places_mm - places_mm[0])[:, None] * normal
    drift = sideways[-1] / (places_mm[-1] - places_mm[0])
    astray = np.linalg.norm(sideways - (places_mm - places_mm[0])[:, None] * drift, axis=1).max()
    if astray > ROUNDED_MM * 2:
        raise Refused(f"The slices are shifted sideways against each other, by up to {astray:.1f} mm.")
    shear = float(np.linalg.norm(drift))
    if shear > SHEAR:
        angle = np.degrees(np.arctan(shear))
        raise Refused(
            f"The gantry was tilted by {angle:.1f} degrees, so the slices form no rectangular volume. Send an untilted reconstruction."
        )


def _grid(planes: Sequence[_Plane]) -> Grid:
    """Give the grid of a sorted, straight, evenly spaced stack, from its first slice's place to its last one's."""
    first, last, count = planes[0], planes[-1], len(planes)
    step = (last.origin_mm - first.origin_mm) / (count - 1)
    length = float(np.linalg.norm(step))
    return Grid(
        shape=(count, int(first.header.Rows), int(first.header.Columns)),
        origin_mm=_triple(first.origin_mm),
        axes=(_triple(step / length), _triple(first.column), _triple(first.row)),
        spacing_mm=(length, float(first.spacing_mm[0]), float(first.spacing_mm[1])),
    )


def _triple(vector: Vector) -> Triple:
    return float(vector[0]), float(vector[1]), float(vector[2])
