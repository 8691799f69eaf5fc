"""Defects of OHIF that shape what we send, each pinned: the day one is mended, its test says so.

These are not forms that a default profile sends; each shows why not.
"""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import highdicom
import numpy as np
import pydicom
import pytest
from highdicom.color import CIELabColor
from highdicom.seg import Segmentation, SegmentDescription
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.uid import UID, ExplicitVRLittleEndian

from tests.real.ohif import VERSIONS, Seen, Study, served, visit
from tests.real.orthanc import Orthanc
from tests.real.studies import Looked, made
from tests.real.test_ohif import is_colour_of, marks_are_true, part_of, place_of, segments_are_true

pytestmark = [pytest.mark.real, pytest.mark.verify, pytest.mark.timeout(600)]


def both(**fails: str) -> list[Any]:
    """Give each version, as an expected failure where a cause is named for it: v3_13="..."."""
    causes = {name.replace("v", "").replace("_", "."): cause for name, cause in fails.items()}
    rows = []
    for version in VERSIONS:
        cause = next((cause for start, cause in causes.items() if version.startswith(start)), None)
        marks = [pytest.mark.xfail(strict=True, raises=AssertionError, reason=cause)] if cause else []
        rows.append(pytest.param(version, marks=marks, id=version))
    return rows


def seen_with(study: Looked, archive: Orthanc, version: str, extra: list[Dataset]) -> Seen:
    """Put images and objects of another make into the archive, and look."""
    archive.upload(study.truth.files)
    for dataset in extra:
        buffer = BytesIO()
        pydicom.dcmwrite(buffer, dataset, enforce_file_format=True)
        archive.raw("/instances", buffer.getvalue())
    folder = study.truth.files[0].parents[1]
    with served(folder / "nginx", archive, version) as address:
        visited = Study(name=folder.name, uid=study.truth.study_instance_uid)
        return visit(address, [visited], folder / f"ohif-defect-{version}")[folder.name]


def plain_seg(study: Looked, kind: str) -> Dataset:
    """Write the truth as highdicom writes it by itself."""
    sources = [pydicom.dcmread(path) for path in study.truth.files]
    sources.sort(key=lambda source: place_of(study, np.array(source.ImagePositionPatient, dtype=float)))
    labels = np.zeros(next(iter(study.masks.values())).shape, np.uint8)
    for number, mask in enumerate(study.masks.values(), start=1):
        labels[mask] = number
    algorithm = highdicom.AlgorithmIdentificationSequence(name="plain", family=codes.DCM.ArtificialIntelligence, version="1")
    segments = [
        SegmentDescription(
            segment_number=number,
            segment_label=label,
            segmented_property_category=codes.SCT.Organ,
            segmented_property_type=codes.SCT.Lung,
            algorithm_type="AUTOMATIC",
            algorithm_identification=algorithm,
            display_color=CIELabColor(*part_of(label).cielab),
        )
        for number, label in enumerate(study.masks, start=1)
    ]
    pixels: Any = labels
    if kind == "FRACTIONAL":
        pixels = np.stack([mask * PROBABILITY for mask in study.masks.values()], axis=-1).astype(np.float32)
    return Segmentation(
        source_images=sources,
        pixel_array=pixels,
        segmentation_type=kind,
        segment_descriptions=segments,
        series_instance_uid=UID("2.25.9001"),
        series_number=9001,
        sop_instance_uid=UID("2.25.90011"),
        instance_number=1,
        manufacturer="plain",
        manufacturer_model_name="plain",
        software_versions="1",
        device_serial_number="1",
        transfer_syntax_uid=ExplicitVRLittleEndian,
    )


def held(study: Looked, seen: Seen) -> None:
    """Look that the viewer holds each segment under its label, voxel by voxel."""
    assert seen.faults() == []
    (labelmap,) = seen.labelmaps
    places = [place_of(study, position) for position in labelmap.positions_mm]
    found = {label: labelmap.voxels == index for index, (label, _, _) in labelmap.segments.items()}
    for label, _, colour in labelmap.segments.values():
        if label != "Background":
            is_colour_of(label, colour)
    for label, mask in study.masks.items():
        assert label in found
        assert np.array_equal(found[label], mask[places])


PROBABILITY = 0.6
SCRAMBLED = "the bits of BINARY frames that do not end on a byte are taken from the byte's start"
SHIFTED = "the Background item counts as the first segment, so every colour and centre moves by one"
FRACTIONAL = "fractional segments are not shown"


@pytest.mark.parametrize("version", both(v3_13=SCRAMBLED))
def test_binary_of_250_by_250_is_held_exactly(tmp_path: Path, archive: Orthanc, version: str) -> None:
    """62500 pixels are 7812.5 bytes."""
    study = made("250x250", tmp_path)
    held(study, seen_with(study, archive, version, [plain_seg(study, "BINARY")]))


@pytest.mark.parametrize("version", both(v3_13=SHIFTED, v3_12=SHIFTED))
def test_a_labelmap_with_background_is_held_exactly(tmp_path: Path, archive: Orthanc, version: str) -> None:
    """Highdicom writes segment 0, the Background, into the Segment Sequence."""
    study = made("63x61", tmp_path)
    held(study, seen_with(study, archive, version, [plain_seg(study, "LABELMAP")]))


@pytest.mark.parametrize("version", both(v3_13=FRACTIONAL, v3_12=FRACTIONAL))
def test_fractional_is_held_exactly(tmp_path: Path, archive: Orthanc, version: str) -> None:
    """Probability maps are sent as parametric maps for this reason."""
    study = made("axial", tmp_path)
    held(study, seen_with(study, archive, version, [plain_seg(study, "FRACTIONAL")]))


LOST = "of segments that overlap a later one keeps only those slices of its layer that an earlier one fills already"


@pytest.mark.parametrize("version", both(v3_13=LOST, v3_12=LOST))
def test_segments_that_overlap_in_one_seg_are_held_exactly(tmp_path: Path, archive: Orthanc, version: str) -> None:
    """Two of three nodules vanish, with a name, a colour and a centre; each set of segments apart is exact, see test_ohif."""
    study = made("overlapping-binary", tmp_path)
    seen = seen_with(study, archive, version, [pydicom.dcmread(path) for path in study.files if path.name == "seg.dcm"])
    assert seen.faults() == []
    (labelmap,) = seen.labelmaps
    places = [place_of(study, position) for position in labelmap.positions_mm]
    assert {label for label, _, _ in labelmap.segments.values()} == set(study.masks)
    for index, (label, _, _) in labelmap.segments.items():
        found = np.zeros_like(study.masks[label])
        np.logical_or.at(found, places, labelmap.voxels == index)  # in whichever layer
        assert np.array_equal(found, study.masks[label]), f"{label} is not where the truth has it"


SWAPPED = "imageToWorldCoords takes row spacing for column spacing"


@pytest.mark.parametrize("version", both(v3_13=SWAPPED, v3_12=SWAPPED))
def test_an_outline_on_non_square_pixels_stands_where_it_should(tmp_path: Path, archive: Orthanc, version: str) -> None:
    """The SEG of the same study is exact, see test_ohif."""
    study = made("non-square", tmp_path)
    reports = [pydicom.dcmread(path) for path in study.files if path.name == "sr.dcm"]
    seen = seen_with(study, archive, version, reports)
    assert seen.faults() == []
    marks_are_true(study, seen, placed=True)


OFF_CENTRE = "a segment's middle is taken on a picture of as many columns as rows"


@pytest.mark.parametrize("version", both(v3_13=OFF_CENTRE, v3_12=OFF_CENTRE))
def test_the_middle_of_a_segment_is_right_where_columns_are_not_rows(tmp_path: Path, archive: Orthanc, version: str) -> None:
    """Voxels are exact there in both versions, see test_ohif; the jump to a segment goes elsewhere."""
    study = made("250x252", tmp_path)
    segs = [pydicom.dcmread(path) for path in study.files if path.name == "seg.dcm"]
    segments_are_true(study, seen_with(study, archive, version, segs))


BLACK = "a group without an outline or a Tracking UID breaks the viewport that opens a report titled 126000"


def _without_outlines(report: Dataset) -> None:
    measurements = next(item for item in report.ContentSequence if item.ConceptNameCodeSequence[0].CodeValue == "126010")
    measurements.ContentSequence = [
        group for group in measurements.ContentSequence if not any(item.ValueType == "SCOORD" for item in group.ContentSequence)
    ]


def _without_groups(report: Dataset) -> None:
    measurements = next(item for item in report.ContentSequence if item.ConceptNameCodeSequence[0].CodeValue == "126010")
    measurements.ContentSequence = []


@pytest.mark.parametrize("change", [_without_outlines, _without_groups])
@pytest.mark.parametrize("version", both(v3_13=BLACK, v3_12=BLACK))
def test_a_report_with_nothing_to_draw_opens(tmp_path: Path, archive: Orthanc, version: str, change: Callable[[Dataset], None]) -> None:
    """The same report with its outlines opens, see test_ohif: so a black viewport is seen when there is one."""
    study = made("axial", tmp_path)
    (report,) = [pydicom.dcmread(path) for path in study.files if path.name == "sr.dcm"]
    change(report)
    seen = seen_with(study, archive, version, [report])
    assert seen.opened, seen.failure
    assert seen.faults() == []
