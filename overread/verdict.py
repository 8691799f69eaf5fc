"""Does the archive's copy say what is true? Each answer is a Check with numbers in it.

With a generated study the truth is the generator's, in patient space; with any study the results must at least lie on
its images and refer to nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from overread.readback import Report, Segment
from overread.sample import Truth

LUNG_CENTROID_MM = 12.0
LUNG_VOLUME_PART = 0.20
RASTER_MM = 4.0
PLANE_MM = 0.05
SR_VOLUME_PART = 0.02
TO_ML = {"mm3": 1e-3, "ml": 1.0, "cm3": 1.0}


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One question, whether it holds, and the numbers."""

    name: str
    holds: bool
    detail: str


def against_truth(truth: Truth, segments: Sequence[Segment]) -> list[Check]:
    """Compare lungs and nodules with the generator's formulas, in LPS millimetres."""
    by_label = {segment.label.lower(): segment for segment in segments}
    sides: tuple[Literal["left", "right"], ...] = ("left", "right")
    checks = [_lung(truth, side, by_label.get(f"{side} lung")) for side in sides]
    findings = [segment for segment in segments if "lung" not in segment.label.lower().split()]
    checks += [_nodule(truth, index, findings) for index in range(len(truth.nodules))]
    return checks


def _lung(truth: Truth, side: Literal["left", "right"], segment: Segment | None) -> Check:
    name = f"{side} lung"
    if segment is None:
        return Check(name=name, holds=False, detail="no such segment in the archive")
    wanted_ml, wanted_mm = _lung_truth(truth, side)
    found_mm = segment.centroid_mm
    off_mm = float(np.linalg.norm(found_mm - wanted_mm))
    part = segment.volume_ml / wanted_ml - 1
    # LPS: x grows to the patient's left; measured from the middle of the chest.
    on_its_side = (found_mm[0] > truth.thorax.centre_mm[0]) == (side == "left")
    holds = off_mm <= LUNG_CENTROID_MM and abs(part) <= LUNG_VOLUME_PART and on_its_side
    detail = f"centroid {off_mm:.1f} mm off, volume {segment.volume_ml:.0f} ml for {wanted_ml:.0f} ({part:+.1%}), x = {found_mm[0]:+.0f} mm"
    return Check(name=name, holds=bool(holds), detail=detail)


def _lung_truth(truth: Truth, side: Literal["left", "right"]) -> tuple[float, NDArray[np.float64]]:
    """Give a lung's volume in ml and its centroid in LPS mm, counted on a raster that knows nothing of the scan."""
    steps = np.arange(-180.0, 180.0, RASTER_MM)
    points = np.stack(np.meshgrid(steps, steps, steps, indexing="ij"), axis=-1).reshape(-1, 3) + np.asarray(truth.thorax.centre_mm)
    inside = points[truth.in_lung(side, points)]
    return len(inside) * RASTER_MM**3 / 1000, np.asarray(inside.mean(axis=0))


def _nodule(truth: Truth, index: int, findings: Sequence[Segment]) -> Check:
    nodule = truth.nodules[index]
    centre = np.asarray(nodule.centre_mm)
    where = ", ".join(f"{value:+.0f}" for value in centre)
    name = f"nodule {index + 1} ({nodule.diameter_mm:.0f} mm at {where})"
    reach_mm = max(nodule.diameter_mm / 2, 5.0)
    nearest = min(findings, key=lambda segment: float(np.linalg.norm(segment.centroid_mm - centre)), default=None)
    if nearest is None:
        return Check(name=name, holds=False, detail="no finding in the archive")
    off_mm = float(np.linalg.norm(nearest.centroid_mm - centre))
    if off_mm > reach_mm:
        return Check(name=name, holds=False, detail=f"not found; {nearest.label} is the nearest, {off_mm:.0f} mm away")
    return Check(name=name, holds=True, detail=f"{nearest.label}: {off_mm:.1f} mm off, {nearest.volume_ml * 1000:.0f} mm3")


def on_the_images(segments: Sequence[Segment], seg: Path, sources: Mapping[str, Path]) -> list[Check]:
    """Check that every frame lies in the plane of the image it says it was derived from, of the same size."""
    unknown = {plane.source_uid for segment in segments for plane in segment.planes} - set(sources)
    checks = [Check(name="SEG refers to the study's images", holds=not unknown, detail=f"{len(unknown)} unknown references")]
    dataset = pydicom.dcmread(seg, stop_before_pixels=True)
    worst = 0.0
    for groups in dataset.PerFrameFunctionalGroupsSequence:
        uid = str(groups.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID)
        if uid in sources:
            worst = max(worst, _distance_mm(groups, pydicom.dcmread(sources[uid], stop_before_pixels=True)))
    checks.append(Check(name="SEG lies in the images' planes", holds=worst <= PLANE_MM, detail=f"at most {worst:.4f} mm off"))
    first = pydicom.dcmread(next(iter(sources.values())), stop_before_pixels=True)
    same = (dataset.Rows, dataset.Columns) == (first.Rows, first.Columns) and dataset.StudyInstanceUID == first.StudyInstanceUID
    detail = f"{dataset.Rows} x {dataset.Columns}"
    return [*checks, Check(name="SEG has the images' matrix and study", holds=bool(same), detail=detail)]


def _distance_mm(groups: Dataset, image: Dataset) -> float:
    placed = np.asarray(groups.PlanePositionSequence[0].ImagePositionPatient, dtype=float)
    return float(np.linalg.norm(placed - np.asarray(image.ImagePositionPatient, dtype=float)))


def report_agrees(report: Report, segments: Sequence[Segment], known: set[str]) -> list[Check]:
    """Check that the SR refers only to what the archive holds, and that its volumes are those of the SEG's voxels."""
    unknown = report.referenced - known
    checks = [
        Check(name="SR refers to held objects", holds=not unknown, detail=f"{len(report.referenced)} referenced, {len(unknown)} unknown")
    ]
    by_tracking = {group.tracking_uid: group for group in report.groups if group.tracking_uid}
    compared, worst = 0, 0.0
    for segment in segments:
        group = by_tracking.get(segment.tracking_uid)
        for meaning, value, unit in group.numbers if group else ():
            if meaning.lower() == "volume" and unit.lower() in TO_ML:
                compared += 1
                worst = max(worst, abs(value * TO_ML[unit.lower()] / segment.volume_ml - 1))
    detail = f"{compared} volumes, at most {worst:.2%} apart"
    holds = worst <= SR_VOLUME_PART and (compared > 0 or not by_tracking)
    return [*checks, Check(name="SR's volumes are the SEG's", holds=holds, detail=detail)]
