"""The SEG: masks on the source grid, one frame a segment and source slice that it touches.

Frames without a voxel are left out: ten nodules on 300 slices of 512 x 512 would be 94 MB of zeros, and OHIF, Slicer
and dcmqi place each frame by its own plane position and source image.
Ref: PS3.3 A.51, C.8.20
"""

from __future__ import annotations

import highdicom
from highdicom.color import CIELabColor
from highdicom.seg import Segmentation, SegmentDescription
from pydicom.dataset import Dataset
from pydicom.sr.coding import Code as PydicomCode
from pydicom.uid import ExplicitVRLittleEndian

from models.card import CodedConcept, LabelPart
from node.profiles import Kind
from workers.results import header, references, wording
from workers.results.identity import object_uid
from workers.results.request import ComposeRequest, Draft
from workers.results.segments import Segment, numbered

KIND: Kind = "seg"
ALGORITHM_FAMILY = PydicomCode("123110", "DCM", "Artificial Intelligence")


def write(draft: Draft) -> tuple[Dataset, ...]:
    """Write the SEGs, none where no voxel is marked: viewers hang on an empty one."""
    segments = tuple(segment for segment in draft.segments if not segment.boxed)
    count = len({segment.seg for segment in segments})
    return tuple(_build(draft.request, tuple(segment for segment in segments if segment.seg == index)) for index in range(count))


def _build(request: ComposeRequest, segments: tuple[Segment, ...]) -> Dataset:
    """Write the SEG of at least one segment.

    BINARY where a frame ends on a byte. Where it does not, OHIF 3.13 shows BINARY scrambled or hangs, so LABELMAP,
    and without the Background item, with which it would show every label and colour shifted by one.
    """
    rows, columns = request.prediction.grid.shape[1:]
    binary = rows * columns % 8 == 0
    first = header.donor(request.sources[0])
    dataset = Segmentation(
        source_images=references.stand_ins(request, [first, *request.sources[1:]]),
        pixel_array=numbered(request, segments),
        segmentation_type="BINARY" if binary else "LABELMAP",
        segment_descriptions=[_description(request, segment) for segment in segments],
        series_instance_uid=object_uid(request, KIND, "series"),
        series_number=request.series_number(KIND),
        sop_instance_uid=object_uid(request, KIND, "instance"),
        instance_number=1,
        manufacturer=header.MANUFACTURER,
        manufacturer_model_name=header.MANUFACTURER,
        software_versions=header.software_versions(request),  # type: ignore[arg-type]  # pydicom takes a list only
        device_serial_number=request.settings.installation_id,
        transfer_syntax_uid=ExplicitVRLittleEndian,
        pixel_measures=_pixel_measures(request),
        content_label=wording.content_label(request),
        content_description=wording.seg_description(request),
        series_description=wording.seg_description(request, segments),
        contributing_equipment=header.equipment(request),
        specific_character_set=None,
    )
    if not binary:
        dataset.SegmentSequence = [item for item in dataset.SegmentSequence if item.SegmentNumber > 0]
    # highdicom takes the source's own measures, wrong distances included, where the pixel spacing is the same.
    dataset.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence = _pixel_measures(request)
    references.put_right(request, dataset)
    dataset.BurnedInAnnotation = "NO"
    header.finish(dataset, request, KIND)
    return dataset


def _pixel_measures(request: ComposeRequest) -> highdicom.PixelMeasuresSequence:
    """Take spacing from the headers, the distance between slices from the grid: a header's own is often wrong.

    Where a gantry leaned it is the distance along the normal, less than that of the slices' corners. Ref: PS3.3 C.7.6.16.2.1
    """
    first = request.sources[0]
    between_mm = request.prediction.grid.between_planes_mm
    return highdicom.PixelMeasuresSequence(
        pixel_spacing=[float(value) for value in first.PixelSpacing],
        slice_thickness=float(first.get("SliceThickness") or between_mm),
        spacing_between_slices=float(f"{between_mm:.9g}"),
    )


def _description(request: ComposeRequest, segment: Segment) -> SegmentDescription:
    part = segment.part
    item = SegmentDescription(
        segment_number=segment.number,
        segment_label=segment.name,
        segmented_property_category=_code(part.category),
        segmented_property_type=_code(part.type),
        algorithm_type="AUTOMATIC",
        algorithm_identification=_algorithm(request, part),
        tracking_uid=segment.tracking_uid,
        tracking_id=segment.name,
        anatomic_regions=[_code(part.region)] if part.region else None,
        display_color=CIELabColor(*part.cielab),
    )
    if part.laterality:
        side = [highdicom.sr.CodedConcept.from_code(_code(part.laterality))]
        if part.region:
            item.AnatomicRegionSequence[0].AnatomicRegionModifierSequence = side
        else:
            item.SegmentedPropertyTypeCodeSequence[0].SegmentedPropertyTypeModifierCodeSequence = side
    return item


def _algorithm(request: ComposeRequest, part: LabelPart) -> highdicom.AlgorithmIdentificationSequence:
    model = request.card.card.model
    return highdicom.AlgorithmIdentificationSequence(
        name=model.title,
        family=ALGORITHM_FAMILY,
        version=model.version,
        source=header.MANUFACTURER,
        parameters={"threshold": f"{part.threshold:g}"} if part.threshold is not None else None,
    )


def _code(concept: CodedConcept) -> PydicomCode:
    return PydicomCode(concept.value, concept.scheme, concept.meaning)
