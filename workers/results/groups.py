"""One segment in the SR: group A with its numbers and group B with its outline, tied by the tracking UID.

Ref: PS3.16 TID 1411 (A), TID 1410 (B), TID 1419 (numbers), TID 1601 (library)
"""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from typing import Any

from highdicom import sr
from pydicom.dataset import Dataset
from pydicom.sr.coding import Code as PydicomCode

from models.card import CodedConcept
from models.vocabulary import Code, Measurement
from workers.measure import SegmentMeasures
from workers.results.request import ComposeRequest
from workers.results.segments import Segment

Pair = tuple[sr.VolumetricROIMeasurementsAndQualitativeEvaluations, sr.PlanarROIMeasurementsAndQualitativeEvaluations]


def pair(request: ComposeRequest, segment: Segment, measures: SegmentMeasures, seg: Dataset) -> Pair:
    """Give A and B of one segment."""
    source = request.sources[measures.key_slice]
    outline = sr.ImageRegion(
        graphic_type=sr.GraphicTypeValues.POLYLINE,
        graphic_data=measures.outline,
        source_image=sr.SourceImageForRegion(
            referenced_sop_class_uid=source.SOPClassUID, referenced_sop_instance_uid=source.SOPInstanceUID
        ),
    )
    reference = sr.ReferencedSegment(
        sop_class_uid=seg.SOPClassUID,
        sop_instance_uid=seg.SOPInstanceUID,
        segment_number=segment.number,
        source_series=sr.SourceSeriesForSegmentation(source.SeriesInstanceUID),
    )
    numbers = [_number(entry) for entry in measures.measurements]
    return (
        sr.VolumetricROIMeasurementsAndQualitativeEvaluations(
            referenced_segment=reference, measurements=numbers or None, **_shared(request, segment)
        ),
        sr.PlanarROIMeasurementsAndQualitativeEvaluations(referenced_region=outline, **_shared(request, segment)),
    )


def _number(entry: Measurement) -> sr.Measurement:
    derivation = _code(entry.derivation) if entry.derivation else None
    measurement = sr.Measurement(name=_code(entry.concept), value=entry.value, unit=_code(entry.unit), derivation=derivation)
    _shorten(measurement[0], entry.value)
    return measurement


def _shorten(item: Dataset, value: float) -> None:
    """Send 12 for 12.0: a viewer shows the digits that it gets."""
    item.MeasuredValueSequence[0].NumericValue = str(int(value)) if float(value).is_integer() else str(value)


def _shared(request: ComposeRequest, segment: Segment) -> dict[str, Any]:
    """Give what both groups say; made anew for each, because a content item has one parent."""
    part, model = segment.part, request.card.card.model
    return {
        "tracking_identifier": sr.TrackingIdentifier(uid=segment.tracking_uid, identifier=segment.name),
        "finding_category": _code(part.category),
        "finding_type": _code(part.type),
        "finding_sites": [_site(segment)] if part.region or part.laterality else None,
        "algorithm_id": sr.AlgorithmIdentification(
            name=model.title,
            version=model.version,
            parameters=[f"threshold={part.threshold:g}"] if part.threshold is not None else None,
        ),
    }


def _site(segment: Segment) -> sr.FindingSite:
    """Give where it lies; an organ with a side but no region is its own site."""
    part = segment.part
    return sr.FindingSite(_code(part.region or part.type), laterality=_code(part.laterality) if part.laterality else None)


def bare_numbers(segment: Segment, measures: SegmentMeasures) -> Iterator[sr.NumContentItem]:
    """Give the numbers of an organ for a report without groups, each with the organ as its site."""
    for entry in measures.measurements:
        item = sr.NumContentItem(name=_code(entry.concept), value=entry.value, unit=_code(entry.unit), relationship_type="CONTAINS")
        _shorten(item, entry.value)
        item.ContentSequence = sr.ContentSequence([_site(segment)])
        yield item


def library_entry(request: ComposeRequest, first: Dataset, index: int) -> Dataset:
    """Give one key image's header as the Image Library wants it, with the slice thickness that it requires."""
    source = request.sources[index]
    entry = Dataset()
    entry.Modality = first.Modality
    for keyword in ("SOPClassUID", "SOPInstanceUID", "FrameOfReferenceUID", "Rows", "Columns"):
        setattr(entry, keyword, source[keyword].value)
    for keyword in ("PixelSpacing", "ImageOrientationPatient", "ImagePositionPatient"):
        entry.add(deepcopy(source[keyword]))
    between_mm = request.prediction.grid.spacing_mm[0]
    entry.SliceThickness = float(source.get("SliceThickness") or between_mm)
    return entry


def _code(code: Code | CodedConcept) -> PydicomCode:
    return PydicomCode(code.value, code.scheme, code.meaning)
