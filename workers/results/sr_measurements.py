"""TID 1500 with what a viewer lays on the images: for each segment its numbers and its outline under one tracking UID.

A viewer opens a report titled 126000 on the images, and turns black where one of its tracked groups has no outline.
So each group of numbers (A) has its outline group (B); a mark without a segment is one group that has both.
Ref: PS3.16 TID 1500, TID 1410, TID 1411
"""

from __future__ import annotations

from collections.abc import Sequence

from highdicom import sr
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes

from workers.results import groups, header, references, sr_context
from workers.results.request import ComposeRequest, Draft


def content(draft: Draft) -> Dataset:
    """Write the groups: findings first, then organs, because a viewer lists groups in this order."""
    found = groups.by_tracking_uid(draft.written.get("seg", ()))
    basic = draft.request.profile.sr_class == "comprehensive"
    members: list[groups.AnyGroup] = []
    for segment, measures in findings_first(draft):
        place = found.get(segment.tracking_uid)
        if place is None:
            members.append(groups.planar(draft.request, segment, measures))
        else:
            pair = groups.pair_of(draft.request, segment, measures, place)
            members += reversed(pair) if basic else pair
    return report(draft, members)


def findings_first(draft: Draft) -> list[groups.Measured]:
    """Give the segments in a report's order."""
    return sorted(draft.measured, key=lambda pair: pair[0].finding is None)


def report(draft: Draft, members: Sequence[groups.AnyGroup], more: Sequence[sr.ContentItem] = ()) -> Dataset:
    """Put groups under a root with its Image Library and its words."""
    request = draft.request
    keys = sorted({measures.key_slice for _, measures in draft.measured})
    first = header.donor(request.sources[0])
    content = sr.MeasurementReport(
        observation_context=sr_context.observer(request),
        procedure_reported=sr_context.procedure(request),
        imaging_measurements=members,
        title=codes.DCM.ImagingMeasurementReport,
        referenced_images=[groups.library_entry(request, first, index) for index in keys],
    )
    root: Dataset = content[0]
    _tell_frames(request, root, keys)
    root.ContentSequence.append(sr_context.evaluations(draft, more))
    return root


def _tell_frames(request: ComposeRequest, root: Dataset, keys: Sequence[int]) -> None:
    """Put the frame numbers into the Image Library, whose entries stand in the order of the key slices. Ref: PS3.16 TID 1601."""
    library = next(item for item in root.ContentSequence if item.name == codes.DCM.ImageLibrary)
    entries = [item for group in library.ContentSequence for item in group.get("ContentSequence", ()) if item.ValueType == "IMAGE"]
    for entry, index in zip(entries, keys, strict=True):
        references.point(request, entry.ReferencedSOPSequence[0], index)
