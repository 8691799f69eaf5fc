"""The rarer forms of a result in the running viewer: LABELMAP, a SEG of one frame, a report on organs alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from models.vocabulary import Box, Finding, Prediction
from node.settings import ResultsSection
from overread.sample import Truth
from tests import phantoms
from tests.composed import job_for
from tests.real.ohif import Seen, look, served
from tests.real.orthanc import Orthanc
from tests.workers.results import scans
from workers.load import load
from workers.results import ComposeRequest, compose

pytestmark = [pytest.mark.real, pytest.mark.verify]
Marked = tuple[NDArray[np.uint8], NDArray[np.uint16] | None, tuple[Finding, ...]]


def shown(folder: Path, archive: Orthanc, truth: Truth, marked: Marked) -> tuple[NDArray[Any], Seen]:
    """Compose, upload and look; gives the segment numbers that must be seen, by the place of each slice's first voxel."""
    labels, instances, findings = marked
    loaded = load(truth.files)
    card = scans.card(finds=instances is not None)
    uids = tuple(str(source.SOPInstanceUID) for source in loaded.sources)
    request = ComposeRequest(
        job=replace(job_for(truth, uids, card), job_id="5" * 64, model="lung-test", version="1.2.0", inputs={"ct": tuple(sorted(uids))}),
        card=card,
        prediction=Prediction(grid=loaded.volume.grid, labels=labels, instances=instances, findings=findings),
        volume=loaded.volume,
        sources=loaded.sources,
        settings=ResultsSection(),
    )
    files = []
    for entry in compose(request).objects:
        files.append(folder / f"{entry.kind}.dcm")
        files[-1].write_bytes(entry.dataset_bytes)
    archive.upload([*truth.files, *files])
    with served(folder / "nginx", archive) as address:
        return phantoms.voxel_centres_mm(phantoms.read_with_itk(truth.files))[:, 0, 0], look(
            address, truth.study_instance_uid, folder / "seen"
        )


def assert_voxels(expected: NDArray[Any], starts_mm: NDArray[Any], seen: Seen) -> None:
    """Compare every slice of the viewer's labelmap with the truth at its place."""
    assert seen.errors == []
    assert len(seen.labelmap) == len(expected)
    for plane, position in zip(seen.labelmap, seen.positions_mm, strict=True):
        distance = np.linalg.norm(starts_mm - position, axis=1)
        assert distance.min() < 0.01
        assert np.array_equal(plane, expected[int(distance.argmin())])


def on_grid(truth: Truth) -> phantoms.OnGrid:
    """Ask the truth on ITK's grid."""
    return phantoms.on_grid(truth, phantoms.voxel_centres_mm(phantoms.read_with_itk(truth.files)))


def test_a_labelmap_of_odd_frames_is_shown_exactly(tmp_path: Path, archive: Orthanc) -> None:
    """63 x 61 pixels do not end on a byte; the labelmap's voxels and labels are right, and empty frames may be left out."""
    truth = phantoms.thorax(tmp_path / "study", replace(phantoms.SMALL, matrix=(63, 61), nodules_mm=()))
    labels = on_grid(truth).labels
    starts_mm, seen = shown(tmp_path, archive, truth, (labels, None, ()))
    assert_voxels(labels, starts_mm, seen)
    assert [label for _, (label, _) in sorted(seen.segments.items())] == ["Left lung", "Right lung"]
    assert sorted(mark["label"] for mark in seen.marks) == ["Left lung", "Right lung"]


def test_a_seg_of_one_frame_is_shown_exactly(tmp_path: Path, archive: Orthanc) -> None:
    """A small nodule on one slice, and nothing else, is one frame; the viewer puts it on its slice."""
    truth = phantoms.thorax(tmp_path / "study", phantoms.EMPTY)
    labels = np.zeros_like(on_grid(truth).labels)
    instances = np.zeros(labels.shape, np.uint16)
    box = Box(low=(20, 30, 17), high=(21, 33, 19))
    instances[20, 30:33, 17:19] = 1
    starts_mm, seen = shown(tmp_path, archive, truth, (labels, instances, (Finding(number=1, label=3, score=0.9, box=box),)))
    assert_voxels(instances, starts_mm, seen)
    assert [mark["label"] for mark in seen.marks] == ["Nodule 1"]


def test_a_report_on_organs_alone_opens_on_the_images(tmp_path: Path, archive: Orthanc) -> None:
    """Each organ is outlined on its largest slice with its volume; no viewport turns black."""
    truth = phantoms.thorax(tmp_path / "study", phantoms.EMPTY)
    labels = on_grid(truth).labels
    starts_mm, seen = shown(tmp_path, archive, truth, (labels, None, ()))
    assert_voxels(labels, starts_mm, seen)
    assert [mark["label"] for mark in seen.marks] == ["Left lung", "Right lung"]
    for mark in seen.marks:
        assert mark["values"][0].startswith("Volume: ")
        assert len(mark["values"]) == 1, "OHIF writes a site on the image as a bare code"
        assert len(mark["coordinates"]) == 1
