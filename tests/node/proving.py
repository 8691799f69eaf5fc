"""An archive that forwards to a node which asks it back, on a clock that only moves when told.

While the archive pauses, the node lives on: the archive's sleep is the node's clock.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pydicom.uid import generate_uid

from models.card import ShelvedCard
from node.archive import Archive
from node.dispatch import Dispatcher
from node.ledger import Ledger, jobs, revisions
from node.ledger.revisions import Revision
from node.ledger.schema import JOBS
from node.listener import Listener
from node.settings import Peer, Settings
from node.spool import Spool
from node.study import Job, JobState, Parcel, ParcelObject, Stage
from tests.node.archive_files import image, write
from tests.node.conftest import Clock
from tests.node.listening import soon
from tests.node.test_routing import card

SLICES = 24
ASSEMBLY = {"quiet_s": 20, "proof": "c-find", "count_stable_s": 10, "give_up_s": 300}
NEXT = {Stage.PREPARE: Stage.INFER, Stage.INFER: Stage.COMPOSE}
CARDS: dict[str, ShelvedCard] = {"chest-ct": card()}


@dataclass(kw_only=True)
class Site:
    """Archive and node; `analysed` holds the number of images of every job that went beyond its preparation."""

    listener: Listener
    ledger: Ledger
    clock: Clock
    dispatcher: Dispatcher
    archive: Archive = field(init=False)
    works: bool = True
    prepared: list[str] = field(default_factory=list)
    analysed: list[int] = field(default_factory=list)

    def live(self, seconds: float) -> None:
        """Let so many seconds pass for the node: each second (of long times each fifth) a step, and a worker that does what may be done."""
        pace = 1 if seconds <= 60 else 5
        for _ in range(round(seconds / pace)):
            self.settle()
            self.clock.now += pace
            self.dispatcher.step()
            self.dispatcher.wait()
            while self.works and self._work():
                pass

    def settle(self) -> None:
        """Wait until all that was acknowledged is in the ledger."""
        soon(lambda: self.listener._indexer.indexed >= self.listener.counters.received and not self.listener.not_indexed)

    def _work(self) -> int:
        done = 0
        for job in jobs.queued(self.ledger):
            claim = jobs.claim(self.ledger, job.job_id, job.stage, 8)
            if claim is None:
                continue
            done += 1
            if job.stage is Stage.PREPARE:
                self.prepared.append(job.job_id)
            if job.stage is Stage.INFER:
                self.analysed.append(sum(len(uids) for uids in job.inputs.values()))
            if job.stage is Stage.COMPOSE:
                assert jobs.written(self.ledger, claim, [parcel(job)], dict.fromkeys(job.destinations, "ohif"))
            else:
                assert jobs.advance(self.ledger, claim, NEXT[job.stage])
        return done

    def revisions(self, study_uid: str) -> list[Revision]:
        """Give the study's revisions."""
        return revisions.of_study(self.ledger, study_uid)

    def written(self, study_uid: str) -> list[Job]:
        """Give the study's jobs that have results."""
        with self.ledger.reading() as connection:
            rows = connection.execute(JOBS.select().where(JOBS.c.study_instance_uid == study_uid)).all()
        return [job for job in map(jobs.job_of, rows) if job.state is JobState.WRITTEN]


def parcel(job: Job) -> Parcel:
    """Make a parcel of one SR with UIDs of this job's own."""
    number = int(hashlib.sha256(job.job_id.encode()).hexdigest()[:16], 16)
    report = ParcelObject(
        kind="sr",
        sop_class_uid="1.2.840.10008.5.1.4.1.1.88.34",
        sop_instance_uid=f"2.25.{number}",
        series_instance_uid=f"2.25.{number}1",
        transfer_syntax_uid="1.2.840.10008.1.2.1",
        path=f"parcels/{job.job_id}/sr.dcm",
        sha256="0" * 64,
    )
    return Parcel(
        job_id=job.job_id,
        generation=job.generation,
        study_instance_uid=job.study_instance_uid,
        profile="ohif",
        profile_digest="p",
        summary="s",
        objects=(report,),
    )


@contextmanager
def site(
    folder: Path,
    ledger: Ledger,
    clock: Clock,
    *,
    assembly: Mapping[str, Any] | None = None,
    peers: tuple[Peer, ...] = (),
    timeout_s: float = 60,
) -> Iterator[Site]:
    """Run an archive PACS, which may be asked, and a node OVERREAD; more peers may stand beside it."""
    with Archive(folder / "archive", "PACS") as archive:
        known = Peer(name="archive", ae_title="PACS", host="127.0.0.1", port=archive.port, query=True)
        with node(ledger, clock, (known, *peers), assembly=assembly, timeout_s=timeout_s) as made:
            made.archive = archive
            archive.peers["OVERREAD"] = ("127.0.0.1", made.listener.port)
            archive.sleep = made.live
            yield made


@contextmanager
def node(
    ledger: Ledger, clock: Clock, peers: tuple[Peer, ...], *, assembly: Mapping[str, Any] | None = None, timeout_s: float = 60
) -> Iterator[Site]:
    """Run a node OVERREAD without an archive."""
    section = {
        "data_dir": ledger.data_dir,
        "port": 0,
        "free_disk_min_mb": 0,
        "association_timeout_s": timeout_s,
        "network_timeout_s": timeout_s,
    }
    settings = Settings.model_validate({"node": section, "assembly": {**ASSEMBLY, **(assembly or {})}, "peers": peers})
    listener = Listener(settings, ledger, Spool(ledger.data_dir, fsync=False))
    listener._note_presence = lambda _since: None  # type: ignore[method-assign, assignment]  # it beats in real seconds, the node here lives in others
    listener.start()
    dispatcher = Dispatcher(settings, ledger, CARDS)
    dispatcher._submit = lambda: None  # type: ignore[method-assign]  # the worker here looks into the ledger itself
    try:
        yield Site(listener=listener, ledger=ledger, clock=clock, dispatcher=dispatcher)
    finally:
        dispatcher.close()
        listener.stop(grace_s=3)


def with_peer(place: Site, **changes: Any) -> None:
    """Change what the node knows of the archive."""
    archive, *others = place.dispatcher.settings.peers
    settings = place.dispatcher.settings.model_copy(update={"peers": (archive.model_copy(update=changes), *others)})
    place.dispatcher.settings = place.dispatcher._asker.settings = settings


@dataclass(frozen=True, kw_only=True)
class Chest:
    """A chest CT of 2 mm slices, as files."""

    study: str = field(default_factory=generate_uid)
    series: str = field(default_factory=generate_uid)
    number: int = 3
    files: tuple[Path, ...] = ()

    def write(self, folder: Path, count: int = SLICES, first: int = 1) -> Chest:
        """Write so many more slices."""
        made = []
        for number in range(first, first + count):
            dataset = image(self.study, self.series, number)
            dataset.SeriesNumber = self.number
            dataset.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
            dataset.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
            dataset.ImagePositionPatient = [-3, -3, 2 * number]
            dataset.PixelSpacing = [0.8, 0.8]
            made.append(write(dataset, folder / f"{generate_uid()}.dcm"))
        return replace(self, files=(*self.files, *made))

    def into(self, archive: Archive) -> Chest:
        """Take every file into an archive; one that is there already stays."""
        for path in self.files:
            archive.add(path)
        return self
