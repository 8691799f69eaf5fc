"""When a study is complete, and what makes a human look first."""

from __future__ import annotations

from node import assembly
from node.ledger import Ledger, instances, revisions
from node.ledger.revisions import Revision
from node.study import Instance, RevisionState
from tests.node import work
from tests.node.conftest import Clock


def held(ledger: Ledger, *received: Instance) -> str | None:
    """Receive images one after the other, freeze, and give the reason to hold."""
    for entry in received:
        instances.index(ledger, [entry])
    return why(ledger, work.freeze(ledger))


def why(ledger: Ledger, revision: Revision) -> str | None:
    """Give the reason to hold a revision."""
    return assembly.hold_reason(ledger, revision, instances.study(ledger, revision.study_instance_uid, revision.number))


def test_a_quiet_study_is_complete_and_says_on_what_evidence(ledger: Ledger, clock: Clock) -> None:
    """The evidence is kept with the revision."""
    instances.index(ledger, work.slices(3))
    assert assembly.freeze(ledger, work.QUIET) == 0
    clock.now += 61
    assert assembly.freeze(ledger, work.QUIET) == 1
    assert assembly.freeze(ledger, work.QUIET) == 0
    (done,) = revisions.of_study(ledger, "1.2.3")
    assert (done.state, done.evidence) == (RevisionState.COMPLETE, {"said": "no arrival for 61 s"})


def test_a_plain_study_is_not_held(ledger: Ledger) -> None:
    """The same image sent twice is no conflict."""
    assert held(ledger, *work.slices(3), work.slices(1)[0]) is None


def test_two_patients_in_one_study_are_held(ledger: Ledger) -> None:
    """The reason counts them and names none."""
    reason = held(ledger, work.image("1.2.3.1.1"), work.image("1.2.3.1.2", header={"PatientID": "SECRET"}))
    assert reason == "the study holds images of 2 patient IDs; correct it in the PACS and send it again"


def test_two_issuers_of_one_patient_id_are_held_and_a_missing_one_is_not(ledger: Ledger) -> None:
    """The same number from two hospitals is two patients."""
    one, other = work.image("1.2.3.1.1", header={"IssuerOfPatientID": "A"}), work.image("1.2.3.1.2")
    assert held(ledger, one, other) is None
    assert held(ledger, work.image("1.2.3.1.3", header={"IssuerOfPatientID": "B"})) is not None


def test_changed_content_under_one_uid_is_held_with_what_differs(ledger: Ledger) -> None:
    """The technologist reads what is different: here position and size."""
    moved = work.image("1.2.3.1.1", content="b", header={"ImagePositionPatient": [0, 0, 0], "Rows": 256, "Columns": 256})
    reason = held(ledger, work.image("1.2.3.1.1"), moved) or ""
    assert reason.startswith("1 image came a second time under the same SOP Instance UID with another position, size;")


def test_other_bytes_with_the_same_header_are_held_for_their_pixels(ledger: Ledger) -> None:
    """What cannot be compared by header may be the pixels."""
    reason = held(ledger, work.image("1.2.3.1.1"), work.image("1.2.3.1.1", content="b")) or ""
    assert "with another content, perhaps pixels;" in reason


def test_an_image_that_was_in_another_study_is_held(ledger: Ledger) -> None:
    """A UID that moved from one study to another is somebody's mistake."""
    instances.index(ledger, [work.image("1.2.3.1.1", study="9.9.9")])
    reason = held(ledger, work.image("1.2.3.1.1", content="b")) or ""
    assert "with another study;" in reason


def test_a_released_study_is_not_held_again_for_the_same(ledger: Ledger) -> None:
    """After the release the first bytes are analysed; only a newer conflict holds again."""
    instances.index(ledger, [work.image("1.2.3.1.1"), work.image("1.2.3.1.1", content="b")])
    frozen = work.freeze(ledger)
    assert revisions.hold(ledger, frozen, why(ledger, frozen) or "")
    assert assembly.release(ledger, "1.2.3")
    assert not assembly.release(ledger, "1.2.3")
    assert why(ledger, revisions.of_study(ledger, "1.2.3")[-1]) is None
    instances.index(ledger, [work.image("1.2.3.1.2")])
    assert why(ledger, work.freeze(ledger)) is None
    instances.index(ledger, [work.image("1.2.3.1.2", content="b")])
    assert why(ledger, work.freeze(ledger)) is not None
