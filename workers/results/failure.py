"""The report that an analysis failed, for sites that ask: nothing was analysed, which is never "nothing found".

Ref: PS3.16 CID 6047 (111245: no algorithms succeeded)
"""

from __future__ import annotations

import hashlib
import re

from highdicom import sr
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes

from models.card import ascii_only
from workers.results import header, sr_context, wording
from workers.results import sr as report
from workers.results.request import FailureRequest, Origin

REASON_CHARACTERS = 400
WITHHELD = "the reason stands in the node's list of jobs"
# Attributes whose words a reason must not hold: they are the patient's.
OF_THE_PATIENT = ("PatientName", "PatientID", "AccessionNumber", "PatientBirthDate", "OtherPatientIDs", "PatientAddress")


def write(request: FailureRequest) -> Dataset:
    """Write the report; another reason is another object with UIDs of its own."""
    for source in request.sources:
        header.named(source)
    said = reason(request)
    content = sr_context.container(
        sr_context.QUALITATIVE,
        [
            sr_context.code(codes.DCM.CADProcessingAndFindingsSummary, codes.DCM.NoAlgorithmsSucceededWithoutFindings),
            sr_context.comment(statement(request)),
            sr_context.comment(f"Reason: {said}."),
        ],
    )
    part = f"failure-{hashlib.sha256(said.encode()).hexdigest()[:16]}-"
    evidence = [header.inherited(request.sources[0]), *request.sources[1:]]
    root: sr.ContainerContentItem = sr_context.in_words(request, [content])
    return report.document(request, root, evidence, part=part, series_description=wording.failure_description(request))


def statement(request: FailureRequest) -> str:
    """Say that nothing was analysed; this is also the summary."""
    return ascii_only(
        f"{wording.FAILED}: {wording.model_words(request)} could not analyse these images. Nothing was analysed, so nothing is said "
        f"about what they show. {wording.NOT_VERIFIED}"
    )


def reason(request: FailureRequest) -> str:
    """Give the reason in ASCII, shortened; one that holds a word of the patient's is not told."""
    text = ascii_only(" ".join(request.reason.split())).rstrip(".")
    if not text or set(_words(request.reason)) & _patient_words(request):
        return WITHHELD
    return text if len(text) <= REASON_CHARACTERS else text[: REASON_CHARACTERS - 3].rstrip() + "..."


def _patient_words(request: Origin) -> set[str]:
    """Give the words of more than two characters that name the patient or the order."""
    values = [str(source.get(keyword) or "") for source in request.sources[:1] for keyword in OF_THE_PATIENT]
    return {word for value in values for word in _words(value) if len(word) > 2}


def _words(text: str) -> list[str]:
    return re.findall(r"[^\W_]+", text.lower())
