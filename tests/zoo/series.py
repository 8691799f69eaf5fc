"""Series of the zoo: headers as devices write them, pixels of 4 x 4, so that a whole department fits into seconds."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian

STORAGE: Mapping[str, str] = {
    "CT": "1.2.840.10008.5.1.4.1.1.2",
    "MR": "1.2.840.10008.5.1.4.1.1.4",
    "PT": "1.2.840.10008.5.1.4.1.1.128",
    "MG": "1.2.840.10008.5.1.4.1.1.1.2",
    "DX": "1.2.840.10008.5.1.4.1.1.1.1",
    "CR": "1.2.840.10008.5.1.4.1.1.1",
    "US": "1.2.840.10008.5.1.4.1.1.6.1",
    "US clip": "1.2.840.10008.5.1.4.1.1.3.1",
    "SC": "1.2.840.10008.5.1.4.1.1.7",
    "SR": "1.2.840.10008.5.1.4.1.1.88.33",
    "dose SR": "1.2.840.10008.5.1.4.1.1.88.67",
    "PR": "1.2.840.10008.5.1.4.1.1.11.1",
    "KO": "1.2.840.10008.5.1.4.1.1.88.59",
    "PDF": "1.2.840.10008.5.1.4.1.1.104.1",
    "SEG": "1.2.840.10008.5.1.4.1.1.66.4",
    "REG": "1.2.840.10008.5.1.4.1.1.66.1",
    "RTSTRUCT": "1.2.840.10008.5.1.4.1.1.481.3",
    "RTPLAN": "1.2.840.10008.5.1.4.1.1.481.5",
    "RTDOSE": "1.2.840.10008.5.1.4.1.1.481.2",
    "enhanced CT": "1.2.840.10008.5.1.4.1.1.2.1",
    "enhanced MR": "1.2.840.10008.5.1.4.1.1.4.1",
    "enhanced PT": "1.2.840.10008.5.1.4.1.1.130",
}
PLANES: Mapping[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "axial": ((1, 0, 0, 0, 1, 0), (0, 0, 1)),
    "coronal": ((1, 0, 0, 0, 0, -1), (0, 1, 0)),
    "sagittal": ((0, 1, 0, 0, 0, -1), (-1, 0, 0)),
    # 10 degrees towards coronal, as heads are angled.
    "tilted axial": ((1, 0, 0, 0, 0.984808, 0.173648), (0, -0.173648, 0.984808)),
    # 45 degrees between sagittal and coronal.
    "oblique": ((0.707107, 0.707107, 0, 0, 0, -1), (-0.707107, 0.707107, 0)),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """One series as a device files it; `header` lies over everything else, a None there removes the attribute."""

    number: int
    modality: str
    description: str
    images: int = 1
    step_mm: float = 1.0
    pixel_mm: float = 0.7
    plane: str | None = None
    storage: str = ""
    frame: str = "one"
    header: Mapping[str, Any] = field(default_factory=dict)
    each: Sequence[Mapping[str, Any]] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One study of the zoo."""

    name: str
    kind: str
    series: tuple[Shown, ...]
    header: Mapping[str, Any] = field(default_factory=dict)


def uid(*words: object) -> str:
    """Name something by a UID that never changes, always of the same length."""
    number = int.from_bytes(hashlib.sha256(" ".join(map(str, words)).encode()).digest()[:16], "big") % 10**30
    return f"2.25.1{number:030d}"


def write(case: Case, folder: Path) -> Path:
    """Write a study below the folder, one small file an image."""
    home = folder / case.name
    home.mkdir(parents=True, exist_ok=True)
    for shown in case.series:
        template = b"" if shown.each else _encoded(case, shown, 0)
        for index in range(shown.images):
            data = _encoded(case, shown, index) if shown.each else _for_image(template, case, shown, index)
            (home / f"{shown.number:04d}-{index:04d}.dcm").write_bytes(data)
    return home


def _for_image(template: bytes, case: Case, shown: Shown, index: int) -> bytes:
    """Give another image of the series: writing thousands of data sets anew takes minutes, replacing values of equal length none."""
    values = [(uid(case.name, shown.number, 0), uid(case.name, shown.number, index)), (_number(0), _number(index))]
    if shown.plane is not None:
        values.append((_position(shown, 0), _position(shown, index)))
    for first, other in values:
        template = template.replace(first.encode(), other.encode())
    return template


def _number(index: int) -> str:
    return f"{index + 1:012d}"


def _position(shown: Shown, index: int) -> str:
    return "\\".join(f"{component * shown.step_mm * index - 100:+012.4f}" for component in PLANES[str(shown.plane)][1])


def _encoded(case: Case, shown: Shown, index: int) -> bytes:
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID = UID(STORAGE[shown.storage or shown.modality])
    dataset.SOPInstanceUID = uid(case.name, shown.number, index)
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = uid(case.name), uid(case.name, shown.number)
    dataset.PatientName, dataset.PatientID = "Zoo^Animal", f"ZOO-{case.name}"
    dataset.StudyDate, dataset.StudyTime, dataset.AccessionNumber = "20260105", "101500", ""
    dataset.Modality, dataset.SeriesNumber, dataset.InstanceNumber = shown.modality, shown.number, _number(index)
    dataset.SeriesDescription, dataset.Manufacturer = shown.description, "Zoo"
    if shown.plane is not None:
        dataset.ImageOrientationPatient = list(PLANES[shown.plane][0])
        dataset.ImagePositionPatient = _position(shown, index).split("\\")
        dataset.PixelSpacing, dataset.SliceThickness = [shown.pixel_mm, shown.pixel_mm], shown.step_mm
        dataset.FrameOfReferenceUID = uid(case.name, "frame", shown.frame)
    own = shown.each[index] if shown.each else {}
    for keyword, value in (dict(case.header) | dict(shown.header) | dict(own)).items():
        if value is None:
            dataset.pop(keyword, None)
        else:
            setattr(dataset, keyword, value)
    if shown.storage in {"", "SC", "US clip"} or shown.storage.startswith("enhanced"):
        _pixels(dataset)
    encoded = BytesIO()
    dataset.save_as(encoded, enforce_file_format=True)
    return encoded.getvalue()


def _pixels(dataset: Dataset) -> None:
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.Rows = dataset.Columns = 4
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 12, 11, 0
    dataset.add_new("PixelData", "OW", bytes(32 * int(dataset.get("NumberOfFrames") or 1)))


def _three_planes() -> tuple[Mapping[str, Any], ...]:
    """Three images in each plane, as MR localizers come."""
    return tuple(
        {
            "ImageOrientationPatient": list(PLANES[plane][0]),
            "ImagePositionPatient": [round(10.0 * index * each, 2) for each in PLANES[plane][1]],
        }
        for plane in ("sagittal", "coronal", "axial")
        for index in range(3)
    )


MR_PLANES = _three_planes()
