"""Who acknowledges a spool file as present and who removes it agree by a lock, so that nothing acknowledged is removed.

A duplicate is acknowledged under the shared lock, after its file's time was set to now; a file is removed under the exclusive lock,
and only when its time is as old as the decision to remove it. The lock is a file of the data folder: it works between processes.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

LOCK = "removal.lock"


def make_lock(data_dir: Path) -> None:
    """Create the lock's file while there is disk for it."""
    (data_dir / LOCK).touch(mode=0o640)


def acknowledged_again(data_dir: Path, file: Path, now: float) -> bool:
    """Set a file's time, so that retention counts from now; False when there is no such file."""
    with _locked(data_dir, fcntl.LOCK_SH):
        try:
            os.utime(file, (now, now))
        except FileNotFoundError:
            return False
    return True


def remove(data_dir: Path, path: str, before: float) -> bool:
    """Remove a file, by its path relative to the data folder, unless it was acknowledged after `before`; True when it is gone."""
    file = data_dir / path
    with _locked(data_dir, fcntl.LOCK_EX):
        try:
            if file.stat().st_mtime > before:
                return False
            file.unlink()
        except FileNotFoundError:
            pass
    return True


def last_acknowledged(data_dir: Path, paths: Iterator[str]) -> float:
    """Give the newest time of these files; 0 when none is there."""
    newest = 0.0
    for path in paths:
        try:
            newest = max(newest, (data_dir / path).stat().st_mtime)
        except FileNotFoundError:
            continue
    return newest


@contextmanager
def _locked(data_dir: Path, how: int) -> Iterator[None]:
    handle = os.open(data_dir / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
    try:
        fcntl.flock(handle, how)
        yield
    finally:
        os.close(handle)
