"""Read the report of a failed analysis back: nobody may take it for a result.

Ref: PS3.16 CID 6047; docs/results.md
"""

from __future__ import annotations

from collections.abc import Iterator

from pydicom.dataset import Dataset

from node.errors import Refused
from workers.results.request import FailureRequest

TITLE, SUMMARY, NONE_SUCCEEDED = "18748-4", "111017", "111245"
NEVER = ("126000", "126010", "125007", "121071", "111030", "121191")
"""Titles, groups, findings, outlines and segments: what a failure has none of."""
FALSE_WORDS = ("found", "marked", "diagnos", "negative", "positive", "normal")
REQUIRED_WORDS = ("AI FAILED", "Nothing was analysed", "Not verified by a physician.", "Reason: ")


def verify(request: FailureRequest, report: Dataset) -> None:
    """Raise Refused unless the report says that the analysis failed, and nothing else of the images."""
    items = list(_walk(report))
    texts = [str(item.TextValue) for item in items if item.ValueType == "TEXT"]
    if _name(report) != TITLE or {_name(item) for item in items} & set(NEVER) or any(item.ValueType == "NUM" for item in items):
        raise Refused("the report of a failure looks like a result")
    summaries = [item.ConceptCodeSequence[0].CodeValue for item in items if _name(item) == SUMMARY]
    if summaries != [NONE_SUCCEEDED] or any(not any(word in text for text in texts) for word in REQUIRED_WORDS):
        raise Refused("the report of a failure does not say that nothing was analysed")
    own = " ".join(text for text in texts if not text.startswith("Reason: ")).lower()
    if any(word in own for word in FALSE_WORDS) or not all(text.isascii() for text in texts):
        raise Refused("the report of a failure holds a word of a result")
    if not str(report.SeriesDescription).startswith("AI FAILED"):
        raise Refused("the series of a failure does not begin by saying so")
    if (report.VerificationFlag, report.CompletionFlag, report.PreliminaryFlag) != ("UNVERIFIED", "COMPLETE", "PRELIMINARY"):
        raise Refused("the SR does not say that it is complete, preliminary and unverified")
    if "PredecessorDocumentsSequence" in report:
        raise Refused("the report of a failure replaces no result")
    _check_evidence(request, report)


def _check_evidence(request: FailureRequest, report: Dataset) -> None:
    named = {
        (study.StudyInstanceUID, series.SeriesInstanceUID, instance.ReferencedSOPInstanceUID)
        for study in report.CurrentRequestedProcedureEvidenceSequence
        for series in study.ReferencedSeriesSequence
        for instance in series.ReferencedSOPSequence
    }
    if named != {(source.StudyInstanceUID, source.SeriesInstanceUID, source.SOPInstanceUID) for source in request.sources}:
        raise Refused("the SR's evidence is not the images")


def _walk(item: Dataset) -> Iterator[Dataset]:
    for child in item.get("ContentSequence", ()):
        yield child
        yield from _walk(child)


def _name(item: Dataset) -> str:
    names = item.get("ConceptNameCodeSequence")
    return str(names[0].get("CodeValue", "")) if names else ""
