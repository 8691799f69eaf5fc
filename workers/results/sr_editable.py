"""TID 1500 whose groups turn into OHIF's own tools, for sites that correct our marks: a long and short axis, else an outline.

OHIF measures anew what it takes over, and takes over nothing but the drawing. So all our numbers stand in words, too.
Ref: PS3.16 TID 1501, TID 300
"""

from __future__ import annotations

from highdicom import sr
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes

from models.vocabulary import Measurement
from workers import measure
from workers.measure import Polyline, SegmentMeasures
from workers.results import groups, sr_measurements, sr_text
from workers.results.request import ComposeRequest, Draft
from workers.results.segments import Segment

TOOL = "Cornerstone3DTools@^0.1.0:"
"""What OHIF knows its tools by; on a group of another template it would lose the mark."""


def content(draft: Draft) -> Dataset:
    """Write one group a segment, findings first."""
    members = [_group(draft.request, *pair) for pair in sr_measurements.findings_first(draft)]
    return sr_measurements.report(draft, members, tuple(sr_text.sentences(draft)))


def _group(request: ComposeRequest, segment: Segment, measures: SegmentMeasures) -> sr.MeasurementsAndQualitativeEvaluations:
    if measures.axes is not None and segment.finding is not None:
        tool = "Bidirectional"
        drawn = [
            _drawn(request, measures, entry, ends)
            for entry in measures.measurements
            for concept, ends in ((measure.LONG_AXIS, measures.axes.long_ends), (measure.SHORT_AXIS, measures.axes.short_ends))
            if entry.concept == concept
        ]
    else:
        tool = "PlanarFreehandROI"
        drawn = [_drawn(request, measures, measure.enclosed(measures.outline, request.prediction.grid), measures.outline)]
    shared = groups.shared(request, segment)
    shared["tracking_identifier"] = sr.TrackingIdentifier(uid=segment.tracking_uid, identifier=f"{TOOL}{tool}")
    return groups.sided(sr.MeasurementsAndQualitativeEvaluations(measurements=drawn, **shared), segment)


def _drawn(request: ComposeRequest, measures: SegmentMeasures, entry: Measurement, points: Polyline) -> sr.Measurement:
    """Give a number with the one line that it is read off."""
    line = sr.CoordinatesForMeasurement(
        graphic_type=sr.GraphicTypeValues.POLYLINE,
        graphic_data=points,
        source_image=groups.image_of(request, measures),
        purpose=codes.DCM.Path,
    )
    return groups.number(entry, coordinates=[line])
