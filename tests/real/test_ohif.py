"""What a radiologist gets to see: OHIF, running, holds our voxels, colours' labels, outlines and numbers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom
import pytest

from tests import phantoms
from tests.composed import TrueResult, perfect
from tests.real.ohif import Seen, look, served
from tests.real.orthanc import Orthanc

pytestmark = pytest.mark.real
HALF_VOXEL_MM = phantoms.SMALL.slice_spacing_mm / 2


def _looked_at(tmp_path: Path, archive: Orthanc, name: str) -> tuple[TrueResult, Seen]:
    truth = phantoms.thorax(tmp_path / "study", phantoms.ORIENTATIONS[name])
    result = perfect(truth)
    archive.upload([*truth.files, *result.write(tmp_path / "results").values()])
    with served(tmp_path / "nginx", archive) as address:
        return result, look(address, truth.study_instance_uid, tmp_path / "seen")


def _expected_labelmap(result: TrueResult) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """Give the truth the SEG's segment numbers: the organs, then the findings by position."""
    labels, instances = result.expected.labels.copy(), result.expected.instances
    order = sorted(
        (value for value in np.unique(instances) if value), key=lambda value: tuple(np.argwhere(instances == value).mean(axis=0))
    )
    for number, value in enumerate(order, start=3):
        labels[instances == value] = number
    return labels


@pytest.mark.parametrize(
    "name", ["axial", pytest.param("oblique", marks=pytest.mark.verify), pytest.param("sagittal", marks=pytest.mark.verify)]
)
def test_ohif_holds_every_voxel_of_our_segmentation_where_the_truth_has_it(tmp_path: Path, archive: Orthanc, name: str) -> None:
    """The labelmap in the running viewer equals the truth voxel by voxel, slice by slice in millimetres; the report opens."""
    result, seen = _looked_at(tmp_path, archive, name)
    assert seen.errors == []
    expected = _expected_labelmap(result)
    starts_mm = result.centres_mm[:, 0, 0]
    for plane, position in zip(seen.labelmap, seen.positions_mm, strict=True):
        distance = np.linalg.norm(starts_mm - position, axis=1)
        assert distance.min() < 0.01
        assert np.array_equal(plane, expected[int(distance.argmin())])
    for index, (_label, centre_mm) in seen.segments.items():
        assert np.linalg.norm(centre_mm - result.centres_mm[expected == index].mean(axis=0)) < HALF_VOXEL_MM
    assert seen.segments[1][0] == "Left lung"
    assert seen.segments[1][1][0] > seen.segments[2][1][0], "the left lung lies at larger x"
    _report_is_whole(result, seen)


def _report_is_whole(result: TrueResult, seen: Seen) -> None:
    """Each nodule is marked on the image it lies on, its outline around its voxels, with its volume."""
    images = {str(source.SOPInstanceUID): index for index, source in enumerate(result.loaded.sources)}
    nodules = [mark for mark in seen.marks if mark["label"].startswith("Nodule")]
    assert [mark["label"] for mark in nodules] == ["Nodule 1", "Nodule 2", "Nodule 3"]
    expected = _expected_labelmap(result)
    for number, mark in enumerate(nodules, start=3):
        assert any(value.startswith("Volume: ") for value in mark["values"]), mark["values"]
        (outline,) = mark["coordinates"]
        points = np.asarray(outline["points"]).reshape(-1, 2)
        rows, columns = np.nonzero(expected[images[outline["image"]]] == number)
        # DICOM's image coordinates: the centre of the first pixel is (0.5, 0.5). Ref: PS3.3 C.10.5.1.2
        assert points[:, 0].min() <= columns.min() + 0.5
        assert points[:, 0].max() >= columns.max() + 0.5
        assert points[:, 1].min() <= rows.min() + 0.5
        assert points[:, 1].max() >= rows.max() + 0.5
        assert len(points) >= 6


@pytest.mark.verify
def test_a_report_of_nothing_found_opens_as_text(tmp_path: Path, archive: Orthanc) -> None:
    """Without a finding the viewer shows the sentence and no black viewport."""
    truth = phantoms.thorax(tmp_path / "study", phantoms.EMPTY)
    result = perfect(truth)
    paths = result.write(tmp_path / "results")
    assert pydicom.dcmread(paths["sr"]).ConceptNameCodeSequence[0].CodeValue != "126000", "OHIF turns black on a report without groups"
    archive.upload([*truth.files, *paths.values()])
    with served(tmp_path / "nginx", archive) as address:
        seen = look(address, truth.study_instance_uid, tmp_path / "seen")
    assert seen.errors == []
