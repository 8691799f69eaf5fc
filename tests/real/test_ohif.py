"""What a radiologist gets to see: OHIF, running, holds our voxels, labels, colours, outlines and numbers, and opens every object.

Known defects of the viewer are pinned in test_ohif_defects.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.card import LabelPart
from tests.composed import chest_card
from tests.radiographs import Radiograph
from tests.real.ohif import DEFAULT, VERSIONS, Labelmap, Seen, Study, served, visit
from tests.real.orthanc import Orthanc, orthanc
from tests.real.processes import free_port
from tests.real.studies import CASES, Looked, made
from tests.workers.results import pictures
from workers.results import compose

pytestmark = [pytest.mark.real, pytest.mark.timeout(600)]
IN_EVERY_RUN = {("everything", DEFAULT), ("nothing-found", DEFAULT)}
TEXT_ALONE = {"nothing-found", "basic"}
COLOUR_STEPS = 12  # of 255: viewers differ in the white point of CIELab
EDGE_MM = 0.02


@pytest.fixture(scope="module")
def pacs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    """Run one Orthanc for all the studies."""
    with orthanc(tmp_path_factory.mktemp("archive") / "orthanc", node_port=free_port()) as place:
        yield place


def looked_at(tmp_path: Path, pacs: Orthanc, name: str, version: str) -> tuple[Looked, Seen]:
    """Generate a case, put it into the archive, look at it."""
    study = made(name, tmp_path)
    pacs.upload(study.files)
    with served(tmp_path / "nginx", pacs, version) as address:
        visited = Study(name=name, uid=study.truth.study_instance_uid, hydrate=name == "editable")
        return study, visit(address, [visited], tmp_path / f"ohif-{version}")[name]


def _marked(name: str, version: str) -> Any:
    return pytest.param(name, version, id=f"{name}-{version}", marks=() if (name, version) in IN_EVERY_RUN else pytest.mark.verify)


@pytest.mark.parametrize(("name", "version"), [_marked(name, version) for version in VERSIONS for name in CASES])
def test_ohif_shows_what_the_truth_has(tmp_path: Path, pacs: Orthanc, name: str, version: str) -> None:
    """Every object opens; voxels, labels, colours and centres are the truth's; outlines and numbers stand at the right points."""
    study, seen = looked_at(tmp_path, pacs, name, version)
    assert seen.faults() == []
    opened = sorted({entry["modality"] for entry in seen.opened})
    wanted = {"SEG"} if "seg" in study.result.kinds else set()
    assert {"SR"} | wanted <= set(opened), seen.sets
    if wanted:
        segments_are_true(study, seen, centred=len(set(study.truth.scan.matrix)) == 1)
    if name in TEXT_ALONE:
        assert "Not verified by a physician." in seen.of("SR")["words"]
        assert seen.marks == []
    elif name == "editable":
        assert len(seen.of("SR")["tracked"]) >= 1
    else:
        assert not seen.of("SR")["asked"], "the viewer would replace our numbers by its own"
        marks_are_true(study, seen, placed=name != "non-square")


@pytest.mark.verify
@pytest.mark.parametrize("version", VERSIONS)
def test_a_radiograph_and_its_results_open(tmp_path: Path, pacs: Orthanc, version: str) -> None:
    """Every object of an analysis of a chest radiograph opens, and each box is drawn on the picture where the truth has it."""
    shown = Radiograph()
    request = pictures.request(tmp_path / "images", shown)
    paths = []
    for number, entry in enumerate(compose(request).objects):
        paths.append(tmp_path / f"{number}-{entry.kind}.dcm")
        paths[-1].write_bytes(entry.dataset_bytes)
    pacs.upload([*(tmp_path / "images").iterdir(), *paths])
    with served(tmp_path / "nginx", pacs, version) as address:
        visited = Study(name="radiograph", uid=str(request.sources[0].StudyInstanceUID))
        seen = visit(address, [visited], tmp_path / f"ohif-{version}")["radiograph"]
    assert seen.faults() == []
    assert {"SR", "OT"} <= {entry["modality"] for entry in seen.opened}
    found = sorted(_edges(np.asarray(mark["coordinates"][0]["points"]).reshape(-1, 2)) for mark in seen.marks)
    assert found == sorted(_edges(np.argwhere(mask)[:, ::-1], far=1) for mask in shown.masks())


def _edges(points: Any, far: int = 0) -> tuple[float, ...]:
    """Give the box round points (column, row); `far` more at its end, for pixels."""
    low, high = points.min(axis=0), points.max(axis=0) + far
    return (*map(float, low), *map(float, high))


def segments_are_true(study: Looked, seen: Seen, *, centred: bool = True) -> None:
    """Compare each segment that the viewer holds with the truth of its label, and look that none is missing.

    centred  whether the viewer is known to find the middle of its own voxels
    """
    met: set[str] = set()
    for labelmap in seen.labelmaps:
        places = [place_of(study, position) for position in labelmap.positions_mm]
        assert sorted(places) == list(range(len(study.starts_mm)))
        assert set(np.unique(labelmap.voxels)) - {0} <= set(labelmap.segments)
        for index, (label, centre_mm, colour) in labelmap.segments.items():
            met.add(label)
            mask = study.masks[label]
            assert np.array_equal(labelmap.voxels == index, mask[places]), f"{label} is not where the truth has it"
            half_mm = max(study.truth.scan.slice_spacing_mm, *study.truth.scan.pixel_spacing_mm) / 2
            assert not centred or np.linalg.norm(centre_mm - study.result.centres_mm[mask].mean(axis=0)) < half_mm
            is_colour_of(label, colour)
    assert met == set(study.masks)
    if "Left lung" not in met or not centred:
        return
    left, right = (segment_centre(seen.labelmaps, label)[0] for label in ("Left lung", "Right lung"))
    assert left > right, "the left lung lies at larger x"


def place_of(study: Looked, position_mm: Any) -> int:
    """Give the slice whose first voxel lies there."""
    distance = np.linalg.norm(study.starts_mm - position_mm, axis=1)
    assert distance.min() < 0.01
    return int(distance.argmin())


def segment_centre(labelmaps: list[Labelmap], label: str) -> Any:
    """Give a segment's centre as the viewer says it."""
    return next(centre for one in labelmaps for name, centre, _ in one.segments.values() if name == label)


def part_of(label: str) -> LabelPart:
    """Give the card's entry of a segment."""
    return next(part for part in chest_card().card.output.labels if label.startswith(part.label))


def is_colour_of(label: str, colour: tuple[int, ...]) -> None:
    """Compare the colour that the viewer gives a segment with the card's."""
    part = part_of(label)
    assert np.abs(np.array(colour[:3]) - _rgb(part.cielab)).max() <= COLOUR_STEPS, (label, colour, _rgb(part.cielab))


def _rgb(lab: tuple[float, float, float]) -> Any:
    """Give sRGB of CIELab under D65. Example: (100, 0, 0) is (255, 255, 255). Ref: CIE 15; IEC 61966-2-1."""
    level = (lab[0] + 16) / 116
    powers = np.array([level + lab[1] / 500, level, level - lab[2] / 200])
    xyz = np.where(powers > 6 / 29, powers**3, 3 * (6 / 29) ** 2 * (powers - 4 / 29)) * (0.95047, 1.0, 1.08883)
    linear = np.array([[3.2406, -1.5372, -0.4986], [-0.9689, 1.8758, 0.0415], [0.0557, -0.2040, 1.0570]]) @ xyz
    linear = np.clip(linear, 0, 1)
    return 255 * np.where(linear > 0.0031308, 1.055 * linear ** (1 / 2.4) - 0.055, 12.92 * linear)


def marks_are_true(study: Looked, seen: Seen, *, placed: bool) -> None:
    """Each segment has one mark on a slice that it touches, around its voxels there, with its volume.

    placed  whether the viewer is known to draw where it should
    """
    assert sorted(mark["label"] for mark in seen.marks) == sorted(study.masks)
    images = {str(source.SOPInstanceUID): index for index, source in enumerate(study.result.loaded.sources)}
    drawn = {entry["uid"]: entry for entry in seen.of("SR")["annotations"]}
    for mark in seen.marks:
        mask = study.masks[mark["label"]]
        (outline,) = mark["coordinates"]
        index = images[outline["image"]]
        points = np.asarray(outline["points"]).reshape(-1, 2)
        assert len(points) >= 6
        rows, columns = np.nonzero(mask[index])
        # The centre of the first pixel is (0.5, 0.5), so a mask's columns c0..c1 reach from c0 to c1 + 1. Ref: PS3.3 C.18.6.1.2
        assert points.min(axis=0).tolist() == [columns.min(), rows.min()]
        assert points.max(axis=0).tolist() == [columns.max() + 1, rows.max() + 1]
        _volume_is_true(study, mark, int(mask.sum()))
        if placed and mark["uid"] in drawn:
            assert outline["image"] in drawn[mark["uid"]]["image"]
            _drawn_around(study, index, mask[index], np.asarray(drawn[mark["uid"]]["points"]))


def _volume_is_true(study: Looked, mark: dict[str, Any], voxels: int) -> None:
    (said,) = [value.split(": ")[1] for value in mark["values"] if value.startswith("Volume: ")]
    number, unit = said.split()
    true_mm3 = voxels * study.truth.scan.slice_spacing_mm * float(np.prod(study.truth.scan.pixel_spacing_mm))
    assert abs(float(number) * {"mm3": 1, "mL": 1000}[unit] - true_mm3) <= max(1, 0.001 * true_mm3)


def _drawn_around(study: Looked, index: int, mask: Any, points_mm: Any) -> None:
    """Compare what the viewer draws, in mm, with the outer edges of the mask's voxels in the patient."""
    centres = study.result.centres_mm[index]
    row_mm, column_mm = centres[0, 1] - centres[0, 0], centres[1, 0] - centres[0, 0]
    for step in (row_mm, column_mm):
        length = np.linalg.norm(step)
        along, inside = points_mm @ (step / length), centres[mask] @ (step / length)
        assert abs(along.min() - (inside.min() - length / 2)) < EDGE_MM
        assert abs(along.max() - (inside.max() + length / 2)) < EDGE_MM
    normal = np.cross(row_mm, column_mm) / np.linalg.norm(np.cross(row_mm, column_mm))
    assert np.abs((points_mm - centres[0, 0]) @ normal).max() < EDGE_MM
