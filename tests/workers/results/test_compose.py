"""What the objects say."""

from __future__ import annotations

import gc
from dataclasses import replace
from io import BytesIO
from typing import Any

import highdicom
import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset

from node.errors import Refused
from node.settings import ResultsSection
from tests.workers.results import scans
from tests.workers.results.scans import Scan
from workers.results import ComposeRequest, check, compose

SR_3D = "1.2.840.10008.5.1.4.1.1.88.34"


def read(request: ComposeRequest) -> dict[str, Dataset]:
    """Compose and read back."""
    return {entry.kind: pydicom.dcmread(BytesIO(entry.dataset_bytes)) for entry in compose(request).objects}


def items(node: Dataset) -> list[Dataset]:
    """Give all content items below a node."""
    return [found for child in node.get("ContentSequence", ()) for found in (child, *items(child))]


def named(node: Dataset, code: str) -> list[Dataset]:
    """Give the items of that concept name."""
    return [item for item in items(node) if item.ConceptNameCodeSequence[0].get("CodeValue") == code]


def number_of(item: Dataset) -> tuple[str, str]:
    """Give a NUM's digits and unit."""
    measured = item.MeasuredValueSequence[0]
    return str(measured.NumericValue), measured.MeasurementUnitsCodeSequence[0].CodeValue


def test_the_seg_comes_first_and_the_sr_refers_to_it() -> None:
    """The SEG is sent first and the SR last, so that no reference ever dangles."""
    composed = compose(scans.request())
    kinds = [entry.kind for entry in composed.objects]
    assert (kinds[0], kinds[-1]) == ("seg", "sr")
    report = read(scans.request())["sr"]
    references = [item.ReferencedSOPSequence[0] for item in named(report, "121191")]
    assert {entry.ReferencedSOPInstanceUID for entry in references} == {composed.objects[0].sop_instance_uid}
    assert [entry.ReferencedSegmentNumber for entry in references] == [3, 4, 1, 2]


@pytest.mark.parametrize("plane", scans.PLANES)
@pytest.mark.parametrize("reverse", [False, True])
def test_highdicom_reads_the_block_where_it_lies_in_the_patient(plane: str, *, reverse: bool) -> None:
    """Another reader finds the nodule's voxels at the places in millimetres at which the truth has them."""
    scan = Scan(plane=plane, reverse=reverse)
    data = next(entry.dataset_bytes for entry in compose(scans.request(scan)).objects if entry.kind == "seg")
    volume = highdicom.seg.segread(BytesIO(data)).get_volume(segment_numbers=[3], combine_segments=False)
    found_mm = volume.map_indices_to_reference(np.argwhere(volume.array[..., 0]))
    truth_mm = scan.places_mm()[scans.block(scan, (2, 5, 4), (4, 8, 8))]
    assert len(found_mm) == len(truth_mm) == 24
    assert np.abs(found_mm[:, None] - truth_mm[None]).sum(axis=-1).min(axis=1).max() < 1e-3


def test_segments_are_described_for_readers_and_viewers() -> None:
    """A segment carries label, codes, side, colour, algorithm and tracking UID."""
    segments = read(scans.request())["seg"].SegmentSequence
    assert [item.SegmentLabel for item in segments] == ["Left lung", "Right lung", "Nodule 1", "Nodule 2"]
    lung, nodule = segments[0], segments[2]
    assert lung.SegmentedPropertyTypeCodeSequence[0].SegmentedPropertyTypeModifierCodeSequence[0].CodeMeaning == "Left"
    assert nodule.AnatomicRegionSequence[0].CodeMeaning == "Lung"
    assert nodule.SegmentAlgorithmType == "AUTOMATIC"
    algorithm = nodule.SegmentationAlgorithmIdentificationSequence[0]
    assert algorithm.AlgorithmFamilyCodeSequence[0].CodeValue == "123110"
    assert algorithm.AlgorithmParameters == "threshold=0.5"
    # L*a*b* 69, -24, -21 in 16 bits: 69 / 100 * 65535; (-24 + 128) / 255 * 65535; (-21 + 128) / 255 * 65535
    assert list(lung.RecommendedDisplayCIELabValue) == [45219, 26728, 27499]


def test_every_finding_has_numbers_and_an_outline_under_one_tracking_uid() -> None:
    """OHIF merges the two groups of a finding by tracking UID and turns black where the outline is missing."""
    objects = read(scans.request())
    assert objects["sr"].ConceptNameCodeSequence[0].CodeValue == "126000"
    groups = named(objects["sr"], "125007")
    identifiers = [named(group, "112039")[0].TextValue for group in groups]
    assert identifiers == [name for name in ("Nodule 1", "Nodule 2", "Left lung", "Right lung") for _ in "AB"]
    tracking = [str(named(group, "112040")[0].UID) for group in groups]
    in_seg = {item.SegmentLabel: str(item.TrackingUID) for item in objects["seg"].SegmentSequence}
    assert tracking == [in_seg[name] for name in identifiers]
    assert [(len(named(group, "121191")), len(named(group, "111030"))) for group in groups] == [(1, 0), (0, 1)] * 4


def test_the_numbers_of_a_finding_are_those_of_its_voxels() -> None:
    """Nodule 1 is 2 x 3 x 4 voxels of 2.5 x 0.7 x 0.9 mm at 30 HU: 37.8 mm3, shown as 38."""
    group = named(read(scans.request())["sr"], "125007")[0]
    numbers = [(item.ConceptNameCodeSequence[0].CodeValue, *number_of(item)) for item in items(group) if item.ValueType == "NUM"]
    assert numbers[0] == ("118565006", "38", "mm3")
    assert numbers[1] == ("112031", "30", "[hnsf'U]")
    assert [name for name, _, _ in numbers[:5]] == ["118565006", "112031", "103339001", "103340004", "111012"]
    assert numbers[4:6] == [("111012", "88", "%"), ("111012", "4", "%")]


def test_the_outline_lies_around_the_nodule_in_image_coordinates() -> None:
    """Nodule 1 fills rows 5..7 and columns 4..7 of its key slice, so its outline runs from (4, 5) to (8, 8)."""
    request = scans.request()
    region = named(named(read(request)["sr"], "125007")[1], "111030")[0]
    points = np.array(region.GraphicData).reshape(-1, 2)
    assert points.min(axis=0).tolist() == [4, 5]
    assert points.max(axis=0).tolist() == [8, 8]
    assert len(points) >= 6
    assert points[0].tolist() == points[-1].tolist()
    image = region.ContentSequence[0].ReferencedSOPSequence[0].ReferencedSOPInstanceUID
    assert image in {request.sources[2].SOPInstanceUID, request.sources[3].SOPInstanceUID}


def test_nothing_found_is_a_report_in_words_with_the_organs_volumes() -> None:
    """Without a finding the report has another title, no groups and no template, and says what was analysed."""
    composed = compose(scans.request(nodules=0))
    report = read(scans.request(nodules=0))["sr"]
    assert composed.summary == (
        "Lung nodules 1.2.0: 10 of 10 images analysed. No nodule marked. Left lung 1.6 mL, Right lung 1.9 mL. Not verified by a physician."
    )
    assert report.ConceptNameCodeSequence[0].CodeValue == "18748-4"
    assert "ContentTemplateSequence" not in report
    assert named(report, "125007") == []
    assert named(report, "121106")[0].TextValue == composed.summary
    assert named(report, "111017")[0].ConceptCodeSequence[0].CodeValue == "111241"
    assert [number_of(item) for item in named(report, "118565006")] == [("1.6", "mL"), ("1.9", "mL")]
    assert report.SeriesDescription == "No nodule marked - AI lung-test 1.2.0 unverified"
    assert {item.ContinuityOfContent for item in items(report) if item.ValueType == "CONTAINER"} == {"SEPARATE"}


def test_without_any_voxel_there_is_no_seg() -> None:
    """An empty SEG breaks viewers; the report alone says that nothing was found."""
    assert list(read(scans.request(nodules=0, organs=False))) == ["sr"]


def test_a_model_of_organs_gives_each_organ_its_pair_of_groups() -> None:
    """A model that looks for no findings reports volumes with outlines and claims no CAD outcome."""
    report = read(scans.request(finds=False))["sr"]
    assert report.ConceptNameCodeSequence[0].CodeValue == "126000"
    assert len(named(report, "125007")) == 4
    assert named(report, "111017") == []
    assert report.SeriesDescription.startswith("Left lung 1.6 mL, Right lung 1.9 mL")


def test_a_model_of_organs_that_segmented_nothing_says_so() -> None:
    """An empty result of an organ model is a report in words."""
    report = read(scans.request(finds=False, organs=False))["sr"]
    assert report.ConceptNameCodeSequence[0].CodeValue == "18748-4"
    assert "Nothing was segmented." in named(report, "121106")[0].TextValue


def test_frames_that_do_not_end_on_a_byte_become_a_labelmap_without_background() -> None:
    """25 x 31 pixels are not a multiple of 8: OHIF would show BINARY scrambled, and labels shifted beside a Background."""
    seg = read(scans.request(Scan(shape=(10, 25, 31))))["seg"]
    assert seg.SOPClassUID == "1.2.840.10008.5.1.4.1.1.66.7"
    assert [item.SegmentNumber for item in seg.SegmentSequence] == [1, 2, 3, 4]
    assert seg.file_meta.TransferSyntaxUID == "1.2.840.10008.1.2.1"


@pytest.mark.parametrize("shape", [(10, 24, 32), (10, 25, 32), (10, 28, 30)])
def test_frames_that_end_on_a_byte_are_binary(shape: tuple[int, int, int]) -> None:
    """BINARY is what every viewer reads, so it is used wherever it is safe."""
    assert read(scans.request(Scan(shape=shape)))["seg"].SegmentationType == "BINARY"


def test_every_report_is_complete_preliminary_and_unverified() -> None:
    """No object of a machine looks like a physician's."""
    for request in (scans.request(), scans.request(nodules=0)):
        report = read(request)["sr"]
        flags = (report.CompletionFlag, report.PreliminaryFlag, report.VerificationFlag)
        assert flags == ("COMPLETE", "PRELIMINARY", "UNVERIFIED")


def test_series_are_named_and_numbered_by_the_settings() -> None:
    """Descriptions fit a long string, and numbers are the site's."""
    request = replace(scans.request(), settings=ResultsSection(series_numbers={"seg": 77, "sr": 78}, institution="Klinik Süd"))
    objects = read(request)
    assert (objects["seg"].SeriesNumber, objects["sr"].SeriesNumber) == (77, 78)
    assert objects["seg"].SeriesDescription == "AI Lung nodules 1.2.0 - unverified"
    assert objects["sr"].SeriesDescription == "Nodule: 2 marked - AI lung-test 1.2.0 unverified"
    assert objects["sr"].InstitutionName == "Klinik S?d"
    assert objects["seg"].ContentLabel == "LUNG_TEST"


def test_long_names_never_make_a_description_longer_than_the_standard_allows() -> None:
    """A title of 32 and a version of 16 characters still give at most 64, with "unverified" kept."""
    request = scans.request()
    raw = request.card.card.model_dump()
    raw["model"] |= {"title": "T" * 32, "version": "9" * 16, "name": "n" * 32}
    for label in raw["output"]["labels"]:
        label["label"] = label["label"] + "l" * (48 - len(label["label"]))
    request = replace(request, card=replace(request.card, card=type(request.card.card).model_validate(raw)))
    for dataset in read(request).values():
        assert len(dataset.SeriesDescription) <= 64
        assert dataset.SeriesDescription.endswith("unverified")


def test_the_equipment_says_which_weights_were_used() -> None:
    """The model is contributing equipment with the digest of its weights and what it ran on."""
    for dataset in read(scans.request()).values():
        item = next(entry for entry in dataset.ContributingEquipmentSequence if entry.get("ManufacturerModelName") == "Lung nodules")
        assert item.ContributionDescription == f"weights sha256 {'ab' * 32}; card sha256 {'cd' * 32}; device cpu"
        assert dataset.Manufacturer == "Overread"


def test_a_result_that_replaces_another_says_so_and_names_it() -> None:
    """A reader sees which result counts: in words, in the list of series, and by the reference that the standard has for it."""
    request = scans.revised()
    composed = compose(request)
    assert "Revision 2 of this study's images: this result replaces that of revision 1." in composed.summary
    assert compose(request).objects == composed.objects
    written = read(request)
    assert [written[kind].SeriesDescription for kind in ("seg", "sr")] == [
        "AI Lung nodules 1.2.0 - rev 2 unverified",
        "Nodule: 2 marked - AI lung-test 1.2.0 rev 2 unverified",
    ]
    (study,) = written["sr"].PredecessorDocumentsSequence
    (series,) = study.ReferencedSeriesSequence
    (former,) = series.ReferencedSOPSequence
    assert study.StudyInstanceUID == written["sr"].StudyInstanceUID
    assert (series.SeriesInstanceUID, former.ReferencedSOPInstanceUID, former.ReferencedSOPClassUID) == ("2.25.701", "2.25.70", SR_3D)


def test_a_later_revision_without_an_earlier_result_replaces_none() -> None:
    """What was never sent is not spoken of."""
    request = scans.request()
    request = replace(request, job=replace(request.job, revision=2, job_id="8" * 64))
    assert "evision" not in compose(request).summary
    assert "PredecessorDocumentsSequence" not in read(request)["sr"]


def test_tracking_uids_stay_while_object_uids_change_with_the_generation() -> None:
    """A forced re-run makes new objects about the same lesions."""
    request = scans.request()
    first, second = read(request), read(replace(request, job=replace(request.job, generation=2)))
    assert {first[kind].SOPInstanceUID for kind in first}.isdisjoint({second[kind].SOPInstanceUID for kind in second})
    assert [item.TrackingUID for item in first["seg"].SegmentSequence] == [item.TrackingUID for item in second["seg"].SegmentSequence]


def test_two_series_of_a_study_track_their_findings_apart() -> None:
    """The first nodule of another series is not known to be the same nodule."""
    first, second = read(scans.request())["seg"], read(scans.request(SeriesInstanceUID="1.2.3"))["seg"]
    assert {item.TrackingUID for item in first.SegmentSequence}.isdisjoint({item.TrackingUID for item in second.SegmentSequence})


def without_voxels(request: ComposeRequest) -> ComposeRequest:
    """Take the voxels of finding 2 away."""
    assert request.prediction.instances is not None
    instances = np.where(request.prediction.instances == 2, 0, request.prediction.instances)
    return replace(request, prediction=replace(request.prediction, instances=instances))


def with_strange_label(request: ComposeRequest) -> ComposeRequest:
    """Put a label in that no card names."""
    labels = request.prediction.labels.copy()
    labels[0, 0, 0] = 9
    return replace(request, prediction=replace(request.prediction, labels=labels))


def with_overlap(request: ComposeRequest) -> ComposeRequest:
    """Let an organ's label lie under a finding."""
    assert request.prediction.instances is not None
    labels = np.where(request.prediction.instances > 0, 1, request.prediction.labels).astype(np.uint8)
    return replace(request, prediction=replace(request.prediction, labels=labels))


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [(without_voxels, "finding 2"), (with_strange_label, "label 9"), (with_overlap, "overlap")],
)
def test_a_prediction_that_cannot_be_written_truly_is_refused(spoil: Any, reason: str) -> None:
    """Voxels are never dropped silently."""
    with pytest.raises(Refused, match=reason):
        compose(spoil(scans.request()))


@pytest.mark.parametrize(
    ("keyword", "reason"),
    [
        ("FrameOfReferenceUID", "Frame of Reference"),
        ("SOPClassUID", "SOPClassUID is missing"),
        ("SOPInstanceUID", "SOPInstanceUID is missing"),
    ],
)
def test_images_that_a_result_cannot_point_at_are_refused(keyword: str, reason: str) -> None:
    """Marks without a frame of reference would lie nowhere, and without UIDs on nothing."""
    with pytest.raises(Refused, match=reason):
        compose(scans.request(nodules=0, organs=False, **{keyword: ""}))


def test_what_the_gate_measures_meanwhile_is_what_it_compares_with(monkeypatch: pytest.MonkeyPatch) -> None:
    """A result that is not what the gate measured is refused, and so is one of a prediction that the gate cannot explain."""
    found = check.truth(scans.request())
    monkeypatch.setattr(check, "truth", lambda _: dict(list(found.items())[1:]))
    with pytest.raises(Refused, match="one segment for each organ and finding"):
        compose(scans.request())

    def unexplained(_: ComposeRequest) -> Any:
        raise Refused("planted")

    monkeypatch.setattr(check, "truth", unexplained)
    with pytest.raises(Refused, match="planted"):
        compose(scans.request())


@pytest.mark.parametrize("enabled", [True, False])
def test_the_collector_is_left_as_it_was(*, enabled: bool) -> None:
    """After a result and after a refusal the collector works if it did before."""
    try:
        gc.enable() if enabled else gc.disable()
        compose(scans.request(nodules=0))
        assert gc.isenabled() == enabled
        with pytest.raises(Refused):
            compose(with_overlap(scans.request()))
        assert gc.isenabled() == enabled
    finally:
        gc.enable()
