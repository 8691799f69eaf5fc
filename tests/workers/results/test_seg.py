"""The SEG's bytes: the same as highdicom's own, in every form that a profile may ask for, and right in the patient."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import highdicom
import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian

from models.card import Card
from models.vocabulary import Prediction, Volume
from node.errors import Refused
from node.profiles import Profile
from tests.servers import require
from tests.workers.results import scans
from tests.workers.results.scans import Scan
from workers.radiographs import grid
from workers.results import ComposeRequest, compose, header, placement, seg
from workers.results.arrangement import arranged
from workers.results.segments import mask, plan

OWN = {"ContributingEquipmentSequence", "SourceImageSequence"}  # library version and moment; one item an image


def written(request: ComposeRequest) -> list[Dataset]:
    """Compose, and read the SEGs back."""
    return [pydicom.dcmread(BytesIO(entry.dataset_bytes)) for entry in compose(request).objects if entry.kind == "seg"]


def asked(request: ComposeRequest, **changes: Any) -> ComposeRequest:
    """Ask for a form."""
    return replace(request, profile=Profile(**{"name": "own", "objects": ("seg", "sr"), **changes}))


def by_highdicom(request: ComposeRequest, *, binary: bool) -> Dataset:
    """Write the same SEG with highdicom alone."""
    segments = arranged(request, plan(request))
    pixels = np.zeros(request.prediction.grid.shape, np.uint8)
    for segment in segments:
        pixels[mask(request, segment)] = segment.number
    ours = written(request)[0]
    dataset: Dataset = highdicom.seg.Segmentation(
        source_images=[header.donor(request.sources[0]), *request.sources[1:]],
        pixel_array=pixels,
        segmentation_type="BINARY" if binary else "LABELMAP",
        segment_descriptions=[seg._description(request, segment) for segment in segments],
        series_instance_uid=ours.SeriesInstanceUID,
        series_number=ours.SeriesNumber,
        sop_instance_uid=ours.SOPInstanceUID,
        instance_number=1,
        manufacturer="Overread",
        manufacturer_model_name="Overread",
        software_versions=header.software_versions(request),
        device_serial_number="overread",
        transfer_syntax_uid=ExplicitVRLittleEndian,
        omit_empty_frames=not request.profile.seg_empty_frames,
        content_label=ours.ContentLabel,
        content_description=ours.ContentDescription,
        series_description=ours.SeriesDescription,
        contributing_equipment=header.equipment(request),
        specific_character_set=None,
    )
    dataset.BurnedInAnnotation, dataset.ContentCreatorName = "NO", None
    dataset.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence = placement.pixel_measures(request)  # not the headers', often wrong
    header.finish(dataset, request, "seg")
    return pydicom.dcmread(BytesIO(header.encode(dataset, "seg").dataset_bytes))


@pytest.mark.parametrize("plane", ["axial", "axial-feet-first", "sagittal", "oblique"])
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("form", ["binary", "labelmap", "empty frames", "one segment"])
def test_every_attribute_is_what_highdicom_writes(plane: str, form: str, *, reverse: bool) -> None:
    """Frames, their order, places, dimensions and bits are those of the library that other readers are tested with."""
    few = {"nodules": 1, "organs": False} if form == "one segment" else {}
    shape = (10, 25, 31) if form == "labelmap" else (10, 24, 32)
    request = asked(scans.request(Scan(plane=plane, reverse=reverse, shape=shape), **few), seg_empty_frames=form == "empty frames")
    ours, theirs = written(request)[0], by_highdicom(request, binary=form != "labelmap")
    if form == "labelmap":
        theirs.SegmentSequence = theirs.SegmentSequence[1:]  # without the Background item
    assert {element.keyword for element in ours} == {element.keyword for element in theirs}
    assert [element.keyword for element in ours if element.keyword not in OWN and element != theirs[element.tag]] == []


def read_with_highdicom(dataset: Dataset, number: int, shape: Sequence[int], scan: Scan) -> NDArray[np.bool_]:
    """Give a segment as highdicom places it in the patient, on the scan's voxels."""
    volume = highdicom.seg.Segmentation.from_dataset(dataset).get_volume(segment_numbers=[number], combine_segments=False)
    places_mm = volume.map_indices_to_reference(np.argwhere(volume.array[..., 0]))
    away = places_mm - np.array(scan.corner_mm)
    dz, dy, dx = scan.spacing_mm
    indices = np.stack([away @ scan.through / dz, away @ scan.column / dy, away @ scan.row / dx], axis=-1)
    assert np.abs(indices - np.round(indices)).max() < 1e-3
    out = np.zeros(shape, bool)
    out[tuple(np.round(indices).astype(int).T)] = True
    return out


def read_with_pydicom(dataset: Dataset, number: int, scan: Scan) -> NDArray[np.bool_]:
    """Give a segment from pydicom's frames, placed by their own positions."""
    pixels = dataset.pixel_array.reshape(-1, *scan.shape[1:])
    shared = dataset.SharedFunctionalGroupsSequence[0]
    out = np.zeros(scan.shape, bool)
    for frame, group in zip(pixels, dataset.PerFrameFunctionalGroupsSequence, strict=True):
        away = np.array(group.PlanePositionSequence[0].ImagePositionPatient, dtype=float) - np.array(scan.corner_mm)
        index = round(float(away @ scan.through / scan.spacing_mm[0]))
        if dataset.SegmentationType == "LABELMAP":
            out[index] = frame == number
            continue
        identification = group.get("SegmentIdentificationSequence") or shared.SegmentIdentificationSequence
        if identification[0].ReferencedSegmentNumber == number:
            out[index] = frame == 1
    return out


FORMS: dict[str, dict[str, Any]] = {
    "binary": {"seg_type": "binary"},
    "labelmap": {"seg_type": "labelmap"},
    "labelmap RLE": {"seg_type": "labelmap", "seg_syntax": "rle"},
    "labelmap JPEG-LS": {"seg_type": "labelmap", "seg_syntax": "jpeg-ls"},
}


@pytest.mark.parametrize("plane", ["axial", "sagittal", "oblique"])
@pytest.mark.parametrize("size", [(24, 32), (25, 31), (250, 250), (250, 252)])
@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_the_truth_in_the_patient(plane: str, size: tuple[int, int], form: str) -> None:
    """A block defined in millimetres comes back where it lies, by two readers, in whatever form and size."""
    scan = Scan(plane=plane, shape=(7, *size))
    request = asked(scans.request(scan, nodules=1), **FORMS[form])
    (dataset,) = written(request)
    assert dataset.SegmentationType == form.split(maxsplit=1)[0].upper()
    truth = scans.block(scan, (2, 5, 4), (4, 8, 8))
    assert np.array_equal(read_with_highdicom(dataset, 3, scan.shape, scan), truth)
    assert np.array_equal(read_with_pydicom(dataset, 3, scan), truth)


@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_the_same_bytes_again(form: str) -> None:
    """An encoder's output does not depend on anything but the picture."""
    request = asked(scans.request(Scan(shape=(10, 25, 31))), **FORMS[form])
    assert compose(request).objects == compose(request).objects


def test_more_than_255_segments_are_numbers_of_16_bits() -> None:
    """Each of 260 findings has its number, in LABELMAP compressed and not, and in BINARY."""
    request = many(260)
    for form in (FORMS["binary"], FORMS["labelmap RLE"], FORMS["labelmap JPEG-LS"]):
        (dataset,) = written(asked(request, sr_form="text", **form))
        assert len(dataset.SegmentSequence) == 260
        found = read_with_pydicom(dataset, 257, Scan(shape=(4, 20, 20)))
        assert np.argwhere(found).tolist() == [[1, 4, 2]]


def many(count: int) -> ComposeRequest:
    """Give findings of one voxel each, a row of the flattened volume: number n at n + 225 voxels."""
    from models.vocabulary import Box, Finding  # noqa: PLC0415

    scan = Scan(shape=(4, 20, 20))
    base = scans.request(scan, organs=False, nodules=0)
    instances, findings = np.zeros(scan.shape, np.uint16), []
    for number in range(1, count + 1):
        low = np.unravel_index(number + 225, scan.shape)
        instances[low] = number
        z, y, x = (int(part) for part in low)
        findings.append(Finding(number=number, label=3, score=0.9, box=Box(low=(z, y, x), high=(z + 1, y + 1, x + 1))))
    return replace(base, prediction=replace(base.prediction, instances=instances, findings=tuple(findings)))


def overlapping(shape: tuple[int, int, int] = (10, 24, 32)) -> ComposeRequest:
    """Give organs of which the second is a mask that reaches into the first and into a finding, and a third in both."""
    scan = Scan(shape=shape)
    base = scans.request(scan, nodules=1)
    raw = base.card.card.model_dump(mode="json")
    raw["output"]["labels"].append(dict(raw["output"]["labels"][0], index=4, label="Lobe"))
    raw["measurements"].append({"label": 4, "what": ["volume"]})
    labels = np.where(base.prediction.labels == 2, 0, base.prediction.labels).astype(np.uint8)
    masks = {2: scans.block(scan, (1, 4, 3), (8, 20, 20)), 4: scans.block(scan, (3, 6, 9), (6, 12, 18))}
    prediction = Prediction(
        grid=scan.grid, labels=labels, instances=base.prediction.instances, findings=base.prediction.findings, masks=masks
    )
    return replace(base, card=replace(base.card, card=Card.model_validate(raw)), prediction=prediction)


def test_one_binary_seg_holds_segments_that_overlap() -> None:
    """Every mask is whole, although they share voxels, and the SEG says that they overlap."""
    request = asked(overlapping(), seg_type="binary")
    (dataset,) = written(request)
    assert dataset.SegmentsOverlap == "YES"
    assert [item.SegmentLabel for item in dataset.SegmentSequence] == ["Left lung", "Right lung", "Lobe", "Nodule 1"]
    scan = Scan()
    assert np.array_equal(read_with_highdicom(dataset, 2, scan.shape, scan), scans.block(scan, (1, 4, 3), (8, 20, 20)))
    assert np.array_equal(read_with_highdicom(dataset, 3, scan.shape, scan), scans.block(scan, (3, 6, 9), (6, 12, 18)))
    assert np.array_equal(read_with_highdicom(dataset, 4, scan.shape, scan), scans.block(scan, (2, 5, 4), (4, 8, 8)))


def test_labelmaps_hold_no_two_segments_that_overlap() -> None:
    """Each set has a series of its own, numbered from 1; what cannot overlap stays together, and every segment is in one."""
    request = asked(overlapping(), seg_type="labelmap")
    datasets = written(request)
    assert [[item.SegmentLabel for item in dataset.SegmentSequence] for dataset in datasets] == [
        ["Left lung", "Nodule 1"],
        ["Right lung"],
        ["Lobe"],
    ]
    assert [[item.SegmentNumber for item in dataset.SegmentSequence] for dataset in datasets] == [[1, 2], [1], [1]]
    assert len({dataset.SeriesInstanceUID for dataset in datasets} | {dataset.SOPInstanceUID for dataset in datasets}) == 6
    assert [dataset.SeriesDescription for dataset in datasets] == [f"AI Lung nodules 1.2.0 {n}/3 - unverified" for n in (1, 2, 3)]
    assert {dataset.SegmentsOverlap for dataset in datasets} == {"NO"}
    scan = Scan()
    assert np.array_equal(read_with_pydicom(datasets[2], 1, scan), scans.block(scan, (3, 6, 9), (6, 12, 18)))


def test_binary_segs_hold_no_two_segments_that_overlap_unless_they_must() -> None:
    """A viewer loses voxels of one that does: without a word of the profile each set is a SEG of its own, still BINARY."""
    datasets = written(asked(overlapping()))
    assert [dataset.SegmentationType for dataset in datasets] == ["BINARY"] * 3
    assert {dataset.SegmentsOverlap for dataset in datasets} == {"NO"}
    assert [[item.SegmentLabel for item in dataset.SegmentSequence] for dataset in datasets] == [
        ["Left lung", "Nodule 1"],
        ["Right lung"],
        ["Lobe"],
    ]


def test_the_report_refers_to_the_seg_that_holds_each_segment() -> None:
    """With three SEGs the numbers begin at 1 three times; object and number together name the segment."""
    objects = compose(asked(overlapping(), seg_type="labelmap")).objects
    assert [entry.kind for entry in objects] == ["seg", "seg", "seg", "sr"]
    report = pydicom.dcmread(BytesIO(objects[-1].dataset_bytes))
    references = [
        (item.ReferencedSOPSequence[0].ReferencedSOPInstanceUID, item.ReferencedSOPSequence[0].ReferencedSegmentNumber)
        for group in named(report, "125007")
        for item in group.ContentSequence
        if item.ConceptNameCodeSequence[0].CodeValue == "121191"
    ]
    first, second, third = (entry.sop_instance_uid for entry in objects[:3])
    assert references == [(first, 2), (first, 1), (second, 1), (third, 1)]


def named(node: Dataset, code: str) -> list[Dataset]:
    """Give the items of that concept name below a node."""
    children = list(node.get("ContentSequence", ()))
    return [item for item in children if item.ConceptNameCodeSequence[0].get("CodeValue") == code] + [
        found for child in children for found in named(child, code)
    ]


@pytest.mark.parametrize(("seg_type", "limits", "expected"), [
    ("binary", {"seg_segments_max": 3}, [3, 1]),
    ("labelmap", {"seg_segments_max": 1}, [1, 1, 1, 1]),
    ("binary", {"frames_max": 9}, [1, 2, 1]),
    ("labelmap", {"frames_max": 8}, [4]),
])  # fmt: skip
def test_a_result_is_split_where_the_profile_asks(seg_type: str, limits: dict[str, int], expected: list[int]) -> None:
    """No object has more segments or frames than the destination takes. The four segments have 8, 6, 2 and 3 frames."""
    datasets = written(asked(scans.request(), seg_type=seg_type, **limits))
    assert [len(dataset.SegmentSequence) for dataset in datasets] == expected
    assert all(int(dataset.NumberOfFrames) <= limits.get("frames_max", 99) for dataset in datasets)


def test_a_segment_of_more_frames_than_the_destination_takes_is_refused() -> None:
    """A mask cut in two would be two organs; the reason names segment, frames and limit."""
    with pytest.raises(Refused, match="Left lung takes 8 frames, and the destination takes no object of more than 7"):
        compose(asked(scans.request(), frames_max=7))


def radiograph(*, calibrated: bool, shape: tuple[int, int] = (24, 32), **changes: Any) -> ComposeRequest:
    """Give a finished analysis of one digital radiograph with two lungs, one of them a mask that overlaps the other."""
    source = Scan(shape=(1, *shape)).sources(**changes)[0]
    for keyword in (
        "FrameOfReferenceUID",
        "PositionReferenceIndicator",
        "ImagePositionPatient",
        "ImageOrientationPatient",
        "SliceThickness",
    ):
        del source[keyword]
    source.SOPClassUID, source.Modality = "1.2.840.10008.5.1.4.1.1.1.1", "DX"
    source.PatientOrientation, source.ImagerPixelSpacing = ["L", "F"], [0.7, 0.9]
    source.PixelSpacing = [0.6, 0.8] if calibrated else [0.7, 0.9]
    base = scans.request(nodules=0)
    labels = np.zeros((1, *shape), np.uint8)
    labels[0, 3:9, 4:11] = 1
    right = np.zeros((1, *shape), bool)
    right[0, 5:20, 9:15] = True
    where = grid(source)
    return replace(
        base,
        job=scans.job([source]),
        sources=(source,),
        prediction=Prediction(grid=where, labels=labels, masks={2: right}),
        volume=Volume(array=np.zeros((1, *shape), np.float32), grid=where, unit="1", modality="DX"),
    )


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("calibrated", [False, True])
def test_a_radiograph_gets_a_seg_on_its_picture_and_nowhere_in_the_patient(form: str, *, calibrated: bool) -> None:
    """Without a frame of reference a frame lies on the image it names; millimetres are told only where they are known."""
    request = asked(radiograph(calibrated=calibrated), **FORMS[form])
    datasets = written(request)
    assert len(datasets) == (1 if form == "binary" else 2)
    shared = datasets[0].SharedFunctionalGroupsSequence[0]
    assert ("PixelMeasuresSequence" in shared) == calibrated
    if calibrated:
        assert list(shared.PixelMeasuresSequence[0].PixelSpacing) == [0.6, 0.8]
    frames = [frame for dataset in datasets for frame in dataset.pixel_array.reshape(-1, 24, 32)]
    assert np.array_equal(frames[0] == 1, request.prediction.labels[0] == 1)
    assert np.array_equal(frames[1] == 1, request.prediction.masks[2][0])
    for dataset in datasets:
        assert "FrameOfReferenceUID" not in dataset
        assert list(dataset.PatientOrientation) == ["L", "F"]
        for group in dataset.PerFrameFunctionalGroupsSequence:
            assert "PlanePositionSequence" not in group
            (image,) = group.DerivationImageSequence[0].SourceImageSequence
            assert image.ReferencedSOPInstanceUID == request.sources[0].SOPInstanceUID


@pytest.mark.real
@pytest.mark.parametrize("form", ["binary", "labelmap"])
@pytest.mark.parametrize("calibrated", [False, True])
def test_dciodvfy_finds_no_fault_in_a_radiographs_seg(form: str, tmp_path: Path, *, calibrated: bool) -> None:
    """The functional groups that a picture cannot have are not required where each frame names its source."""
    for number, entry in enumerate(compose(asked(radiograph(calibrated=calibrated), **FORMS[form])).objects):
        if entry.kind == "seg":
            (tmp_path / f"{number}.dcm").write_bytes(entry.dataset_bytes)
            done = subprocess.run([require("dciodvfy"), tmp_path / f"{number}.dcm"], capture_output=True, text=True, check=False)
            lines = {line.strip() for line in (done.stdout + done.stderr).splitlines()} - {"Segmentation"}
            assert lines <= ({"Error - Information Object Not found"} if form == "labelmap" else set())


@pytest.mark.parametrize("form", ["binary", "labelmap RLE"])
def test_images_that_lie_unevenly_keep_their_own_places(form: str) -> None:
    """Positions rounded to 0.1 mm: every frame has its image's place, and no distance between slices is claimed."""
    scan = Scan(plane="oblique", spacing_mm=(1.25, 0.7, 0.9))
    request = asked(scans.request(scan), **FORMS[form])
    sources = [deepcopy(source) for source in request.sources]
    for source in sources:
        source.ImagePositionPatient = [round(float(part), 1) for part in source.ImagePositionPatient]
    (dataset,) = written(replace(request, sources=tuple(sources)))
    assert "SpacingBetweenSlices" not in dataset.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    by_uid = {source.SOPInstanceUID: source for source in sources}
    for group in dataset.PerFrameFunctionalGroupsSequence:
        image = by_uid[group.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID]
        assert list(group.PlanePositionSequence[0].ImagePositionPatient) == list(image.ImagePositionPatient)
    assert np.array_equal(read_with_pydicom(dataset, 3, scan), scans.block(scan, (2, 5, 4), (4, 8, 8)))


def test_rounded_direction_cosines_are_the_images_own() -> None:
    """A header with four digits gives a SEG with the same four digits; the grid's axes have length 1."""
    request = asked(scans.request(Scan(plane="oblique", shape=(7, 250, 252), spacing_mm=(2.5, 0.7, 0.7))))
    sources = [deepcopy(source) for source in request.sources]
    for source in sources:
        source.ImageOrientationPatient = [round(float(part), 4) for part in source.ImageOrientationPatient]
    (dataset,) = written(replace(request, sources=tuple(sources)))
    told = dataset.SharedFunctionalGroupsSequence[0].PlaneOrientationSequence[0].ImageOrientationPatient
    assert list(told) == list(sources[0].ImageOrientationPatient)
