"""The report in words: every finding and every organ as a sentence with its numbers; no group, no outline.

Ref: PS3.3 A.35.3.3.1 (a TEXT has properties, and is inferred from images)
"""

from __future__ import annotations

from collections.abc import Iterator

from highdicom import sr
from pydicom.sr.codedict import codes

from workers.measure import SegmentMeasures
from workers.results import groups, sr_context, wording
from workers.results.request import ComposeRequest, Draft
from workers.results.segments import Segment


def content(draft: Draft) -> sr.ContainerContentItem:
    """Give the root of the report."""
    return sr_context.in_words(draft.request, [sr_context.evaluations(draft, tuple(sentences(draft)))])


def sentences(draft: Draft) -> Iterator[sr.TextContentItem]:
    """Give findings first, then organs, as in the other forms."""
    for pair in sorted(draft.measured, key=lambda pair: pair[0].finding is None):
        yield _sentence(draft.request, *pair)


def _sentence(request: ComposeRequest, segment: Segment, measures: SegmentMeasures) -> sr.TextContentItem:
    """Give a sentence with its code, numbers and image below it.

    It is called a comment, because OHIF writes a finding's text in one line that leaves the screen, and shows nothing below it.
    """
    text = wording.segment_sentence(request, segment, measures)
    item = sr.TextContentItem(name=codes.DCM.Comment, value=text, relationship_type="CONTAINS")
    kind = sr.CodeContentItem(name=codes.DCM.Finding, value=groups.coded(segment.part.type), relationship_type="HAS PROPERTIES")
    below: list[sr.ContentItem] = [kind if segment.finding is not None else groups.site(segment)]
    below.extend(entry for entry in groups.algorithm(request, segment.part))
    for number in groups.bare_numbers(measures):
        number.RelationshipType = "HAS PROPERTIES"
        below.append(number)
    source, frame = request.sources[measures.key_slice], request.frame(measures.key_slice)
    image = sr.ImageContentItem(
        name=codes.DCM.BestIllustrationOfFinding,
        referenced_sop_class_uid=source.SOPClassUID,
        referenced_sop_instance_uid=source.SOPInstanceUID,
        referenced_frame_numbers=None if frame is None else [frame],
        relationship_type="INFERRED FROM",
    )
    item.ContentSequence = sr.ContentSequence([*below, image])
    return item
