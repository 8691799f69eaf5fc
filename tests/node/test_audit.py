"""The audit trail: durable, append-only, of several processes, without patient data."""

from __future__ import annotations

import json
import multiprocessing
import os
from pathlib import Path

import pytest
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

from node import audit, deliver, retention
from node.archive import Archive
from node.audit import Event
from node.ledger import Ledger, instances, revisions
from node.spool import Spool, StoreCommand
from node.study import Plan
from tests.node.archive_files import image
from tests.node.conftest import Clock
from tests.node.delivery import claim_of, peer_at, settings_for, written
from tests.node.work import freeze

NOW = 1_700_000_000.0
EVENT = Event(action="results sent", study_instance_uid="1.2.3", peers=("ARCHIVE 10.0.0.9",), objects=2, details={"job": "j1"})


def lines(folder: Path) -> list[str]:
    """Give the trail's lines as they are on the disk."""
    return [line for path in sorted((folder / "audit").glob("*.jsonl")) for line in path.read_text().splitlines()]


def test_an_event_is_one_line_with_the_names_of_the_dicom_audit_message(tmp_path: Path) -> None:
    """What a collector of the site expects: event, participants, source, object. Ref: PS3.15 A.5.1."""
    audit.require(tmp_path, EVENT, NOW)
    (line,) = lines(tmp_path)
    told = json.loads(line)
    event = told["EventIdentification"]
    assert (event["EventID"]["csd-code"], event["EventActionCode"], event["EventOutcomeIndicator"]) == ("110104", "C", 0)
    assert event["EventDateTime"] == "2023-11-14T22:13:20.000+00:00"
    node, archive = told["ActiveParticipant"]
    assert (node["UserID"], node["UserIsRequestor"]) == ("overread", True)
    assert (archive["UserID"], archive["NetworkAccessPointID"], archive["RoleIDCode"]["csd-code"]) == ("ARCHIVE", "10.0.0.9", "110152")
    (study,) = told["ParticipantObjectIdentification"]
    assert (study["ParticipantObjectID"], study["ParticipantObjectIDTypeCode"]["csd-code"]) == ("1.2.3", "110180")
    assert {"type": "objects", "value": "2"} in study["ParticipantObjectDetail"]


def test_a_purge_is_a_study_deleted(tmp_path: Path) -> None:
    """Ref: PS3.15 A.5.3.8."""
    audit.require(tmp_path, Event(action="images purged", study_instance_uid="1.2.3", objects=300), NOW)
    (told,) = audit.read(tmp_path)
    assert (told["EventIdentification"]["EventID"]["csd-code"], told["EventIdentification"]["EventActionCode"]) == ("110105", "D")


def test_a_line_that_a_power_cut_broke_off_spoils_no_other(tmp_path: Path) -> None:
    """The next event begins on a line of its own."""
    audit.require(tmp_path, EVENT, NOW)
    (path,) = (tmp_path / "audit").glob("*.jsonl")
    path.write_bytes(path.read_bytes()[:-40])
    audit.require(tmp_path, audit.by(EVENT, "A. Clerk"), NOW)
    assert len(lines(tmp_path)) == 2
    (told,) = audit.read(tmp_path)
    assert told["ActiveParticipant"][1] == {"UserID": "A. Clerk", "UserIsRequestor": True}


def _write_many(folder: Path) -> None:
    for _ in range(50):
        audit.require(folder, EVENT, NOW)


def test_several_processes_append_whole_lines(tmp_path: Path) -> None:
    """Dispatch, workers and a command write at once."""
    writers = [multiprocessing.get_context("spawn").Process(target=_write_many, args=(tmp_path,)) for _ in range(3)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(60)
    assert [json.loads(line) is not None for line in lines(tmp_path)] == [True] * 150


def test_a_trail_is_for_this_user_only_and_a_file_holds_a_month(tmp_path: Path) -> None:
    """Months later there are as many files, named by nothing but the month."""
    audit.require(tmp_path, EVENT, NOW)
    audit.require(tmp_path, EVENT, NOW + 40 * 86400)
    paths = sorted((tmp_path / "audit").iterdir())
    assert [path.name for path in paths] == ["2023-11.jsonl", "2023-12.jsonl"]
    assert {path.stat().st_mode & 0o777 for path in paths} == {0o600}


def test_an_own_event_that_cannot_be_written_is_journalled_and_stops_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A disk that is full must be able to recover; what a human asks for is refused then."""
    (tmp_path / "audit").write_text("no folder")
    audit.note(tmp_path, EVENT, NOW)
    assert "audit.unwritable" in "".join(capsys.readouterr())
    with pytest.raises(OSError, match="File exists"):
        audit.require(tmp_path, EVENT, NOW)


def test_results_that_were_sent_and_images_that_were_purged_leave_their_lines(ledger: Ledger, tmp_path: Path, clock: Clock) -> None:
    """To whom, of which study, how many; nothing of whose."""
    with Archive(tmp_path / "archive", "PACS") as archive:
        settings = settings_for(ledger, peer_at(archive.port))
        parcel = written(ledger)
        deliver.send(settings, ledger, claim_of(ledger, parcel))
    spool = Spool(ledger.data_dir, clock=clock)
    command = StoreCommand(
        sop_class_uid=str(CTImageStorage),
        sop_instance_uid="1.2.9.1.1",
        transfer_syntax_uid=str(ExplicitVRLittleEndian),
        calling_ae="PACS",
        called_ae="OVERREAD",
        peer_host="127.0.0.1",
    )
    buffer = DicomBytesIO()
    buffer.is_implicit_VR, buffer.is_little_endian = False, True
    dataset = image("1.2.9", "1.2.9.1")
    dataset.SOPInstanceUID = "1.2.9.1.1"
    write_dataset(buffer, dataset)
    stored = spool.store(command, buffer.getvalue()).instance
    os.utime(ledger.data_dir / stored.path, (clock.now, clock.now))
    instances.index(ledger, [stored])
    assert revisions.plan(ledger, freeze(ledger, "1.2.9").revision_id, Plan(jobs=(), declined=()))
    clock.now += 30 * 86400
    retention.sweep(settings, ledger)
    told = audit.read(ledger.data_dir)
    actions = {line["EventIdentification"]["EventTypeCode"]["csd-code"]: line for line in told}
    assert actions["results sent"]["ActiveParticipant"][1]["UserID"] == "PACS"
    purged = actions["images purged"]["ParticipantObjectIdentification"][0]
    assert purged["ParticipantObjectID"] == "1.2.9"
    assert {"type": "objects", "value": "1"} in purged["ParticipantObjectDetail"]
    assert "PHANTOM" not in json.dumps(told).upper()
