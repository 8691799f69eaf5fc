"""`overread rules explain` on folders and on studies of the ledger, run as the command runs it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pydicom
import pytest

from node import routing
from node.errors import Refused
from node.ledger import instances, jobs, open_ledger, revisions
from node.settings import Settings
from node.study import Stage
from overread.commands import explain
from tests import phantoms
from tests.zoo import resonance, table, tomography
from tests.zoo.series import Case, uid, write
from workers import folder, pipeline

CASES = {case.name: case for case in (*tomography.CASES, *resonance.CASES)}
PHASES, FOUR = CASES["abdomen-portal-canon-es"], CASES["brain-four-ge-en"]


def site(home: Path, *rules: dict[str, Any]) -> Settings:
    """Give settings with the zoo's cards, one archive and these rules."""
    archive = {"name": "archive", "ae_title": "PACS", "host": "127.0.0.1", "port": 11112}
    return Settings.model_validate(
        {"node": {"data_dir": str(home / "data")}, "models": {"dir": str(table.CARDS)}, "peers": [archive], "rules": rules}
    )


def receive(settings: Settings, case: Case, home: Path, *, plan: bool = True) -> str:
    """Put a study into the ledger as the listener does, and plan it as dispatch does."""
    found = folder.read(write(case, home))
    ledger = open_ledger(settings)
    instances.index(ledger, found)
    study_uid = uid(case.name)
    if plan:
        (newest,) = revisions.of_study(ledger, study_uid)
        assert revisions.complete(ledger, newest, {"quiet_s": 60})
        (newest,) = revisions.of_study(ledger, study_uid)
        study = instances.study(ledger, study_uid, newest.number)
        decided = routing.route(study, pipeline.known_cards(settings), settings.rules, settings.destinations())
        assert revisions.plan(ledger, newest.revision_id, decided)
    ledger.close()
    return study_uid


def asked(capsys: pytest.CaptureFixture[str], settings: Settings, source: str) -> dict[str, Any]:
    """Run the command with --json and give its one answer."""
    explain.main(settings, source, as_json=True)
    (answer,) = json.loads(capsys.readouterr().out)["studies"]
    assert isinstance(answer, dict)
    return answer


def test_the_table_has_every_series_for_every_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each series is told for each model, in the order of series numbers, with roles or a reason."""
    answer = asked(capsys, site(tmp_path), str(write(FOUR, tmp_path)))
    told = [(entry["series"], entry["model"]) for entry in (*answer["taken"], *answer["declined"])]
    assert sorted(told) == sorted((series["series"], model) for series in answer["series"] for model in answer["models"])
    assert [series["number"] for series in answer["series"]] == [1, 2, 3, 4, 5, 6, 7, 8]
    roles = {entry["roles"][0]: entry["destinations"] for entry in answer["taken"] if entry["model"] == "mr-four"}
    assert roles == {role: ["archive"] for role in ("t1", "t1c", "t2", "flair")}


def test_the_table_is_words_for_a_technologist(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Without --json a table; descriptions, free text, only on request."""
    monkeypatch.setenv("COLUMNS", "160")
    source = str(write(PHASES, tmp_path))
    assert explain.main(site(tmp_path), source, as_json=False) == 0
    out = capsys.readouterr().out
    assert "3, CT, 120 images" in out
    assert "taken as ct: 120 images, live, routine, results to archive" in out
    assert "not taken: its contrast phase is delayed, the model takes portal" in out
    assert "tardía" not in out
    explain.main(site(tmp_path), source, as_json=False, descriptions=True)
    assert "tardía" in capsys.readouterr().out


def test_what_prepare_would_decline_is_told_beside_what_is_taken(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder's series that fits a model and lacks slices: taken, but; and the exit code says that nothing would be analysed."""
    monkeypatch.setenv("COLUMNS", "400")
    source = write(PHASES, tmp_path)
    lost = [path for path in sorted(source.rglob("*")) if path.is_file() and _place(path) in {(3, 40), (3, 41)}]
    assert len(lost) == 2
    for path in lost:
        path.unlink()
    (source / "notes.txt").write_text("no image")
    assert explain.main(site(tmp_path), str(source), as_json=False) == 1
    said = capsys.readouterr()
    assert "results to archive, but prepare would decline it: Slices are missing: image 39 and image 42 lie 9.0 mm apart" in said.out
    assert said.err == "1 file passed over: 1 (no DICOM file)\n"
    answer = asked(capsys, site(tmp_path), str(source))
    assert [entry["but"][:40] for entry in answer["taken"]] == ["prepare would decline it: Slices are miss"[:40]]


def _place(path: Path) -> tuple[int, int]:
    """Give an image's series number and its own."""
    header = pydicom.dcmread(path, stop_before_pixels=True)
    return int(header.SeriesNumber), int(header.get("InstanceNumber", 0))


def test_a_folder_of_files_that_nobody_could_send_says_why(tmp_path: Path) -> None:
    """Files without the UIDs that a sender needs are no silent nothing."""
    (path,) = phantoms.write_tiny(tmp_path / "odd", phantoms.Tiny(slices=1))
    dataset = pydicom.dcmread(path)
    del dataset.StudyInstanceUID
    dataset.save_as(path)
    with pytest.raises(Refused, match=r"that a node could receive; 1 file passed over: 1 \(the data set has no StudyInstance"):
        explain.main(site(tmp_path), str(tmp_path / "odd"), as_json=True)


def test_a_stored_study_tells_what_became_of_its_job(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Taken by routing and declined in prepare: both are told, and today's routing is no other."""
    settings = site(tmp_path)
    study_uid = receive(settings, PHASES, tmp_path)
    ledger = open_ledger(settings)
    (job,) = jobs.queued(ledger)
    claim = jobs.claim(ledger, job.job_id, Stage.PREPARE, 8)
    assert claim is not None
    assert jobs.decline(ledger, claim, "Slices are missing.")
    ledger.close()
    answer = asked(capsys, settings, study_uid)
    assert [entry["but"] for entry in answer["taken"]] == ["the job is DECLINED: Slices are missing."]
    assert answer["differs_now"] == []


def test_a_stored_study_shows_what_was_decided(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By its UID, from the ledger alone; nothing differs while cards and rules are the same."""
    settings = site(tmp_path)
    answer = asked(capsys, settings, receive(settings, PHASES, tmp_path))
    assert (answer["revision"], answer["state"], answer["decided_on"]) == (1, "PLANNED", 1)
    assert [(entry["model"], entry["roles"]) for entry in answer["taken"]] == [("liver-ct", ["ct"])]
    assert answer["differs_now"] == []


def test_a_stored_study_shows_what_would_be_decided_otherwise_today(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the rules changed: the old decision, and today's beside it, only where they differ."""
    study_uid = receive(site(tmp_path), PHASES, tmp_path)
    today = site(tmp_path, {"model": "liver-ct", "mode": "off"})
    answer = asked(capsys, today, study_uid)
    assert [entry["model"] for entry in answer["taken"]] == ["liver-ct"]
    (other,) = answer["differs_now"]
    assert other["now"]["reason"] == "rule 1 switches the model off"
    monkeypatch.setenv("COLUMNS", "160")
    explain.main(today, study_uid, as_json=False)
    out = capsys.readouterr().out
    assert "taken as ct: 120 images" in out
    assert "now: not taken: rule 1 switches the model off" in out
    urgent = asked(capsys, site(tmp_path, {"model": "*", "priority": "stat"}), study_uid)
    assert [entry["now"]["priority"] for entry in urgent["differs_now"]] == ["stat"]


def test_a_study_not_decided_yet_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """While images still arrive there is a forecast and no decision."""
    settings = site(tmp_path)
    answer = asked(capsys, settings, receive(settings, PHASES, tmp_path, plan=False))
    assert (answer["state"], answer["decided_on"], answer["differs_now"]) == ("RECEIVING", None, [])
    assert [entry["model"] for entry in answer["taken"]] == ["liver-ct"]


def test_images_that_are_gone_leave_the_decision(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """After retention the old decision is still told, and that today's cannot be."""
    settings = site(tmp_path)
    study_uid = receive(settings, PHASES, tmp_path)
    ledger = open_ledger(settings)
    instances.remove(ledger, [row for row, _ in instances.files(ledger, study_uid)])
    ledger.close()
    answer = asked(capsys, settings, study_uid)
    assert (answer["images_here"], answer["differs_now"]) == (False, [])
    assert {entry["reason"] for entry in answer["declined"] if entry["model"] == "chest-xray"} == {
        "its modality is CT, the model takes CR or DX"
    }


@pytest.mark.parametrize(
    ("source", "words"), [("1.2.3", "no study 1.2.3 came"), ("/no/such/folder", "neither a folder nor a Study Instance UID")]
)
def test_an_unknown_source_is_refused(tmp_path: Path, source: str, words: str) -> None:
    """A typing mistake is one line."""
    with pytest.raises(Refused, match=words):
        explain.main(site(tmp_path), source, as_json=True)
