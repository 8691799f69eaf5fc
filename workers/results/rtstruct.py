"""The RT Structure Set: each mark as closed lines in the planes of the images, for planning systems and viewers without SEG.

A region of interest a mark; on each image one line for each part of it, along pixel borders, holes cut open to the outside.
A box alone is no contour, and a radiograph lies nowhere in the patient: neither is written.
Ref: PS3.3 A.19, C.8.8.5, C.8.8.6, C.8.8.8
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
from highdicom.base import SOPClass
from highdicom.color import CIELabColor
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as Items
from pydicom.uid import ExplicitVRLittleEndian, RTStructureSetStorage

from models.card import CodedConcept
from node.profiles import Kind
from workers.results import contours, header, placement, references, wording
from workers.results.identity import object_uid
from workers.results.request import ComposeRequest, Draft
from workers.results.segments import Segment, mask

KIND: Kind = "rtstruct"
STUDY_CLASS = "1.2.840.10008.3.1.2.3.1"  # Detached Study Management: retired, and still what names a study here
LABEL_CHARACTERS = 16  # SH


def write(draft: Draft) -> tuple[Dataset, ...]:
    """Write the structure set, none where no voxel is marked."""
    segments = tuple(segment for segment in draft.segments if not segment.boxed)
    if not segments or draft.request.prediction.grid.is_projection:
        return ()
    return (_build(draft, segments),)


def _build(draft: Draft, segments: tuple[Segment, ...]) -> Dataset:
    request = draft.request
    donor = header.donor(request.sources[0])
    told = wording.message(request, draft.segments) if request.profile.description else ""
    dataset = SOPClass(
        study_instance_uid=donor.StudyInstanceUID,
        series_instance_uid=object_uid(request, KIND, "series"),
        series_number=request.series_number(KIND),
        sop_instance_uid=object_uid(request, KIND, "instance"),
        sop_class_uid=RTStructureSetStorage,
        instance_number=1,
        modality="RTSTRUCT",
        manufacturer=header.MANUFACTURER,
        manufacturer_model_name=header.MANUFACTURER,
        software_versions=header.software_versions(request),  # type: ignore[arg-type]  # pydicom takes a list only
        device_serial_number=request.settings.installation_id,
        transfer_syntax_uid=ExplicitVRLittleEndian,
        series_description=wording.series_description(request, KIND, told),
        specific_character_set=None,
    )
    dataset.copy_patient_and_study_information(donor)
    dataset.add_new("ContributingEquipmentSequence", "SQ", Items(header.equipment(request)))
    dataset.OperatorsName = None
    dataset.ApprovalStatus = "UNAPPROVED"
    dataset.FrameOfReferenceUID, dataset.PositionReferenceIndicator = donor.FrameOfReferenceUID, donor.get("PositionReferenceIndicator")
    dataset.StructureSetLabel = wording.content_label(request)[:LABEL_CHARACTERS]
    dataset.StructureSetName = wording.model_words(request)[:64]
    dataset.ReferencedFrameOfReferenceSequence = Items([_frame_of_reference(request)])
    dataset.StructureSetROISequence = Items(_region(request, segment, n) for n, segment in enumerate(segments, start=1))
    dataset.ROIContourSequence = Items(_drawn(request, segment, n) for n, segment in enumerate(segments, start=1))
    dataset.RTROIObservationsSequence = Items(_observation(segment, n) for n, segment in enumerate(segments, start=1))
    header.finish(dataset, request, KIND)
    dataset.StructureSetDate, dataset.StructureSetTime = dataset.ContentDate, dataset.ContentTime
    del dataset.ContentDate, dataset.ContentTime  # a structure set has none
    return dataset


def _frame_of_reference(request: ComposeRequest) -> Dataset:
    """Name the frame of reference, and in it every image of the series."""
    first = request.sources[0]
    series, study, frame = Dataset(), Dataset(), Dataset()
    series.SeriesInstanceUID = first.SeriesInstanceUID
    images = {source.SOPInstanceUID: index for index, source in enumerate(request.sources)}
    series.ContourImageSequence = Items(_image(request, index, framed=False) for index in images.values())
    study.ReferencedSOPClassUID, study.ReferencedSOPInstanceUID = STUDY_CLASS, first.StudyInstanceUID
    study.RTReferencedSeriesSequence = Items([series])
    frame.FrameOfReferenceUID = first.FrameOfReferenceUID
    frame.RTReferencedStudySequence = Items([study])
    return frame


def _image(request: ComposeRequest, index: int, *, framed: bool = True) -> Dataset:
    item = Dataset()
    references.point(request, item, index)
    if not framed and "ReferencedFrameNumber" in item:
        del item.ReferencedFrameNumber
    return item


def _region(request: ComposeRequest, segment: Segment, number: int) -> Dataset:
    """Describe one region of interest. Ref: PS3.3 C.8.8.5."""
    item = Dataset()
    item.ROINumber, item.ROIName = number, segment.name[:64]
    item.ReferencedFrameOfReferenceUID = request.sources[0].FrameOfReferenceUID
    item.ROIGenerationAlgorithm = "AUTOMATIC"
    item.ROIGenerationDescription = f"{wording.model_words(request)} - unverified"[:64]
    return item


def _drawn(request: ComposeRequest, segment: Segment, number: int) -> Dataset:
    """Give one region's colour and lines."""
    item = Dataset()
    item.ReferencedROINumber = number
    item.ROIDisplayColor = list(CIELabColor(*segment.part.cielab).to_rgb(clip=True))
    voxels = mask(request, segment)
    touched = np.flatnonzero(voxels.any(axis=(1, 2))).tolist()
    drawn = (entry for index in touched for entry in _on_image(request, voxels[index], index))
    item.ContourSequence = Items(_numbered(drawn))
    return item


def _on_image(request: ComposeRequest, plane: contours.Mask, index: int) -> Iterator[Dataset]:
    """Give the lines on one image in LPS mm: the corner of pixels (r, c) lies half a pixel before the centre of pixel (r, c)."""
    for line in contours.lines(plane):
        corners_mm = placement.on_image(request, index, line[:, ::-1].astype(float) - 0.5)
        item = Dataset()
        item.ContourImageSequence = Items([_image(request, index)])
        item.ContourGeometricType = "CLOSED_PLANAR"
        item.NumberOfContourPoints = len(line)
        item.ContourData = [_decimal(value) for value in corners_mm.ravel().tolist()]
        yield item


def _decimal(value: float) -> str:
    """Give a decimal string of at most 16 characters, to a millionth of a millimetre; never "-0".

    Example: -31.85 is "-31.85", 17.1234567 is "17.123457".
    """
    return f"{round(value, 6) + 0.0:.6f}".rstrip("0").rstrip(".")


def _numbered(items: Iterable[Dataset]) -> Iterator[Dataset]:
    for number, item in enumerate(items, start=1):
        item.ContourNumber = number
        yield item


def _observation(segment: Segment, number: int) -> Dataset:
    """Say in a code what a region is; nobody has interpreted it. Ref: PS3.3 C.8.8.8."""
    item = Dataset()
    item.ObservationNumber = item.ReferencedROINumber = number
    item.RTROIIdentificationCodeSequence = Items([_code(segment.part.type)])
    item.RTROIInterpretedType, item.ROIInterpreter = "ORGAN" if segment.finding is None else None, None
    return item


def _code(concept: CodedConcept) -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = concept.value, concept.scheme, concept.meaning
    return item
