"""Radiographs of known truth: opacities at places of the patient, drawn on a picture that Patient Orientation turns.

A place is millimetres towards two sides of the patient, (left, feet) for a frontal chest, from the picture's centre. Where a
picture is turned or mirrored its Patient Orientation says so, and an opacity's pixels are other ones: a box that is mirrored
against the patient does not come back to its place. Ref: PS3.3 C.7.6.1.1.1
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import config
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

ROOT = "1.2.826.0.1.3680043.8.498.77"
CLASSES = {
    "CR": "1.2.840.10008.5.1.4.1.1.1",
    "DX": "1.2.840.10008.5.1.4.1.1.1.1",
    "DX raw": "1.2.840.10008.5.1.4.1.1.1.1.1",
    "MG": "1.2.840.10008.5.1.4.1.1.1.2",
    "MG raw": "1.2.840.10008.5.1.4.1.1.1.2.1",
}
OPPOSITE = dict(zip("LRHFAP", "RLFHPA", strict=True))
BACKGROUND, MARKER, OPACITY = 0.25, 0.95, 0.9
Pair = tuple[float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Opacity:
    """An ellipse in the patient: its centre and half its size, both towards the phantom's two sides."""

    at_mm: Pair
    half_mm: Pair


CHEST = (Opacity(at_mm=(38.0, -21.0), half_mm=(9.0, 6.0)), Opacity(at_mm=(-27.0, 30.0), half_mm=(6.0, 8.0)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Radiograph:
    """What to write.

    sides        the patient's two sides that places count towards
    orientation  Patient Orientation: where rows and columns run to; the same two sides or their opposites, in any order
    spacing_mm   (between rows, between columns), true ones
    calibrated   write them as Pixel Spacing; else as the detector's alone
    stored       (lowest, highest) stored value of black and white, the window's ends
    changes      attributes over everything else; None removes one
    """

    kind: str = "DX"
    sides: tuple[str, str] = ("L", "F")
    orientation: tuple[str, str] = ("L", "F")
    shape: tuple[int, int] = (220, 260)
    spacing_mm: Pair = (0.5, 0.5)
    calibrated: bool = True
    opacities: tuple[Opacity, ...] = CHEST
    inverted: bool = False
    stored: tuple[int, int] = (200, 3400)
    number: int = 1
    changes: dict[str, Any] = field(default_factory=dict)

    def places_mm(self) -> NDArray[np.float64]:
        """Give each pixel's place, (rows, columns, 2), towards the two sides."""
        rows, columns = np.mgrid[: self.shape[0], : self.shape[1]]
        across = (columns + 0.5 - self.shape[1] / 2) * self.spacing_mm[1]
        down = (rows + 0.5 - self.shape[0] / 2) * self.spacing_mm[0]
        return np.stack([self._towards(side, across, down) for side in self.sides], axis=-1)

    def _towards(self, side: str, across: NDArray[np.float64], down: NDArray[np.float64]) -> NDArray[np.float64]:
        for letter, way in zip(self.orientation, (across, down), strict=True):
            if side == letter:
                return way
            if side == OPPOSITE[letter]:
                return -way
        raise AssertionError("the orientation does not show this side")

    def masks(self) -> list[NDArray[np.bool_]]:
        """Give the pixels of each opacity."""
        places = self.places_mm()
        return [(((places - entry.at_mm) / entry.half_mm) ** 2).sum(axis=-1) <= 1 for entry in self.opacities]

    def density(self) -> NDArray[np.float64]:
        """Give 0, black, to 1, white: a body, its opacities, and a small lead letter near the corner of the first side, above."""
        places = self.places_mm()
        body = BACKGROUND + 0.1 * np.cos(places[..., 0] / 25) * np.cos(places[..., 1] / 40)
        for mask in self.masks():
            body[mask] = OPACITY
        reach = np.abs(places).max(axis=(0, 1))
        corner = np.abs(places - np.array([reach[0] - 4, -(reach[1] - 4)])).max(axis=-1) < 0.8
        body[corner] = MARKER
        return body

    def dataset(self) -> FileDataset:
        """Give the image."""
        made = _header(self)
        low, high = self.stored
        density = 1 - self.density() if self.inverted else self.density()
        values = np.rint(low + density * (high - low)).astype("<u2")
        made.PixelData = values.tobytes()
        for keyword, value in self.changes.items():
            if value is None:
                if keyword in made:
                    del made[keyword]
            else:
                # Unvalidated: images hold what they hold.
                made.add(DataElement(tag_for_keyword(keyword) or 0, dictionary_VR(keyword), value, validation_mode=config.IGNORE))
        return made

    def write(self, folder: Path) -> Path:
        """Write the file."""
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{self.number}.dcm"
        self.dataset().save_as(path, enforce_file_format=True)
        return path


def place_of(points: NDArray[np.float64], image: Dataset, sides: tuple[str, str], spacing_mm: Pair) -> NDArray[np.float64]:
    """Take (column, row) points, (0.5, 0.5) being the first pixel's centre, to places by the image's own Patient Orientation."""
    middle = np.array([image.Columns, image.Rows]) / 2
    ways = (np.asarray(points, dtype=float) - middle) * (spacing_mm[1], spacing_mm[0])
    letters = list(image.PatientOrientation)
    out = []
    for side in sides:
        if side in letters:
            out.append(ways[..., letters.index(side)])
        else:
            out.append(-ways[..., letters.index(OPPOSITE[side])])
    return np.stack(out, axis=-1)


def _header(shown: Radiograph) -> FileDataset:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = CLASSES[shown.kind]
    meta.MediaStorageSOPInstanceUID = f"{ROOT}.3.{shown.number}"
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    made = FileDataset("", {}, preamble=b"\0" * 128, file_meta=meta)
    made.SOPClassUID, made.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    made.StudyInstanceUID, made.SeriesInstanceUID = f"{ROOT}.1", f"{ROOT}.2"
    made.PatientName, made.PatientID, made.PatientBirthDate, made.PatientSex = "Phantom^Xenia", "PHI-8832", "19550505", "F"
    made.StudyDate, made.StudyTime, made.StudyID, made.AccessionNumber = "20250203", "081500", "X1", "ACC-77"
    made.ReferringPhysicianName, made.StudyDescription, made.SeriesDescription = "Doe^Jane", "Radiograph", "Picture"
    modality = shown.kind.split()[0]
    made.Modality, made.Manufacturer, made.SeriesNumber, made.InstanceNumber = modality, "Maker", 1, shown.number
    made.SeriesDate, made.SeriesTime, made.AcquisitionDate, made.AcquisitionTime = "20250203", "081600", "20250203", "081600"
    made.ContentDate, made.ContentTime = "20250203", "081600"
    made.ImageType = ["ORIGINAL", "PRIMARY"] + ([""] if modality != "CR" else [])
    made.PatientOrientation = list(shown.orientation)
    made.BodyPartExamined = "BREAST" if modality == "MG" else "CHEST"
    made.ViewPosition = "CC" if modality == "MG" else "PA"
    if modality != "CR":
        _digital(made, breast=modality == "MG")
        made.ImageLaterality = "L" if modality == "MG" else "U"
        made.PresentationIntentType = "FOR PROCESSING" if "raw" in shown.kind else "FOR PRESENTATION"
        made.PixelIntensityRelationship, made.PixelIntensityRelationshipSign = "LIN", 1 if shown.inverted else -1
        made.PresentationLUTShape = "INVERSE" if shown.inverted else "IDENTITY"
        made.RescaleIntercept, made.RescaleSlope, made.RescaleType = "0", "1", "US"
        made.LossyImageCompression, made.BurnedInAnnotation = "00", "NO"
    _describe_pixels(made, shown)
    return made


def _digital(made: Dataset, *, breast: bool) -> None:
    """Say what digital X-ray must say of the body and the machine. Ref: PS3.3 A.26, A.27."""
    region = ("76752008", "Breast") if breast else ("51185008", "Chest")
    view = ("399162004", "cranio-caudal") if breast else ("399348003", "postero-anterior")
    made.AnatomicRegionSequence, made.ViewCodeSequence = [_code(*region)], [_code(*view)]
    made.AcquisitionContextSequence = []
    made.DetectorType, made.PositionerType = "DIRECT", "MAMMOGRAPHIC" if breast else "COLUMN"
    if breast:
        made.OrganExposed = "BREAST"
        made.ViewCodeSequence[0].ViewModifierCodeSequence = []


def _code(value: str, meaning: str) -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, "SCT", meaning
    return item


def _describe_pixels(made: Dataset, shown: Radiograph) -> None:
    made.SamplesPerPixel, made.PhotometricInterpretation = 1, "MONOCHROME1" if shown.inverted else "MONOCHROME2"
    made.Rows, made.Columns = shown.shape
    made.BitsAllocated, made.BitsStored, made.HighBit, made.PixelRepresentation = 16, 12, 11, 0
    made.ImagerPixelSpacing = [f"{value * 1.1:.6g}" for value in shown.spacing_mm]
    if shown.calibrated:
        made.PixelSpacing, made.PixelSpacingCalibrationType = [f"{value:.6g}" for value in shown.spacing_mm], "GEOMETRY"
        made.PixelSpacingCalibrationDescription = "SID and SOD"
    if "raw" not in shown.kind:
        low, high = shown.stored
        # LINEAR reaches 0 and 1 at these ends exactly. Ref: PS3.3 C.11.2.1.2.1
        made.WindowCenter, made.WindowWidth = f"{(low + high + 1) / 2:g}", f"{high - low + 1}"
