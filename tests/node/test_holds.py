"""What makes a human look first, on files that really came and with a real archive to ask; and what that human may say."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import Dataset
from pydicom.uid import ExplicitVRBigEndian, ImplicitVRLittleEndian, RLELossless

from node import audit, demographics, holds, status
from node.archive.faults import Faults
from node.errors import Refused
from node.ledger import Ledger, revisions
from node.ledger import holds as rows
from node.study import RevisionState
from tests.node import holding
from tests.node.conftest import Clock
from tests.node.holding import SERIES, STUDY, Bench, image

HELD = RevisionState.HELD
SECOND = ("PACS", "10.0.0.2")


@pytest.fixture
def bench(ledger: Ledger, clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    """Give a node and its archive, on each kind of database."""
    with holding.bench(ledger, clock, tmp_path, monkeypatch) as made:
        yield made


def kinds(bench: Bench) -> list[str]:
    """Give what the held studies are held for."""
    return [kind for entry in rows.held(bench.ledger) for kind in entry["kinds"]]


def test_a_plain_study_is_not_held_and_costs_no_question(bench: Bench) -> None:
    """The same images twice from one sender are no conflict; nobody is asked."""
    bench.archive.stop()
    for number in (1, 2, 3, 1, 2):
        bench.receive(image(number))
    assert bench.settle().state is RevisionState.DECLINED  # no model is installed here
    assert not bench.warnings()


def test_two_patients_in_one_study_are_held_and_named_nowhere(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    """The reason counts the IDs; neither reason, journal nor trail tells one."""
    bench.receive(image(1))
    bench.receive(image(2, PatientID="STRANGER-9", PatientName="Fremd^Karl"))
    held = bench.settle()
    assert held.state is HELD
    assert kinds(bench) == ["patients"]
    assert (held.reason or "").startswith("the study holds images of 2 patient IDs (archive does not know the study)")
    trail = (bench.ledger.data_dir / "audit").glob("*")
    said = "".join([*capsys.readouterr(), *(path.read_text() for path in trail), json.dumps(status.of_study(bench.ledger, STUDY))])
    assert not [word for word in holding.WORDS if word in said]


def test_the_same_id_of_two_issuers_is_two_patients_and_a_missing_issuer_is_not(bench: Bench) -> None:
    """Two hospitals count alike; who tells no issuer contradicts nobody."""
    bench.receive(image(1, IssuerOfPatientID="NORTH"))
    bench.receive(image(2))
    assert bench.settle().state is RevisionState.DECLINED
    bench.receive(image(3, IssuerOfPatientID="SOUTH"))
    bench.clock.now += 61
    assert bench.settle().state is HELD
    assert kinds(bench) == ["patients"]


def test_a_merge_that_the_archive_documents_is_no_reason_to_hold(bench: Bench) -> None:
    """Half the study came before the merge, half after: the archive says that both IDs are one patient."""
    bench.receive(image(1))
    bench.receive(image(2, PatientID="NEW-1"))
    bench.give(image(1, PatientID="NEW-1", OtherPatientIDs=["PHANTOM-1", "OLDER-0"]))
    assert bench.settle().state is RevisionState.DECLINED
    assert "merged into one by the word of archive" in bench.warnings()


def test_an_archive_that_lists_one_of_two_patients_without_a_merge_settles_nothing(bench: Bench) -> None:
    """That the archive has the study under one of them does not make the other's images that patient's."""
    bench.receive(image(1))
    bench.receive(image(2, PatientID="STRANGER-9"))
    bench.give(image(1))
    assert bench.settle().state is HELD


def test_another_birth_date_under_one_patient_id_is_held_unless_the_archive_confirms_one(bench: Bench) -> None:
    """The archive's word decides; without it nobody can know which is right."""
    bench.receive(image(1))
    bench.receive(image(2, PatientBirthDate="19600228"))
    held = bench.settle()
    assert held.state is HELD
    assert "differ in birth date, and the archive confirms none" in (held.reason or "")
    bench.give(image(1))
    bench.receive(image(3))
    bench.clock.now += 61
    assert bench.settle().state is RevisionState.DECLINED
    assert "archive confirms one of them" in bench.warnings()


def test_case_and_padding_of_a_name_are_not_held(bench: Bench) -> None:
    """DOE^JOHN and Doe^John^^ are one name."""
    bench.receive(image(1))
    bench.receive(image(2, PatientName="PHANTOM^ÄRCHIVE^^"))
    assert bench.settle().state is RevisionState.DECLINED


def _brighter(dataset: Dataset) -> None:
    dataset.PixelData = (np.frombuffer(dataset.PixelData, np.uint16) + 1).tobytes()


def _big_endian(dataset: Dataset) -> None:
    dataset.PixelData = np.frombuffer(dataset.PixelData, "<u2").astype(">u2").tobytes()
    dataset["PixelData"].VR = "OW"
    dataset.file_meta.TransferSyntaxUID = ExplicitVRBigEndian


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (_brighter, "another pixels;"),
        (lambda dataset: setattr(dataset, "ImagePositionPatient", [0, 0, 99]), "another geometry;"),
        (lambda dataset: setattr(dataset, "RescaleIntercept", 0), "another meaning of the pixel values;"),
        (lambda dataset: setattr(dataset, "SeriesInstanceUID", f"{SERIES}.9"), "another study, series or class;"),
        (
            lambda dataset: dataset.compress(RLELossless, generate_instance_uid=False),
            "another coding of the pixels (another transfer syntax);",
        ),
        (lambda dataset: setattr(dataset.file_meta, "TransferSyntaxUID", ImplicitVRLittleEndian), None),
        (_big_endian, None),
        (lambda dataset: setattr(dataset, "SeriesDescription", "Thorax, renamed"), None),
        (lambda dataset: setattr(dataset, "WindowCenter", 40), None),
    ],
    ids=["pixels", "geometry", "rescale", "series", "recoded", "implicit", "big-endian", "description", "window"],
)
def test_other_bytes_under_one_uid_are_told_apart(bench: Bench, change: Callable[[Dataset], Any], word: str | None) -> None:
    """Pixels, geometry and their meaning are held; other encodings of the same and mere remarks are not."""
    changed = image(2)
    change(changed)
    bench.receive(image(1))
    bench.receive(image(2))
    bench.receive(changed)
    done = bench.settle()
    if word is None:
        assert done.state is RevisionState.DECLINED
        assert "1 image came a second time with other remarks; the first is analysed" in bench.warnings()
    else:
        assert done.state is HELD
        assert (done.reason or "").startswith(f"1 image came a second time under the same SOP Instance UID with {word}")
        assert kinds(bench) == ["changed"]


def test_an_image_whose_first_file_is_gone_cannot_be_compared_and_is_held(bench: Bench) -> None:
    """What nobody can look at is not waved through."""
    bench.receive(image(1))
    bench.receive(image(1, SeriesDescription="Thorax, renamed"))
    for path in (bench.ledger.data_dir / "incoming").rglob("*.dcm"):
        path.unlink()
    assert "another content that cannot be read back;" in (bench.settle().reason or "")


@pytest.mark.parametrize("confirmed", [None, "Phantom^Ärchive", "Phantom^Artur", "Anders^Otto"])
def test_corrected_demographics_of_known_images_are_held_only_while_the_archive_confirms_none(bench: Bench, confirmed: str | None) -> None:
    """An image that comes again with the name put right is the same image."""
    bench.receive(image(1))
    bench.receive(image(1, PatientName="Phantom^Artur"))
    if confirmed:
        bench.give(image(1, PatientName=confirmed))
    done = bench.settle()
    fine = confirmed in {"Phantom^Ärchive", "Phantom^Artur"}
    assert (done.state is HELD) != fine
    assert kinds(bench) == ([] if fine else ["demographics"])


def test_two_senders_of_overlapping_parts_are_held_until_an_archive_counts_as_many(bench: Bench) -> None:
    """Neither sent all of it: only a count from somebody who knows tells whether the two together are whole."""
    for number in (1, 2, 3, 4):
        bench.receive(image(number))
    for number in (3, 4, 5, 6):
        bench.receive(image(number), SECOND)
    held = bench.settle()
    assert held.state is HELD
    assert (held.reason or "").startswith("series 3 came from MODALITY (4) and PACS (4): none sent all of its 6 images")
    for number in range(1, 8):
        bench.give(image(number))
    bench.receive(image(7))
    bench.clock.now += 61
    assert bench.settle().state is RevisionState.DECLINED
    assert "MODALITY (5) and PACS (4) in shares" in bench.warnings()


def test_a_second_sender_of_a_part_or_of_another_share_is_only_a_warning(bench: Bench) -> None:
    """One of them sent all; or each sent its own images: both are how archives of several nodes send."""
    for number in (1, 2, 3):
        bench.receive(image(number))
    bench.receive(image(2), SECOND)
    assert bench.settle().state is RevisionState.DECLINED
    assert bench.warnings() == "series 3 came from MODALITY (3) and PACS (1): one of them sent all of it"


def test_images_of_two_senders_that_do_not_meet_are_one_study(bench: Bench) -> None:
    """An archive of two nodes sends each its share."""
    bench.receive(image(1))
    bench.receive(image(2), SECOND)
    assert bench.settle().state is RevisionState.DECLINED
    assert bench.warnings() == "series 3 came from MODALITY (1) and PACS (1) in shares"


def test_the_same_slices_under_new_uids_from_a_second_sender_are_held(bench: Bench) -> None:
    """Somebody made copies with UIDs of their own: the series would be twice in itself."""
    for number in (1, 2):
        bench.receive(image(number))
        bench.receive(image(number, SOPInstanceUID=f"{SERIES}.77.{number}"), SECOND)
    held = bench.settle()
    assert held.state is HELD
    assert "with the same positions under different UIDs" in (held.reason or "")


def test_a_modality_clock_in_the_future_is_a_warning_and_decides_nothing(bench: Bench) -> None:
    """The study goes on; tomorrow's date, from a time zone ahead of ours, is not even odd."""
    tomorrow, later = "20231115", "20231117"  # the test's clock says 2023-11-14
    bench.receive(image(1, StudyDate=tomorrow))
    assert bench.settle().state is RevisionState.DECLINED
    assert not bench.warnings()
    bench.receive(image(2, StudyDate=later, ContentDate="not a date"))
    bench.clock.now += 61
    done = bench.settle()
    assert done.state is RevisionState.DECLINED
    assert bench.warnings() == "series 3 is dated in the future: the modality's clock is wrong"
    assert 1_700_000_000 < done.last_arrival_at < bench.clock.now


def test_a_site_may_want_a_wrong_clock_held(bench: Bench) -> None:
    """With on_future_date = hold the study waits for a word; released it goes on, and is not held for that again."""
    settings = bench.dispatcher.settings
    strict = settings.assembly.model_copy(update={"on_future_date": "hold"})
    bench.dispatcher.settings = settings.model_copy(update={"assembly": strict})
    bench.receive(image(1, StudyDate="20231117"))
    assert bench.settle().state is HELD
    assert kinds(bench) == ["clock"]
    holds.release(bench.ledger, STUDY, "A. Clerk", "the clock was put right at noon")
    assert bench.settle().state is RevisionState.DECLINED


def test_a_released_study_goes_on_and_is_held_again_only_for_something_new(bench: Bench) -> None:
    """A release covers what was seen, in later revisions too."""
    bench.receive(image(1))
    bench.receive(image(2, PatientID="STRANGER-9"))
    assert bench.settle().state is HELD
    assert holds.release(bench.ledger, STUDY, "A. Clerk", "a typing error at the scanner").number == 1
    assert bench.settle().state is RevisionState.DECLINED
    bench.receive(image(3))
    bench.clock.now += 61
    assert bench.settle().state is RevisionState.DECLINED
    changed = image(3)
    _brighter(changed)
    bench.receive(changed)
    bench.clock.now += 300
    assert bench.settle().state is HELD
    assert kinds(bench) == ["changed"]


def test_a_dropped_study_is_declined_with_the_word_and_keeps_its_files(bench: Bench) -> None:
    """Retention takes the files by its own days; there is nothing left to release."""
    bench.receive(image(1))
    bench.receive(image(2, PatientID="STRANGER-9"))
    bench.settle()
    holds.drop(bench.ledger, STUDY, "B. Physicist", "sent again under the right ID")
    (dropped,) = revisions.of_study(bench.ledger, STUDY)
    assert (dropped.state, dropped.reason) == (RevisionState.DECLINED, "dropped by B. Physicist: sent again under the right ID")
    assert len(list((bench.ledger.data_dir / "incoming").rglob("*.dcm"))) == 2
    with pytest.raises(Refused, match="no revision of this study is held"):
        holds.release(bench.ledger, STUDY, "A. Clerk", "second thoughts")
    (study,) = status.of_study(bench.ledger, STUDY)["studies"]
    assert [(entry["outcome"], entry["by_whom"], entry["kinds"]) for entry in study["holds"]] == [("DROPPED", "B. Physicist", ["patients"])]


def test_every_step_leaves_its_line_in_the_trail(bench: Bench) -> None:
    """Received, held, released: study, action, by whom, why and when, by the names of the DICOM audit message."""
    bench.receive(image(1))
    bench.receive(image(2, PatientID="STRANGER-9"), SECOND)
    bench.settle()
    holds.release(bench.ledger, STUDY, "A. Clerk", "a typing error at the scanner")
    lines = audit.read(bench.ledger.data_dir)
    assert [line["EventIdentification"]["EventTypeCode"]["csd-code"] for line in lines] == ["study held", "study received", "hold released"]
    assert {line["ParticipantObjectIdentification"][0]["ParticipantObjectID"] for line in lines} == {STUDY}
    senders = [person["UserID"] for person in lines[1]["ActiveParticipant"][1:]]
    assert senders == ["MODALITY", "PACS"]
    released = lines[2]
    assert released["ActiveParticipant"][1] == {"UserID": "A. Clerk", "UserIsRequestor": True}
    assert {"type": "reason", "value": "a typing error at the scanner"} in released["ParticipantObjectIdentification"][0][
        "ParticipantObjectDetail"
    ]
    assert released["EventIdentification"]["EventDateTime"].startswith("2023-11-14T22:")


def test_nothing_is_released_without_a_trace(bench: Bench) -> None:
    """Where the trail cannot be written the study stays held."""
    bench.receive(image(1))
    bench.receive(image(2, PatientID="STRANGER-9"))
    bench.settle()
    folder = bench.ledger.data_dir / "audit"
    folder.rename(folder.with_name("elsewhere"))
    folder.write_text("a file where the folder should be")
    with pytest.raises(Refused, match="so nothing was changed"):
        holds.release(bench.ledger, STUDY, "A. Clerk", "a typing error")
    assert revisions.of_study(bench.ledger, STUDY)[-1].state is HELD
    assert rows.released_keys(bench.ledger, STUDY) == frozenset()


@pytest.mark.parametrize(
    ("by", "because", "words"),
    [
        ("", "a reason", "--by needs"),
        ("A. Clerk", " ", "--because needs"),
        ("A. Clerk", "line\nbreak", "--because needs"),
        ("A. Clerk", "it is phantom, I know him", "PatientName"),
        ("A. Clerk", "ID STRANGER9 is wrong", "PatientID"),
        ("A. Clerk", "born 1960-02-29", "PatientBirthDate"),
        ("A. Clerk", "see order acc-1.", "AccessionNumber"),
    ],
)
def test_a_word_that_is_empty_or_quotes_the_patient_is_refused(bench: Bench, by: str, because: str, words: str) -> None:
    """Reasons are shown and logged; the refusal names the attribute and not its value."""
    bench.receive(image(1))
    bench.receive(image(2, PatientID="STRANGER-9"))
    bench.settle()
    with pytest.raises(Refused, match=words) as refused:
        holds.drop(bench.ledger, STUDY, by, because)
    assert not [word for word in holding.WORDS if word in refused.value.reason]
    assert revisions.of_study(bench.ledger, STUDY)[-1].state is HELD


def test_a_silent_archive_costs_its_time_out_once(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next study does not wait for it again, and says why it was not asked."""
    bench.archive.stop()
    assert "cannot be reached" in demographics.ask(bench.settings, STUDY).said
    monkeypatch.setattr(demographics.query, "study_level", lambda *_: pytest.fail("it was asked again"))
    assert "cannot be reached" in demographics.ask(bench.settings, STUDY).said


def test_a_hidden_study_is_an_archive_that_does_not_know_it(bench: Bench) -> None:
    """An answer without a study is told as such, and is no silence."""
    bench.give(image(1))
    assert demographics.ask(bench.settings, STUDY).peer == "archive"
    bench.archive.faults = Faults(hidden=frozenset({f"{SERIES}.1"}))
    assert demographics.ask(bench.settings, STUDY).said == "archive does not know the study"
