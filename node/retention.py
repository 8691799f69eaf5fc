"""What may be removed, and when: images, parcels and work files whose work has ended. Rows stay.

Unfinished work is never evicted: a study that is received, held, analysed or sent keeps its images.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterator
from pathlib import Path

import sqlalchemy as sa

from node import journal
from node.errors import Refused
from node.ledger import Ledger, instances
from node.ledger.schema import DELIVERIES, INSTANCES, JOBS, REVISIONS
from node.settings import Settings
from node.spool import read_instance
from node.study import DeliveryState, JobState, RevisionState

log = journal.get("retention")

DAY_S = 86400.0
# A worker that has lost its claim may still write for a moment.
GRACE_S = 120.0
STUDIES_A_SWEEP = 50
_OPEN_REVISIONS = (RevisionState.RECEIVING, RevisionState.COMPLETE, RevisionState.HELD)
_OPEN_JOBS = (JobState.QUEUED, JobState.RUNNING)
_OPEN_DELIVERIES = (DeliveryState.PENDING, DeliveryState.SENT)


def sweep(settings: Settings, ledger: Ledger) -> None:
    """Remove what is due. Idempotent; several processes may sweep at once."""
    now = ledger.clock()
    for study_uid in ended_studies(ledger, now - settings.retention.images_days * DAY_S):
        count = remove_images(ledger, study_uid)
        log.info("images.removed", study=study_uid, images=count)
    _sweep_folders(ledger, settings.work_dir, now - GRACE_S)
    _sweep_folders(ledger, settings.data_dir / "parcels", now - max(settings.retention.parcels_days * DAY_S, GRACE_S))


def ended_studies(ledger: Ledger, before: float, limit: int = STUDIES_A_SWEEP) -> list[str]:
    """Give studies with files in the spool of which nothing has been left to do since `before`."""
    busy = sa.union(
        sa.select(REVISIONS.c.study_instance_uid).where(
            sa.or_(REVISIONS.c.state.in_(_OPEN_REVISIONS), REVISIONS.c.last_arrival_at > before, REVISIONS.c.ended_at > before)
        ),
        sa.select(JOBS.c.study_instance_uid).where(sa.or_(JOBS.c.state.in_(_OPEN_JOBS), JOBS.c.updated_at > before)),
        sa.select(JOBS.c.study_instance_uid).join(DELIVERIES, DELIVERIES.c.job_id == JOBS.c.job_id).where(_open_delivery(before)),
    )
    stored = (
        sa.select(INSTANCES.c.study_instance_uid)
        .where(~INSTANCES.c.removed, INSTANCES.c.study_instance_uid.not_in(busy))
        .group_by(INSTANCES.c.study_instance_uid)
        .having(sa.func.max(INSTANCES.c.received_at) <= before)
    )
    with ledger.reading() as connection:
        return list(connection.execute(stored.order_by(sa.func.max(INSTANCES.c.received_at)).limit(limit)).scalars())


def remove_images(ledger: Ledger, study_uid: str) -> int:
    """Remove a study's files, then mark them; one that came again in between is entered anew."""
    files = instances.files(ledger, study_uid)
    for _, path in files:
        (ledger.data_dir / path).unlink(missing_ok=True)
    instances.remove(ledger, [row for row, _ in files])
    back = [path for _, path in files if (ledger.data_dir / path).exists()]
    for path in back:
        try:
            instances.index(ledger, [read_instance(ledger.data_dir / path, root=ledger.data_dir)])
        except (Refused, OSError) as error:
            log.warning("image.unreadable", file=path, error=type(error).__name__)
    return len(files) - len(back)


def _open_delivery(before: float) -> sa.ColumnElement[bool]:
    return sa.or_(DELIVERIES.c.state.in_(_OPEN_DELIVERIES), DELIVERIES.c.ended_at > before)


def _sweep_folders(ledger: Ledger, root: Path, before: float) -> None:
    """Remove the folders, named by job id, of jobs that ended before that time, or that the ledger does not know."""
    for folder in _folders(root):
        ended_at = _ended_at(ledger, folder.name)
        if ended_at is None:
            ended_at = folder.stat().st_mtime + DAY_S
        if ended_at <= before:
            shutil.rmtree(folder, ignore_errors=True)
            log.info("folder.removed", of=root.name, job=folder.name)


def _folders(root: Path) -> Iterator[Path]:
    if root.is_dir():
        yield from (entry for entry in sorted(root.iterdir()) if entry.is_dir() and not entry.is_symlink())


def _ended_at(ledger: Ledger, job_id: str) -> float | None:
    """Give when a job and all its deliveries had ended: infinity while they go on, None for a job nobody knows."""
    with ledger.reading() as connection:
        job = connection.execute(sa.select(JOBS).where(JOBS.c.job_id == job_id)).one_or_none()
        rows = connection.execute(sa.select(DELIVERIES).where(DELIVERIES.c.job_id == job_id)).all()
    if job is None:
        return None
    if job.state in _OPEN_JOBS or any(row.state in _OPEN_DELIVERIES for row in rows):
        return math.inf
    return float(max([job.updated_at, *(row.ended_at or 0.0 for row in rows)]))
