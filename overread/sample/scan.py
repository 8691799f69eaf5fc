"""How the patient is scanned: planes, order, position, spacing, and the faults a study can arrive with."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from overread.sample.shapes import Lattice, Triple

# Row direction (columns grow), column direction (rows grow), in LPS. Ref: PS3.3 C.7.6.2.1.1
PLANES: dict[str, tuple[Triple, Triple]] = {
    "axial": ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0)),
    "sagittal": ((0.0, 1.0, 0.0), (0.0, 0.0, -1.0)),
    "coronal": ((1.0, 0.0, 0.0), (0.0, 0.0, -1.0)),
}
# LPS is fixed to the patient: lying prone or feet first turns the picture, not the coordinates.
TURNS: dict[str, tuple[float, float]] = {"HFS": (1.0, 1.0), "HFP": (-1.0, -1.0), "FFS": (-1.0, 1.0), "FFP": (1.0, -1.0)}
NAMESPACE = uuid.UUID("6f0f4f6e-2c0e-4b7e-9d57-0c1a5e0d6b11")


@dataclass(frozen=True, slots=True, kw_only=True)
class Patient:
    """What the header says of the patient, the visit and the order; invented."""

    name: str = "Sample^Thorax"
    patient_id: str = "SAMPLE-1"
    birth_date: str = "19600229"
    sex: str = "O"
    accession: str = "A0001"
    character_set: str | None = None
    referring: str = ""
    institution: str = ""
    comments: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scan:
    """One series.

    matrix            (rows, columns)
    pixel_spacing_mm  (between rows, between columns), as PixelSpacing has it
    reverse           slices numbered against the image normal
    tilt_degrees      gantry tilt: the image plane leans, the table still moves along z
    nodules_mm        the diameters of the nodules; () for a patient without any
    identity          one more word that goes into the UIDs; the faults below do not, so that a faulty
                      study can be completed later
    missing           slice indices left out; `doubled`: slice indices present twice under two UIDs
    acquisitions      2: the whole series twice, as two AcquisitionNumbers at the same positions
    """

    orientation: Literal["axial", "sagittal", "coronal", "oblique"] = "axial"
    position: Literal["HFS", "HFP", "FFS", "FFP"] = "HFS"
    reverse: bool = False
    matrix: tuple[int, int] = (240, 240)
    pixel_spacing_mm: tuple[float, float] = (1.46, 1.46)
    slices: int = 90
    slice_spacing_mm: float = 3.0
    tilt_degrees: float = 0.0
    nodules_mm: tuple[float, ...] = (18.0, 12.0, 8.0)
    noise_hu: float = 14.0
    identity: str = ""
    patient: Patient = field(default_factory=Patient)
    study_description: str = "CT Chest"
    series_description: str = "Chest 3.0 generated"
    transfer_syntax: str = "1.2.840.10008.1.2.1"
    missing: tuple[int, ...] = ()
    doubled: tuple[int, ...] = ()
    acquisitions: int = 1

    @property
    def directions(self) -> tuple[Triple, Triple]:
        """Give the unit vectors of ImageOrientationPatient: along a row, along a column."""
        row, column = (np.asarray(axis) for axis in PLANES.get(self.orientation, PLANES["axial"]))
        if self.orientation == "oblique":
            turn = _rotation(0, 18.0) @ _rotation(1, -11.0) @ _rotation(2, 14.0)
            row, column = turn @ row, turn @ column
        if self.tilt_degrees:
            turn = _rotation(0, self.tilt_degrees)
            row, column = turn @ row, turn @ column
        along_row, along_column = TURNS[self.position]
        return _triple(row * along_row), _triple(column * along_column)

    @property
    def step_mm(self) -> Triple:
        """Give the vector from one slice to the next, in the order of their numbers."""
        row, column = self.directions
        normal = np.cross(row, column)
        if self.tilt_degrees:
            normal = np.asarray((0.0, 0.0, np.sign(normal[2])))
        return _triple(normal * self.slice_spacing_mm * (-1.0 if self.reverse else 1.0))

    def lattice(self, centre_mm: Triple) -> Lattice:
        """Give the voxels' positions, the field of view centred on a point."""
        row, column = (np.asarray(axis) for axis in self.directions)
        steps = np.asarray([self.step_mm, column * self.pixel_spacing_mm[0], row * self.pixel_spacing_mm[1]])
        shape = (self.slices, *self.matrix)
        origin = np.asarray(centre_mm) - ((np.asarray(shape) - 1) / 2) @ steps
        return Lattice(shape=shape, origin_mm=_triple(origin), steps_mm=(_triple(steps[0]), _triple(steps[1]), _triple(steps[2])))

    def uid(self, seed: int, *words: object) -> str:
        """Give a UID that depends on the seed, the geometry, `identity` and the words."""
        geometry = (self.orientation, self.position, self.reverse, self.matrix, self.pixel_spacing_mm, self.slices)
        more = (self.slice_spacing_mm, self.tilt_degrees, self.nodules_mm, self.identity)
        return f"2.25.{uuid.uuid5(NAMESPACE, repr((seed, geometry, more, words))).int}"


def _rotation(axis: int, degrees: float) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    """Give the right-handed rotation about a coordinate axis."""
    cosine, sine = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    first, second = (axis + 1) % 3, (axis + 2) % 3
    matrix = np.eye(3)
    matrix[first, first] = matrix[second, second] = cosine
    matrix[first, second], matrix[second, first] = -sine, sine
    return matrix


def _triple(vector: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> Triple:
    x, y, z = (float(value) + 0.0 for value in vector)
    return x, y, z
