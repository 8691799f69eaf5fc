"""A structure set's lines enclose each mark's voxels where they lie in the patient."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image, ImageDraw
from pydicom.dataset import Dataset
from scipy import ndimage

from node.errors import Refused
from node.profiles import Profile
from tests.servers import require
from tests.workers.results import scans
from tests.workers.results.forms import boxed
from tests.workers.results.scans import Scan
from tests.workers.results.test_readers import run
from workers.results import ComposedObject, ComposeRequest, check, compose, contours

CONTOURS = Profile(name="contours", objects=("rtstruct", "sr"))


def request(scan: Scan | None = None) -> ComposeRequest:
    """Give an analysis whose nodules are holes in the lungs."""
    return replace(scans.request(scan), profile=CONTOURS)


@cache
def composed() -> tuple[ComposeRequest, tuple[ComposedObject, ...]]:
    """Compose once."""
    return request(), tuple(compose(request()).objects)


def structures(known: ComposeRequest | None = None) -> Dataset:
    """Read the structure set back."""
    objects = composed()[1] if known is None else compose(known).objects
    return pydicom.dcmread(BytesIO(objects[0].dataset_bytes))


@settings(max_examples=200, deadline=None)
@given(arrays.arrays(bool, arrays.array_shapes(min_dims=2, max_dims=2, max_side=9), elements=st.booleans()))
def test_pillow_fills_the_lines_of_any_mask_with_its_pixels(plane: np.ndarray[Any, Any]) -> None:
    """One line for each edge-connected part, whatever its holes; filled by another program, ten times as fine, it is the part."""
    drawn = contours.lines(plane)
    assert len(drawn) == ndimage.label(plane)[1]
    image = Image.new("1", (plane.shape[1] * 10, plane.shape[0] * 10))
    for line in drawn:
        ImageDraw.Draw(image).polygon([(int(x) * 10, int(y) * 10) for x, y in line], fill=1)
    assert np.array_equal(np.asarray(image)[5::10, 5::10], plane)


@pytest.mark.parametrize("plane", scans.PLANES)
def test_the_lines_lie_around_the_voxels_in_the_patient(plane: str) -> None:
    """Nodule 1 spans 3 rows, 4 columns and 2 slices; in millimetres its corners lie half a voxel outside its voxels' centres."""
    scan = Scan(plane=plane, reverse=plane == "coronal")
    entry = structures(request(scan))
    number = next(item.ROINumber for item in entry.StructureSetROISequence if item.ROIName == "Nodule 1")
    lines = next(item for item in entry.ROIContourSequence if item.ReferencedROINumber == number).ContourSequence
    found_mm = np.concatenate([np.array(line.ContourData, dtype=float).reshape(-1, 3) for line in lines])
    inside_mm = scan.places_mm()[scans.block(scan, (2, 5, 4), (4, 8, 8))]
    for axis, half_mm in ((scan.column, 0.35), (scan.row, 0.45), (scan.through, 0.0)):
        truth = inside_mm @ axis
        assert (found_mm @ axis).min() == pytest.approx(truth.min() - half_mm, abs=1e-3)
        assert (found_mm @ axis).max() == pytest.approx(truth.max() + half_mm, abs=1e-3)


def test_regions_say_what_they_are_and_who_drew_them() -> None:
    """Name, colour and code of each region; nobody has approved it."""
    entry = structures()
    assert [item.ROIName for item in entry.StructureSetROISequence] == ["Left lung", "Right lung", "Nodule 1", "Nodule 2"]
    assert {item.ROIGenerationAlgorithm for item in entry.StructureSetROISequence} == {"AUTOMATIC"}
    assert [item.RTROIInterpretedType for item in entry.RTROIObservationsSequence] == ["ORGAN", "ORGAN", "", ""]
    assert len({tuple(item.ROIDisplayColor) for item in entry.ROIContourSequence}) == 3
    assert (entry.Modality, entry.ApprovalStatus) == ("RTSTRUCT", "UNAPPROVED")
    assert entry.SeriesDescription == "AI Lung nodules 1.2.0 contours - unverified"
    assert all(len(str(value)) <= 16 for value in entry.ROIContourSequence[0].ContourSequence[0].ContourData)


def test_the_same_structure_set_is_the_same_bytes() -> None:
    """No clock and no chance."""
    assert tuple(compose(request()).objects) == composed()[1]


def test_without_a_voxel_there_is_no_structure_set() -> None:
    """An empty one would say nothing, and a box is no contour."""
    for known in (scans.request(nodules=0, organs=False), boxed()):
        assert [entry.kind for entry in compose(replace(known, profile=CONTOURS)).objects] == ["sr"]


def _line(entry: Dataset, region: int = 2) -> Dataset:
    return entry.ROIContourSequence[region].ContourSequence[0]


def _moved(axis: int, away: float) -> Callable[[Dataset], None]:
    def fault(entry: Dataset) -> None:
        points = np.array(_line(entry).ContourData, dtype=float).reshape(-1, 3)
        points[:, axis] += away
        _line(entry).ContourData = [f"{value:.6f}" for value in points.ravel()]

    return fault


def _mirrored(entry: Dataset) -> None:
    """Mirror everything left to right within the images."""
    for region in entry.ROIContourSequence:
        for line in region.ContourSequence:
            points = np.array(line.ContourData, dtype=float).reshape(-1, 3)
            points[:, 0] = 2 * (-31.4 + 15.5 * 0.9) - points[:, 0]
            line.ContourData = [f"{value:.6f}" for value in points.ravel()]


def _another_name(entry: Dataset) -> None:
    first, second = entry.StructureSetROISequence[2:4]
    first.ROIName, second.ROIName = second.ROIName, first.ROIName


def _another_image(entry: Dataset) -> None:
    _line(entry).ContourImageSequence[0].ReferencedSOPInstanceUID = f"{scans.ROOT}.3.9"


def _image_not_named(entry: Dataset) -> None:
    entry.ReferencedFrameOfReferenceSequence[0].RTReferencedStudySequence[0].RTReferencedSeriesSequence[0].ContourImageSequence.pop()


FAULTS: dict[str, tuple[Callable[[Dataset], Any], str]] = {
    "mirrored": (_mirrored, "not the mask"),
    "off by one column": (_moved(0, 0.9), "not the mask"),
    "off by a tenth of a slice": (_moved(2, 0.25), "none of the images"),
    "on the next slice": (_moved(2, 2.5), "another image"),
    "names swapped": (_another_name, "another type|not lie on|not the mask"),
    "a line missing": (lambda e: e.ROIContourSequence[0].ContourSequence.pop(), "does not lie on the images"),
    "a line twice": (lambda e: e.ROIContourSequence[0].ContourSequence.append(_line(e, 0)), "not the mask"),
    "a region missing": (lambda e: e.ROIContourSequence.pop(), "draw and describe"),
    "an open line": (lambda e: setattr(_line(e), "ContourGeometricType", "OPEN_PLANAR"), "not closed"),
    "another image": (_another_image, "another image"),
    "an image not named": (_image_not_named, "refer to the images"),
    "another frame of reference": (lambda e: setattr(e, "FrameOfReferenceUID", "1.2.3"), "frame of reference"),
    "approved": (lambda e: setattr(e, "ApprovalStatus", "APPROVED"), "approved"),
    "another type": (
        lambda e: setattr(e.RTROIObservationsSequence[2].RTROIIdentificationCodeSequence[0], "CodeValue", "39607008"),
        "another type",
    ),
    "another patient": (lambda e: setattr(e, "PatientName", "Phantom^Anne"), "PatientName"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_planted_in_a_structure_set_is_refused(name: str) -> None:
    """Lines that do not enclose the prediction's voxels never leave."""
    fault, reason = FAULTS[name]
    known, objects = composed()
    dataset = structures()
    fault(dataset)
    buffer = BytesIO()
    pydicom.dcmwrite(buffer, dataset)
    with pytest.raises(Refused, match=reason):
        check.verify(known, [replace(objects[0], dataset_bytes=buffer.getvalue()), *objects[1:]])


def test_a_structure_set_that_is_missing_is_refused() -> None:
    """A site that asks for contours must not get none."""
    known, objects = composed()
    with pytest.raises(Refused, match="not the one structure set"):
        check.verify(known, objects[1:])


@pytest.mark.real
def test_dciodvfy_finds_no_fault_in_a_structure_set(tmp_path: Path) -> None:
    """It says nothing but the name of the object."""
    path = tmp_path / "rtstruct.dcm"
    path.write_bytes(composed()[1][0].dataset_bytes)
    assert run(require("dciodvfy"), path).strip() == "RTStructureSet"
