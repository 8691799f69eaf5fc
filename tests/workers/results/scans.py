"""Small synthetic series with truth in LPS: what a voxel is follows from its place in millimetres, by the headers alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import config
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset

from models.card import Card, ShelvedCard
from models.vocabulary import Box, Finding, Grid, Prediction, Volume
from node.profiles import Profile
from node.settings import ResultsSection
from node.study import Job, JobState, Mode, Stage
from workers.results import ComposeRequest

ROOT = "1.2.826.0.1.3680043.8.498.7"
S = np.sqrt(0.5)
# name -> (row direction, column direction) as in ImageOrientationPatient
PLANES = {
    "axial": ((1, 0, 0), (0, 1, 0)),
    "axial-feet-first": ((-1, 0, 0), (0, 1, 0)),
    "sagittal": ((0, 1, 0), (0, 0, -1)),
    "coronal": ((1, 0, 0), (0, 0, -1)),
    "oblique": ((S, S, 0), (-0.5 * S, 0.5 * S, -np.sqrt(0.75))),
}
Vector = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scan:
    """How a series lies in the patient; `reverse` gives its slices against cross(row, column)."""

    plane: str = "axial"
    shape: tuple[int, int, int] = (10, 24, 32)
    spacing_mm: tuple[float, float, float] = (2.5, 0.7, 0.9)
    corner_mm: tuple[float, float, float] = (-31.4, 17.9, -203.1)
    reverse: bool = False
    modality: str = "CT"

    @property
    def row(self) -> Vector:
        """Give the direction in which columns are counted."""
        return np.array(PLANES[self.plane][0], dtype=float)

    @property
    def column(self) -> Vector:
        """Give the direction in which rows are counted."""
        return np.array(PLANES[self.plane][1], dtype=float)

    @property
    def through(self) -> Vector:
        """Give the direction from slice to slice."""
        return np.cross(self.row, self.column) * (-1 if self.reverse else 1)

    @property
    def grid(self) -> Grid:
        """Give the same as the noun of the models."""
        axes = tuple(tuple(float(part) for part in axis) for axis in (self.through, self.column, self.row))
        return Grid(shape=self.shape, origin_mm=self.corner_mm, axes=axes, spacing_mm=self.spacing_mm)  # type: ignore[arg-type]

    def places_mm(self) -> Vector:
        """Give the LPS place of every voxel, (z, y, x, 3), written out by PS3.3 C.7.6.2.1.1 and nothing else."""
        z, y, x = np.meshgrid(*(np.arange(size) for size in self.shape), indexing="ij")
        dz, dy, dx = self.spacing_mm
        return np.array(self.corner_mm) + x[..., None] * dx * self.row + y[..., None] * dy * self.column + z[..., None] * dz * self.through

    def sources(self, **changes: Any) -> tuple[Dataset, ...]:
        """Give the headers of the slices."""
        return tuple(self._source(index, changes) for index in range(self.shape[0]))

    def _source(self, index: int, changes: dict[str, Any]) -> Dataset:
        source = Dataset()
        source.SOPClassUID = {"CT": "1.2.840.10008.5.1.4.1.1.2", "MR": "1.2.840.10008.5.1.4.1.1.4"}[self.modality]
        source.SOPInstanceUID = f"{ROOT}.3.{index + 1}"
        source.StudyInstanceUID, source.SeriesInstanceUID, source.FrameOfReferenceUID = f"{ROOT}.1", f"{ROOT}.2", f"{ROOT}.4"
        source.PatientName, source.PatientID, source.PatientBirthDate, source.PatientSex = "Phantom^Anna", "PHI-7391", "19600229", "F"
        source.IssuerOfPatientID = "Hospital"
        source.StudyDate, source.StudyTime, source.StudyID, source.AccessionNumber = "20250102", "101112", "S1", "ACC-55"
        source.ReferringPhysicianName, source.StudyDescription = "Doe^John", "CT chest"
        source.PositionReferenceIndicator = None
        source.Modality, source.Manufacturer, source.SeriesNumber, source.InstanceNumber = self.modality, "Maker", 3, index + 1
        source.SeriesDate, source.SeriesTime = "20250102", "101500"
        source.Rows, source.Columns = self.shape[1:]
        source.PixelSpacing = [self.spacing_mm[1], self.spacing_mm[2]]
        source.SliceThickness = self.spacing_mm[0]
        source.ImageOrientationPatient = [f"{part:.10g}" for part in (*self.row, *self.column)]
        place = np.array(self.corner_mm) + index * self.spacing_mm[0] * self.through
        source.ImagePositionPatient = [f"{part:.10g}" for part in place]
        for keyword, value in changes.items():
            # Unvalidated: images hold what they hold.
            source.add(DataElement(tag_for_keyword(keyword) or 0, dictionary_VR(keyword), value, validation_mode=config.IGNORE))
        return source


def block(scan: Scan, low: Sequence[int], high: Sequence[int]) -> NDArray[np.bool_]:
    """Give the voxels of an off-centre block that is defined in the patient: between the places of two voxels."""
    dz, dy, dx = scan.spacing_mm
    away = scan.places_mm() - np.array(scan.corner_mm)
    along = np.stack([away @ scan.through / dz, away @ scan.column / dy, away @ scan.row / dx], axis=-1)
    return np.asarray(((along > np.array(low) - 0.5) & (along < np.array(high) - 0.5)).all(axis=-1))


# What most tests look at; a kind that is drawn or optional is asked for by its own tests.
PLAIN = Profile(name="plain", objects=("seg", "sr"))
NODULE: dict[str, Any] = {
    "index": 3,
    "label": "Nodule",
    "kind": "finding",
    "cielab": (58, 66, 50),
    "threshold": 0.5,
    "category": {"scheme": "SCT", "value": "49755003", "meaning": "Morphologically Abnormal Structure"},
    "type": {"scheme": "SCT", "value": "27925004", "meaning": "Nodule"},
}


def card(*, finds: bool = True) -> ShelvedCard:
    """Give the card of a lung and nodule model, or of an organ-only one."""
    lung = {"scheme": "SCT", "value": "39607008", "meaning": "Lung"}
    organ = {"kind": "organ", "category": {"scheme": "SCT", "value": "91723000", "meaning": "Anatomical Structure"}, "type": lung}
    sides = (("Left", "7771000", (69, -24, -21)), ("Right", "24028007", (78, -18, 48)))
    labels: list[dict[str, Any]] = [
        {**organ, "index": i, "label": f"{side} lung", "laterality": {"scheme": "SCT", "value": code, "meaning": side}, "cielab": lab}
        for i, (side, code, lab) in enumerate(sides, start=1)
    ]
    measurements: list[dict[str, Any]] = [{"label": 1, "what": ["volume"]}, {"label": 2, "what": ["volume"]}]
    if finds:
        labels.append({**NODULE, "region": lung})
        measurements.append({"label": 3, "what": ["volume", "diameters", "hu", "probability"]})
    raw = {
        "schema_version": 1,
        "model": {
            "name": "lung-test",
            "version": "1.2.0",
            "title": "Lung nodules",
            "licence": "Apache-2.0",
            "intended_use": "t",
            "limits": ["t"],
        },
        "runtime": {"format": "state-dict", "files": {"weights": {"path": "w", "sha256": "ab" * 32}}},
        "inputs": [{"role": "ct", "reference": True, "accept": {"modality": ["CT", "MR"]}}],
        "output": {"kind": "labels", "inverse": "labels-nearest", "labels": labels},
        "measurements": measurements,
    }
    return ShelvedCard(card=Card.model_validate(raw), folder=Path(), digest="cd" * 32)


def request(scan: Scan | None = None, *, organs: bool = True, nodules: int = 2, finds: bool = True, **changes: Any) -> ComposeRequest:
    """Give a finished analysis: a block in each lung and up to two off-centre nodules; changes go to the headers."""
    scan = scan or Scan()
    labels = np.zeros(scan.shape, np.uint8)
    if organs:
        labels[block(scan, (1, 3, 2), (9, 17, 11))] = 1
        labels[block(scan, (2, 4, 15), (8, 21, 27))] = 2
    corners = (((2, 5, 4), (4, 8, 8)), ((3, 6, 18), (6, 11, 21)))[:nodules]
    instances, findings = _marked(scan, labels, corners) if finds else (None, [])
    sources = scan.sources(**changes)
    array = np.full(scan.shape, -800, np.int16)
    if instances is not None:
        array[instances > 0] = 30
    return ComposeRequest(
        job=job(sources),
        card=card(finds=finds),
        prediction=Prediction(grid=scan.grid, labels=labels, instances=instances, findings=tuple(findings), variant={"device": "cpu"}),
        volume=Volume(array=array, grid=scan.grid, unit="HU" if scan.modality == "CT" else "1", modality=scan.modality),
        sources=sources,
        settings=ResultsSection(),
        profile=PLAIN,
    )


def revised() -> ComposeRequest:
    """Give the analysis of a second revision, whose first one's report was sent."""
    first = request()
    told = {"revision": 2, "of_revision": 1, "sop_class_uid": "1.2.840.10008.5.1.4.1.1.88.34"}
    uids = {"sop_instance_uid": "2.25.70", "series_instance_uid": "2.25.701"}
    return replace(first, job=replace(first.job, revision=2, job_id="8" * 64, predecessor=told | uids))


def _marked(scan: Scan, labels: NDArray[np.uint8], corners: Any) -> tuple[NDArray[np.uint16], list[Finding]]:
    """Put findings in, and take their voxels out of the organs."""
    instances, findings = np.zeros(scan.shape, np.uint16), []
    for number, (low, high) in enumerate(corners, start=1):
        where = block(scan, low, high)
        instances[where], labels[where] = number, 0
        findings.append(Finding(number=number, label=3, score=0.875, box=Box(low=low, high=high), deviation=0.043))
    return instances, findings


def job(sources: Sequence[Dataset], **changes: Any) -> Job:
    """Give a job row created on 2 January 2025, 11:00:00.5 UTC."""
    row = Job(
        job_id="7" * 64,
        generation=1,
        study_instance_uid=sources[0].StudyInstanceUID,
        revision=1,
        model="lung-test",
        version="1.2.0",
        card_digest="cd" * 32,
        priority=5,
        destinations=("pacs",),
        inputs={"ct": tuple(sorted(str(source.SOPInstanceUID) for source in sources))},
        mode=Mode.LIVE,
        state=JobState.RUNNING,
        stage=Stage.COMPOSE,
        attempt=1,
        fence=1,
        created_at=1735815600.5,
    )
    return replace(row, **changes)
