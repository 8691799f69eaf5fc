"""A job without a result, through the task edge: a site that asks is sent a report that says so; nobody takes it for a result."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import pydicom
import pytest

from models.vocabulary import Unfit
from node import deliver, demographics, routing
from node.archive import Archive
from node.ledger import Ledger, again, deliveries, failures, instances, jobs, parcels, revisions
from node.settings import Settings
from node.study import DeliveryState, JobState, Stage
from tests import phantoms, shelf
from tests.node import work
from workers import folder, pipeline, tasks

COMPREHENSIVE_3D, COMPREHENSIVE = "1.2.840.10008.5.1.4.1.1.88.34", "1.2.840.10008.5.1.4.1.1.88.33"
WHY = "no lung is seen"


@dataclass
class Site:
    """A job that a model declined, and an archive."""

    tasks: tasks.Site
    archive: Archive
    study: Path
    job_id: str

    @property
    def ledger(self) -> Ledger:
        """Give the ledger."""
        return self.tasks.context.ledger

    def decline(self) -> None:
        """Let the model see that the images are not for it."""
        tasks.prepare(self.job_id)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(pipeline, "predict", lambda *_: (_ for _ in ()).throw(Unfit(WHY)))
            tasks.infer(self.job_id)
        assert jobs.get(self.ledger, self.job_id).state is JobState.DECLINED

    def sent(self) -> list[pydicom.Dataset]:
        """Send what is due; give what the archive then has of ours."""
        for entry in deliveries.of_job(self.ledger, self.job_id, 1):
            tasks.deliver(entry.delivery_id)
        paths = [self.archive.path_of(reception.sop_instance_uid) for reception in self.archive.received]
        return [pydicom.dcmread(BytesIO(path.read_bytes())) for path in paths if path]


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make the phantom once."""
    home = tmp_path_factory.mktemp("study")
    phantoms.thorax(home)
    return home


@pytest.fixture
def site(study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """Plan a job for three destinations, two of which ask to be told, each in a profile of its own."""
    monkeypatch.setattr(deliver, "OUTAGES", deliver.Outages())
    monkeypatch.setattr(demographics, "SILENT", deliver.Outages())
    monkeypatch.setattr(tasks, "BACK_OFF_S", (0.0,))
    with Archive(tmp_path / "archive", "ARCHIVE") as archive:
        kept = tasks.Site()
        peer = {"ae_title": "ARCHIVE", "host": "127.0.0.1", "port": archive.port}
        kept.settings = Settings.model_validate(
            {
                "node": {"data_dir": str(tmp_path / "data")},
                "broker": {"url": "redis://127.0.0.1:1/0"},
                "models": {"dir": str(shelf.put(tmp_path / "models")), "starters": False},
                "profiles": [
                    {"name": "told", "base": "ohif", "send_failures": True},
                    {"name": "told-plainly", "base": "basic", "send_failures": True},
                ],
                "peers": [
                    peer | {"name": "archive", "profile": "told", "query": True},
                    peer | {"name": "viewer", "profile": "told-plainly"},
                    peer | {"name": "quiet"},
                ],
            }
        )
        monkeypatch.setattr(tasks, "SITE", kept)
        ledger = kept.context.ledger
        found = folder.read(study)
        instances.index(ledger, found)
        revision = work.freeze(ledger, found[0].study_instance_uid)
        frozen = instances.study(ledger, revision.study_instance_uid, 1)
        plan = routing.route(frozen, kept.context.cards, (), kept.settings.destinations())
        assert revisions.plan(ledger, revision.revision_id, plan)
        yield Site(kept, archive, study, plan.jobs[0].job_id)
        ledger.close()


def test_who_asks_is_told_that_nothing_was_analysed(site: Site) -> None:
    """One report a profile, in its class of SR; who does not ask gets nothing; the job stays declined."""
    site.decline()
    tasks.tell(site.job_id)
    tasks.tell(site.job_id)
    reports = site.sent()
    assert sorted(str(report.SOPClassUID) for report in reports) == sorted([COMPREHENSIVE_3D, COMPREHENSIVE])
    for report in reports:
        assert report.SeriesDescription.startswith("AI FAILED")
        text = report.to_json()
        assert WHY in text
        assert "Nothing was analysed" in text
        assert "111241" not in text  # no findings: that would be a result
        assert "PredecessorDocumentsSequence" not in report
    states = {entry.destination: entry.state for entry in deliveries.of_job(site.ledger, site.job_id, 1)}
    assert states == {"archive": DeliveryState.ACCEPTED, "viewer": DeliveryState.ACCEPTED}
    assert jobs.get(site.ledger, site.job_id).state is JobState.DECLINED


def test_a_failure_is_not_told_under_another_patient(site: Site, tmp_path: Path) -> None:
    """The archive lists the study under a stranger: nothing is written, nobody is told."""
    dataset = pydicom.dcmread(next(site.study.rglob("*.dcm")))
    dataset.PatientID = "SOMEBODY-ELSE"
    dataset.save_as(tmp_path / "moved.dcm")
    site.archive.add(tmp_path / "moved.dcm")
    site.decline()
    tasks.tell(site.job_id)
    assert parcels.of_job(site.ledger, site.job_id) == []
    assert not failures.is_untold(site.ledger, site.job_id)


def test_a_job_tried_again_after_its_failure_was_told_has_results_of_its_own(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another generation: no UID of the failure's report comes again."""
    ledger = site.ledger
    claim = jobs.claim(ledger, site.job_id, Stage.PREPARE, 8)
    assert claim
    assert jobs.fail(ledger, claim, "the device has no memory")
    tasks.tell(site.job_id)
    first = {str(report.SOPInstanceUID) for report in site.sent()}
    assert len(first) == 2
    again.retry(ledger, jobs.get(ledger, site.job_id).study_instance_uid)
    for stage in (Stage.PREPARE, Stage.INFER, Stage.COMPOSE):
        getattr(tasks, stage)(site.job_id)
    job = jobs.get(ledger, site.job_id)
    assert (job.state, job.generation) == (JobState.WRITTEN, 2)
    second = {entry.sop_instance_uid for parcel in parcels.of_job(ledger, site.job_id) for entry in parcel.objects}
    assert not first & second
