"""Every planted fault must stop the result at the last gate."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import replace
from functools import cache
from io import BytesIO
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as Items

from node.errors import Refused
from tests.workers.results import scans
from workers.results import ComposedObject, ComposeRequest, check, compose

Fault = Callable[[Dataset], Any]


@cache
def composed(form: str) -> tuple[ComposeRequest, tuple[ComposedObject, ...]]:
    """Compose one of the forms once."""
    request = {
        "findings": scans.request,
        "none": lambda: scans.request(nodules=0),
        "labelmap": lambda: scans.request(scans.Scan(shape=(10, 25, 31))),
        "oblique": lambda: scans.request(scans.Scan(plane="oblique")),
        "revised": scans.revised,
    }[form]()
    return request, tuple(compose(request).objects)


def spoiled(form: str, kind: str, fault: Fault) -> tuple[ComposeRequest, list[ComposedObject]]:
    """Change one object, and list it as what it then is."""
    request, objects = composed(form)
    out = []
    for entry in objects:
        if entry.kind != kind:
            out.append(entry)
            continue
        dataset = pydicom.dcmread(BytesIO(entry.dataset_bytes))
        fault(dataset)
        dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
        buffer = BytesIO()
        pydicom.dcmwrite(buffer, dataset)
        out.append(
            replace(
                entry,
                dataset_bytes=buffer.getvalue(),
                sop_instance_uid=str(dataset.SOPInstanceUID),
                series_uid=str(dataset.SeriesInstanceUID),
            )
        )
    return request, out


@pytest.mark.parametrize("form", ["findings", "none", "labelmap", "oblique", "revised"])
def test_what_compose_wrote_passes(form: str) -> None:
    """The gate lets true results through, also after they were read and written again."""
    check.verify(*spoiled(form, "sr", lambda _: None))


def items(node: Dataset) -> Iterator[Dataset]:
    """Give all content items below a node."""
    for child in node.get("ContentSequence", ()):
        yield child
        yield from items(child)


def named(node: Dataset, code: str) -> list[Dataset]:
    """Give the items of that concept name."""
    return [item for item in items(node) if item.ConceptNameCodeSequence[0].get("CodeValue") == code]


def bits(dataset: Dataset) -> np.ndarray[Any, Any]:
    """Give the frames of a BINARY SEG, to be changed and written back with `pack`."""
    values = np.unpackbits(np.frombuffer(dataset.PixelData, np.uint8), bitorder="little")
    return values[: dataset.NumberOfFrames * dataset.Rows * dataset.Columns].reshape(-1, dataset.Rows, dataset.Columns).copy()


def pack(dataset: Dataset, frames: np.ndarray[Any, Any]) -> None:
    """Write frames of a BINARY SEG back."""
    dataset.PixelData = np.packbits(frames.ravel(), bitorder="little").tobytes()


def drop_a_slice(dataset: Dataset) -> None:
    """Forget one slice in the list of referenced images."""
    del dataset.ReferencedSeriesSequence[0].ReferencedInstanceSequence[3]


def swap_segments(dataset: Dataset) -> None:
    """Call segment 1 segment 2 and the other way round."""
    for group in dataset.PerFrameFunctionalGroupsSequence:
        item = group.SegmentIdentificationSequence[0]
        item.ReferencedSegmentNumber = {1: 2, 2: 1}.get(item.ReferencedSegmentNumber, item.ReferencedSegmentNumber)


def other_source(dataset: Dataset) -> None:
    """Derive the first frame from another slice."""
    source = dataset.PerFrameFunctionalGroupsSequence[0].DerivationImageSequence[0].SourceImageSequence[0]
    source.ReferencedSOPInstanceUID = f"{scans.ROOT}.3.10"


def move_frame(dataset: Dataset) -> None:
    """Move a frame by a tenth of a millimetre."""
    position = dataset.PerFrameFunctionalGroupsSequence[0].PlanePositionSequence[0]
    position.ImagePositionPatient = [float(part) + 0.1 for part in position.ImagePositionPatient]


def swap_spacing(dataset: Dataset) -> None:
    """Take the distance between rows for that between columns."""
    measures = dataset.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    measures.PixelSpacing = list(reversed(measures.PixelSpacing))


def turn(dataset: Dataset) -> None:
    """Mirror the row direction."""
    plane = dataset.SharedFunctionalGroupsSequence[0].PlaneOrientationSequence[0]
    plane.ImageOrientationPatient = [-float(part) for part in plane.ImageOrientationPatient[:3]] + list(plane.ImageOrientationPatient[3:])


def background(dataset: Dataset) -> None:
    """Put a Background item first, as the library writes it."""
    item = pydicom.Dataset()
    item.SegmentNumber, item.SegmentLabel = 0, "Background"
    dataset.SegmentSequence = Items([item, *dataset.SegmentSequence])


def set_to(keyword: str, value: Any) -> Fault:
    """Give a fault that sets one attribute."""
    return lambda dataset: setattr(dataset, keyword, value)


SEG_FAULTS: dict[str, tuple[str, Fault, str]] = {
    "mirrored left to right": ("findings", lambda d: pack(d, bits(d)[:, :, ::-1]), "segment 1 .* not the mask"),
    "mirrored top to bottom": ("oblique", lambda d: pack(d, bits(d)[:, ::-1]), "segment 1 .* not the mask"),
    "frames in another order": ("findings", lambda d: pack(d, bits(d)[::-1]), "not the mask|overlap"),
    "one voxel more": (
        "findings",
        lambda d: pack(d, np.concatenate([bits(d)[:1] | np.eye(24, 32, dtype=np.uint8), bits(d)[1:]])),
        "not the mask",
    ),
    "bits from the wrong end": (
        "findings",
        lambda d: setattr(d, "PixelData", np.packbits(bits(d).ravel(), bitorder="big").tobytes()),
        "not the mask",
    ),
    "short pixel data": ("findings", lambda d: setattr(d, "PixelData", d.PixelData[:-96]), "short"),
    "segments swapped": ("findings", swap_segments, "not the mask"),
    "a labelmap's value changed": (
        "labelmap",
        lambda d: setattr(d, "PixelData", d.PixelData.replace(b"\3", b"\4")),
        "one segment for each|not the mask",
    ),
    "a Background item": ("labelmap", background, "one segment for each"),
    "a slice not referenced": ("findings", drop_a_slice, "every image"),
    "another series": ("findings", lambda d: setattr(d.ReferencedSeriesSequence[0], "SeriesInstanceUID", "1.2.3"), "images' series"),
    "another source of a frame": ("findings", other_source, "another source image"),
    "a frame moved by 0.1 mm": ("findings", move_frame, "lies on none"),
    "spacing swapped": ("findings", swap_spacing, "orientation or spacing"),
    "orientation mirrored": ("findings", turn, "orientation or spacing"),
    "another frame of reference": ("findings", set_to("FrameOfReferenceUID", "1.2.3"), "frame of reference"),
    "another patient's ID": ("findings", set_to("PatientID", "PHI-7392"), "PatientID"),
    "another patient's name": ("findings", set_to("PatientName", "Phantom^Anne"), "PatientName"),
    "another study": ("findings", set_to("StudyInstanceUID", "1.2.3"), "StudyInstanceUID"),
    "another sex": ("findings", set_to("PatientSex", "M"), "PatientSex"),
    "not ours": ("findings", set_to("Manufacturer", "Maker"), "Overread"),
    "a description that is not ASCII": ("findings", set_to("ContentDescription", "Lungenl\u00e4sion"), "not ASCII"),
    "no colour": ("findings", lambda d: delattr(d.SegmentSequence[1], "RecommendedDisplayCIELabValue"), "colour"),
    "the UID of an image": ("findings", set_to("SOPInstanceUID", f"{scans.ROOT}.3.1"), "share a UID"),
}


@pytest.mark.parametrize("name", SEG_FAULTS)
def test_a_fault_planted_in_the_seg_is_refused(name: str) -> None:
    """A SEG that is not the prediction, of these images and this patient, never leaves."""
    form, fault, reason = SEG_FAULTS[name]
    with pytest.raises(Refused, match=reason):
        check.verify(*spoiled(form, "seg", fault))


def groups(report: Dataset) -> Any:
    """Give the sequence that holds the measurement groups."""
    return named(report, "126010")[0].ContentSequence


def set_number(code: str, value: str, which: int = 0) -> Fault:
    """Give a fault that changes the first number of that name, or a later one."""

    def fault(report: Dataset) -> None:
        measured = named(report, code)[which].MeasuredValueSequence[0]
        measured.NumericValue = value
        measured.FloatingPointValue = float(value)

    return fault


def rename(code: str, other: str) -> Fault:
    """Give a fault that changes the name of the first such item."""
    return lambda report: setattr(named(report, code)[0].ConceptNameCodeSequence[0], "CodeValue", other)


def outline(change: Callable[[np.ndarray[Any, Any]], np.ndarray[Any, Any]]) -> Fault:
    """Give a fault that changes the first outline's points."""

    def fault(report: Dataset) -> None:
        region = named(report, "111030")[0]
        region.GraphicData = change(np.array(region.GraphicData).reshape(-1, 2)).ravel().tolist()

    return fault


def reference(keyword: str, value: Any) -> Fault:
    """Give a fault that changes where the first group's segment is looked for."""
    return lambda report: setattr(named(report, "121191")[0].ReferencedSOPSequence[0], keyword, value)


def source_of_outline(report: Dataset) -> None:
    """Lay the outline on another slice."""
    named(report, "111030")[0].ContentSequence[0].ReferencedSOPSequence[0].ReferencedSOPInstanceUID = f"{scans.ROOT}.3.10"


SR_FAULTS: dict[str, tuple[str, Fault, str]] = {
    "an outline missing": ("findings", lambda r: groups(r).pop(1), "one group of numbers and one outline"),
    "a group of numbers missing": ("findings", lambda r: groups(r).pop(0), "one group of numbers and one outline"),
    "a group twice": ("findings", lambda r: groups(r).append(groups(r)[0]), "one group of numbers and one outline"),
    "no groups": ("findings", lambda r: setattr(named(r, "126010")[0], "ContentSequence", Items()), "title and its groups"),
    "findings in a report of words": (
        "findings",
        lambda r: setattr(r.ConceptNameCodeSequence[0], "CodeValue", "18748-4"),
        "title and its groups",
    ),
    "nothing found under 126000": ("none", lambda r: setattr(r.ConceptNameCodeSequence[0], "CodeValue", "126000"), "title and its groups"),
    "a tracking UID missing": ("findings", lambda r: groups(r)[0].ContentSequence.pop(1), "no tracking UID"),
    "another tracking UID": ("findings", lambda r: setattr(named(r, "112040")[0], "UID", "1.2.3"), "one group of numbers"),
    "another SEG": ("findings", reference("ReferencedSOPInstanceUID", "1.2.3"), "another SEG|evidence"),
    "another segment": ("findings", reference("ReferencedSegmentNumber", 4), "another segment"),
    "a volume ten times": ("findings", set_number("118565006", "380"), "not that of its segment"),
    "a number that is none": (
        "findings",
        lambda r: setattr(named(r, "118565006")[0].MeasuredValueSequence[0], "FloatingPointValue", float("nan")),
        "not a number",
    ),
    "two numbers in one": (
        "findings",
        lambda r: setattr(named(r, "118565006")[0].MeasuredValueSequence[0], "FloatingPointValue", 9.0),
        "not a number",
    ),
    "a volume in metres": (
        "findings",
        lambda r: setattr(named(r, "118565006")[0].MeasuredValueSequence[0].MeasurementUnitsCodeSequence[0], "CodeValue", "m"),
        "a unit",
    ),
    "another deviation of a certainty": ("findings", set_number("111012", "9", 1), "deviation of a certainty"),
    "a score called probability of cancer": ("findings", rename("111012", "111047"), "probability of cancer"),
    "columns and rows swapped": ("findings", outline(lambda points: points[:, ::-1]), "does not lie on its segment"),
    "an outline off by one pixel": ("findings", outline(lambda points: points + 1), "does not lie on its segment"),
    "an open outline": ("findings", outline(lambda points: points[:-1]), "closed line"),
    "an outline of five points": ("findings", outline(lambda points: points[[0, 2, 4, 6, 0]]), "closed line"),
    "an outline on another image": ("findings", source_of_outline, "does not touch|evidence"),
    "evidence of a slice missing": (
        "none",
        lambda r: r.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence[0].ReferencedSOPSequence.pop(),
        "evidence",
    ),
    "verified": ("findings", set_to("VerificationFlag", "VERIFIED"), "unverified"),
    "final": ("none", set_to("PreliminaryFlag", "FINAL"), "preliminary"),
    "the sentence left out": ("none", lambda r: setattr(named(r, "121106")[0], "TextValue", "No nodule marked."), "no physician"),
    "a forbidden word": ("none", lambda r: setattr(named(r, "121013")[0], "TextValue", "Diagnosis maker"), "word or character"),
    "a viewer's tool name": (
        "findings",
        lambda r: setattr(named(r, "112039")[0], "TextValue", "Cornerstone3DTools@^0.1.0:Length"),
        "word or character",
    ),
    "another patient": ("none", set_to("PatientID", "PHI-0000"), "PatientID"),
    "another character set": ("none", set_to("SpecificCharacterSet", "ISO_IR 100"), "SpecificCharacterSet"),
}


@pytest.mark.parametrize("name", SR_FAULTS)
def test_a_fault_planted_in_the_sr_is_refused(name: str) -> None:
    """An SR that a viewer cannot show, or that speaks of something else than the SEG, never leaves."""
    form, fault, reason = SR_FAULTS[name]
    with pytest.raises(Refused, match=reason):
        check.verify(*spoiled(form, "sr", fault))


def test_a_missing_seg_is_refused() -> None:
    """Marks without their masks are half a result."""
    request, objects = composed("none")
    with pytest.raises(Refused, match="no SEG"):
        check.verify(request, objects[1:])


def test_an_object_listed_as_another_is_refused() -> None:
    """The ledger sends and asks for commitment by the listed UIDs, so they must be the file's."""
    request, objects = composed("none")
    with pytest.raises(Refused, match="listed as"):
        check.verify(request, [objects[0], replace(objects[1], sop_instance_uid="1.2.3")])


def test_a_prediction_that_changed_after_writing_is_refused() -> None:
    """The gate compares with the prediction itself: one organ voxel more there, and the SEG is wrong."""
    request, objects = composed("findings")
    labels = request.prediction.labels.copy()
    labels[5, 10, 5] = 0
    with pytest.raises(Refused, match="not the mask"):
        check.verify(replace(request, prediction=replace(request.prediction, labels=labels)), objects)


def test_sources_in_another_order_than_the_volume_are_refused() -> None:
    """Slices in the wrong order would put every mark on another image."""
    request = scans.request()
    with pytest.raises(Refused, match="do not lie where"):
        compose(replace(request, sources=request.sources[::-1]))


@pytest.mark.parametrize(("keyword", "value"), [("PatientID", "PHI-0001"), ("StudyInstanceUID", "1.2.3"), ("FrameOfReferenceUID", "1.2.3")])
def test_a_slice_of_another_patient_among_the_sources_is_refused(keyword: str, value: str) -> None:
    """One foreign slice in the middle must not be analysed under the first one's name."""
    request, objects = composed("none")
    foreign = deepcopy(request.sources[4])
    setattr(foreign, keyword, value)
    with pytest.raises(Refused, match=f"do not agree on {keyword}"):
        check.verify(replace(request, sources=(*request.sources[:4], foreign, *request.sources[5:])), objects)


def test_a_report_that_replaces_another_than_the_job_says_is_stopped() -> None:
    """Neither a foreign predecessor, nor none, nor one where there is none to replace."""

    def other(dataset: Dataset) -> None:
        item = dataset.PredecessorDocumentsSequence[0].ReferencedSeriesSequence[0].ReferencedSOPSequence[0]
        item.ReferencedSOPInstanceUID = "2.25.71"

    def none(dataset: Dataset) -> None:
        del dataset.PredecessorDocumentsSequence

    def one(dataset: Dataset) -> None:
        dataset.PredecessorDocumentsSequence = composed_sr("revised").PredecessorDocumentsSequence

    for form, fault in (("revised", other), ("revised", none), ("findings", one)):
        with pytest.raises(Refused, match="does not name the report that it replaces"):
            check.verify(*spoiled(form, "sr", fault))


def composed_sr(form: str) -> Dataset:
    """Give the SR of a form."""
    return pydicom.dcmread(BytesIO(composed(form)[1][-1].dataset_bytes))
