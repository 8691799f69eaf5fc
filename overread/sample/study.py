"""Scan the patient and write the study as DICOM files, with the truth beside it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian
from scipy import ndimage

from overread.sample.growth import grow
from overread.sample.scan import Scan
from overread.sample.shapes import Floats, Lattice, norm
from overread.sample.thorax import AIR_HU, Nodule, Side, Thorax, background_hu, details

CT_IMAGE = "1.2.840.10008.5.1.4.1.1.2"
INTERCEPT_HU = -1024
DATE, TIME = "20260102", "101500"


@dataclass(frozen=True, kw_only=True)
class Truth:
    """What is in the study, from the formulas alone; points are (n, 3) LPS millimetres."""

    thorax: Thorax
    scan: Scan
    study_instance_uid: str
    series_instance_uid: str
    frame_of_reference_uid: str
    files: tuple[Path, ...]

    @property
    def nodules(self) -> tuple[Nodule, ...]:
        """Give the nodules, in the order of `Scan.nodules_mm`."""
        return self.thorax.nodules

    def in_lung(self, side: Side, points_mm: Floats) -> NDArray[np.bool_]:
        """Tell which points lie in a lung; vessels and nodules belong to it."""
        return self.thorax.in_lung(side, points_mm)

    def in_nodule(self, index: int, points_mm: Floats) -> NDArray[np.bool_]:
        """Tell which points lie in one nodule."""
        nodule = self.nodules[index]
        distance = norm(np.asarray(points_mm) - np.asarray(nodule.centre_mm))
        return np.asarray(distance <= nodule.diameter_mm / 2)

    @cached_property
    def lung_volume_ml(self) -> dict[Side, float]:
        """Give the lungs' volumes, counted on a 2 mm raster that knows nothing of the scan."""
        raster = np.stack(np.meshgrid(*(np.arange(-180.0, 180.0, 2.0) for _ in range(3)), indexing="ij"), axis=-1)
        points = raster + np.asarray(self.thorax.centre_mm)
        sides: tuple[Side, Side] = ("left", "right")
        return {side: float(self.thorax.in_lung(side, points).sum() * 8.0 / 1000.0) for side in sides}


def write(folder: Path, *, seed: int = 1, scan: Scan | None = None) -> Truth:
    """Write one study below the folder, a file a slice; the same seed and scan give the same bytes."""
    scan = scan or Scan()
    folder.mkdir(parents=True, exist_ok=True)
    thorax = grow(seed, scan.nodules_mm)
    lattice = scan.lattice(thorax.centre_mm)
    image = _image(thorax, scan, lattice)
    files = []
    for number, (index, acquisition, copy) in enumerate(_frames(scan), start=1):
        dataset = _header(thorax, scan, lattice, (index, acquisition, copy))
        dataset.InstanceNumber = number
        noise = _noise(thorax.seed, index, acquisition, scan)
        stored = np.clip(np.rint(image[index] + noise) - INTERCEPT_HU, 0, 4095).astype("<u2")
        path = folder / f"image-{number:04d}.dcm"
        _save(dataset, stored, path, scan.transfer_syntax)
        files.append(path)
    return Truth(
        thorax=thorax,
        scan=scan,
        study_instance_uid=scan.uid(seed, "study"),
        series_instance_uid=scan.uid(seed, "study", "series"),
        frame_of_reference_uid=scan.uid(seed, "study", "frame"),
        files=tuple(files),
    )


def _frames(scan: Scan) -> Iterator[tuple[int, int, int]]:
    """Give (slice index, acquisition, copy) in the order of the files."""
    for acquisition in range(1, scan.acquisitions + 1):
        for index in range(scan.slices):
            if index not in scan.missing:
                yield index, acquisition, 0
            if index in scan.doubled:
                yield index, acquisition, 1


def _image(thorax: Thorax, scan: Scan, lattice: Lattice) -> Floats:
    """Sample the patient: tissue, texture, then vessels and nodules, then the table."""
    hu = np.empty(lattice.shape)
    for index in range(lattice.shape[0]):
        box = (slice(index, index + 1), slice(0, lattice.shape[1]), slice(0, lattice.shape[2]))
        points = lattice.points(box)
        plane = background_hu(thorax, points, lattice.soft_mm)
        _table(plane, thorax.local(points), prone=scan.position.endswith("P"))
        hu[index] = plane[0]
    rng = np.random.default_rng([thorax.seed, 4])
    directions = rng.normal(size=(20, 3))
    lengths_mm = rng.uniform(14.0, 55.0, size=20)
    vectors = directions / np.linalg.norm(directions, axis=1, keepdims=True) * (2 * np.pi / lengths_mm)[:, None]
    hu += 4.0 * lattice.waves(vectors, rng.uniform(0, 2 * np.pi, size=20)) * (hu > AIR_HU + 20)
    details(thorax, hu, lattice)
    return hu


def _table(plane: Floats, local: Floats, *, prone: bool) -> None:
    """Lay the table under the patient: behind the back, or before the chest of one who lies prone."""
    below = -local[..., 1] - 122.0 if prone else local[..., 1] - 132.0
    curve = below + (local[..., 0] / 260.0) ** 2 * 60.0
    top = (curve > 0) & (curve < 14.0) & (np.abs(local[..., 0]) < 200.0) & (plane < AIR_HU + 50)
    plane[top] = -930.0  # the foam inside; the shell is carbon fibre
    plane[top & ((curve < 2.5) | (curve > 11.5))] = -180.0


def _noise(seed: int, index: int, acquisition: int, scan: Scan) -> Floats:
    """Draw one slice's noise; a reconstruction kernel correlates neighbours."""
    raw = np.random.default_rng([seed, 5, index, acquisition]).normal(size=scan.matrix)
    smooth = ndimage.gaussian_filter(raw, 0.6)
    return np.asarray(smooth / smooth.std() * scan.noise_hu)


def _header(thorax: Thorax, scan: Scan, lattice: Lattice, frame: tuple[int, int, int]) -> Dataset:
    """Write one slice's attributes.

    Ref: PS3.3 A.3 (CT Image IOD)
    """
    index, acquisition, copy = frame
    dataset = Dataset()
    if scan.patient.character_set:
        dataset.SpecificCharacterSet = scan.patient.character_set.split("\\")
    _identity(dataset, thorax.seed, scan)
    dataset.SOPClassUID = CT_IMAGE
    dataset.SOPInstanceUID = scan.uid(thorax.seed, "study", "image", index, acquisition, copy)
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL" if scan.orientation == "axial" else "REFORMATTED"]
    dataset.AcquisitionNumber = acquisition
    dataset.ContentDate = dataset.AcquisitionDate = dataset.SeriesDate = dataset.StudyDate = DATE
    dataset.ContentTime = dataset.AcquisitionTime = dataset.SeriesTime = dataset.StudyTime = TIME
    row, column = scan.directions
    position = np.asarray(lattice.origin_mm) + index * np.asarray(lattice.steps_mm[0])
    dataset.ImageOrientationPatient = [_decimal(value) for value in (*row, *column)]
    dataset.ImagePositionPatient = [_decimal(float(value)) for value in position]
    dataset.PixelSpacing = [_decimal(value) for value in scan.pixel_spacing_mm]
    dataset.SliceThickness = _decimal(scan.slice_spacing_mm)
    dataset.SliceLocation = _decimal(float(np.dot(position, np.cross(row, column))))
    dataset.GantryDetectorTilt = _decimal(scan.tilt_degrees)
    dataset.RescaleIntercept, dataset.RescaleSlope, dataset.RescaleType = INTERCEPT_HU, 1, "HU"
    dataset.WindowCenter, dataset.WindowWidth = [-600, 40], [1500, 400]
    dataset.KVP, dataset.XRayTubeCurrent, dataset.ConvolutionKernel = "120", 200, "STANDARD"
    return dataset


def _identity(dataset: Dataset, seed: int, scan: Scan) -> None:
    """Write patient, study, series and equipment."""
    patient = scan.patient
    dataset.PatientName, dataset.PatientID = patient.name, patient.patient_id
    dataset.PatientBirthDate, dataset.PatientSex = patient.birth_date, patient.sex
    dataset.AccessionNumber, dataset.ReferringPhysicianName = patient.accession, patient.referring
    if patient.institution:
        dataset.InstitutionName = patient.institution
    if patient.comments:
        dataset.PatientComments = patient.comments
    dataset.StudyInstanceUID = scan.uid(seed, "study")
    dataset.SeriesInstanceUID = scan.uid(seed, "study", "series")
    dataset.FrameOfReferenceUID = scan.uid(seed, "study", "frame")
    dataset.PositionReferenceIndicator = ""
    dataset.StudyID, dataset.SeriesNumber, dataset.Modality = "1", 2, "CT"
    dataset.StudyDescription, dataset.SeriesDescription = scan.study_description, scan.series_description
    dataset.BodyPartExamined, dataset.PatientPosition = "CHEST", scan.position
    dataset.Manufacturer, dataset.ManufacturerModelName = "Generated", "Thorax formulas"


def _decimal(value: float) -> str:
    """Write a DS: at most 16 characters.

    Ref: PS3.5 6.2
    """
    text = f"{value:.10g}"
    return text if len(text) <= 16 else f"{value:.9f}"[:16]


def _save(dataset: Dataset, stored: NDArray[np.uint16], path: Path, transfer_syntax: str) -> None:
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.Rows, dataset.Columns = stored.shape
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 12, 11, 0
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.MediaStorageSOPClassUID = UID(CT_IMAGE)
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.file_meta.ImplementationClassUID = UID("2.25.148391437465862512351247312583913612041")
    target = UID(transfer_syntax)
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian if target.is_compressed else target
    dataset.add_new("PixelData", "OW", stored.tobytes())
    if target.is_encapsulated:
        dataset.compress(target, generate_instance_uid=False)
    dataset.file_meta.TransferSyntaxUID = target
    dataset.save_as(path, enforce_file_format=True)
