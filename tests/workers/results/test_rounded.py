"""Images whose headers are rounded, as scanners round them: every object lies where the headers put its images."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from io import BytesIO
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset

from node.errors import Refused
from node.profiles import Profile
from tests.workers.results import scans, sources
from tests.workers.results.scans import Scan
from workers.results import ComposedObject, ComposeRequest, check, compose

# name -> scan, decimals of positions, decimals of directions: slices lie up to 0.05 mm off their even places.
ROUNDINGS: dict[str, tuple[Scan, int, int]] = {
    "axial": (Scan(spacing_mm=(2.53, 0.7, 0.9)), 1, 6),
    "sagittal, the other way": (Scan(plane="sagittal", reverse=True, spacing_mm=(0.8333, 0.7, 0.9)), 2, 6),
    "oblique": (Scan(plane="oblique", shape=(10, 64, 72), spacing_mm=(3.37, 0.7, 0.9)), 1, 4),
}


@cache
def composed(name: str) -> tuple[ComposeRequest, tuple[ComposedObject, ...]]:
    """Compose every kind of object on images of rounded headers; the grid is the even one."""
    scan, of_places, of_directions = ROUNDINGS[name]
    request = scans.request(scan)
    for source in request.sources:
        source.ImagePositionPatient = [round(float(value), of_places) for value in source.ImagePositionPatient]
        source.ImageOrientationPatient = [round(float(value), of_directions) for value in source.ImageOrientationPatient]
    maps = {3: np.where(request.prediction.instances > 0, 230, 5).astype(np.uint8)}
    request = replace(request, profile=sources.EVERYTHING, prediction=replace(request.prediction, probabilities=maps))
    return request, tuple(compose(request).objects)


def of_kind(name: str, kind: str) -> Dataset:
    """Read the object of that kind back."""
    return next(pydicom.dcmread(BytesIO(entry.dataset_bytes)) for entry in composed(name)[1] if entry.kind == kind)


def place_mm(source: Dataset, row: float, column: float) -> Any:
    """Give where a pixel lies by its own image's header. Ref: PS3.3 C.7.6.2.1.1."""
    along_row, along_column = np.array(source.ImageOrientationPatient, dtype=float).reshape(2, 3)
    between_rows, between_columns = map(float, source.PixelSpacing)
    return np.array(source.ImagePositionPatient, dtype=float) + column * between_columns * along_row + row * between_rows * along_column


def test_the_headers_are_rounded_further_than_the_gate_measures() -> None:
    """Without that this module would show nothing: an image lies more than a thousandth of a millimetre off its even place."""
    for name in ROUNDINGS:
        request, _ = composed(name)
        even = request.prediction.grid.to_world_mm(np.column_stack([np.arange(10.0), np.zeros(10), np.zeros(10)]))
        assert np.abs(even - np.array([source.ImagePositionPatient for source in request.sources], dtype=float)).max() > 3e-3


@pytest.mark.parametrize("kind", ["seg", "pm"])
@pytest.mark.parametrize("name", ROUNDINGS)
def test_each_frame_lies_on_its_image(name: str, kind: str) -> None:
    """Position, directions and spacing are the image's own, so pixel lies on pixel; no even distance is claimed."""
    request, written = composed(name)[0], of_kind(name, kind)
    by_uid = {source.SOPInstanceUID: source for source in request.sources}
    shared = written.SharedFunctionalGroupsSequence[0]
    assert "SpacingBetweenSlices" not in shared.PixelMeasuresSequence[0]
    for group in written.PerFrameFunctionalGroupsSequence:
        source = by_uid[group.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID]
        frame = Dataset()
        frame.ImagePositionPatient = group.PlanePositionSequence[0].ImagePositionPatient
        frame.ImageOrientationPatient = shared.PlaneOrientationSequence[0].ImageOrientationPatient
        frame.PixelSpacing = shared.PixelMeasuresSequence[0].PixelSpacing
        for corner in ((0, 0), (written.Rows - 1, written.Columns - 1)):
            assert np.abs(place_mm(frame, *corner) - place_mm(source, *corner)).max() < 1e-3


@pytest.mark.parametrize("name", ROUNDINGS)
def test_each_line_lies_in_the_plane_of_its_image(name: str) -> None:
    """The corners of nodule 1, rows 5..8 and columns 4..8, are where the image's header has them."""
    request, written = composed(name)[0], of_kind(name, "rtstruct")
    by_uid = {source.SOPInstanceUID: source for source in request.sources}
    number = next(item.ROINumber for item in written.StructureSetROISequence if item.ROIName == "Nodule 1")
    lines = next(item for item in written.ROIContourSequence if item.ReferencedROINumber == number).ContourSequence
    assert len(lines) == 2
    for line in lines:
        source = by_uid[line.ContourImageSequence[0].ReferencedSOPInstanceUID]
        corners = np.array(line.ContourData, dtype=float).reshape(-1, 3)
        truth = np.array([place_mm(source, row, column) for row, column in ((4.5, 3.5), (4.5, 7.5), (7.5, 7.5), (7.5, 3.5))])
        assert np.abs(np.sort(corners, axis=0) - np.sort(truth, axis=0)).max() < 1e-5


@pytest.mark.parametrize("kind", ["pm", "rtstruct", "seg"])
def test_five_micrometres_off_the_image_are_refused(kind: str) -> None:
    """What lies on the even grid instead of the images, or is moved as little as that, does not leave."""
    away_mm = 0.005
    request, objects = composed("axial")
    index = next(number for number, entry in enumerate(objects) if entry.kind == kind)
    dataset = pydicom.dcmread(BytesIO(objects[index].dataset_bytes))
    if kind == "rtstruct":
        line = dataset.ROIContourSequence[0].ContourSequence[0]
        points = np.array(line.ContourData, dtype=float).reshape(-1, 3) + np.array([0, 0, away_mm])
        line.ContourData = [f"{value:.6f}" for value in points.ravel()]
    else:
        position = dataset.PerFrameFunctionalGroupsSequence[0].PlanePositionSequence[0]
        position.ImagePositionPatient = [float(value) + away_mm for value in position.ImagePositionPatient]
    buffer = BytesIO()
    pydicom.dcmwrite(buffer, dataset)
    with pytest.raises(Refused, match="none of the images"):
        check.verify(request, [*objects[:index], replace(objects[index], dataset_bytes=buffer.getvalue()), *objects[index + 1 :]])


def test_maps_and_lines_need_no_seg_beside_them() -> None:
    """A profile of maps and structure sets is served on such images too."""
    request, _ = composed("axial")
    kinds = [entry.kind for entry in compose(replace(request, profile=Profile(name="maps", objects=("pm", "rtstruct", "sr")))).objects]
    assert kinds == ["pm", "rtstruct", "sr"]
