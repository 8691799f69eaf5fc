"""The databases the ledger must work on: SQLite, and a PostgreSQL of the test run's own."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import sqlalchemy as sa

KINDS = ("sqlite", "postgresql")


def server_binaries() -> Path:
    """Give the folder of the newest installed PostgreSQL; without one skip on a laptop and fail in CI."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if found:
        return found[-1].parent
    on_path = shutil.which("initdb")
    if on_path:
        return Path(on_path).parent
    reason = "no PostgreSQL is installed and OVERREAD_TEST_POSTGRES names none"
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


@contextmanager
def server(*, fsync: bool = False) -> Iterator[str]:
    """Start a private cluster on a unix socket and give its URL; or give OVERREAD_TEST_POSTGRES. Tests need no durability."""
    if os.environ.get("OVERREAD_TEST_POSTGRES"):
        yield os.environ["OVERREAD_TEST_POSTGRES"]
        return
    binaries = server_binaries()
    folder = Path(tempfile.mkdtemp(prefix="overread-pg-"))
    # PostgreSQL refuses to run as root.
    unprivileged: list[str | Path] = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
    if unprivileged:
        shutil.chown(folder, "postgres")
    data = folder / "data"
    try:
        create = [*unprivileged, binaries / "initdb", "-D", data, "-U", "overread", "-A", "trust", "-E", "UTF8", "--no-sync"]
        subprocess.run(create, check=True, capture_output=True, cwd="/")
        options = f"-c listen_addresses='' -k {folder} -c fsync={'on -c shared_buffers=512MB' if fsync else 'off'} -c max_connections=200"
        start = [*unprivileged, binaries / "pg_ctl", "-D", data, "-w", "-l", folder / "log", "-o", options, "start"]
        subprocess.run(start, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd="/")
        yield f"postgresql+psycopg://overread@/postgres?host={folder}"
    finally:
        stop = [*unprivileged, binaries / "pg_ctl", "-D", data, "-m", "immediate", "stop"]
        subprocess.run(stop, check=False, capture_output=True, cwd="/")
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def own_schema(url: str) -> Iterator[str]:
    """Give a URL whose tables are one test's own."""
    name = f"t_{uuid.uuid4().hex[:12]}"
    engine = sa.create_engine(url)
    with engine.begin() as connection:
        connection.execute(sa.schema.CreateSchema(name))
    try:
        yield sa.make_url(url).update_query_dict({"options": f"-csearch_path={name}"}).render_as_string(hide_password=False)
    finally:
        with engine.begin() as connection:
            connection.execute(sa.schema.DropSchema(name, cascade=True))
        engine.dispose()
