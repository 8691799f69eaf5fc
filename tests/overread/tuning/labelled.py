"""Labelled chest CTs as a site would bring them, by the demo's generator: truth from its formulas, in LPS, through no code of ours."""

from __future__ import annotations

from pathlib import Path

import highdicom
import nibabel
import numpy as np
import pydicom
from highdicom.seg import SegmentAlgorithmTypeValues, SegmentDescription
from numpy.typing import NDArray
from pydicom.sr.codedict import codes

from overread.sample import study
from overread.sample.scan import Patient, Scan

SHAPE = (32, 142, 190)
SPACING_MM = (5.0, 1.46, 1.46)


def write(folder: Path, seed: int, nodules_mm: tuple[float, ...] = (16.0, 11.0)) -> study.Truth:
    """Write a study as DICOM files: both lungs over 160 mm of their height, cut in front and behind."""
    patient = Patient(patient_id=f"SECRET-{seed}", name="Secret^Name")
    planes = {"matrix": SHAPE[1:], "pixel_spacing_mm": SPACING_MM[1:]}
    scan = Scan(slices=SHAPE[0], slice_spacing_mm=SPACING_MM[0], nodules_mm=nodules_mm, patient=patient, **planes)
    return study.write(folder, seed=seed, scan=scan)


def arrays(truth: study.Truth) -> tuple[NDArray[np.int16], NDArray[np.uint8], NDArray[np.uint16], NDArray[np.float64]]:
    """Give HU, lungs (1 left, 2 right), nodules by number, all (x, y, z), and the RAS matrix, read with pydicom and nibabel alone."""
    slices = sorted((pydicom.dcmread(path) for path in truth.files), key=lambda entry: float(entry.ImagePositionPatient[2]))
    first, second = slices[0], slices[1]
    hu = np.stack([entry.pixel_array.T.astype(np.int16) + int(entry.RescaleIntercept) for entry in slices], axis=-1)
    lps = np.eye(4)
    lps[:3, 0] = np.array(first.ImageOrientationPatient[:3], float) * float(first.PixelSpacing[1])
    lps[:3, 1] = np.array(first.ImageOrientationPatient[3:], float) * float(first.PixelSpacing[0])
    lps[:3, 2] = np.array(second.ImagePositionPatient, float) - np.array(first.ImagePositionPatient, float)
    lps[:3, 3] = np.array(first.ImagePositionPatient, float)
    places = np.stack(np.meshgrid(*(np.arange(size) for size in hu.shape), indexing="ij"), axis=-1)
    points = places @ lps[:3, :3].T + lps[:3, 3]
    lungs = np.where(truth.in_lung("left", points), 1, np.where(truth.in_lung("right", points), 2, 0)).astype(np.uint8)
    nodules = np.zeros(hu.shape, np.uint16)
    for index in range(len(truth.nodules)):
        nodules[truth.in_nodule(index, points)] = index + 1
    return hu, lungs, nodules, np.diag([-1.0, -1.0, 1.0, 1.0]) @ lps


def save(path: Path, array: NDArray[np.generic], matrix: NDArray[np.float64]) -> None:
    """Write a NIfTI file."""
    image = nibabel.Nifti1Image(array, matrix)
    image.header.set_xyzt_units("mm")
    image.set_sform(matrix, 1)
    nibabel.save(image, path)


def case(folder: Path, seed: int, *, dicom: bool = False, lungs: bool = True, nodules: bool = True) -> study.Truth:
    """Write one case of a site: DICOM or NIfTI, with lungs, nodules or both drawn."""
    folder.mkdir(parents=True)
    images = folder / "image" if dicom else folder.parent.parent / "made" / folder.name
    truth = write(images, seed)
    hu, drawn, numbers, matrix = arrays(truth)
    if not dicom:
        save(folder / "image.nii.gz", hu, matrix)
    if lungs:
        save(folder / "labels.nii.gz", drawn, matrix)
    if nodules:
        save(folder / "findings.nii.gz", numbers, matrix)
    return truth


def seg(path: Path, truth: study.Truth, nodules: tuple[str, ...]) -> None:
    """Write a SEG as another program would: both lungs, and each nodule as a segment of that name."""
    _hu, lungs, numbers, _matrix = arrays(truth)
    images = sorted((pydicom.dcmread(path) for path in truth.files), key=lambda entry: float(entry.ImagePositionPatient[2]))
    masks = [lungs == 1, lungs == 2, *(numbers == index + 1 for index in range(len(nodules)))]
    masks[:2] = [mask & (numbers == 0) for mask in masks[:2]]
    kinds = [codes.SCT.Lung, codes.SCT.Lung, *(codes.SCT.Nodule for _ in nodules)]
    written = highdicom.seg.Segmentation(
        source_images=images,
        pixel_array=np.stack([mask.transpose(2, 1, 0) for mask in masks], axis=-1).astype(np.uint8),
        segmentation_type="BINARY",
        segment_descriptions=[
            SegmentDescription(at + 1, name, codes.SCT.Organ, kind, SegmentAlgorithmTypeValues.MANUAL)
            for at, (name, kind) in enumerate(zip(("Left lung", "Right lung", *nodules), kinds, strict=True))
        ],
        series_instance_uid=highdicom.UID(),
        series_number=9,
        sop_instance_uid=highdicom.UID(),
        instance_number=1,
        manufacturer="Other",
        manufacturer_model_name="Drawing",
        software_versions="1",
        device_serial_number="1",
    )
    written.save_as(path)
