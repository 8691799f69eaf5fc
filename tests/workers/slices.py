"""Small DICOM series whose voxels tell where they lie: each pixel's value is a function of its own LPS position."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, MRImageStorage, generate_uid

Truth = Callable[[NDArray[np.float64]], NDArray[np.float64]]

AXIAL = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0))
AXIAL_FEET_UP = ((1.0, 0.0, 0.0), (0.0, -1.0, 0.0))
SAGITTAL = ((0.0, 1.0, 0.0), (0.0, 0.0, -1.0))
CORONAL = ((1.0, 0.0, 0.0), (0.0, 0.0, -1.0))
# Turned 30 degrees about z, then 20 degrees about the new row.
OBLIQUE = (
    (0.8660254037844387, 0.5, 0.0),
    (-0.4698463103929542, 0.8137976813493738, 0.3420201433256687),
)


def slope_of_place(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Give 3 x + 5 y - 7 z of LPS points (..., 3): no two axes can be swapped, flipped or scaled without it showing."""
    return points @ np.array([3.0, 5.0, -7.0])


@dataclass(frozen=True, slots=True, kw_only=True)
class Scan:
    """What to write.

    planes      (row, column) direction cosines
    spacing_mm  (between rows, between columns)
    step_mm     from slice to slice; along the normal where None
    stored      how real values are stored: (slope, intercept) of slice index
    extra       more attributes of every slice; `each` of slice index
    """

    shape: tuple[int, int, int] = (6, 10, 14)
    origin_mm: tuple[float, float, float] = (-31.0, -22.0, 45.0)
    planes: tuple[tuple[float, float, float], tuple[float, float, float]] = AXIAL
    spacing_mm: tuple[float, float] = (0.5, 0.75)
    gap_mm: float = 2.0
    step_mm: tuple[float, float, float] | None = None
    truth: Truth = slope_of_place
    modality: str = "CT"
    stored: Callable[[int], tuple[float, float]] = lambda _: (1.0, -1024.0)
    signed: bool = False
    bits: tuple[int, int] = (16, 16)
    extra: dict[str, Any] = field(default_factory=dict)
    each: Callable[[int], dict[str, Any]] = lambda _: {}


def datasets(scan: Scan) -> list[FileDataset]:
    """Make the slices, in the order of their steps."""
    series, study, frame = generate_uid(), generate_uid(), generate_uid()
    row, column = (np.array(direction) for direction in scan.planes)
    step = np.array(scan.step_mm) if scan.step_mm else np.cross(row, column) * scan.gap_mm
    made = []
    for index in range(scan.shape[0]):
        slice_ = _blank(scan)
        origin = np.array(scan.origin_mm) + index * step
        rows, columns = np.mgrid[: scan.shape[1], : scan.shape[2]]
        points = origin + rows[..., None] * scan.spacing_mm[0] * column + columns[..., None] * scan.spacing_mm[1] * row
        slope, intercept = scan.stored(index)
        values = np.rint((scan.truth(points) - intercept) / slope).astype(np.int64)
        kind = np.dtype(f"<{'i' if scan.signed else 'u'}{scan.bits[0] // 8}")
        assert np.iinfo(kind).min <= values.min() <= values.max() <= np.iinfo(kind).max
        slice_.PixelData = values.astype(kind).tobytes()
        slice_.StudyInstanceUID, slice_.SeriesInstanceUID, slice_.FrameOfReferenceUID = study, series, frame
        slice_.ImagePositionPatient = [f"{part:.10g}" for part in origin]
        slice_.InstanceNumber = index + 1
        if slope != 1 or intercept != 0 or scan.modality == "CT":
            slice_.RescaleSlope, slice_.RescaleIntercept = f"{slope:.10g}", f"{intercept:.10g}"
        for keyword, value in {**scan.extra, **scan.each(index)}.items():
            setattr(slice_, keyword, value)
        made.append(slice_)
    return made


def _blank(scan: Scan) -> FileDataset:
    """Give a slice with everything that does not depend on its index."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = MRImageStorage if scan.modality == "MR" else CTImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid()
    slice_ = FileDataset("", Dataset(), file_meta=meta, preamble=b"\0" * 128)
    slice_.SOPClassUID, slice_.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    slice_.PatientName, slice_.PatientID = "Strange^Hugo", "HID-4711"
    slice_.Modality = scan.modality
    slice_.Rows, slice_.Columns = scan.shape[1:]
    slice_.ImageOrientationPatient = [f"{part:.12g}" for direction in scan.planes for part in direction]
    slice_.PixelSpacing = [f"{part:.10g}" for part in scan.spacing_mm]
    slice_.SliceThickness = 1.0
    slice_.SamplesPerPixel, slice_.PhotometricInterpretation = 1, "MONOCHROME2"
    slice_.BitsAllocated, slice_.BitsStored, slice_.HighBit = scan.bits[0], scan.bits[1], scan.bits[1] - 1
    slice_.PixelRepresentation = int(scan.signed)
    return slice_


def write(folder: Path, slices: list[FileDataset]) -> list[Path]:
    """Write slices under names that say nothing of their order, and give the paths in that of the names."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for slice_ in slices:
        path = folder / f"{abs(hash(slice_.SOPInstanceUID + str(slice_.get('ImagePositionPatient')))):020d}-{len(paths)}"
        slice_.save_as(path, enforce_file_format=True)
        paths.append(path)
    return sorted(paths)


def series(folder: Path, scan: Scan, **changes: Any) -> list[Path]:
    """Write a scan; keyword arguments change its fields."""
    return write(folder, datasets(replace(scan, **changes)))
