"""Further evidence: what a notification of availability names, and how the sender's association ended."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import CTImageStorage, generate_uid
from pynetdicom import build_context

from node import availability, status
from node.archive import Faults
from node.ledger import Ledger, looks, revisions
from node.peers import association
from node.settings import Settings
from node.study import RevisionState
from tests.node import proving
from tests.node.conftest import Clock
from tests.node.listening import listening, soon, us
from tests.node.proving import SLICES, Chest, Site
from tests.node.raw import RELEASE_RP, Caller, pdu
from tests.node.wire import ct, encoded

RELEASE_RQ = 5


def notice(study: str, images: dict[str, list[str]], available: str = "ONLINE") -> Dataset:
    """Make a notification of these images by series."""
    made = Dataset()
    made.ReferencedPerformedProcedureStepSequence = []
    made.StudyInstanceUID = study
    made.ReferencedSeriesSequence = []
    for series, uids in images.items():
        item = Dataset()
        item.SeriesInstanceUID = series
        item.ReferencedSOPSequence = []
        for uid in uids:
            image = Dataset()
            image.ReferencedSOPClassUID, image.ReferencedSOPInstanceUID = CTImageStorage, uid
            image.InstanceAvailability, image.RetrieveAETitle = available, "PACS"
            item.ReferencedSOPSequence.append(image)
        made.ReferencedSeriesSequence.append(item)
    return made


def notify(place: Site, made: Dataset, uid: str | None) -> int:
    """Send it with N-CREATE; gives the status of the response."""
    settings = Settings.model_validate({"node": {"data_dir": place.ledger.data_dir}})
    with association(settings, us(place.listener, calling_ae=None), [build_context(availability.SOP_CLASS)]) as link:
        answer, _ = link.send_n_create(made, availability.SOP_CLASS, uid)
    return int(answer.Status)


def test_a_notification_that_names_more_holds_the_analysis_up(tmp_path: Path, ledger: Ledger, clock: Clock) -> None:
    """Where nobody counts, it tells what lacks; when the images have come, the quiet time decides as before."""
    with proving.site(tmp_path, ledger, clock) as place:
        proving.with_peer(place, query=False)
        chest = Chest().write(tmp_path / "files").into(place.archive)
        uids = [str(dcmread(path).SOPInstanceUID) for path in chest.files]
        place.archive.faults = Faults(lose=4)
        assert notify(place, notice(chest.study, {chest.series: uids}), generate_uid()) == 0x0000
        place.archive.forward(chest.study, "OVERREAD")
        place.live(60)
        (revision,) = revisions.of_study(ledger, chest.study)
        assert revision.state is RevisionState.RECEIVING
        assert f"a notification names {SLICES} images of series 3, {SLICES - 4} came" in (revision.evidence or {})["said"]
        place.archive.faults = Faults()
        place.archive.forward(chest.study, "OVERREAD")
        place.live(30)
        (revision,) = revisions.of_study(ledger, chest.study)
        assert (revision.state, (revision.evidence or {})["proof"]) == (RevisionState.PLANNED, "quiet")


def test_a_notification_is_kept_once_and_counts_what_can_be_had(tmp_path: Path, ledger: Ledger, clock: Clock) -> None:
    """Told twice it is one; images that are not available count for nothing; the UID may be left to us."""
    with proving.site(tmp_path, ledger, clock) as place:
        uid = generate_uid()
        for _ in range(2):
            assert notify(place, notice("1.2.3", {"1.2.3.1": ["1.1", "1.2", "1.2"]}), uid) == 0x0000
        assert notify(place, notice("1.2.3", {"1.2.3.1": ["1.1", "1.2", "1.3"]}, "UNAVAILABLE"), None) == 0x0000
        assert looks.notices(ledger, "1.2.3") == {"1.2.3.1": 2}


@pytest.mark.parametrize(("study", "series", "answer"), [("", "1.2.3.1", 0x0120), ("1.2.3", "not a uid", 0x0106)])
def test_a_notification_that_names_nothing_is_refused(ledger: Ledger, study: str, series: str, answer: int) -> None:
    """Without a study there is nothing to keep; what is no UID is not kept."""
    made = notice("1.2.3", {"1.2.3.1": ["1.1"]})
    made.StudyInstanceUID = study
    made.ReferencedSeriesSequence[0]["SeriesInstanceUID"]._value = series
    assert availability.on_notice(ledger, "1.2.9", made, "PACS")[0] == answer
    assert availability.on_notice(ledger, "1.2.9", None, "PACS")[0] == 0x0120
    assert looks.notices(ledger, "1.2.3") == {}


@pytest.mark.parametrize("released", [True, False])
def test_how_the_sender_ended_is_shown_with_the_study(tmp_path: Path, *, released: bool) -> None:
    """Released in order, or broken off: told behind the images it is about, and forgotten when more images come."""
    with listening(tmp_path) as listener:
        first, second = ct(StudyInstanceUID="1.2.77"), ct(StudyInstanceUID="1.2.77")
        with Caller(listener.port) as caller:
            caller.associate()
            caller.store(CTImageStorage, first.SOPInstanceUID, encoded(first))
            if released:
                caller.send(pdu(RELEASE_RQ, bytes(4)))
                assert caller.read()[0] == RELEASE_RP
        soon(lambda: _sender(listener._ledger) is not None)
        told = _sender(listener._ledger) or {}
        assert (told["calling_ae"], told["images"], told["released"]) == ("RAW", 1, released)
        with Caller(listener.port) as caller:
            caller.associate()
            caller.store(CTImageStorage, second.SOPInstanceUID, encoded(second))
            soon(lambda: listener._indexer.indexed == 2)
            assert _sender(listener._ledger) is None


def _sender(ledger: Ledger) -> dict[str, object] | None:
    studies = status.of_study(ledger, "1.2.77")["studies"]
    return studies[0]["revisions"][-1]["sender"] if studies else None
