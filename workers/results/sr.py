"""The SR: in the form that the profile asks for where something is outlined, else in words.

A viewer opens a report titled 126000 on the images, and turns black where one of its tracked groups has no outline.
So that title is used only with groups; "nothing found" and a score are a report of another title, which opens as text.
Ref: PS3.3 A.35.13 (Comprehensive 3D), A.35.3 (Comprehensive)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from highdicom import sr
from pydicom.dataset import Dataset
from pydicom.filewriter import correct_ambiguous_vr
from pydicom.uid import ExplicitVRLittleEndian

from node.profiles import Kind
from workers.results import elements, header, references, sr_editable, sr_measurements, sr_text, wording
from workers.results.identity import object_uid
from workers.results.request import ComposeRequest, Draft, Origin

KIND: Kind = "sr"
CLASSES: Mapping[str, Callable[..., Dataset]] = {"comprehensive-3d": sr.Comprehensive3DSR, "comprehensive": sr.ComprehensiveSR}
FORMS: Mapping[str, Callable[[Draft], Dataset]] = {
    "measurements": sr_measurements.content,
    "editable": sr_editable.content,
    "text": sr_text.content,
}


def write(draft: Draft) -> tuple[Dataset, ...]:
    """Write the report; where there is a SEG it refers to it."""
    request, segs = draft.request, draft.written.get("seg", ())
    evidence = [header.donor(request.sources[0]), *request.sources[1:], *segs]
    content = FORMS[request.profile.sr_form if _outlined(draft) else "text"](draft)
    description = wording.series_description(request, KIND, wording.message(request, draft.segments))
    return (document(request, content, evidence, series_description=description, previous_versions=_replaced(request)),)


def _outlined(draft: Draft) -> bool:
    """Tell whether something goes onto the images: a finding, or what a model that looks for none has segmented."""
    return any(segment.finding for segment in draft.segments) or (not draft.request.card.card.finds and bool(draft.segments))


def _replaced(request: ComposeRequest) -> list[Dataset] | None:
    """Name the report of an earlier revision that somebody has, as the job's row does. Ref: PS3.3 C.17.2, (0040,A360)."""
    told = request.job.predecessor
    if told is None:
        return None
    former = Dataset()
    former.StudyInstanceUID = request.job.study_instance_uid
    former.SeriesInstanceUID, former.SOPClassUID = told["series_instance_uid"], told["sop_class_uid"]
    former.SOPInstanceUID = told["sop_instance_uid"]
    return [former]


def document(request: Origin, content: Dataset, evidence: Sequence[Dataset], *, part: str = "", **own: Any) -> Dataset:
    """Give the SR with that content; `part` tells its UIDs from those of another report of the job, `own` goes to highdicom.

    highdicom gets the root alone, and of the first image's series that image alone: the items below and the other images are
    put in afterwards, which with it take longer than the rest. That they refer to evidence only is looked at by the last check.
    """
    own_series = _series(evidence[0])
    series = [entry for entry in evidence if _series(entry) == own_series]
    others = [entry for entry in evidence if _series(entry) != own_series]
    root = Dataset()
    root.ContentSequence = []
    root.update({element.tag: element for element in content if element.keyword != "ContentSequence"})
    dataset = CLASSES[request.profile.sr_class](
        evidence=[evidence[0], *others],
        content=root,
        series_instance_uid=object_uid(request, KIND, f"{part}series"),
        series_number=request.series_number(KIND),
        sop_instance_uid=object_uid(request, KIND, f"{part}instance"),
        instance_number=1,
        manufacturer=header.MANUFACTURER,
        manufacturer_model_name=header.MANUFACTURER,
        software_versions=header.software_versions(request),
        device_serial_number=request.settings.installation_id,
        is_complete=True,
        is_final=False,
        is_verified=False,
        transfer_syntax_uid=ExplicitVRLittleEndian,
        contributing_equipment=header.equipment(request),
        specific_character_set=None,
        **own,
    )
    dataset.ContentSequence = content.ContentSequence
    header.finish(dataset, request, KIND)
    _list(dataset, series)
    return dataset


def _series(entry: Dataset) -> tuple[str, str]:
    return entry.StudyInstanceUID, entry.SeriesInstanceUID


def _list(dataset: Dataset, images: Sequence[Dataset]) -> None:
    """Put all images of the first series into the evidence, each once. Ref: PS3.3 C.17.2, Table C.17-3."""
    correct_ambiguous_vr(dataset, is_little_endian=True)
    (study,) = dataset.CurrentRequestedProcedureEvidenceSequence
    first, *others = study.ReferencedSeriesSequence
    classes = {image.SOPInstanceUID: image.SOPClassUID for image in images}
    before, after = elements.around(first, "ReferencedSOPSequence")
    named = elements.sequence("ReferencedSOPSequence", [references.image(classes[uid], uid) for uid in classes])
    series = elements.sequence("ReferencedSeriesSequence", [before + named + after, *map(elements.encoded, others)])
    before, after = elements.around(study, "ReferencedSeriesSequence")
    elements.put(dataset, "CurrentRequestedProcedureEvidenceSequence", [before + series + after])
