"""What one viewer profile cannot hold keeps nobody else from the result; what is wrong with the analysis keeps everybody."""

from __future__ import annotations

from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from node import deliver, demographics, routing, status
from node.archive import Archive
from node.ledger import again, deliveries, instances, jobs, parcels, revisions
from node.settings import Settings
from node.study import Delivery, DeliveryState, JobState, Stage
from overread.commands import status as shown
from tests import phantoms, shelf
from tests.node import work
from workers import folder, tasks
from workers.results import check_place

STAGES = (Stage.PREPARE, Stage.INFER, Stage.COMPOSE)
# No segment of the phantom's lies on as few as two slices, so these profiles cannot hold its result.
TIGHT = [
    {"name": "tight", "base": "ohif", "frames_max": 2, "fallback": "basic"},
    {"name": "stubborn", "objects": ["seg", "sr"], "frames_max": 2},
]


class Site:
    """One planned job on the way to destinations of these profiles, all of them one archive."""

    def __init__(self, home: Path, study: Path, archive: Archive, profiles: dict[str, str]) -> None:
        self.tasks = tasks.Site()
        peer: dict[str, Any] = {"ae_title": "ARCHIVE", "host": "127.0.0.1", "port": archive.port, "max_attempts": 1}
        self.tasks.settings = Settings.model_validate(
            {
                "node": {"data_dir": str(home / "data")},
                "broker": {"url": "redis://127.0.0.1:1/0"},
                "models": {"dir": str(shelf.put(home / "models")), "starters": False},
                "profiles": TIGHT,
                "peers": [peer | {"name": name, "profile": profile} for name, profile in profiles.items()],
            }
        )
        self.archive, self.ledger = archive, self.tasks.context.ledger
        found = folder.read(study)
        instances.index(self.ledger, found)
        self.study_uid = found[0].study_instance_uid
        revision = work.freeze(self.ledger, self.study_uid)
        plan = routing.route(
            instances.study(self.ledger, self.study_uid, 1), self.tasks.context.cards, (), self.tasks.settings.destinations()
        )
        assert revisions.plan(self.ledger, revision.revision_id, plan)
        self.job_id = plan.jobs[0].job_id

    def run(self) -> JobState:
        """Run the three stages as their messages would."""
        for stage in STAGES:
            getattr(tasks, stage)(self.job_id)
        return jobs.get(self.ledger, self.job_id).state

    def delivery(self, destination: str) -> Delivery:
        """Give the delivery to a destination."""
        return deliveries.get(self.ledger, jobs.delivery_id(self.job_id, 1, destination))


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make the phantom once."""
    home = tmp_path_factory.mktemp("study")
    phantoms.thorax(home)
    return home


@pytest.fixture
def archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Archive]:
    """Run an archive that takes everything."""
    monkeypatch.setattr(deliver, "OUTAGES", deliver.Outages())
    monkeypatch.setattr(demographics, "SILENT", deliver.Outages())
    with Archive(tmp_path / "archive", "ARCHIVE") as place:
        yield place


def made(home: Path, study: Path, archive: Archive, monkeypatch: pytest.MonkeyPatch, **profiles: str) -> Site:
    """Put a site in the place of the worker's own."""
    site = Site(home, study, archive, profiles)
    monkeypatch.setattr(tasks, "SITE", site.tasks)
    return site


def test_one_profile_s_refusal_withholds_nothing_from_the_others(
    tmp_path: Path, study: Path, archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The profile that holds it is sent; where one cannot, its fallback is, at once; one without a fallback fails with the reason."""
    site = made(tmp_path, study, archive, monkeypatch, reader="ohif", small="tight", odd="stubborn")
    assert site.run() is JobState.WRITTEN
    assert [entry.profile for entry in parcels.of_job(site.ledger, site.job_id) if entry.objects] == ["ohif", "basic"]
    reader, small, odd = (site.delivery(name) for name in ("reader", "small", "odd"))
    assert (reader.profile, reader.state, reader.refusals) == ("ohif", DeliveryState.PENDING, ())
    assert (small.profile, small.state) == ("basic", DeliveryState.PENDING)
    assert [(entry["profile"], entry["to"]) for entry in small.refusals] == [("tight", "basic")]
    assert (odd.profile, odd.state, odd.sent) == ("stubborn", DeliveryState.FAILED, ())
    assert "takes no object of more than 2" in str(odd.reason)
    for name in ("reader", "small", "odd"):
        tasks.deliver(jobs.delivery_id(site.job_id, 1, name))
    assert [site.delivery(name).state for name in ("reader", "small")] == [DeliveryState.ACCEPTED] * 2
    kinds = {entry.sop_instance_uid: entry.kind for parcel in parcels.of_job(site.ledger, site.job_id) for entry in parcel.objects}
    assert sorted(entry.sop_instance_uid for entry in archive.received) == sorted(kinds)


def test_what_was_not_written_is_told_and_a_retry_sends_nothing(
    tmp_path: Path, study: Path, archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`overread status` names profile and reason; sending it again fails the same way, and no empty parcel counts as sent."""
    site = made(tmp_path, study, archive, monkeypatch, reader="basic", odd="stubborn")
    assert site.run() is JobState.WRITTEN
    (told,) = status.of_study(site.ledger, site.study_uid)["studies"]
    text = StringIO()
    for job in told["jobs"]:
        shown._show_job(Console(file=text, width=400), job)
    assert "refused as stubborn, nothing instead: " in text.getvalue()
    assert told["jobs"][0]["summary"] == jobs.parcel(site.ledger, site.job_id, 1, "basic").summary  # type: ignore[union-attr]
    assert again.retry(site.ledger, site.study_uid).deliveries == (jobs.delivery_id(site.job_id, 1, "odd"),)
    tasks.deliver(jobs.delivery_id(site.job_id, 1, "odd"))
    assert site.delivery("odd").state is DeliveryState.FAILED
    assert "takes no object of more than 2" in str(site.delivery("odd").reason)
    assert archive.received == []


def test_a_result_that_no_profile_holds_declines_the_job(
    tmp_path: Path, study: Path, archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As ever, with the reason; nothing is kept or sent."""
    site = made(tmp_path, study, archive, monkeypatch, odd="stubborn")
    assert site.run() is JobState.DECLINED
    assert "takes no object of more than 2" in str(jobs.get(site.ledger, site.job_id).reason)
    assert parcels.of_job(site.ledger, site.job_id) == []
    assert not list((tmp_path / "data" / "parcels").rglob("*.dcm"))


def test_what_is_wrong_with_the_analysis_is_refused_in_every_profile(
    tmp_path: Path, study: Path, archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Images that are not the slices that were analysed: no report in words slips through because it holds no SEG."""
    site = made(tmp_path, study, archive, monkeypatch, reader="ohif", words="basic")
    for stage in STAGES[:-1]:
        getattr(tasks, stage)(site.job_id)
    monkeypatch.setattr(check_place, "_places", lambda request: np.zeros((len(request.sources), 3)))
    tasks.compose(site.job_id)
    job = jobs.get(site.ledger, site.job_id)
    assert (job.state, "order of the volume" in str(job.reason)) == (JobState.DECLINED, True)
    assert parcels.of_job(site.ledger, site.job_id) == []
