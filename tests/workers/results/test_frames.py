"""Results on frames and on tilted slices: the SEG and the SR point at the frame, and other readers find the marks in place."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import Any

import highdicom
import numpy as np
import pydicom
import pytest
import SimpleITK
from pydicom.dataset import Dataset

from models.vocabulary import Box, Finding, Prediction
from node.settings import ResultsSection
from tests.servers import require
from tests.workers.multiframe import Stack, enhanced, mixed, save
from tests.workers.results import scans
from tests.workers.results.test_readers import run
from tests.workers.slices import OBLIQUE, Scan, series, slope_of_place
from workers.frames import headers
from workers.load import Loaded, load
from workers.results import ComposeRequest, compose

CT = Scan(shape=(8, 16, 20))
MR = Scan(shape=(8, 16, 20), modality="MR", planes=OBLIQUE, stored=lambda _: (1.0, -700.0))
LEAN = np.radians(15.0)
TILTED = Scan(shape=(8, 16, 20), planes=((1.0, 0.0, 0.0), (0.0, float(np.cos(LEAN)), float(-np.sin(LEAN)))), step_mm=(0.0, 0.0, 2.0))
NODULE = (slice(2, 5), slice(3, 8), slice(6, 12))
KINDS = {"CT": (CT, [Stack(says={})]), "MR": (MR, [Stack(says={"EffectiveEchoTime": time}) for time in (9.0, 4.0)])}


def finished(loaded: Loaded, sources: list[Dataset] | None = None) -> ComposeRequest:
    """Give an analysis of a loaded series with one lung and one nodule."""
    labels, instances = np.zeros(loaded.volume.grid.shape, np.uint8), np.zeros(loaded.volume.grid.shape, np.uint16)
    labels[1:7, 2:12, 4:15], instances[NODULE] = 1, 1
    labels[NODULE] = 0
    box = Box(low=(2, 3, 6), high=(5, 8, 12))
    return ComposeRequest(
        job=scans.job(loaded.sources),
        card=scans.card(),
        prediction=Prediction(
            grid=loaded.volume.grid, labels=labels, instances=instances, findings=(Finding(number=1, label=3, score=0.9, box=box),)
        ),
        volume=loaded.volume,
        sources=tuple(sources or loaded.sources),
        settings=ResultsSection(),
        profile=scans.PLAIN,
        frames=tuple(source.frame for source in loaded.origin.sources) if loaded.origin.sources[0].frame else (),
        given=loaded.origin.given,
        remark=loaded.origin.remark,
    )


@pytest.fixture(params=KINDS)
def made(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, ComposeRequest, dict[str, Dataset]]:
    """Compose on an enhanced CT, and on the second of two echoes of an enhanced oblique MR; frames in no order."""
    scan, stacks = KINDS[request.param]
    (path,) = save(tmp_path, enhanced(scan, stacks, order=mixed(8 * len(stacks))))
    loaded = load([path])
    again = headers(loaded.origin.sources, {loaded.origin.images[0]: path})
    finished_request = finished(loaded, again)
    return (
        path,
        finished_request,
        {entry.kind: pydicom.dcmread(BytesIO(entry.dataset_bytes)) for entry in compose(finished_request).objects},
    )


def _corner(image: Dataset, frame: int) -> Any:
    """Give where a frame of the source lies, from its own groups."""
    return np.array(image.PerFrameFunctionalGroupsSequence[frame - 1].PlanePositionSequence[0].ImagePositionPatient, dtype=float)


def test_every_seg_frame_names_the_source_frame_of_its_place(made: Any) -> None:
    """The derivation image of each SEG frame is the one multi-frame image, its class, and the frame that lies there."""
    path, _, objects = made
    image, seg = pydicom.dcmread(path), objects["seg"]
    for group in seg.PerFrameFunctionalGroupsSequence:
        (item,) = group.DerivationImageSequence[0].SourceImageSequence
        assert (item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID) == (image.SOPClassUID, image.SOPInstanceUID)
        place = np.array(group.PlanePositionSequence[0].ImagePositionPatient, dtype=float)
        assert np.abs(_corner(image, item.ReferencedFrameNumber) - place).max() < 1e-6
    (listed,) = seg.ReferencedSeriesSequence[0].ReferencedInstanceSequence
    assert listed.ReferencedSOPInstanceUID == image.SOPInstanceUID
    assert "ReferencedFrameNumber" not in listed
    assert "2.25.1" not in {element.value for element in seg.iterall() if element.VR == "UI"}


def test_only_frames_of_the_analysed_echo_are_named(tmp_path: Path) -> None:
    """A result on the shorter echo names no frame of the longer one, and says which echo it was."""
    image = enhanced(MR, KINDS["MR"][1])
    loaded = load(save(tmp_path, image))
    composed = compose(finished(loaded))
    seg = pydicom.dcmread(BytesIO(composed.objects[0].dataset_bytes))
    named = {
        group.DerivationImageSequence[0].SourceImageSequence[0].ReferencedFrameNumber for group in seg.PerFrameFunctionalGroupsSequence
    }
    assert named
    assert named <= set(range(9, 17))
    assert "8 of 16 images analysed (echo 4, the shortest of 2)." in composed.summary


def test_the_outline_and_the_key_image_name_their_frame(made: Any) -> None:
    """The SR's outline lies on, and its image library holds, the frame of the key slice."""
    path, request, objects = made
    image, report = pydicom.dcmread(path), objects["sr"]
    references = [item for item in _items(report) if item.get("ValueType") == "IMAGE" and _is_source(item, image)]
    assert len(references) >= 3
    frames = [item.ReferencedSOPSequence[0].ReferencedFrameNumber for item in references]
    places = [request.prediction.grid.to_index(_corner(image, frame)[None])[0, 0] for frame in frames]
    assert {round(place) for place in places} <= {1, 2, 3, 4, 5, 6}
    (evidence,) = [item for item in _evidence(report) if item.ReferencedSOPInstanceUID == image.SOPInstanceUID]
    assert evidence.ReferencedSOPClassUID == image.SOPClassUID


def _is_source(item: Dataset, image: Dataset) -> bool:
    return bool(item.ReferencedSOPSequence[0].ReferencedSOPInstanceUID == image.SOPInstanceUID)


def _items(node: Dataset) -> list[Dataset]:
    return [found for child in node.get("ContentSequence", ()) for found in (child, *_items(child))]


def _evidence(report: Dataset) -> list[Dataset]:
    return [
        item
        for study in report.CurrentRequestedProcedureEvidenceSequence
        for listed in study.ReferencedSeriesSequence
        for item in listed.ReferencedSOPSequence
    ]


def test_highdicom_finds_the_voxels_by_source_frame(made: Any) -> None:
    """Asked for the masks of the multi-frame image's frames, highdicom gives each frame the mask of its own place."""
    path, request, objects = made
    image = pydicom.dcmread(path)
    seg = highdicom.seg.Segmentation.from_dataset(objects["seg"])
    for index in (2, 3, 4):
        number = request.frame(index)
        masks = seg.get_pixels_by_source_frame(
            image.SOPInstanceUID, [number], segment_numbers=[2], assert_missing_frames_are_empty=True, ignore_spatial_locations=True
        )
        assert np.array_equal(masks[0, ..., 0] > 0, request.prediction.instances[index] == 1)


def test_highdicom_places_the_volume_in_the_patient(made: Any) -> None:
    """The nodule's voxels, as highdicom places them in LPS, are those at which the source's values say so."""
    _, request, objects = made
    volume = highdicom.seg.Segmentation.from_dataset(objects["seg"]).get_volume(segment_numbers=[2], combine_segments=False)
    found_mm = volume.map_indices_to_reference(np.argwhere(volume.array[..., 0]))
    values = np.sort(request.volume.array[NODULE].ravel().astype(float))
    assert len(found_mm) == 3 * 5 * 6
    assert np.abs(np.sort(slope_of_place(found_mm)) - values).max() < 0.51


@pytest.mark.real
def test_dcmqi_places_the_volume_in_the_patient(made: Any, tmp_path: Path) -> None:
    """The nodule's voxels, as dcmqi and ITK place them, are those at which the source's values say so."""
    _, request, objects = made
    objects["seg"].save_as(tmp_path / "seg.dcm")
    (tmp_path / "itk").mkdir()
    run(require("segimage2itkimage"), "--inputDICOM", tmp_path / "seg.dcm", "--outputDirectory", tmp_path / "itk", "--outputType", "nrrd")
    image: Any = SimpleITK.ReadImage(str(tmp_path / "itk" / "2.nrrd"))
    inside = np.argwhere(SimpleITK.GetArrayFromImage(image) > 0)
    found = np.array([image.TransformIndexToPhysicalPoint(tuple(int(part) for part in index[::-1])) for index in inside])
    values = np.sort(request.volume.array[NODULE].ravel().astype(float))
    assert len(found) == 3 * 5 * 6
    assert np.abs(np.sort(slope_of_place(found)) - values).max() < 0.51


@pytest.mark.real
def test_dciodvfy_finds_no_fault_in_results_on_frames(made: Any, tmp_path: Path) -> None:
    """SEG and SR that refer to frames are as valid as those that refer to images."""
    for kind, dataset in made[2].items():
        dataset.save_as(tmp_path / kind)
        said = run(require("dciodvfy"), tmp_path / kind)
        lines = [line for line in said.splitlines() if line.startswith(("Error", "Warning"))]
        assert [line for line in lines if "DICOMDIR" not in line] == []  # the generated study has no date and no ID


def test_a_seg_of_tilted_slices_lies_on_them(tmp_path: Path) -> None:
    """Each SEG frame has its source's corner, the distance along the normal is declared, and the volume is that of the shear."""
    loaded = load(series(tmp_path, TILTED))
    request = finished(loaded)
    composed = compose(request)
    seg, report = (pydicom.dcmread(BytesIO(entry.dataset_bytes)) for entry in composed.objects)
    by_uid = {source.SOPInstanceUID: source for source in loaded.sources}
    for group in seg.PerFrameFunctionalGroupsSequence:
        source = by_uid[group.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID]
        ours = np.array(group.PlanePositionSequence[0].ImagePositionPatient, dtype=float)
        assert np.abs(ours - np.array(source.ImagePositionPatient, dtype=float)).max() < 1e-6
    measures = seg.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    assert float(measures.SpacingBetweenSlices) == pytest.approx(2 * np.cos(LEAN))
    volumes = [item.MeasuredValueSequence[0].NumericValue for item in _items(report) if _named(item) == "118565006"]
    assert float(volumes[0]) == round(3 * 5 * 6 * 0.5 * 0.75 * 2 * np.cos(LEAN))
    assert "(gantry tilt 15.0 degrees)" in composed.summary


def _named(item: Dataset) -> str:
    return str(item.ConceptNameCodeSequence[0].CodeValue) if "ConceptNameCodeSequence" in item else ""


def test_a_distance_that_the_images_declare_wrongly_is_not_copied(tmp_path: Path) -> None:
    """Images that put the gap into Spacing Between Slices get a SEG with the true distance."""
    scan = Scan(shape=(8, 16, 20), gap_mm=6.0, extra={"SpacingBetweenSlices": 1.0, "SliceThickness": 5.0})
    composed = compose(finished(load(series(tmp_path, scan))))
    seg = pydicom.dcmread(BytesIO(composed.objects[0].dataset_bytes))
    assert float(seg.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].SpacingBetweenSlices) == 6.0
