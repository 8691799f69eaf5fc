"""One segment in the SR: group A with its numbers and group B with its outline, tied by the tracking UID.

Ref: PS3.16 TID 1411 (A), TID 1410 (B), TID 1419 (numbers), TID 1601 (library)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from copy import deepcopy
from typing import Any, TypeVar

from highdicom import sr
from highdicom.sr.templates import Template
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code as PydicomCode

from models.card import CodedConcept, LabelPart
from models.vocabulary import Code, Measurement
from workers.measure import SegmentMeasures
from workers.results.request import ComposeRequest
from workers.results.segments import Segment

AnyGroup = (
    sr.VolumetricROIMeasurementsAndQualitativeEvaluations
    | sr.PlanarROIMeasurementsAndQualitativeEvaluations
    | sr.MeasurementsAndQualitativeEvaluations
)
Pair = tuple[sr.VolumetricROIMeasurementsAndQualitativeEvaluations, sr.PlanarROIMeasurementsAndQualitativeEvaluations]
Measured = tuple[Segment, SegmentMeasures]
Group = TypeVar("Group", bound=Template)
Place = tuple[Dataset, int]
"""A SEG and the number of a segment in it."""


def by_tracking_uid(segs: Sequence[Dataset]) -> dict[str, Place]:
    """Find where each mark's mask is; a mark without one is in none."""
    return {str(item.TrackingUID): (seg, int(item.SegmentNumber)) for seg in segs for item in seg.SegmentSequence}


def pair_of(request: ComposeRequest, segment: Segment, measures: SegmentMeasures, place: Place) -> Pair:
    """Give A and B of one segment."""
    seg, segment_number = place
    reference = sr.ReferencedSegment(
        sop_class_uid=seg.SOPClassUID,
        sop_instance_uid=seg.SOPInstanceUID,
        segment_number=segment_number,
        source_series=sr.SourceSeriesForSegmentation(request.sources[0].SeriesInstanceUID),
    )
    numbers = [number(entry) for entry in measures.measurements]
    volume = sr.VolumetricROIMeasurementsAndQualitativeEvaluations(
        referenced_segment=reference, measurements=numbers or None, **shared(request, segment)
    )
    outline = sr.PlanarROIMeasurementsAndQualitativeEvaluations(referenced_region=_region(request, measures), **shared(request, segment))
    return sided(volume, segment), sided(outline, segment)


def planar(request: ComposeRequest, segment: Segment, measures: SegmentMeasures) -> sr.PlanarROIMeasurementsAndQualitativeEvaluations:
    """Give one group with numbers and outline, for a mark that no SEG holds."""
    numbers = [number(entry) for entry in measures.measurements]
    group = sr.PlanarROIMeasurementsAndQualitativeEvaluations(
        referenced_region=_region(request, measures), measurements=numbers or None, **shared(request, segment)
    )
    return sided(group, segment)


def _region(request: ComposeRequest, measures: SegmentMeasures) -> sr.ImageRegion:
    """Give the outline on its key slice."""
    return sr.ImageRegion(
        graphic_type=sr.GraphicTypeValues.POLYLINE, graphic_data=measures.outline, source_image=image_of(request, measures)
    )


def image_of(request: ComposeRequest, measures: SegmentMeasures) -> sr.SourceImageForRegion:
    """Give the reference to the key slice."""
    source, frame = request.sources[measures.key_slice], request.frame(measures.key_slice)
    return sr.SourceImageForRegion(
        referenced_sop_class_uid=source.SOPClassUID,
        referenced_sop_instance_uid=source.SOPInstanceUID,
        referenced_frame_numbers=None if frame is None else [frame],
    )


def sided(group: Group, segment: Segment) -> Group:
    """Put the side of an organ into its group."""
    if segment.finding is None and segment.part.laterality is not None:
        _tell_side(group[0], segment.part.laterality)
    return group


def _tell_side(group: Dataset, laterality: CodedConcept) -> None:
    """Put the side of an organ below the finding; the templates are extensible.

    Ref: PS3.16 TID 1410, TID 1411
    """
    finding = next(item for item in group.ContentSequence if item.name == codes.DCM.Finding)
    side = sr.CodeContentItem(name=codes.SCT.Laterality, value=coded(laterality), relationship_type="HAS CONCEPT MOD")
    finding.ContentSequence = sr.ContentSequence([side])


def number(entry: Measurement, coordinates: Sequence[sr.CoordinatesForMeasurement] | None = None) -> sr.Measurement:
    """Give a number of a group, with the lines that it is read off."""
    measurement = sr.Measurement(
        name=coded(entry.concept),
        value=entry.value,
        unit=coded(entry.unit),
        derivation=coded(entry.derivation) if entry.derivation else None,
        referenced_coordinates=coordinates,
    )
    _shorten(measurement[0], entry.value)
    return measurement


def _shorten(item: Dataset, value: float) -> None:
    """Send 12 for 12.0: a viewer shows the digits that it gets."""
    item.MeasuredValueSequence[0].NumericValue = str(int(value)) if float(value).is_integer() else str(value)


def shared(request: ComposeRequest, segment: Segment) -> dict[str, Any]:
    """Give what both groups say; made anew for each, because a content item has one parent.

    An organ gets no site: it is the site, and where a group has fewer than five numbers OHIF writes the site on the
    image as "363698007: Lung". Its side is a modifier of the finding instead, see `_tell_side`.
    """
    part = segment.part
    sited = segment.finding is not None and part.region is not None
    return {
        "tracking_identifier": sr.TrackingIdentifier(uid=segment.tracking_uid, identifier=segment.name),
        "finding_category": coded(part.category),
        "finding_type": coded(part.type),
        "finding_sites": [site(segment)] if sited else None,
        "algorithm_id": algorithm(request, part),
    }


def algorithm(request: ComposeRequest, part: LabelPart) -> sr.AlgorithmIdentification:
    """Name the model with its version, and the operating threshold at which it marks this label. Ref: PS3.16 TID 4019."""
    model = request.card.card.model
    parameters = [f"threshold={part.threshold:g}"] if part.threshold is not None else None
    return sr.AlgorithmIdentification(name=model.title, version=model.version, parameters=parameters)


def site(segment: Segment) -> sr.FindingSite:
    """Give where it lies; an organ with a side but no region is its own site."""
    part = segment.part
    return sr.FindingSite(coded(part.region or part.type), laterality=coded(part.laterality) if part.laterality else None)


def bare_numbers(measures: SegmentMeasures) -> Iterator[sr.NumContentItem]:
    """Give the numbers for a report without groups."""
    for entry in measures.measurements:
        item = sr.NumContentItem(name=coded(entry.concept), value=entry.value, unit=coded(entry.unit), relationship_type="CONTAINS")
        _shorten(item, entry.value)
        if entry.derivation is not None:
            derived = sr.CodeContentItem(name=codes.DCM.Derivation, value=coded(entry.derivation), relationship_type="HAS CONCEPT MOD")
            item.ContentSequence = sr.ContentSequence([derived])
        yield item


def library_entry(request: ComposeRequest, first: Dataset, index: int) -> Dataset:
    """Give one key image's header as the Image Library wants it, with the slice thickness that it requires.

    A radiograph has no place; its orientation and spacing are told where it has both. Ref: PS3.16 TID 1603, TID 1604
    """
    source = request.sources[index]
    entry = Dataset()
    entry.Modality = first.Modality
    for keyword in ("SOPClassUID", "SOPInstanceUID", "FrameOfReferenceUID", "Rows", "Columns"):
        if source.get(keyword):
            setattr(entry, keyword, source[keyword].value)
    if request.prediction.grid.is_projection:
        described = all(keyword in source and source[keyword].VM == 2 for keyword in ("PatientOrientation", "ImagerPixelSpacing"))
        for keyword in ("PatientOrientation", "ImagerPixelSpacing") if described else ():
            entry.add(deepcopy(source[keyword]))
        if not described:
            entry.Modality = ""  # highdicom then asks for neither
        return entry
    for keyword in ("PixelSpacing", "ImageOrientationPatient", "ImagePositionPatient"):
        entry.add(deepcopy(source[keyword]))
    between_mm = request.prediction.grid.between_planes_mm
    entry.SliceThickness = float(source.get("SliceThickness") or between_mm)
    return entry


def coded(code: Code | CodedConcept) -> PydicomCode:
    """Give a code as the libraries take it."""
    return PydicomCode(code.value, code.scheme, code.meaning)
