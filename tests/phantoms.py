"""Studies with known truth, made on the spot; the thorax itself is overread.sample's.

Truth is asked in LPS and laid on a grid that SimpleITK reads from the files: never through the code under test.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pydicom
import SimpleITK as sitk  # noqa: N813 -- its documentation's own name
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian

from overread.sample import Patient, Scan, Truth, write

# Words that exist nowhere else: a run's logs, metrics, messages and file names are searched for them.
PHI = Patient(
    name="Qvortrup^Zebediah=Qvortrup^Zebediah",
    patient_id="PHI-88231907",
    birth_date="19370914",
    sex="M",
    accession="ACC-5550193",
    referring="Wrzesniewska^Ottilie",
    institution="Hospital of Xanthippe",
    comments="Comment-Kallipygos",
)
PHI_WORDS = ("Qvortrup", "Zebediah", "88231907", "19370914", "5550193", "Wrzesniewska", "Ottilie", "Xanthippe", "Kallipygos")

# The header's characters must survive into results. Ref: PS3.5 H, I, J
NAMES = {
    "latin-1": Patient(name="Müller^Jörg", character_set="ISO_IR 100"),
    "cyrillic": Patient(name="Люкceмбypг", character_set="ISO_IR 144"),  # noqa: RUF001 -- the standard's example name
    "utf-8": Patient(name="Wang^XiaoDong=王^小东", character_set="ISO_IR 192"),
    "japanese": Patient(name="Yamada^Tarou=山田^太郎=やまだ^たろう", character_set="\\ISO 2022 IR 87"),
    "korean": Patient(name="Hong^Gildong=洪^吉洞=홍^길동", character_set="\\ISO 2022 IR 149"),
}

SMALL = Scan(
    matrix=(64, 64),
    pixel_spacing_mm=(5.5, 5.5),
    slices=44,
    slice_spacing_mm=6.0,
    nodules_mm=(24.0, 18.0, 12.0),
    series_description="Chest 6.0 small",
)
EMPTY = replace(SMALL, nodules_mm=())

# Every way the planes can lie that a scanner or a workstation produces.
ORIENTATIONS = {
    "axial": SMALL,
    "axial-reversed": replace(SMALL, reverse=True),
    "sagittal": replace(SMALL, orientation="sagittal", slices=52),
    "coronal": replace(SMALL, orientation="coronal", slices=40),
    "oblique": replace(SMALL, orientation="oblique"),
    "oblique-reversed": replace(SMALL, orientation="oblique", reverse=True),
    "feet-first": replace(SMALL, position="FFS"),
    "prone": replace(SMALL, position="HFP"),
    "feet-first-prone": replace(SMALL, position="FFP"),
    "non-square-pixels": replace(SMALL, matrix=(52, 88), pixel_spacing_mm=(6.5, 4.0)),
    "sagittal-non-square": replace(SMALL, orientation="sagittal", slices=52, matrix=(60, 80), pixel_spacing_mm=(5.0, 4.0)),
}

# Studies that must not be analysed, and a word the reason must hold.
FAULTY = {
    "missing-slice": (replace(SMALL, missing=(20,)), "slice"),
    "two-missing-slices": (replace(SMALL, missing=(10, 11)), "slice"),
    "doubled-slice": (replace(SMALL, doubled=(7,)), "position"),
    "two-acquisitions": (replace(SMALL, acquisitions=2), "acquisition"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class OnGrid:
    """Truth on a grid: labels 1 left lung, 2 right lung (nodules left out); instances 1.. in the order of truth.nodules."""

    labels: NDArray[np.uint8]
    instances: NDArray[np.uint16]


def thorax(folder: Path, scan: Scan = SMALL, *, seed: int = 1) -> Truth:
    """Write a chest CT; small by default (about a second)."""
    return write(folder, seed=seed, scan=scan)


def read_with_itk(files: tuple[Path, ...]) -> sitk.Image:
    """Read a series with ITK's own sorting; the independent witness of where voxels lie."""
    folder = str(files[0].parent)
    names = sitk.ImageSeriesReader.GetGDCMSeriesFileNames(folder)
    return sitk.ReadImage(list(names), sitk.sitkInt32)


def voxel_centres_mm(image: sitk.Image) -> NDArray[np.float64]:
    """Give the LPS position of each voxel, (z, y, x, 3), by ITK's geometry."""
    size = image.GetSize()
    direction = np.asarray(image.GetDirection()).reshape(3, 3) * np.asarray(image.GetSpacing())
    z, y, x = np.meshgrid(*(np.arange(count) for count in reversed(size)), indexing="ij")
    indices = np.stack([x, y, z], axis=-1).astype(float)
    return np.asarray(indices @ direction.T + np.asarray(image.GetOrigin()))


def on_grid(truth: Truth, centres_mm: NDArray[np.float64]) -> OnGrid:
    """Ask the formulas at each position."""
    labels = np.zeros(centres_mm.shape[:-1], dtype=np.uint8)
    instances = np.zeros(centres_mm.shape[:-1], dtype=np.uint16)
    labels[truth.in_lung("left", centres_mm)] = 1
    labels[truth.in_lung("right", centres_mm)] = 2
    for index in range(len(truth.nodules)):
        inside = truth.in_nodule(index, centres_mm)
        labels[inside] = 0
        instances[inside] = index + 1
    return OnGrid(labels=labels, instances=instances)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tiny:
    """A few small images for tests that move bytes and never look at them."""

    modality: str = "CT"
    slices: int = 3
    size: int = 8
    patient: Patient = PHI
    study: str = "1"
    series: str = "1"
    description: str = "Tiny"


STORAGE = {
    "CT": "1.2.840.10008.5.1.4.1.1.2",
    "MR": "1.2.840.10008.5.1.4.1.1.4",
    "CR": "1.2.840.10008.5.1.4.1.1.1",
}


def tiny(plan: Tiny | None = None) -> list[Dataset]:
    """Make the data sets of a tiny series, file meta included; the same plan gives the same UIDs and bytes."""
    plan = plan or Tiny()
    return [_tiny_slice(plan, index) for index in range(plan.slices)]


def write_tiny(folder: Path, plan: Tiny | None = None) -> list[Path]:
    """Write a tiny series, a file a slice."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for number, dataset in enumerate(tiny(plan), start=1):
        path = folder / f"tiny-{number:03d}.dcm"
        dataset.save_as(path, enforce_file_format=True)
        paths.append(path)
    return paths


def _tiny_slice(plan: Tiny, index: int) -> Dataset:
    uid = replace(EMPTY, identity=f"tiny {plan.study}").uid
    dataset = Dataset()
    dataset.SOPClassUID = STORAGE[plan.modality]
    dataset.SOPInstanceUID = uid(0, plan.modality, plan.series, index)
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = uid(0, "study"), uid(0, plan.modality, plan.series)
    dataset.FrameOfReferenceUID = uid(0, "frame")
    dataset.Modality, dataset.SeriesNumber, dataset.InstanceNumber = plan.modality, 1, index + 1
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    dataset.PatientName, dataset.PatientID = plan.patient.name, plan.patient.patient_id
    dataset.PatientBirthDate, dataset.PatientSex = plan.patient.birth_date, plan.patient.sex
    dataset.AccessionNumber, dataset.ReferringPhysicianName = plan.patient.accession, plan.patient.referring
    dataset.StudyDate, dataset.StudyTime, dataset.StudyID = "20260102", "101500", "1"
    dataset.SeriesDescription, dataset.Manufacturer = plan.description, "Generated"
    dataset.ImageOrientationPatient, dataset.ImagePositionPatient = [1, 0, 0, 0, 1, 0], [0, 0, 5 * index]
    dataset.PixelSpacing, dataset.SliceThickness = [1, 1], 5
    dataset.RescaleIntercept, dataset.RescaleSlope = -1024, 1
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.Rows = dataset.Columns = plan.size
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 12, 11, 0
    dataset.add_new("PixelData", "OW", (np.arange(plan.size**2, dtype="<u2") + index).tobytes())
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = UID(ExplicitVRLittleEndian)
    return dataset


Change = Callable[[Dataset], None]


def rewrite(files: tuple[Path, ...], change: Change, *, only: tuple[int, ...] | None = None) -> None:
    """Change the header of written files in place: all, or the ones at these positions."""
    for position, path in enumerate(files):
        if only is None or position in only:
            dataset = pydicom.dcmread(path)
            change(dataset)
            dataset.save_as(path)
