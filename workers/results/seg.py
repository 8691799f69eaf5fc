"""The SEG: masks on the source grid, one frame a segment and source slice that it touches.

Frames without a voxel are left out: ten nodules on 300 slices of 512 x 512 would be 94 MB of zeros, and OHIF, Slicer
and dcmqi place each frame by its own plane position and source image.
Ref: PS3.3 A.51, C.8.20
"""

from __future__ import annotations

from collections.abc import Sequence

import highdicom
import numpy as np
from highdicom.color import CIELabColor
from highdicom.seg import Segmentation, SegmentDescription
from pydicom.dataset import Dataset
from pydicom.sr.coding import Code as PydicomCode
from pydicom.uid import ExplicitVRLittleEndian

from models.card import CodedConcept, LabelPart
from node.profiles import Kind
from workers.results import elements, header, packing, placement, references, seg_frames, wording
from workers.results.arrangement import binary
from workers.results.identity import object_uid
from workers.results.request import ComposeRequest, Draft
from workers.results.segments import Segment, mask_on

KIND: Kind = "seg"
ALGORITHM_FAMILY = PydicomCode("123110", "DCM", "Artificial Intelligence")


def write(draft: Draft) -> tuple[Dataset, ...]:
    """Write the SEGs, none where no voxel is marked: viewers hang on an empty one."""
    segments = tuple(segment for segment in draft.segments if not segment.boxed)
    count = len({segment.seg for segment in segments})
    return tuple(_build(draft.request, tuple(segment for segment in segments if segment.seg == index), count) for index in range(count))


def _build(request: ComposeRequest, segments: tuple[Segment, ...], count: int) -> Dataset:
    """Write the SEG of at least one segment: highdicom everything around one frame, then all frames in its place."""
    dataset = _of_one_frame(request, segments)
    touched = range(len(request.sources)) if request.profile.seg_empty_frames else {index for part in segments for index in part.slices}
    slices = seg_frames.in_space(request, list(touched))
    frames: list[tuple[Segment | None, int]]
    if dataset.SegmentationType == "BINARY":
        shown = [(part, index) for part in segments for index in slices if request.profile.seg_empty_frames or index in part.covered]
        dataset.PixelData, frames = packing.bits(request, shown), list(shown)
    else:
        # The Background item would show every label and colour shifted by one in OHIF.
        dataset.SegmentSequence = [item for item in dataset.SegmentSequence if item.SegmentNumber > 0]
        dataset.PixelData, frames = packing.labelmap(request, segments, slices), [(None, index) for index in slices]
        dataset.file_meta.TransferSyntaxUID = packing.SYNTAXES[request.profile.seg_syntax]
    dataset.NumberOfFrames = len(frames)
    dataset.SegmentsOverlap = "YES" if _overlap(request, segments) else "NO"
    _place(request, dataset, slices)
    dataset.BurnedInAnnotation = "NO"
    dataset.ContentCreatorName = None  # type 2, and nobody's. Ref: PS3.3 Table 10-12
    header.finish(dataset, request, KIND)
    _set_apart(request, dataset, segments[0].seg, count)
    seg_frames.splice(request, dataset, frames)
    _refer(request, dataset)
    return dataset


def _of_one_frame(request: ComposeRequest, segments: tuple[Segment, ...]) -> Dataset:
    """Let highdicom write the SEG as if it had one image and one frame."""
    first = header.donor(request.sources[0])
    if request.prediction.grid.is_projection:
        # A radiograph's frame of reference places nothing, and its SEG's frames lie on the picture alone. Ref: PS3.3 Table A.51-2
        first = _without_place(first)
    elif "SliceThickness" not in first:
        first.SliceThickness = request.prediction.grid.between_planes_mm  # highdicom asks, and `placement` answers
    pixels = np.zeros((1, *request.prediction.grid.shape[1:]), np.uint8 if len(segments) < 256 else np.uint16)
    pixels[0, 0, 0] = 1
    series = wording.seg_description(request, segments)
    written = Segmentation(
        source_images=references.stand_ins(request, [first]),
        pixel_array=pixels,
        segmentation_type="BINARY" if binary(request) else "LABELMAP",
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
        pixel_measures=None if request.prediction.grid.is_projection else placement.pixel_measures(request),
        content_label=wording.content_label(request),
        content_description=series,
        series_description=series,
        contributing_equipment=header.equipment(request),
        specific_character_set=None,
    )
    dataset = Dataset()
    dataset.update(written)
    dataset.file_meta = written.file_meta
    return dataset


def _without_place(source: Dataset) -> Dataset:
    for keyword in ("FrameOfReferenceUID", "PositionReferenceIndicator", "ImagePositionPatient", "ImageOrientationPatient"):
        if keyword in source:
            del source[keyword]
    return source


def _set_apart(request: ComposeRequest, dataset: Dataset, index: int, count: int) -> None:
    """Give each of several SEGs a series of its own, and say which it is: OHIF shows only the last SEG of a series."""
    if count == 1:
        return
    for keyword in ("SeriesDescription", "ContentDescription"):
        setattr(dataset, keyword, wording.part_of(request, str(dataset[keyword].value), f"{index + 1}/{count}"))
    if index == 0:
        return
    dataset.SeriesInstanceUID = object_uid(request, KIND, f"series-{index + 1}")
    dataset.SOPInstanceUID = object_uid(request, KIND, f"instance-{index + 1}")
    for item in (*dataset.DimensionOrganizationSequence, *dataset.DimensionIndexSequence):
        item.DimensionOrganizationUID = object_uid(request, KIND, f"dimension-{index + 1}")


def _overlap(request: ComposeRequest, segments: tuple[Segment, ...]) -> bool:
    """Tell whether two of the segments share a voxel; only masks of their own can. Ref: PS3.3 C.8.20.2, (0062,0013)."""
    if not any(segment.overlapping for segment in segments):
        return False
    for index in range(len(request.sources)):
        planes = [mask_on(request, segment, index) for segment in segments if index in segment.covered]
        if len(planes) > 1 and np.any(np.sum(planes, axis=0, dtype=np.uint16) > 1):
            return True
    return False


def _refer(request: ComposeRequest, dataset: Dataset) -> None:
    """Name every image once, and of a multi-frame image the frames that were used. Ref: PS3.3 C.12.4, C.7.6.1."""
    frames: dict[str, list[int]] = {}
    classes: dict[str, str] = {}
    for index, source in enumerate(request.sources):
        frame, uid = request.frame(index), source.SOPInstanceUID
        classes.setdefault(uid, source.SOPClassUID)
        frames.setdefault(uid, []).extend([] if frame is None else [frame])
    images = [references.image(classes[uid], uid) for uid in frames]
    named = [elements.text("ReferencedFrameNumber", "IS", *shown) if shown else b"" for shown in frames.values()]
    elements.put(dataset, "SourceImageSequence", map(bytes.__add__, images, named))
    before, after = elements.around(dataset.ReferencedSeriesSequence[0], "ReferencedInstanceSequence")
    elements.put(dataset, "ReferencedSeriesSequence", [before + elements.sequence("ReferencedInstanceSequence", images) + after])


def _place(request: ComposeRequest, dataset: Dataset, slices: Sequence[int]) -> None:
    """Say how the frames lie to each other, those of one segment without a gap as a volume; a projection has millimetres or none.

    Ref: PS3.3 C.7.6.17.3, C.7.6.16.2.1, C.7.6.1.1.1
    """
    shared = dataset.SharedFunctionalGroupsSequence[0]
    grid = request.prediction.grid
    if grid.is_projection:
        dataset.PatientOrientation = request.sources[0].get("PatientOrientation")
        if "PixelMeasuresSequence" in shared:
            del shared.PixelMeasuresSequence  # highdicom copies the detector's too
        if grid.calibrated:
            measures = Dataset()
            measures.PixelSpacing = [float(f"{spacing:.9g}") for spacing in grid.spacing_mm[1:]]
            shared.PixelMeasuresSequence = [measures]
        return
    # highdicom takes the source's own measures, wrong distances included, where the pixel spacing is the same.
    shared.PixelMeasuresSequence = placement.pixel_measures(request)
    one = dataset.SegmentationType == "LABELMAP" or len(dataset.SegmentSequence) == 1
    if one and len(slices) > 1 and max(slices) - min(slices) == len(slices) - 1 and placement.is_even(request):
        dataset.DimensionOrganizationType = "3D"


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
