"""What every report says besides its findings: who observed, which procedure, and in words how the analysis ended.

Ref: PS3.16 TID 1004, TID 1204, CID 6047
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from highdicom import sr
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code as PydicomCode

from models.card import ascii_only
from workers.results import header, scores, wording
from workers.results.identity import device_uid
from workers.results.request import Draft, Origin

TITLE_TEXT = PydicomCode("18748-4", "LN", "Diagnostic imaging report")
QUALITATIVE = PydicomCode("C0034375", "UMLS", "Qualitative Evaluations")
LANGUAGE = sr.CodedConcept("en-US", "RFC5646", "English (United States)")
PROCEDURES: Mapping[str, PydicomCode] = {
    "CT": codes.LN.CTUnspecifiedBodyRegion,
    "MR": codes.LN.MRIUnspecifiedBodyRegion,
    "PT": codes.LN.PETUnspecifiedBodyRegion,
}
ANY_PROCEDURE = PydicomCode("363679005", "SCT", "Imaging procedure")


def observer(request: Origin) -> sr.ObservationContext:
    """Give the context of a report: this installation observed, and no one else."""
    return sr.ObservationContext(observer_device_context=device(request))


def device(request: Origin) -> sr.ObserverContext:
    """Name this installation as the device that observed.

    Ref: PS3.16 TID 1004
    """
    attributes = sr.DeviceObserverIdentifyingAttributes(
        uid=device_uid(request.settings),
        name=wording.model_words(request),
        manufacturer_name=header.MANUFACTURER,
        model_name=header.MANUFACTURER,
        serial_number=request.settings.installation_id,
    )
    return sr.ObserverContext(observer_type=codes.DCM.Device, observer_identifying_attributes=attributes)


def procedure(request: Origin) -> PydicomCode:
    """Give the procedure reported, by the images' modality."""
    return PROCEDURES.get(str(request.sources[0].get("Modality", "")), ANY_PROCEDURE)


def in_words(request: Origin, body: Iterable[sr.ContainerContentItem]) -> sr.ContainerContentItem:
    """Give the root of a report that opens as text; it claims no template."""
    root = sr.ContainerContentItem(name=TITLE_TEXT, is_content_continuous=False)
    content = sr.ContentSequence(is_root=False)
    content.extend(sr.LanguageOfContentItemAndDescendants(LANGUAGE))
    content.extend(observer(request))
    content.append(sr.CodeContentItem(name=codes.DCM.ProcedureReported, value=procedure(request), relationship_type="HAS CONCEPT MOD"))
    for container in body:
        content.append(container)
    root.ContentSequence = content
    return root


def container(name: PydicomCode, content: Iterable[sr.ContentItem]) -> sr.ContainerContentItem:
    """Give a container below the root."""
    item = sr.ContainerContentItem(name=name, is_content_continuous=False, relationship_type="CONTAINS")
    sequence = sr.ContentSequence()
    sequence.extend(content)
    item.ContentSequence = sequence
    return item


def code(name: PydicomCode, value: PydicomCode) -> sr.CodeContentItem:
    """Give a code below a container."""
    return sr.CodeContentItem(name=name, value=value, relationship_type="CONTAINS")


def comment(text: str) -> sr.TextContentItem:
    """Give a sentence below a container."""
    return sr.TextContentItem(name=codes.DCM.Comment, value=ascii_only(text), relationship_type="CONTAINS")


def evaluations(draft: Draft, more: Sequence[sr.ContentItem] = ()) -> sr.ContainerContentItem:
    """Say in a code and in words how the analysis ended, each score, the intended use, and more.

    All of it stands outside the measurement groups: OHIF turns black on a group without an outline.
    """
    request = draft.request
    verdicts = scores.verdicts(request)
    content: list[sr.ContentItem] = []
    if (ended := _ended(draft, verdicts)) is not None:
        content.append(code(codes.DCM.CADProcessingAndFindingsSummary, ended))
    content.append(comment(wording.statement(request, draft.segments)))
    content += [*scores.items(verdicts), *more, comment(wording.intended_use(request))]
    return container(QUALITATIVE, content)


def _ended(draft: Draft, verdicts: Sequence[scores.Verdict]) -> PydicomCode | None:
    """Give the outcome of something that looks for findings; an organ is none, nor is a score without a threshold."""
    positives = [verdict.positive for verdict in verdicts if verdict.positive is not None]
    if not (wording.detects(draft.request.card.card) or positives):
        return None
    found = any(positives) or any(segment.finding for segment in draft.segments)
    ended: PydicomCode = codes.DCM.AllAlgorithmsSucceededWithFindings if found else codes.DCM.AllAlgorithmsSucceededWithoutFindings
    return ended
