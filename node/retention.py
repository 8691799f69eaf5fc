"""What is removed, and when: images, work files and parcels whose work has ended, and the rows of images long gone.

`sweep` keeps to the days of the settings; `relieve` makes room when the disk fills, in the settings' order, oldest first.
Unfinished work is never evicted: a study that is received, held, analysed or sent keeps its images, and so does every study while
what was acknowledged waits for the index. States, reasons, job ids
and the UIDs of results stay for good, so that a study sent again makes no second result.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from math import inf
from pathlib import Path

from node import audit, ending, journal, keeping
from node.ending import Ended
from node.errors import Refused, Retryable
from node.ledger import Ledger, instances, presence, removal
from node.ledger.removal import EndedJob
from node.settings import Settings
from node.spool import read_instance
from node.study import JobState

log = journal.get("retention")

DAY_S = 86400.0
# A worker that has lost its claim may still write for a moment.
GRACE_S = 120.0
FOLDERS_A_LOOK = 200
# Room is made for this much more than what starts the eviction, so that it does not start with every image.
RELIEF = 1.25
# With less than this not even the ledger can write that something was removed.
SCANT_BYTES = 8 * 1024**2


def sweep(settings: Settings, ledger: Ledger) -> None:
    """Remove what is due. Idempotent; several processes may sweep at once."""
    now, days = ledger.clock(), settings.retention
    heard = _heard_until(settings, ledger)
    for ended in ended_studies(ledger):
        before = min(now - days.images_days[ended.ending] * DAY_S, heard)
        if ended.at <= before:
            remove_images(ledger, ended, before)
    _sweep_work(settings, ledger, days.work_days)
    _sweep_parcels(settings, ledger)
    for study_uid in _forgettable(ledger, now - days.rows_days * DAY_S):
        if rows := removal.forget(ledger, study_uid):
            log.info("rows.forgotten", study=study_uid, rows=rows)


def is_tight(settings: Settings) -> bool:
    """Tell whether finished work must make room now."""
    return any(free_bytes(folder) < settings.evict_below_bytes for folder in {settings.data_dir, settings.work_dir})


def free_bytes(folder: Path) -> int:
    """Give the bytes that may still be written there; a folder that is not made yet counts as its parent's disk."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    disk = os.statvfs(folder)
    return disk.f_bavail * disk.f_frsize


def relieve(settings: Settings, ledger: Ledger) -> bool:
    """Make room: what is due, then images in order, oldest first, then parcels that every archive has committed; True when there is.

    Each thing goes only while there is too little room. When nothing is left to go, only unfinished work fills the disk.
    """
    goal = int(settings.evict_below_bytes * RELIEF)
    _sweep_work(settings, ledger, 0.0)
    _sweep_parcels(settings, ledger)
    order = {name: rank for rank, name in enumerate(settings.retention.order)}
    finished = [ended for ended in ended_studies(ledger) if ended.ending in order]
    before = _heard_until(settings, ledger)
    for ended in sorted(finished, key=lambda entry: (order[entry.ending], entry.at)):
        if free_bytes(settings.data_dir) >= goal:
            break
        if ended.at <= before:
            remove_images(ledger, ended, before)
    if free_bytes(settings.data_dir) < goal:
        _evict_parcels(settings, ledger, goal)
    if not is_tight(settings):
        log.info("disk.relieved", free_mb=free_bytes(settings.data_dir) // 1024**2)
        return True
    return False


def _heard_until(settings: Settings, ledger: Ledger) -> float:
    """Give until when we know of all that came of a study that was quiet since.

    An image that is acknowledged and waits for the index may open a revision that needs the study's others, and so may a copy
    of one that is here: its file has a new time, its entry has not. While the index is far behind nothing goes at all.
    """
    now, indexed_until = ledger.clock(), presence.indexed_until(ledger)
    if now - indexed_until > presence.AWAY_S:
        log.warning("retention.waits", reason="images that were acknowledged are not indexed yet", behind_s=round(now - indexed_until))
        return -inf
    return min(now, indexed_until) - settings.assembly.quiet_s


def ended_studies(ledger: Ledger) -> Iterator[Ended]:
    """Give every study with files in the spool whose work has ended; one page of the ledger at a time."""
    for page in _pages(ledger, removal.with_files):
        yield from filter(None, map(ending.of, removal.work_of(ledger, page)))


def remove_images(ledger: Ledger, ended: Ended, before: float) -> int:
    """Remove a study's files, conflict copies too, unless one came, or came again, after `before`; returns how many went."""
    study_uid = ended.study_instance_uid
    files = instances.files(ledger, study_uid)
    if keeping.last_acknowledged(ledger.data_dir, (path for _, path in files)) > before:
        return 0
    try:
        taken = removal.take(ledger, study_uid, before)
    except Retryable:
        if free_bytes(ledger.data_dir) >= SCANT_BYTES:
            raise
        # The full disk keeps the ledger from writing, and the listener from receiving: here the files go before their marks.
        freed = sum(keeping.remove(ledger.data_dir, path, before) for _, path in files)
        log.warning("disk.scant", study=study_uid, images=freed)
        taken = removal.take(ledger, study_uid, before)
    count = unlink(ledger, [path for _, path in taken], before)
    if taken:
        log.info("images.removed", study=study_uid, images=count, ended=str(ended.ending))
        event = audit.Event(action="images purged", study_instance_uid=study_uid, reason=f"retention of {ended.ending}", objects=count)
        audit.note(ledger.data_dir, event, ledger.clock())
    return count


def unlink(ledger: Ledger, paths: list[str], before: float) -> int:
    """Remove marked files; one that was acknowledged again in between stays and is entered anew."""
    count = 0
    for path in paths:
        if keeping.remove(ledger.data_dir, path, before):
            count += 1
            continue
        try:
            instances.index(ledger, [read_instance(ledger.data_dir / path, root=ledger.data_dir)])
        except (Refused, OSError) as error:
            log.warning("image.unreadable", file=path, error=type(error).__name__)
    return count


def _pages(ledger: Ledger, look: Callable[[Ledger, str], list[str]]) -> Iterator[list[str]]:
    after = ""
    while page := look(ledger, after):
        yield page
        after = page[-1]


def _forgettable(ledger: Ledger, before: float) -> Iterator[str]:
    """Give the studies with rows of removed images whose work ended before."""
    for page in _pages(ledger, removal.with_rows_only):
        for ended in filter(None, map(ending.of, removal.work_of(ledger, page))):
            if ended.at <= before:
                yield ended.study_instance_uid


def _sweep_work(settings: Settings, ledger: Ledger, days: float) -> None:
    """Remove the work files of jobs that ended, and after a day what no job owns."""
    wait_s = max(days * DAY_S, GRACE_S)
    for folder, job in _folders(ledger, settings.work_dir):
        if _ended_at(folder, job) <= ledger.clock() - wait_s:
            _remove_folder(folder)


def _sweep_parcels(settings: Settings, ledger: Ledger) -> None:
    """Remove parcels after their days; those of a job that has none in the ledger are what a crash left."""
    days = settings.retention
    for folder, job in _folders(ledger, settings.data_dir / "parcels"):
        stays = 0.0
        if job is not None and job.has_parcel:
            stays = days.superseded_parcels_days if job.state is JobState.SUPERSEDED else days.parcels_days
        if _ended_at(folder, job) <= ledger.clock() - max(stays * DAY_S, GRACE_S):
            _remove_folder(folder)


def _evict_parcels(settings: Settings, ledger: Ledger, goal: int) -> None:
    """Remove parcels that every destination has committed, oldest first, until there is room."""
    committed = [
        (job.ended_at, folder)
        for folder, job in _folders(ledger, settings.data_dir / "parcels")
        if job is not None and job.committed and job.ended_at <= ledger.clock() - GRACE_S
    ]
    for _, folder in sorted(committed):
        if free_bytes(settings.data_dir) >= goal:
            return
        _remove_folder(folder)


def _folders(ledger: Ledger, root: Path) -> Iterator[tuple[Path, EndedJob | None]]:
    """Give each folder named by a job id, and how that job ended; None for a job nobody knows."""
    entries = [entry for entry in sorted(root.iterdir()) if entry.is_dir() and not entry.is_symlink()] if root.is_dir() else []
    for at in range(0, len(entries), FOLDERS_A_LOOK):
        some = entries[at : at + FOLDERS_A_LOOK]
        known = removal.ended_jobs(ledger, [entry.name for entry in some])
        yield from ((entry, known.get(entry.name)) for entry in some)


def _ended_at(folder: Path, job: EndedJob | None) -> float:
    if job is not None:
        return job.ended_at
    try:
        return folder.stat().st_mtime + DAY_S
    except FileNotFoundError:
        return 0.0


def _remove_folder(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    log.info("folder.removed", of=folder.parent.name, job=folder.name)
