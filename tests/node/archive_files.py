"""Small Part-10 files for tests of the archive and of delivery: real encodings, nothing of a patient."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid


def image(
    study_uid: str, series_uid: str, number: int = 1, *, sop_class: str = CTImageStorage, syntax: str = ExplicitVRLittleEndian
) -> Dataset:
    """Give an 8 x 8 image; every call makes another SOP Instance UID."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.SpecificCharacterSet = "ISO_IR 192"
    dataset.SOPClassUID = sop_class
    dataset.SOPInstanceUID = generate_uid()
    dataset.StudyInstanceUID = study_uid
    dataset.SeriesInstanceUID = series_uid
    dataset.Modality = "CT"
    dataset.PatientName = "Phantom^Ärchive"
    dataset.PatientID = "PHANTOM-1"
    dataset.StudyDate = "20240102"
    dataset.InstanceNumber = number
    dataset.Rows = dataset.Columns = 8
    dataset.BitsAllocated = dataset.BitsStored = 16
    dataset.HighBit = 15
    dataset.PixelRepresentation = 0
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.PixelData = (np.arange(64, dtype=np.uint16) + number).tobytes()
    return dataset


def write(dataset: Dataset, path: Path) -> Path:
    """Write a Part-10 file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.save_as(path, enforce_file_format=True)
    return path


def study(folder: Path, series: int = 1, images: int = 2) -> tuple[str, list[Path]]:
    """Write a study of so many series of so many images; gives its UID and files in order."""
    study_uid = generate_uid()
    paths = []
    for _ in range(series):
        series_uid = generate_uid()
        paths += [write(image(study_uid, series_uid, n + 1), folder / f"{generate_uid()}.dcm") for n in range(images)]
    return study_uid, paths
