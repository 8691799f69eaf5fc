"""Whose results they are: asked of a real archive just before compose, written down once, and put right in SEG and SR."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import pydicom
import pytest
from pydicom import Dataset, dcmread

from node import audit, demographics, holds, patients, routing
from node.archive import Archive
from node.deliver import Outages
from node.ledger import Ledger, instances, jobs, revisions
from node.ledger import holds as rows
from node.settings import Settings
from node.study import Job, JobState, RevisionState, Stage
from tests import phantoms, shelf
from tests.node import work
from workers import correction, folder, tasks

BEFORE = (Stage.PREPARE, Stage.INFER)
ALL = (*BEFORE, Stage.COMPOSE)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make the phantom once."""
    home = tmp_path_factory.mktemp("study")
    phantoms.thorax(home)
    return home


@dataclass
class Site:
    """One planned job, and an archive that may have corrected its patient since."""

    tasks: tasks.Site
    archive: Archive
    home: Path
    first: Path
    study_uid: str
    job_id: str

    @property
    def ledger(self) -> Ledger:
        """Give the ledger."""
        return self.tasks.context.ledger

    def at_archive(self, **changes: object) -> None:
        """Put the study's first image into the archive, corrected."""
        dataset = dcmread(self.first)
        for keyword, value in changes.items():
            setattr(dataset, keyword, value)
        path = self.home / "corrected.dcm"
        dataset.save_as(path)
        self.archive.add(path)

    def run(self, *stages: Stage) -> Job:
        """Run stages as their messages would."""
        for stage in stages:
            getattr(tasks, stage)(self.job_id)
        return jobs.get(self.ledger, self.job_id)

    def results(self) -> list[Dataset]:
        """Read the stored objects."""
        return [pydicom.dcmread(BytesIO(blob)) for blob in self.blobs()]

    def blobs(self) -> list[bytes]:
        """Give the stored objects' bytes."""
        parcel = jobs.parcel(self.ledger, self.job_id)
        assert parcel is not None
        return [(self.home / "data" / entry.path).read_bytes() for entry in parcel.objects]

    def plan(self) -> None:
        """Do what dispatch does with a complete revision."""
        (revision,) = revisions.in_state(self.ledger, RevisionState.COMPLETE)
        frozen = instances.study(self.ledger, self.study_uid, revision.number)
        assert revisions.plan(self.ledger, revision.revision_id, routing.route(frozen, self.tasks.context.cards, (), ("archive",)))


@pytest.fixture
def site(study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """Index the study and plan the model of the tests on it, beside an archive that answers queries."""
    monkeypatch.setattr(demographics, "SILENT", Outages())
    monkeypatch.setattr(tasks, "BACK_OFF_S", (0.0,))
    with Archive(tmp_path / "archive", "ARCHIVE") as archive:
        kept = tasks.Site()
        kept.settings = Settings.model_validate(
            {
                "node": {"data_dir": str(tmp_path / "data")},
                "broker": {"url": "redis://127.0.0.1:1/0"},
                "models": {"dir": str(shelf.put(tmp_path / "models")), "starters": False},
                "peers": [{"name": "archive", "ae_title": "ARCHIVE", "host": "127.0.0.1", "port": archive.port, "query": True}],
            }
        )
        monkeypatch.setattr(tasks, "SITE", kept)
        found = folder.read(study)
        uid = found[0].study_instance_uid
        instances.index(kept.context.ledger, found)
        work.freeze(kept.context.ledger, uid)
        made = Site(kept, archive, tmp_path, Path(found[0].path), uid, "")
        made.plan()
        (job,) = jobs.queued(kept.context.ledger)
        made.job_id = job.job_id
        yield made
        kept.context.ledger.close()


def test_what_the_archive_corrected_is_in_the_results_and_what_it_does_not_tell_stays(site: Site) -> None:
    """Name, birth date, sex and accession number come from the archive; its empty sex leaves the images'."""
    site.at_archive(PatientName="Müller^Änne", PatientBirthDate="19420714", PatientSex="", AccessionNumber="NEW-7")
    original = dcmread(site.first)
    job = site.run(*ALL)
    assert job.state is JobState.WRITTEN
    assert (job.patient or {})["said"] == "archive lists the study; put right: PatientName, PatientBirthDate, AccessionNumber"
    for result in site.results():
        assert str(result.PatientName) == "Müller^Änne"
        assert (result.PatientBirthDate, result.AccessionNumber) == ("19420714", "NEW-7")
        assert (result.PatientID, result.PatientSex) == (original.PatientID, original.PatientSex)


def test_the_first_answer_is_kept_so_that_compose_repeats_its_bytes(site: Site) -> None:
    """A compose whose ledger entry was lost writes the same again, though the archive has changed its mind and then gone."""
    site.at_archive(AccessionNumber="NEW-7")
    site.run(*BEFORE)
    claim = jobs.claim(site.ledger, site.job_id, Stage.COMPOSE, 8)
    assert claim
    first = demographics.settle(site.tasks.settings, site.ledger, claim)
    assert isinstance(first, dict)
    assert first["use"]["AccessionNumber"] == "NEW-7"
    second = rows.note_patient(site.ledger, claim, {"said": "another", "use": {}})
    assert second == first
    assert jobs.release(site.ledger, claim, "the worker was stopped", 0)
    site.archive.stop()
    job = site.run(Stage.COMPOSE)
    assert job.state is JobState.WRITTEN
    assert job.patient == first
    assert {result.AccessionNumber for result in site.results()} == {"NEW-7"}


def test_a_silent_archive_leaves_what_came_and_that_is_recorded(site: Site) -> None:
    """Results do not wait for a question that nobody answers."""
    site.archive.stop()
    job = site.run(*ALL)
    assert job.state is JobState.WRITTEN
    assert "cannot be reached" in (job.patient or {})["said"]
    assert {str(result.PatientID) for result in site.results()} == {str(dcmread(site.first).PatientID)}


def test_another_patient_at_the_archive_holds_the_revision_before_anything_is_written(site: Site) -> None:
    """The job stops, its revision waits for a human; a release sends the results under the archive's patient."""
    site.at_archive(PatientID="OTHER-1", PatientName="Other^One", IssuerOfPatientID=None)
    job = site.run(*ALL)
    assert job.state is JobState.CANCELLED
    assert (job.reason or "").startswith("held: archive now lists the study under another patient ID")
    assert jobs.parcel(site.ledger, site.job_id) is None
    (held,) = rows.held(site.ledger)
    assert (held["study"], held["kinds"]) == (site.study_uid, ["patient-changed"])
    assert "OTHER" not in held["reason"]
    holds.release(site.ledger, site.study_uid, "A. Clerk", "moved in the archive, order checked")
    site.plan()
    again = site.run(*ALL)
    assert (again.job_id, again.state) == (site.job_id, JobState.WRITTEN)
    assert {str(result.PatientID) for result in site.results()} == {"OTHER-1"}
    trail = [line["EventIdentification"]["EventTypeCode"]["csd-code"] for line in audit.read(site.home / "data")]
    assert trail == ["study held", "hold released"]


def test_a_release_does_not_cover_yet_another_patient(site: Site) -> None:
    """What a human has seen is not what the archive says now."""
    site.at_archive(PatientID="OTHER-1")
    site.run(*ALL)
    holds.release(site.ledger, site.study_uid, "A. Clerk", "moved in the archive, order checked")
    site.plan()
    (there,) = site.archive.holdings.all()
    there.header.PatientID = "OTHER-2"
    assert site.run(*ALL).state is JobState.CANCELLED
    assert [entry.state for entry in revisions.of_study(site.ledger, site.study_uid)] == [RevisionState.HELD]


def test_a_documented_merge_goes_on_under_the_new_id_without_the_old_issuer(site: Site) -> None:
    """The archive names the images' ID among the patient's others."""
    old = str(dcmread(site.first).PatientID)
    site.at_archive(PatientID="MERGED-1", OtherPatientIDs=[old, "X"])
    job = site.run(*ALL)
    assert job.state is JobState.WRITTEN
    assert "after a merge of patients" in (job.patient or {})["said"]
    for result in site.results():
        assert result.PatientID == "MERGED-1"
        assert not result.get("IssuerOfPatientID")


def test_a_held_job_of_a_study_that_has_a_newer_revision_only_ends(site: Site) -> None:
    """The newer revision will be looked at by itself: two are never held for one study."""
    site.at_archive(PatientID="OTHER-1")
    site.run(*BEFORE)
    uid = f"{site.study_uid}.9.1"
    instances.index(site.ledger, [work.image(uid, study=site.study_uid, series=f"{site.study_uid}.9")])
    assert site.run(Stage.COMPOSE).state is JobState.CANCELLED
    assert rows.held(site.ledger) == []


def test_a_name_that_the_images_character_set_cannot_hold_makes_the_header_unicode() -> None:
    """Other text of the header keeps its characters."""
    source = Dataset()
    source.SpecificCharacterSet = "ISO_IR 100"
    source.PatientName, source.PatientID, source.ReferringPhysicianName = "Muller^Jorg", "1", "Åström^Örjan"
    (fixed,) = correction.apply([source], {"use": {"PatientName": "Wang^XiaoDong=王^小东", "PatientID": "1"}})
    assert (fixed.SpecificCharacterSet, str(fixed.PatientName)) == ("ISO_IR 192", "Wang^XiaoDong=王^小东")
    assert str(fixed.ReferringPhysicianName) == "Åström^Örjan"
    assert str(source.PatientName) == "Muller^Jorg"
    (plain,) = correction.apply([source], {"use": {"PatientName": "Müller^Jörg"}})
    assert (plain.SpecificCharacterSet, str(plain.PatientName)) == ("ISO_IR 100", "Müller^Jörg")


def test_what_differs_in_case_only_is_kept_verbatim_and_images_that_disagree_are_made_one() -> None:
    """An archive that took the images knows them by their own words."""
    one, two = Dataset(), Dataset()
    one.PatientName, two.PatientName = "Doe^John", "Doe^John"
    record = {"use": {"PatientName": "DOE^JOHN"}}
    assert [str(source.PatientName) for source in correction.apply([one, two], record)] == ["Doe^John", "Doe^John"]
    two.PatientName = "DOE^JOHN^^"
    assert [str(source.PatientName) for source in correction.apply([one, two], record)] == ["DOE^JOHN", "DOE^JOHN"]
    assert correction.apply([one], None) == (one,)


def test_worked_examples_of_identities_hold() -> None:
    """Who may be one patient, and which value is the usual one."""
    assert patients.same_key(("7", ""), ("7", "North"))
    assert not patients.same_key(("7", "South"), ("7", "North"))
    patient = patients.Known(identity={"PatientID": "9", "IssuerOfPatientID": "North"}, others=frozenset({("7", "South")}))
    assert patients.merged(("7", "South"), patient)
    assert not patients.merged(("7", "East"), patient)
    assert patients.normal("PatientName", "DOE^JOHN^^ ") == "doe^john"
    assert patients.usual([{"PatientName": "B"}, {"PatientName": "A"}]) == {"PatientName": "A"}
