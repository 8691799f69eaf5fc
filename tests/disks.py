"""A real small disk: a memory file system of a few megabytes, mounted for one test."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[Path]:
    """Mount a file system of that size; skip where this user may not (only a superuser may)."""
    folder.mkdir(parents=True, exist_ok=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("only a superuser, outside a closed container, may mount a small file system")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(folder: Path, leave_bytes: int) -> Path:
    """Fill a disk up to so many bytes with one file of somebody else's; give the file."""
    path = folder / "somebody-elses"
    disk = os.statvfs(folder)
    size = disk.f_bavail * disk.f_frsize - leave_bytes
    with path.open("ab") as file:
        os.posix_fallocate(file.fileno(), 0, max(size, 1))
    return path
