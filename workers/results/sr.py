"""The SR: TID 1500 where something is outlined, else a report in words.

A viewer opens a report titled 126000 on the images, and turns black where one of its tracked groups has no outline.
So that title is used only with groups, each volume group (A) has its outline group (B), and "nothing found" is
a report of another title, which opens as readable text.
Ref: PS3.3 A.35.13; PS3.16 TID 1500
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from highdicom import sr
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code as PydicomCode
from pydicom.uid import ExplicitVRLittleEndian

from node.profiles import Kind
from workers.measure import SegmentMeasures
from workers.results import groups, header, references, wording
from workers.results.identity import device_uid, object_uid
from workers.results.request import ComposeRequest, Draft
from workers.results.segments import Segment

KIND: Kind = "sr"
TITLE_TEXT = PydicomCode("18748-4", "LN", "Diagnostic imaging report")
QUALITATIVE = PydicomCode("C0034375", "UMLS", "Qualitative Evaluations")
PROCEDURES: Mapping[str, PydicomCode] = {
    "CT": codes.LN.CTUnspecifiedBodyRegion,
    "MR": codes.LN.MRIUnspecifiedBodyRegion,
    "PT": codes.LN.PETUnspecifiedBodyRegion,
}
LANGUAGE = sr.CodedConcept("en-US", "RFC5646", "English (United States)")
ANY_PROCEDURE = PydicomCode("363679005", "SCT", "Imaging procedure")


def write(draft: Draft) -> tuple[Dataset, ...]:
    """Write the report; where there is a SEG it refers to it."""
    segs = draft.written.get("seg", ())
    return (_build(draft.request, draft.measured, segs[0] if segs else None),)


def _build(request: ComposeRequest, measured: Sequence[tuple[Segment, SegmentMeasures]], seg: Dataset | None) -> Dataset:
    segments = tuple(segment for segment, _ in measured)
    first = header.donor(request.sources[0])
    outlined = any(segment.finding for segment in segments) or (not request.card.card.finds and bool(segments))
    content = _measurement_report(request, measured, first, seg) if outlined and seg is not None else _text_report(request, measured)
    dataset = sr.Comprehensive3DSR(
        evidence=[first, *request.sources[1:], *([seg] if seg is not None else [])],
        content=content,
        series_instance_uid=object_uid(request, KIND, "series"),
        series_number=request.series_number(KIND),
        sop_instance_uid=object_uid(request, KIND, "instance"),
        instance_number=1,
        manufacturer=header.MANUFACTURER,
        manufacturer_model_name=header.MANUFACTURER,
        software_versions=header.software_versions(request),
        device_serial_number=request.settings.installation_id,
        is_complete=True,
        is_final=False,
        is_verified=False,
        transfer_syntax_uid=ExplicitVRLittleEndian,
        series_description=wording.sr_description(request, segments),
        contributing_equipment=header.equipment(request),
        specific_character_set=None,
        previous_versions=_replaced(request),
    )
    header.finish(dataset, request, KIND)
    return dataset


def _replaced(request: ComposeRequest) -> list[Dataset] | None:
    """Name the report of an earlier revision that somebody has, as the job's row does. Ref: PS3.3 C.17.2, (0040,A360)."""
    told = request.job.predecessor
    if told is None:
        return None
    former = Dataset()
    former.StudyInstanceUID = request.job.study_instance_uid
    former.SeriesInstanceUID, former.SOPClassUID = told["series_instance_uid"], told["sop_class_uid"]
    former.SOPInstanceUID = told["sop_instance_uid"]
    return [former]


def _measurement_report(
    request: ComposeRequest, measured: Sequence[tuple[Segment, SegmentMeasures]], first: Dataset, seg: Dataset
) -> Dataset:
    """Write TID 1500: findings first, then organs, because a viewer lists groups in this order."""
    ordered = sorted(measured, key=lambda pair: pair[0].finding is None)
    keys = sorted({measures.key_slice for _, measures in measured})
    report = sr.MeasurementReport(
        observation_context=_observer(request),
        procedure_reported=_procedure(request),
        imaging_measurements=[group for pair in ordered for group in groups.pair_of(request, *pair, seg)],
        title=codes.DCM.ImagingMeasurementReport,
        referenced_images=[groups.library_entry(request, first, index) for index in keys],
    )
    root: Dataset = report[0]
    _tell_frames(request, root, keys)
    root.ContentSequence.append(_evaluations(request, measured, with_numbers=False))
    return root


def _tell_frames(request: ComposeRequest, root: Dataset, keys: Sequence[int]) -> None:
    """Put the frame numbers into the Image Library, whose entries stand in the order of the key slices. Ref: PS3.16 TID 1601."""
    library = next(item for item in root.ContentSequence if item.name == codes.DCM.ImageLibrary)
    entries = [item for group in library.ContentSequence for item in group.get("ContentSequence", ()) if item.ValueType == "IMAGE"]
    for entry, index in zip(entries, keys, strict=True):
        references.point(request, entry.ReferencedSOPSequence[0], index)


def _text_report(request: ComposeRequest, measured: Sequence[tuple[Segment, SegmentMeasures]]) -> Dataset:
    """Write a report that opens as text; it claims no template."""
    root = sr.ContainerContentItem(name=TITLE_TEXT, is_content_continuous=False)
    content = sr.ContentSequence(is_root=False)
    content.extend(sr.LanguageOfContentItemAndDescendants(LANGUAGE))
    content.extend(_observer(request))
    content.append(sr.CodeContentItem(name=codes.DCM.ProcedureReported, value=_procedure(request), relationship_type="HAS CONCEPT MOD"))
    content.append(_evaluations(request, measured, with_numbers=True))
    root.ContentSequence = content
    return root


def _evaluations(
    request: ComposeRequest, measured: Sequence[tuple[Segment, SegmentMeasures]], *, with_numbers: bool
) -> sr.ContainerContentItem:
    """Say in a code and in words how the analysis ended; the code is a detector's, an organ has no findings."""
    segments = tuple(segment for segment, _ in measured)
    container = sr.ContainerContentItem(name=QUALITATIVE, is_content_continuous=False, relationship_type="CONTAINS")
    content = sr.ContentSequence()
    if request.card.card.finds:
        found = any(segment.finding for segment in segments)
        ended = codes.DCM.AllAlgorithmsSucceededWithFindings if found else codes.DCM.AllAlgorithmsSucceededWithoutFindings
        content.append(sr.CodeContentItem(name=codes.DCM.CADProcessingAndFindingsSummary, value=ended, relationship_type="CONTAINS"))
    content.append(sr.TextContentItem(name=codes.DCM.Comment, value=wording.statement(request, segments), relationship_type="CONTAINS"))
    if with_numbers:
        content.extend(item for segment, measures in measured for item in groups.bare_numbers(segment, measures))
    container.ContentSequence = content
    return container


def _observer(request: ComposeRequest) -> sr.ObservationContext:
    """Name this installation as the device that observed.

    Ref: PS3.16 TID 1004
    """
    device = sr.DeviceObserverIdentifyingAttributes(
        uid=device_uid(request.settings),
        name=wording.model_words(request),
        manufacturer_name=header.MANUFACTURER,
        model_name=header.MANUFACTURER,
        serial_number=request.settings.installation_id,
    )
    context = sr.ObserverContext(observer_type=codes.DCM.Device, observer_identifying_attributes=device)
    return sr.ObservationContext(observer_device_context=context)


def _procedure(request: ComposeRequest) -> PydicomCode:
    return PROCEDURES.get(request.volume.modality, ANY_PROCEDURE)
