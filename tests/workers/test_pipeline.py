"""The stages in a row through the task edge, on a real ledger, real files and a real (very small) network; no queue."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from node import routing
from node.errors import Refused
from node.ledger import instances, jobs, revisions
from node.settings import Settings
from node.study import Job, JobState, Stage
from tests import phantoms, shelf
from tests.node import work
from workers import folder, pipeline, tasks, workspace


@dataclass
class Site:
    """A site with one planned job."""

    tasks: tasks.Site
    job_id: str
    home: Path

    @property
    def job(self) -> Job:
        """Give the job as the ledger has it."""
        return jobs.get(self.tasks.context.ledger, self.job_id)

    def run(self, *stages: Stage) -> Job:
        """Run stages as their messages would."""
        for stage in stages:
            getattr(tasks, stage)(self.job_id)
        return self.job

    def parcel_bytes(self) -> list[bytes]:
        """Give the stored objects."""
        parcel = jobs.parcel(self.tasks.context.ledger, self.job_id)
        assert parcel is not None
        return [(self.home / "data" / entry.path).read_bytes() for entry in parcel.objects]


ALL = (Stage.PREPARE, Stage.INFER, Stage.COMPOSE)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make the phantom once."""
    home = tmp_path_factory.mktemp("study")
    phantoms.thorax(home)
    return home


@pytest.fixture
def site(study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """Index the study, plan the model of the tests on it."""
    kept = tasks.Site()
    kept.settings = Settings.model_validate(
        {
            "node": {"data_dir": str(tmp_path / "data")},
            "broker": {"url": "redis://127.0.0.1:1/0"},
            "models": {"dir": str(shelf.put(tmp_path / "models")), "starters": False},
            "peers": [{"name": "archive", "ae_title": "A", "host": "127.0.0.1", "port": 1}],
        }
    )
    monkeypatch.setattr(tasks, "SITE", kept)
    monkeypatch.setattr(tasks, "BACK_OFF_S", (0.0,))
    ledger = kept.context.ledger
    instances.index(ledger, folder.read(study))
    revision = work.freeze(ledger, folder.read(study)[0].study_instance_uid)
    frozen = instances.study(ledger, revision.study_instance_uid, 1)
    plan = routing.route(frozen, kept.context.cards, (), ("archive",))
    assert revisions.plan(ledger, revision.revision_id, plan)
    yield Site(kept, plan.jobs[0].job_id, tmp_path)
    ledger.close()


def test_three_stages_make_a_durable_parcel(site: Site) -> None:
    """prepare, infer and compose end in WRITTEN, with SEG, page and SR on the disk as the ledger's hashes say."""
    job = site.run(*ALL)
    assert (job.state, job.reason) == (JobState.WRITTEN, None)
    parcel = jobs.parcel(site.tasks.context.ledger, site.job_id)
    assert parcel is not None
    kinds = [entry.kind for entry in parcel.objects]
    assert (kinds[0], kinds[-2:]) == ("seg", ["sc", "sr"])
    assert all(blob[128:132] == b"DICM" for blob in site.parcel_bytes())


@pytest.mark.parametrize(("name", "stage"), [("volumes", Stage.PREPARE), ("prediction", Stage.INFER)])
def test_a_lost_work_file_sends_the_job_to_the_stage_that_writes_it(site: Site, name: str, stage: Stage) -> None:
    """Compose without its input goes back, and the job still ends with a parcel."""
    site.run(Stage.PREPARE, Stage.INFER)
    for path in (site.home / "data" / "work").rglob(name):
        shutil.rmtree(path)
    job = site.run(Stage.COMPOSE)
    assert (job.state, job.stage) == (JobState.QUEUED, stage)
    assert site.run(*ALL[ALL.index(stage) :]).state is JobState.WRITTEN


def test_compose_again_from_the_same_prediction_gives_the_same_bytes(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """A compose that died before its move leaves a parcel folder that the next one finds equal: one copy, the same bytes."""
    site.run(Stage.PREPARE, Stage.INFER)
    monkeypatch.setattr(jobs, "written", lambda *_: (_ for _ in ()).throw(OSError("killed here")))
    assert site.run(Stage.COMPOSE).state is JobState.QUEUED
    before = {path: path.read_bytes() for path in (site.home / "data" / "parcels").rglob("*.dcm")}
    assert len({path.parent for path in before}) == 1
    monkeypatch.undo()
    monkeypatch.setattr(tasks, "SITE", site.tasks)
    assert site.run(Stage.COMPOSE).state is JobState.WRITTEN
    assert {path: path.read_bytes() for path in (site.home / "data" / "parcels").rglob("*.dcm")} == before


def test_images_that_are_gone_decline_the_job(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """A job whose images were cleaned up is declined with what to do, not tried for ever."""
    monkeypatch.setattr(instances, "paths", lambda *_: {})
    job = site.run(Stage.PREPARE)
    assert job.state is JobState.DECLINED
    assert job.reason == "44 of 44 images are no longer on this node; send the study again"


def test_a_card_that_changed_after_planning_fails_the_job(site: Site) -> None:
    """A job never runs under another card than the one its identity names."""
    card = site.home / "models" / "two-parts" / "card.toml"
    card.write_text(card.read_text(encoding="utf-8").replace('version = "1"', 'version = "2"'), encoding="utf-8")
    site.tasks._context = None
    job = site.run(Stage.PREPARE)
    assert job.state is JobState.FAILED
    assert "changed after this job was planned" in str(job.reason)


def test_a_claim_lost_while_the_stage_works_writes_nothing(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stage whose job was taken over meanwhile leaves no parcel and moves nothing."""
    site.run(Stage.PREPARE, Stage.INFER)
    ledger = site.tasks.context.ledger
    kept = workspace.keep_parcel

    def taken_over(*arguments: Any) -> Any:
        assert jobs.cancel(ledger, site.job_id, "superseded meanwhile")
        return kept(*arguments)

    monkeypatch.setattr(workspace, "keep_parcel", taken_over)
    assert site.run(Stage.COMPOSE).state is JobState.CANCELLED
    assert jobs.parcel(ledger, site.job_id) is None


def test_a_folder_tells_why_no_series_fits(tmp_path: Path, site: Site) -> None:
    """Routing of a folder that the model does not take gives routing's reasons."""
    phantoms.write_tiny(tmp_path / "xray", phantoms.Tiny(modality="CR"))
    with pytest.raises(Refused, match="modality"):
        pipeline.routed(site.tasks.context.cards["two-parts"], tmp_path / "xray")
