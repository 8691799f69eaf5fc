"""Purging a patient: what goes, what stays, and that it leaves a trail."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sa
from typer.testing import CliRunner

from node import audit, purge, status
from node.errors import Refused
from node.ledger import Ledger, deliveries, fallbacks, holds, instances, jobs, removal, revisions, schema
from node.purge import Wish
from node.settings import Settings
from node.study import DeliveryState, Instance, JobState, Plan, RevisionState, Stage
from overread.cli import app
from tests.node import work

SECRETS = {"PatientID": "PID-4711", "PatientName": "DOE^JANE", "AccessionNumber": "ACC-0815", "PatientBirthDate": "19700101"}


@pytest.fixture
def settings(ledger: Ledger) -> Settings:
    """Use the ledger's data folder."""
    return Settings.model_validate({"node": {"data_dir": str(ledger.data_dir)}})


def wish(**changes: object) -> Wish:
    """Ask for the patient's purge."""
    values = {"patient_id": "PID-4711", "issuer": None, "by": "Dr. Day", "because": "the patient asked for it"}
    return Wish(**values | changes)  # type: ignore[arg-type]


def received(ledger: Ledger, entries: list[Instance]) -> list[Path]:
    """Put images into the spool and the index; give their files."""
    files = [ledger.data_dir / entry.path for entry in entries]
    for path in files:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"pixels")
    instances.index(ledger, entries)
    return files


def analysed(ledger: Ledger, settings: Settings) -> list[Path]:
    """Bring one study of the patient to its end: images, a conflict copy, work files and a parcel; give every file."""
    stack = work.slices(3, header=SECRETS)
    files = received(ledger, stack)
    files += received(ledger, [work.image(stack[0].sop_instance_uid, content="other", header=SECRETS)])
    work.planned(ledger, work.job_plan("job-1", [entry.sop_instance_uid for entry in stack]))
    held = work.at_compose(ledger, jobs.get(ledger, "job-1"))
    assert holds.note_patient(ledger, held, {"said": "the archive", "use": SECRETS | {"PatientID": "PID-NEW"}})
    assert jobs.written(ledger, held, [work.parcel_of(held.job)], {"archive": "ohif"})
    (delivery,) = deliveries.of_job(ledger, "job-1", 1)
    claim = deliveries.claim(ledger, delivery.delivery_id, 8)
    assert claim
    assert deliveries.fail(ledger, claim, "no")
    for path in (settings.work_dir / "job-1" / "3" / "volumes.npy", settings.data_dir / "parcels" / "job-1" / "1" / "01-seg.dcm"):
        path.parent.mkdir(parents=True)
        path.write_bytes(b"x")
        files.append(path)
    return files


def everything(ledger: Ledger) -> str:
    """Give every word of the ledger."""
    with ledger.reading() as connection:
        return repr([connection.execute(sa.select(table)).all() for table in schema.METADATA.sorted_tables])


def test_nothing_of_the_patient_is_left_and_nothing_is_doubled_later(ledger: Ledger, settings: Settings) -> None:
    """Files and words go, ids and states stay: the same study sent again has been analysed already."""
    files = analysed(ledger, settings)
    assert all(secret in everything(ledger) for secret in SECRETS.values())
    purged = purge.purge(settings, ledger, wish())
    assert purged.files == {"1.2.3": 6}
    assert not [path for path in files if path.exists()]
    text = everything(ledger)
    assert not [secret for secret in SECRETS.values() if secret in text]
    assert status.of_study(ledger, "1.2.3")["studies"][0]["jobs"][0]["state"] == "WRITTEN"
    assert purge.find(ledger, wish()) == []
    again = [dataclasses.replace(entry, received_at=ledger.clock()) for entry in work.slices(3, header=SECRETS)]
    received(ledger, again)
    work.planned(ledger, work.job_plan("job-1", [entry.sop_instance_uid for entry in again]))
    assert jobs.get(ledger, "job-1").state is JobState.WRITTEN
    assert revisions.of_study(ledger, "1.2.3")[-1].reason is None or jobs.parcel(ledger, "job-1") is not None


def test_every_purge_leaves_a_line_with_who_and_why(ledger: Ledger, settings: Settings) -> None:
    """Without the patient: the study's UID, the person, the reason, how many images."""
    analysed(ledger, settings)
    purge.purge(settings, ledger, wish())
    (line,) = [each for each in audit.read(ledger.data_dir) if each["EventIdentification"]["EventTypeCode"]["csd-code"] == "images purged"]
    text = json.dumps(line)
    assert "Dr. Day" in text
    assert "the patient asked for it" in text
    assert "1.2.3" in text
    assert not [secret for secret in SECRETS.values() if secret in text]


def test_a_patient_is_found_by_the_id_that_the_archive_says(ledger: Ledger, settings: Settings) -> None:
    """Demographics were corrected in the PACS: the images carry the old ID, the results the new."""
    files = analysed(ledger, settings)
    purge.purge(settings, ledger, wish(patient_id="PID-NEW"))
    assert not [path for path in files if path.exists()]


def test_unfinished_work_is_refused_and_ended_by_force(ledger: Ledger, settings: Settings) -> None:
    """Without --force nothing is touched; with it jobs are cancelled, a worker's claim is lost, and the reason says by whom."""
    stack = work.slices(3, header=SECRETS)
    files = received(ledger, stack)
    work.planned(ledger, work.job_plan("job-1", [entry.sop_instance_uid for entry in stack]))
    held = jobs.claim(ledger, "job-1", Stage.PREPARE, 8)
    assert held
    with pytest.raises(Refused, match="1 of 1 studies is unfinished"):
        purge.purge(settings, ledger, wish())
    assert all(path.exists() for path in files)
    assert not audit.read(ledger.data_dir)
    purge.purge(settings, ledger, wish(force=True))
    job = jobs.get(ledger, "job-1")
    assert (job.state, job.reason) == (JobState.CANCELLED, "purged by Dr. Day: the patient asked for it")
    assert not jobs.advance(ledger, held, Stage.INFER)
    assert not [path for path in files if path.exists()]


def test_a_purge_by_force_ends_what_is_being_written_anew(ledger: Ledger, settings: Settings) -> None:
    """A result that an archive refused: the worker that writes it in another profile comes too late, and every parcel goes."""
    files = received(ledger, stack := work.slices(3, header=SECRETS))
    work.planned(ledger, work.job_plan("job-1", [entry.sop_instance_uid for entry in stack], destinations=("archive", "strict")))
    job = jobs.get(ledger, "job-1")
    other = replace(work.parcel_of(job), profile="basic")
    to = {"archive": "basic", "strict": "ohif"}
    assert jobs.written(ledger, work.at_compose(ledger, job), [work.parcel_of(job), other], to)
    sending = deliveries.claim(ledger, jobs.delivery_id("job-1", 1, "strict"), 8)
    assert sending
    assert fallbacks.ask(ledger, sending, "plain", "no such class") is Stage.RECOMPOSE
    writing = deliveries.claim(ledger, sending.delivery.delivery_id, 8, Stage.RECOMPOSE)
    assert writing
    for digest in ("aaaa", "bbbb"):
        path = settings.data_dir / "parcels" / "job-1" / "1" / digest / "01-sr.dcm"
        path.parent.mkdir(parents=True)
        path.write_bytes(b"x")
        files.append(path)
    purge.purge(settings, ledger, wish(force=True))
    assert not [path for path in files if path.exists()]
    assert not fallbacks.point(ledger, writing, replace(other, profile="plain"))
    assert {entry.state for entry in deliveries.of_job(ledger, "job-1", 1)} == {DeliveryState.FAILED}


def test_another_patient_s_images_in_the_same_study_stay(ledger: Ledger, settings: Settings) -> None:
    """A study that was held for two patients loses those of one."""
    mine, theirs = work.slices(2, header=SECRETS), work.slices(2, first=3, header={"PatientID": "PID-2"})
    gone, kept = received(ledger, mine), received(ledger, theirs)
    assert revisions.hold(ledger, work.freeze(ledger), "two patients")
    purge.purge(settings, ledger, wish(force=True))
    assert ([path.exists() for path in gone], [path.exists() for path in kept]) == ([False, False], [True, True])
    assert "PID-2" in everything(ledger)
    assert revisions.of_study(ledger, "1.2.3")[-1].state is RevisionState.DECLINED


def test_issuers_that_count_alike_must_be_told_apart(ledger: Ledger, settings: Settings) -> None:
    """The same number at two hospitals is two patients."""
    for study, issuer in (("1.2.3", "North"), ("1.2.4", "South")):
        received(ledger, work.slices(1, study=study, series=f"{study}.1", header=SECRETS | {"IssuerOfPatientID": issuer}))
        assert revisions.plan(ledger, work.freeze(ledger, study).revision_id, Plan(jobs=(), declined=()))
    with pytest.raises(Refused, match="'North', 'South'"):
        purge.purge(settings, ledger, wish())
    assert purge.purge(settings, ledger, wish(issuer="North")).files == {"1.2.3": 1}
    assert instances.files(ledger, "1.2.4")


@pytest.mark.parametrize(
    ("changes", "match"),
    [({"by": " "}, "--by"), ({"because": ""}, "--because needs"), ({"because": "PID-4711 asked"}, "quotes"), ({"patient_id": ""}, "empty")],
)
def test_the_words_are_needed_and_name_no_patient(ledger: Ledger, settings: Settings, changes: dict[str, str], match: str) -> None:
    """Reasons are shown and logged."""
    analysed(ledger, settings)
    with pytest.raises(Refused, match=match):
        purge.purge(settings, ledger, wish(**changes))


def test_a_purge_that_was_cut_off_is_ended_by_the_next(ledger: Ledger, settings: Settings) -> None:
    """The patient is found until the last word is gone, also where files are marked already."""
    files = analysed(ledger, settings)
    removal.take(ledger, "1.2.3", ledger.clock() + 1)
    purge.purge(settings, ledger, wish())
    assert not [path for path in files if path.exists()]
    assert "PID-4711" not in everything(ledger)


def test_the_command_shows_and_purges_without_naming_the_patient(tmp_path: Path) -> None:
    """A dry run removes nothing; both print studies and counts only."""
    ledger = Ledger("sqlite", tmp_path)
    (file,) = received(ledger, work.slices(1, header=SECRETS))
    assert revisions.plan(ledger, work.freeze(ledger).revision_id, Plan(jobs=(), declined=()))
    ledger.close()
    line = ["purge", "--patient-id", "PID-4711", "--by", "Dr. Day", "--because", "asked for", "--json"]
    environment = {"OVERREAD_NODE__DATA_DIR": str(tmp_path)}
    dry = CliRunner().invoke(app, [*line, "--dry-run"], env=environment)
    assert (dry.exit_code, json.loads(dry.stdout)["studies"][0]["images"], file.exists()) == (0, 1, True)
    done = CliRunner().invoke(app, line, env=environment)
    assert (done.exit_code, json.loads(done.stdout)["studies"][0]["files_removed"], file.exists()) == (0, 1, False)
    assert "PID-4711" not in dry.stdout + done.stdout
    assert CliRunner().invoke(app, line, env=environment).exit_code == 1
