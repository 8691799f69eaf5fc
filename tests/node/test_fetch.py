"""Fetching what is not here: plans, C-GET and C-MOVE against the small archive, and everything a peer can do wrong."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pydicom import Dataset, dcmread
from pydicom.encaps import encapsulate
from pydicom.uid import JPEGBaseline8Bit, generate_uid

from node import fetch
from node.archive import Archive, Faults
from node.errors import Misconfigured, Refused, Retryable
from node.ledger import instances
from tests.node.archive_files import image, study, write
from tests.node.delivery import written
from tests.node.fetching import Place, fill, moved, place, run
from tests.node.listening import listening
from tests.real.processes import free_port


@pytest.fixture
def archive(tmp_path: Path) -> Iterator[Archive]:
    """Run an archive on a free port."""
    with Archive(tmp_path / "archive", "PACS") as running:
        yield running


@pytest.fixture
def node(archive: Archive, tmp_path: Path) -> Iterator[Place]:
    """Make a node that gets images by C-GET."""
    made = place(tmp_path / "node", archive.port)
    yield made
    made.ledger.close()


def data_set(path: Path) -> bytes:
    """Give the bytes behind the file meta information."""
    content = path.read_bytes()
    return content[144 + int.from_bytes(content[140:144], "little") :]


def test_a_whole_study_comes_byte_for_byte_and_once(node: Place, archive: Archive, tmp_path: Path) -> None:
    """Two series come with their bytes, from the peer to our title; fetched again, nothing is asked for."""
    study_uid, paths = study(tmp_path / "files", series=2, images=3)
    uids = fill(archive, paths)
    steps: list[tuple[int, int]] = []
    plan = fetch.missing(node.settings, node.ledger, study_uid)
    assert sorted(plan.missing) == sorted(uids)
    outcome = fetch.retrieve(node.settings, node.ledger, node.spool, plan, lambda here, asked: steps.append((here, asked)))
    assert outcome.complete
    assert (sorted(outcome.retrieved), outcome.refused, outcome.warnings, outcome.attempts) == (sorted(uids), {}, (), 1)
    assert steps == [(number, 6) for number in range(1, 7)]
    rows = node.rows(study_uid)
    assert {(row.calling_ae, row.called_ae, row.peer_host) for row in rows} == {("PACS", "OVERREAD", "127.0.0.1")}
    kept = {row.sop_instance_uid: data_set(node.settings.data_dir / row.path) for row in rows}
    assert kept == {str(dcmread(path).SOPInstanceUID): data_set(path) for path in paths}
    again = run(node, study_uid)
    assert (again.asked, again.attempts, len(node.files())) == (0, 0, 6)


def test_only_what_is_missing_is_asked_for(node: Place, archive: Archive, tmp_path: Path) -> None:
    """A series that stopped after two of four images is completed by its other two; a series never sent is left alone."""
    study_uid, paths = study(tmp_path / "files", series=2, images=4)
    uids = fill(archive, paths)
    node.receive(paths[:2])
    sent: list[str] = []
    archive._chosen = _spied(archive._chosen, sent)  # type: ignore[method-assign]
    outcome = fetch.complete_series(node.settings, node.ledger, node.spool, node.peer, study_uid)
    assert sorted(outcome.retrieved) == sorted(sent) == sorted(uids[2:4])
    assert node.held(study_uid) == set(uids[:4])
    assert fetch.complete_series(node.settings, node.ledger, node.spool, node.peer, study_uid).asked == 0


def _spied(choose: Callable[[Any], list[Any]], sent: list[str]) -> Callable[[Any], list[Any]]:
    def spy(event: Any) -> list[Any]:
        chosen = choose(event)
        sent.extend(held.sop_instance_uid for held in chosen)
        return chosen

    return spy


def test_one_series_or_one_modality_can_be_named(node: Place, archive: Archive, tmp_path: Path) -> None:
    """The PET of a CT: only that modality's series; a series the peer does not list is refused."""
    study_uid, series_uid = generate_uid(), generate_uid()
    ct = write(image(study_uid, generate_uid()), tmp_path / "ct.dcm")
    pet = image(study_uid, series_uid, sop_class="1.2.840.10008.5.1.4.1.1.128")
    pet.Modality = "PT"
    fill(archive, [ct, write(pet, tmp_path / "pet.dcm")])
    plan = fetch.plan(node.settings, node.ledger, node.peer, fetch.Wanted(study_instance_uid=study_uid, modality="PT"))
    assert plan.missing == (str(pet.SOPInstanceUID),)
    assert fetch.retrieve(node.settings, node.ledger, node.spool, plan).complete
    assert fetch.missing(node.settings, node.ledger, study_uid, series_uid).missing == ()
    with pytest.raises(Refused, match="does not list that series"):
        fetch.missing(node.settings, node.ledger, study_uid, "1.2.3")


def test_compressed_images_come_as_they_are(node: Place, archive: Archive, tmp_path: Path) -> None:
    """An image stored as JPEG arrives as JPEG with its bytes; nothing is transcoded on the way."""
    dataset = image(generate_uid(), generate_uid(), syntax=JPEGBaseline8Bit)
    dataset.PixelData = encapsulate([b"\xff\xd8not really\xff\xd9"])
    dataset["PixelData"].is_undefined_length = True
    path = write(dataset, tmp_path / "jpeg.dcm")
    archive.add(path)
    assert run(node, str(dataset.StudyInstanceUID)).complete
    (kept,) = node.files()
    assert dcmread(kept).file_meta.TransferSyntaxUID == JPEGBaseline8Bit
    assert data_set(kept) == data_set(path)


def test_what_retention_removed_is_fetched_again(node: Place, archive: Archive, tmp_path: Path) -> None:
    """A study whose files are gone is missing, and is back after a fetch."""
    study_uid, paths = study(tmp_path / "files", images=2)
    fill(archive, paths)
    assert run(node, study_uid).complete
    for path in node.files():
        path.unlink()
    instances.remove(node.ledger, [row for row, _ in instances.files(node.ledger, study_uid)])
    assert len(fetch.missing(node.settings, node.ledger, study_uid).missing) == 2
    assert run(node, study_uid).complete
    assert len(node.files()) == 2


def test_what_the_peer_withholds_is_named_missing(node: Place, archive: Archive, tmp_path: Path) -> None:
    """An image that is listed and never sent stays missing after a bounded number of attempts; the others are here."""
    study_uid, paths = study(tmp_path / "files", images=3)
    uids = fill(archive, paths)
    archive.faults = Faults(withheld=frozenset({uids[1]}))
    outcome = run(node, study_uid)
    assert (outcome.missing, len(outcome.retrieved), outcome.attempts, outcome.complete) == ((uids[1],), 2, 3, False)


def test_failed_sub_operations_are_reported(node: Place, archive: Archive, tmp_path: Path) -> None:
    """An image that the archive cannot read any more is missing, and the outcome says what the archive counted."""
    study_uid, paths = study(tmp_path / "files", images=2)
    uids = fill(archive, paths)
    lost = archive.path_of(uids[0])
    assert lost is not None
    lost.unlink()
    outcome = run(node, study_uid)
    assert outcome.missing == (uids[0],)
    assert any("could not send 1 of the images" in warning for warning in outcome.warnings)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda d: setattr(d, "StudyInstanceUID", "1.2.3"), "another study"),
        (lambda d: setattr(d, "SeriesInstanceUID", "1.2.3"), "another series"),
        (lambda d: setattr(d, "PatientID", "SOMEONE-ELSE"), "another patient ID"),
        (lambda d: setattr(d, "SOPInstanceUID", "1.2.3"), "another SOP Instance UID"),
        (lambda d: setattr(d, "PixelData", b"\0" * 4), "pixel"),
    ],
)
def test_what_was_not_asked_for_is_refused(
    node: Place, archive: Archive, tmp_path: Path, change: Callable[[Dataset], None], reason: str
) -> None:
    """Another study's, series' or patient's image under a listed UID, or a short one: refused with its reason, nothing kept of it."""
    study_uid, paths = study(tmp_path / "files", images=2)
    uids = fill(archive, paths)
    altered = dcmread(paths[0])
    change(altered)
    stored = archive.path_of(uids[0])
    assert stored is not None
    altered.save_as(stored)  # the archive's index still says what it was
    node.receive(paths[1:])
    outcome = run(node, study_uid)
    (said,) = outcome.refused
    assert reason in said
    assert outcome.missing == (uids[0],)
    assert outcome.attempts == 1
    assert len(node.files()) == 1
    assert node.parts() == []
    assert "SOMEONE" not in f"{outcome}{said}"


def test_a_full_disk_refuses_nothing_for_good(node: Place, archive: Archive, tmp_path: Path) -> None:
    """Under its watermark the node takes nothing, says so as a passing trouble, and fetches once there is room."""
    study_uid, paths = study(tmp_path / "files", images=2)
    fill(archive, paths)
    node.spool._free_min_bytes = 1 << 62
    with pytest.raises(Retryable, match="disk"):
        run(node, study_uid)
    node.spool._free_min_bytes = 0
    assert run(node, study_uid).complete


def test_a_peer_that_breaks_off_is_asked_for_the_rest(node: Place, tmp_path: Path) -> None:
    """A C-GET that ends by an abort after one image: the next attempt asks for the other images only, each is stored once."""
    study_uid, paths = study(tmp_path / "files", images=4)
    asked: list[int] = []

    class Breaking(Archive):
        def _on_get(self, event: Any) -> Iterator[Any]:
            answers = super()._on_get(event)
            asked.append(next(answers))
            yield asked[-1]
            for number, answer in enumerate(answers):
                if number == 1 and len(asked) == 1:
                    event.assoc.abort()
                    return
                yield answer

    with Breaking(tmp_path / "breaking", "PACS") as archive:
        fill(archive, paths)
        node = moved(node, archive.port)
        outcome = run(node, study_uid)
    assert outcome.complete
    assert asked == [4, 3]
    assert any("broke off" in warning for warning in outcome.warnings)
    assert len(node.files()) == 4


def test_a_peer_that_is_away_is_retryable_and_unsaid_ones_refuse(node: Place) -> None:
    """Nobody listens: Retryable. A study the peer lacks, a peer not set up for it: Refused. No peer at all: Misconfigured."""
    with pytest.raises(Retryable):
        fetch.complete_series(node.settings, node.ledger, node.spool, moved(node, free_port()).peer, "1.2.3")
    with pytest.raises(Refused, match="does not have the study"):
        fetch.missing(node.settings, node.ledger, "1.2.3")
    never = moved(node, node.peer.port, retrieve="none")
    with pytest.raises(Refused, match="retrieve"):
        fetch.complete_series(never.settings, node.ledger, node.spool, never.peer, "1.2.3")
    with pytest.raises(Misconfigured, match="retrieve"):
        fetch.missing(never.settings, node.ledger, "1.2.3")


def test_the_sender_of_a_study_is_asked_first(node: Place, archive: Archive, tmp_path: Path) -> None:
    """Of two peers the one that sent the study; for a study nobody sent the caller must choose."""
    study_uid, paths = study(tmp_path / "files", images=2)
    fill(archive, paths)
    node.receive(paths[:1])
    other = node.peer.model_copy(update={"name": "other", "ae_title": "OTHER"})
    settings = node.settings.model_copy(update={"peers": (other, node.peer)})
    assert fetch.peer_for(settings, node.ledger, study_uid).name == "pacs"
    with pytest.raises(Misconfigured, match="other, pacs"):
        fetch.peer_for(settings, node.ledger, "1.2.3")


def test_a_move_arrives_at_our_own_listener(archive: Archive, tmp_path: Path) -> None:
    """C-MOVE: the images come to the listener by themselves, and the outcome counts what its index holds."""
    study_uid, paths = study(tmp_path / "files", series=2, images=2)
    uids = fill(archive, paths)
    node = place(tmp_path / "node", archive.port, retrieve="c-move")
    with listening(tmp_path / "node", ledger=node.ledger) as listener:
        with pytest.raises(Refused, match="does not know the destination OVERREAD"):
            run(node, study_uid)
        archive.peers["OVERREAD"] = ("127.0.0.1", listener.port)
        steps: list[int] = []
        plan = fetch.missing(node.settings, node.ledger, study_uid)
        outcome = fetch.retrieve(node.settings, node.ledger, node.spool, plan, lambda here, _asked: steps.append(here))
        assert sorted(outcome.retrieved) == sorted(uids)
        assert steps[-1] == 4
        assert run(node, study_uid).asked == 0
    node.ledger.close()


def test_a_move_while_the_listener_is_down_fails_aloud(archive: Archive, tmp_path: Path) -> None:
    """Nobody at the destination: a passing trouble that names the listener, never an empty success."""
    study_uid, paths = study(tmp_path / "files", images=1)
    fill(archive, paths)
    node = place(tmp_path / "node", archive.port, retrieve="c-move")
    archive.peers["OVERREAD"] = ("127.0.0.1", free_port())
    with pytest.raises((Retryable, Refused), match=r"listener|destination"):
        run(node, study_uid)
    node.ledger.close()


def prior(patient_id: str, date: str, modality: str, folder: Path) -> Path:
    """Write a study of one image."""
    dataset = image(generate_uid(), generate_uid())
    dataset.PatientID, dataset.StudyDate, dataset.Modality = patient_id, date, modality
    return write(dataset, folder / f"{generate_uid()}.dcm")


def test_priors_are_the_patients_own_earlier_studies_newest_first(node: Place, archive: Archive, tmp_path: Path) -> None:
    """Another patient, another modality, a later date and the study itself are no priors."""
    paths = [
        prior("PHANTOM-1", "20230101", "CT", tmp_path),
        prior("PHANTOM-1", "20230601", "CT", tmp_path),
        prior("PHANTOM-1", "20230701", "MR", tmp_path),
        prior("PHANTOM-1", "20250101", "CT", tmp_path),
        prior("PHANTOM-12", "20230101", "CT", tmp_path),
    ]
    fill(archive, paths)
    study_uid, now = study(tmp_path / "now", images=1)
    fill(archive, now)
    from_peer = fetch.prior_query(node.settings, node.ledger, node.peer, study_uid, "CT")
    node.receive(now)
    asked = fetch.prior_query(node.settings, node.ledger, node.peer, study_uid, "CT")
    assert (asked.patient, asked.before_date) == (from_peer.patient, from_peer.before_date)
    found = fetch.priors(node.settings, node.peer, asked)
    assert [entry.study_instance_uid for entry in found] == [str(dcmread(paths[i]).StudyInstanceUID) for i in (1, 0)]
    assert "PHANTOM" not in f"{asked}{found}"
    assert "2023" not in f"{asked}{found}"


@pytest.mark.parametrize("patient_id", ["", "*", "A?", "A\\B"])
def test_a_patient_id_that_would_match_others_is_not_searched(node: Place, patient_id: str) -> None:
    """An empty ID or one with a wildcard would bring other patients' studies: refused before anything is asked."""
    asked = fetch.PriorQuery(patient=fetch.Patient(patient_id=patient_id), modality="CT", before_date="20240101")
    with pytest.raises(Refused, match="no patient ID by which"):
        fetch.priors(moved(node, free_port()).settings, moved(node, free_port()).peer, asked)


def test_our_own_results_are_never_fetched(archive: Archive, tmp_path: Path) -> None:
    """A SEG and SR that this node wrote and the archive holds are counted and left there."""
    node = place(tmp_path / "node", archive.port)
    parcel = written(node.ledger)
    fill(archive, [node.settings.data_dir / entry.path for entry in parcel.objects])
    plan = fetch.missing(node.settings, node.ledger, parcel.study_instance_uid)
    assert (plan.ours, plan.missing) == (2, ())
    node.ledger.close()
