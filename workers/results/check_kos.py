"""Read a key object selection back: its images are of the analysed series, and something is marked on each.

Ref: PS3.3 A.35.4, C.17.6.2 (every reference stands in the evidence); PS3.16 TID 2010
"""

from __future__ import annotations

from collections.abc import Sequence

from pydicom.dataset import Dataset

from node.errors import Refused
from workers.results.request import ComposeRequest

KEY_OBJECT_SELECTION = "1.2.840.10008.5.1.4.1.1.88.59"
OF_INTEREST, DESCRIPTION = ("113000", "DCM"), "113012"


def verify(request: ComposeRequest, selections: Sequence[Dataset]) -> None:
    """Raise Refused unless there is one selection where something is marked and the profile asks for it, else none."""
    marked = {index for index in range(len(request.sources)) if _is_marked(request, index)} if request.profile.wants("kos") else set()
    if len(selections) != bool(marked):
        raise Refused("the result must have one selection of key images where something is marked, else none")
    for selection in selections:
        _check(request, selection, marked)


def _is_marked(request: ComposeRequest, index: int) -> bool:
    """Tell whether anything is marked on a slice."""
    prediction = request.prediction
    if prediction.labels[index].any() or any(mask[index].any() for mask in prediction.masks.values()):
        return True
    if prediction.instances is not None:
        return bool(prediction.instances[index].any())
    return any(finding.box.low[0] <= index < finding.box.high[0] for finding in prediction.findings)


def _check(request: ComposeRequest, selection: Dataset, marked: set[int]) -> None:
    title = selection.ConceptNameCodeSequence[0]
    if selection.SOPClassUID != KEY_OBJECT_SELECTION or (title.CodeValue, title.CodingSchemeDesignator) != OF_INTEREST:
        raise Refused("the selection of key images is not one of images of interest")
    texts = [str(item.TextValue) for item in selection.ContentSequence if item.ValueType == "TEXT" and _name(item) == DESCRIPTION]
    if len(texts) != 1 or not texts[0].isascii() or "Not verified by a physician." not in texts[0]:
        raise Refused("the selection of key images does not say what it shows, or that no physician verified it")
    known = {(source.SOPClassUID, source.SOPInstanceUID, request.frame(index)): index for index, source in enumerate(request.sources)}
    references = [item.ReferencedSOPSequence[0] for item in selection.ContentSequence if item.ValueType == "IMAGE"]
    named = [
        known.get((item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID, item.get("ReferencedFrameNumber"))) for item in references
    ]
    if not named or len(set(named)) != len(named) or not set(named) <= marked:
        raise Refused("the selection names an image twice, one that was not analysed, or one on which nothing is marked")
    evidence = [
        (study.StudyInstanceUID, series.SeriesInstanceUID, item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID)
        for study in selection.CurrentRequestedProcedureEvidenceSequence
        for series in study.ReferencedSeriesSequence
        for item in series.ReferencedSOPSequence
    ]
    images = [request.sources[index] for index in named if index is not None]
    wanted = {(image.StudyInstanceUID, image.SeriesInstanceUID, image.SOPClassUID, image.SOPInstanceUID) for image in images}
    if set(evidence) != wanted or len(evidence) != len(wanted):
        raise Refused("the selection's evidence is not the images that it names")


def _name(item: Dataset) -> str:
    return str(item.ConceptNameCodeSequence[0].CodeValue)
