"""A failed analysis is told as a failure, and can never be taken for "nothing found"."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from io import BytesIO
from typing import Any

import pydicom
import pytest
from pydicom.dataset import Dataset

from node.errors import Refused
from node.profiles import BUILT_IN, Profile
from tests.servers import require
from tests.workers.results import scans
from tests.workers.results.test_check import named, set_to
from tests.workers.results.test_readers import run
from workers.results import FailureRequest, check, compose, compose_failure

REASON = "the stage infer ran past its limit of 600 s (gave up after 3 attempts)"


def failed(reason: str = REASON, profile: Profile = BUILT_IN["ohif"], **changes: Any) -> FailureRequest:
    """Give an analysis that failed; changes go to the headers."""
    request = scans.request(**changes)
    return FailureRequest(
        job=request.job, card=request.card, sources=request.sources, settings=request.settings, reason=reason, profile=profile
    )


def read(request: FailureRequest) -> Dataset:
    """Compose and read back."""
    (entry,) = compose_failure(request).objects
    return pydicom.dcmread(BytesIO(entry.dataset_bytes))


def texts(report: Dataset) -> list[str]:
    """Give the comments."""
    return [item.TextValue for item in named(report, "121106")]


def test_a_failure_says_first_that_it_failed_and_why() -> None:
    """The list of series, the code and the words all say that nothing was analysed."""
    report = read(failed())
    assert report.SeriesDescription == "AI FAILED Lung nodules 1.2.0 - nothing analysed"
    assert report.ConceptNameCodeSequence[0].CodeValue == "18748-4"
    assert named(report, "111017")[0].ConceptCodeSequence[0].CodeValue == "111245"
    first, second = texts(report)
    assert first.startswith("AI FAILED: Lung nodules 1.2.0 could not analyse these images. Nothing was analysed")
    assert second == f"Reason: {REASON}."
    assert compose_failure(failed()).summary == first
    assert named(report, "125007") == named(report, "121191") == []
    assert "found" not in " ".join(texts(report)).lower()


def test_a_sites_pattern_does_not_hide_a_failure() -> None:
    """The first words of the series stay, whatever the site calls its other series; the profile's class of report holds."""
    report = read(failed(profile=Profile(name="own", description="{model} {message}", sr_class="comprehensive")))
    assert report.SeriesDescription.startswith("AI FAILED")
    assert report.SOPClassUID == "1.2.840.10008.5.1.4.1.1.88.33"


@pytest.mark.parametrize(
    "reason", ["could not read /in/Phantom^Anna/1.dcm", "no room for PHI-7391", "order acc-55 is gone", "born 19600229", "  ", "anna"]
)
def test_a_reason_that_names_the_patient_is_not_told(reason: str) -> None:
    """What a program said may hold a path or a value of the images; then only the node's own list tells it."""
    assert texts(read(failed(reason)))[1] == "Reason: the reason stands in the node's list of jobs."


def test_a_long_reason_is_cut_and_a_strange_character_replaced() -> None:
    """A traceback in a report would help nobody."""
    said = texts(read(failed("Fehler: \u00fcberlauf\n" + "x" * 1000)))[1]
    assert said.startswith("Reason: Fehler: ?berlauf xxx")
    assert len(said) < 420


def test_the_same_failure_is_the_same_bytes_and_another_one_another_object() -> None:
    """A resend repeats the bytes; a second failure, and the result that comes after it, never share a UID with the first."""
    assert compose_failure(failed()).objects == compose_failure(failed()).objects
    uids = {compose_failure(failed()).objects[0].sop_instance_uid, compose_failure(failed("out of memory")).objects[0].sop_instance_uid}
    after = {entry.sop_instance_uid for entry in compose(scans.request()).objects}
    assert len(uids | after) == 2 + len(after)


def test_images_that_no_result_could_be_placed_on_can_still_be_reported_as_failed() -> None:
    """A failure needs no frame of reference; whose images they are it does need."""
    assert read(failed(FrameOfReferenceUID="")).PatientID == "PHI-7391"
    with pytest.raises(Refused, match="SeriesInstanceUID"):
        compose_failure(failed(SeriesInstanceUID=""))
    with pytest.raises(ValueError, match="nobody"):
        compose_failure(replace(failed(), sources=()))


def _finding_title(report: Dataset) -> None:
    report.ConceptNameCodeSequence[0].CodeValue = "126000"


def _says_nothing_found(report: Dataset) -> None:
    named(report, "111017")[0].ConceptCodeSequence[0].CodeValue = "111241"


def _text(index: int, words: str) -> Callable[[Dataset], None]:
    return lambda report: setattr(named(report, "121106")[index], "TextValue", words)


SAID = "AI FAILED: Nothing was analysed. Not verified by a physician."
FAULTS: dict[str, tuple[Callable[[Dataset], Any], str]] = {
    "titled as a finding": (_finding_title, "looks like a result"),
    "a finding in it": (lambda r: setattr(named(r, "121106")[1].ConceptNameCodeSequence[0], "CodeValue", "121071"), "looks like a result"),
    "nothing found": (_says_nothing_found, "does not say that nothing was analysed"),
    "words of a result": (_text(0, f"{SAID} No nodule was found."), "a word of a result"),
    "no words of failure": (_text(0, "Lung nodules 1.2.0. Not verified by a physician."), "does not say"),
    "no reason": (_text(1, "It stopped."), "does not say"),
    "another series name": (set_to("SeriesDescription", "AI lung-test"), "begin by saying so"),
    "verified": (set_to("VerificationFlag", "VERIFIED"), "unverified"),
    "another patient": (set_to("PatientID", "PHI-7392"), "PatientID"),
    "another study": (set_to("StudyInstanceUID", "1.2.3"), "StudyInstanceUID"),
    "other images": (
        lambda r: r.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence[0].ReferencedSOPSequence.pop(),
        "evidence",
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_planted_in_the_report_of_a_failure_is_refused(name: str) -> None:
    """A failure that could be read as a result never leaves."""
    fault, reason = FAULTS[name]
    request = failed()
    (entry,) = compose_failure(request).objects
    dataset = pydicom.dcmread(BytesIO(entry.dataset_bytes))
    check.verify_failure(request, entry)
    fault(dataset)
    buffer = BytesIO()
    pydicom.dcmwrite(buffer, dataset)
    with pytest.raises(Refused, match=reason):
        check.verify_failure(request, replace(entry, dataset_bytes=buffer.getvalue()))


@pytest.mark.real
@pytest.mark.parametrize("profile", ["ohif", "basic"])
def test_validators_have_nothing_to_say_about_a_failure(profile: str, tmp_path: Any) -> None:
    """Dciodvfy and dsrdump read it without a complaint."""
    path = tmp_path / "sr.dcm"
    path.write_bytes(compose_failure(failed(profile=BUILT_IN[profile])).objects[0].dataset_bytes)
    assert run(require("dciodvfy"), path).strip() in {"Comprehensive3DSR", "ComprehensiveSR"}
    said = run(require("dsrdump"), "+Pl", path)
    assert "AI FAILED" in said
    assert not [line for line in said.splitlines() if line.startswith(("W:", "E:"))]
