"""A refusal at the archive, through the task edge: written again from the kept prediction, and a real kill -9 in the middle of it."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import pydicom
import pytest

from node import deliver, demographics, routing
from node.archive import Archive, Faults
from node.archive.holdings import data_set_of
from node.ledger import Ledger, deliveries, instances, jobs, parcels, purging, revisions
from node.settings import Settings
from node.study import Delivery, DeliveryState, Instance, Parcel, Stage
from tests import phantoms, shelf
from tests.node import work
from workers import folder, pipeline, rewrite, tasks, workspace

SEG = "1.2.840.10008.5.1.4.1.1.66.4"
STAGES = (Stage.PREPARE, Stage.INFER, Stage.COMPOSE)
SPAWN = multiprocessing.get_context("spawn")


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make the phantom once."""
    home = tmp_path_factory.mktemp("study")
    phantoms.thorax(home)
    return home


@dataclass
class Site:
    """A written job, and an archive that takes no SEG."""

    tasks: tasks.Site
    archive: Archive
    job_id: str
    late: Instance

    @property
    def ledger(self) -> Ledger:
        """Give the ledger."""
        return self.tasks.context.ledger

    @property
    def ident(self) -> str:
        """Name the delivery to the archive."""
        return jobs.delivery_id(self.job_id, 1, "archive")

    @property
    def delivery(self) -> Delivery:
        """Give that delivery."""
        return deliveries.get(self.ledger, self.ident)

    def blobs(self, parcel: Parcel) -> list[bytes]:
        """Give a parcel's files."""
        return [(self.tasks.settings.data_dir / entry.path).read_bytes() for entry in parcel.objects]

    def refuse(self) -> None:
        """Send, and be refused."""
        tasks.deliver(self.ident)
        assert self.delivery.wants_profile == "basic"


def settings_of(home: Path, port: int, **peers: str) -> Settings:
    """Give a site whose peers all are that archive, each with its profile."""
    return Settings.model_validate(
        {
            "node": {"data_dir": str(home / "data")},
            "broker": {"url": "redis://127.0.0.1:1/0"},
            "models": {"dir": str(home / "models"), "starters": False},
            "peers": [
                {"name": name, "ae_title": "ARCHIVE", "host": "127.0.0.1", "port": port, "profile": profile}
                for name, profile in peers.items()
            ],
        }
    )


@pytest.fixture
def site(study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """Write a job's results for two destinations: `ohif`, which the archive will refuse, and `orthanc-stone`."""
    monkeypatch.setattr(deliver, "OUTAGES", deliver.Outages())
    monkeypatch.setattr(tasks, "BACK_OFF_S", (0.0,))
    monkeypatch.setattr(demographics, "SILENT", deliver.Outages())
    shelf.put(tmp_path / "models")
    with Archive(tmp_path / "archive", "ARCHIVE") as archive:
        archive.faults = Faults(refused_classes=frozenset({SEG}))
        kept = tasks.Site()
        kept.settings = settings_of(tmp_path, archive.port, archive="ohif", viewer="orthanc-stone")
        monkeypatch.setattr(tasks, "SITE", kept)
        ledger = kept.context.ledger
        found = folder.read(study)
        instances.index(ledger, found[:-1])
        revision = work.freeze(ledger, found[0].study_instance_uid)
        plan = routing.route(instances.study(ledger, revision.study_instance_uid, 1), kept.context.cards, (), kept.settings.destinations())
        assert revisions.plan(ledger, revision.revision_id, plan)
        job_id = plan.jobs[0].job_id
        for stage in STAGES:
            getattr(tasks, stage)(job_id)
        yield Site(kept, archive, job_id, found[-1])
        ledger.close()


def test_compose_writes_each_profile_once(site: Site) -> None:
    """Two destinations, two parcels with UIDs of their own, each delivery pointing to its own."""
    written = parcels.of_job(site.ledger, site.job_id)
    assert sorted(entry.profile for entry in written) == ["ohif", "orthanc-stone"]
    uids = [each.sop_instance_uid for entry in written for each in entry.objects]
    assert len(set(uids)) == len(uids)
    pointing = {entry.destination: entry.profile for entry in deliveries.of_job(site.ledger, site.job_id, 1)}
    assert pointing == {"archive": "ohif", "viewer": "orthanc-stone"}


def test_a_refused_result_is_written_as_basic_and_arrives(site: Site, tmp_path: Path) -> None:
    """The archive holds the report in words, byte for byte as stored, and nothing of the refused parcel."""
    site.refuse()
    tasks.recompose(site.ident)
    assert site.delivery.profile == "basic"
    tasks.deliver(site.ident)
    assert site.delivery.state is DeliveryState.ACCEPTED
    parcel = jobs.parcel(site.ledger, site.job_id, 1, "basic")
    assert parcel is not None
    assert [reception.sop_instance_uid for reception in site.archive.received] == [entry.sop_instance_uid for entry in parcel.objects]
    for entry in parcel.objects:
        kept = site.archive.path_of(entry.sop_instance_uid)
        assert kept is not None
        assert data_set_of(kept) == data_set_of(site.tasks.settings.data_dir / entry.path)
    report = pydicom.dcmread(BytesIO(site.blobs(parcel)[-1]))
    assert report.Modality == "SR"
    first = jobs.parcel(site.ledger, site.job_id, 1, "ohif")
    assert first is not None
    assert str(report.SOPInstanceUID) not in {entry.sop_instance_uid for entry in first.objects}
    assert first.summary == parcel.summary
    assert not list((tmp_path / "data" / "parcels").rglob(".*"))


def test_the_next_revision_names_the_report_that_each_archive_has(site: Site) -> None:
    """One archive has the first as `basic`, the other as it was: each sees its own in the second's predecessor."""
    first = _arrive(site)
    ledger = site.ledger
    instances.index(ledger, [site.late])
    revision = work.freeze(ledger, site.late.study_instance_uid)
    frozen = instances.study(ledger, revision.study_instance_uid, 2)
    plan = routing.route(frozen, site.tasks.context.cards, (), site.tasks.settings.destinations())
    assert revisions.plan(ledger, revision.revision_id, plan)
    site.job_id = plan.jobs[0].job_id
    for stage in STAGES:
        getattr(tasks, stage)(site.job_id)
    second = _arrive(site)
    for profile in ("basic", "orthanc-stone"):
        (former,) = second[profile].PredecessorDocumentsSequence[0].ReferencedSeriesSequence[0].ReferencedSOPSequence
        assert former.ReferencedSOPInstanceUID == first[profile].SOPInstanceUID
        assert former.ReferencedSOPClassUID == first[profile].SOPClassUID


def _arrive(site: Site) -> dict[str, pydicom.Dataset]:
    """Send both results, one of them after a refusal; give each profile's report as the archive has it."""
    site.archive.faults = Faults(refused_classes=frozenset({SEG}))
    site.refuse()
    tasks.recompose(site.ident)
    tasks.deliver(site.ident)
    site.archive.faults = Faults()
    tasks.deliver(jobs.delivery_id(site.job_id, 1, "viewer"))
    reports = {}
    for entry in deliveries.of_job(site.ledger, site.job_id, 1):
        assert entry.state is DeliveryState.ACCEPTED
        parcel = jobs.parcel(site.ledger, site.job_id, 1, entry.profile)
        assert parcel is not None
        path = site.archive.path_of(parcel.objects[-1].sop_instance_uid)
        assert path is not None
        reports[entry.profile] = pydicom.dcmread(path)
    return reports


def test_writing_it_twice_gives_the_same_bytes_and_one_parcel(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that dies just before its move leaves files that the next one finds equal."""
    site.refuse()
    real = rewrite.fallbacks.point
    monkeypatch.setattr(rewrite.fallbacks, "point", lambda *_: (_ for _ in ()).throw(OSError("killed here")))
    tasks.recompose(site.ident)
    before = {path: path.read_bytes() for path in (site.tasks.settings.data_dir / "parcels").rglob("*.dcm")}
    monkeypatch.setattr(rewrite.fallbacks, "point", real)
    tasks.recompose(site.ident)
    tasks.recompose(site.ident)
    assert {path: path.read_bytes() for path in (site.tasks.settings.data_dir / "parcels").rglob("*.dcm")} == before
    assert site.delivery.profile == "basic"


def _die_while_writing(home: str, port: int, ident: str, told: Any) -> None:
    """Recompose in a process of its own that stops when its files are on the disk, before its move."""
    site = tasks.Site()
    site.settings = settings_of(Path(home), port, archive="ohif", viewer="orthanc-stone")
    tasks.SITE = site
    keep = workspace.keep_parcel

    def stop(*arguments: Any) -> Any:
        paths = keep(*arguments)
        told.set()
        time.sleep(600)
        return paths

    workspace.keep_parcel = stop
    tasks.recompose(ident)


def test_kill_9_between_the_files_and_the_move_loses_nothing(site: Site, tmp_path: Path) -> None:
    """The sweep frees the dead worker's delivery once its lease has ended; the next one writes the same, and it arrives."""
    site.refuse()
    told = SPAWN.Event()
    victim = SPAWN.Process(target=_die_while_writing, args=(str(tmp_path), site.archive.port, site.ident, told))
    victim.start()
    assert told.wait(120)
    assert victim.pid
    os.kill(victim.pid, signal.SIGKILL)
    victim.join(30)
    victim.close()
    assert jobs.parcel(site.ledger, site.job_id, 1, "basic") is None
    site.ledger.clock = lambda: time.time() + 60
    (freed,) = deliveries.lost_senders(site.ledger, site.ledger.clock())
    assert (freed.delivery_id, freed.wants_profile) == (site.ident, "basic")
    tasks.recompose(site.ident)
    tasks.deliver(site.ident)
    assert (site.delivery.state, site.delivery.profile) == (DeliveryState.ACCEPTED, "basic")


@pytest.mark.parametrize("gone", ["work", "images", "profile"])
def test_what_cannot_be_written_again_fails_with_what_to_do(site: Site, gone: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work files or images taken by retention, a profile taken out of the settings: refusal, cause and remedy in one reason."""
    site.refuse()
    if gone == "work":
        shutil.rmtree(site.tasks.settings.work_dir)
    elif gone == "images":
        monkeypatch.setattr(instances, "paths", lambda *_: {})
    else:
        monkeypatch.setattr(Settings, "profile", _no_profile)
    tasks.recompose(site.ident)
    failed = site.delivery
    assert (failed.state, failed.wants_profile) == (DeliveryState.FAILED, None)
    assert SEG in (failed.reason or "")
    assert {"work": "is missing", "images": "no longer on this node", "profile": "any more"}[gone] in (failed.reason or "")
    assert "overread retry" in (failed.reason or "")


def _no_profile(_settings: Settings, name: str | None = None) -> None:
    raise pipeline.Misconfigured(f"no viewer profile is called {name!r} any more; add it to [[profiles]]")


def test_a_patient_purged_while_it_writes_leaves_no_file(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was written a moment after the purge goes as well, and nothing is sent."""
    site.refuse()
    keep, folder_of_parcels = workspace.keep_parcel, site.tasks.settings.data_dir / "parcels"
    patient = str(pydicom.dcmread(site.late.path, stop_before_pixels=True).PatientID)
    before = set(folder_of_parcels.rglob("*.dcm"))

    def purged_before(*arguments: Any) -> Any:
        (holding,) = purging.find(site.ledger, patient)
        assert purging.end_and_mark(site.ledger, holding, ("Dr. Day", "the patient asked for it"), force=True)
        return keep(*arguments)

    monkeypatch.setattr(workspace, "keep_parcel", purged_before)
    tasks.recompose(site.ident)
    assert set(folder_of_parcels.rglob("*.dcm")) == before
    assert site.delivery.state is DeliveryState.FAILED


def test_trouble_while_it_writes_is_tried_again_and_then_ends(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error nobody foresaw keeps the delivery waiting, three times; its words stay out of the ledger."""
    site.refuse()
    monkeypatch.setattr(rewrite, "recompose", lambda *_: (_ for _ in ()).throw(KeyError("Qvortrup")))
    for attempt in range(1, 4):
        assert site.delivery.state is DeliveryState.PENDING
        tasks.recompose(site.ident)
        assert (site.delivery.reason or "").startswith("unexpected KeyError")
        assert site.delivery.attempt == attempt
    assert site.delivery.state is DeliveryState.FAILED
    assert "Qvortrup" not in (site.delivery.reason or "")
