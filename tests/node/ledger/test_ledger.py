"""Opening the ledger: whose it is, what it refuses, what it survives."""

from __future__ import annotations

import multiprocessing
import os
import stat
from pathlib import Path

import pytest
import sqlalchemy as sa

from node.errors import Misconfigured, Retryable
from node.ledger import Ledger, jobs, open_ledger, schema
from node.settings import Settings
from node.study import Stage
from tests.node import work


def test_what_was_written_is_there_after_opening_again(ledger_url: str, tmp_path: Path) -> None:
    """A restart finds the job where it was."""
    first = Ledger(ledger_url, tmp_path)
    job = work.queued_job(first)
    held = jobs.claim(first, job.job_id, Stage.PREPARE, 8)
    assert held
    assert jobs.advance(first, held, Stage.INFER)
    first.close()
    second = Ledger(ledger_url, tmp_path)
    assert jobs.get(second, job.job_id).stage is Stage.INFER
    second.close()


def test_a_ledger_of_a_newer_overread_is_refused(ledger: Ledger, ledger_url: str) -> None:
    """A downgrade does not write into tables it does not know."""
    with ledger.writing() as connection:
        connection.execute(sa.update(schema.META).values(value=str(schema.VERSION + 1)))
    with pytest.raises(Misconfigured, match="install that version again"):
        Ledger(ledger_url, ledger.data_dir)


def test_a_ledger_of_an_older_overread_is_refused_with_what_to_do(ledger: Ledger, ledger_url: str) -> None:
    """Columns that are not there are not found out one by one while images come in."""
    with ledger.writing() as connection:
        connection.execute(sa.update(schema.META).values(value=str(schema.VERSION - 1)))
    with pytest.raises(Misconfigured, match=r"move .* away and run `overread ledger rebuild`"):
        Ledger(ledger_url, ledger.data_dir)


def test_several_processes_may_create_it_at_once(ledger_url: str, tmp_path: Path) -> None:
    """`overread up` starts everything together."""
    spawn = multiprocessing.get_context("spawn")
    runners = [spawn.Process(target=_open, args=(ledger_url, tmp_path)) for _ in range(3)]
    for runner in runners:
        runner.start()
    for runner in runners:
        runner.join(60)
    assert [runner.exitcode for runner in runners] == [0, 0, 0]


def _open(url: str, folder: Path) -> None:
    ledger = Ledger(url, folder)
    with ledger.reading() as connection:
        connection.execute(sa.select(schema.JOBS)).all()
    ledger.close()


def test_a_forked_child_has_connections_of_its_own(ledger: Ledger) -> None:
    """Celery forks: a child that inherits an open ledger neither uses nor closes its parent's connections."""
    job = work.queued_job(ledger)
    child = os.fork()
    if child == 0:
        try:
            held = jobs.claim(ledger, job.job_id, Stage.PREPARE, 60)
            ledger.close()
            os._exit(0 if held else 1)
        except BaseException:  # noqa: BLE001 -- the child must end here
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert jobs.get(ledger, job.job_id).fence == 1
    assert jobs.claim(ledger, job.job_id, Stage.PREPARE, 60) is None


def test_a_database_that_is_away_is_retryable(tmp_path: Path) -> None:
    """An outage of PostgreSQL is waited out, and its password is not shown."""
    with pytest.raises(Retryable) as caught:
        Ledger(f"postgresql+psycopg://overread:secret@/none?host={tmp_path}", tmp_path)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("url", ["mysql://user:secret@host/db", "no url at all", "postgresql+psycopg://u:secret@host:port/db"])
def test_a_database_nobody_can_open_is_misconfigured(url: str, tmp_path: Path) -> None:
    """The message names the setting and shows no password."""
    with pytest.raises(Misconfigured, match=r"\[ledger\] url") as caught:
        Ledger(url, tmp_path)
    assert "secret" not in str(caught.value)


def test_the_file_is_its_user_s_alone(tmp_path: Path) -> None:
    """The index holds headers: nobody else on the host may read it, nor its side files."""
    ledger = open_ledger(Settings.model_validate({"node": {"data_dir": str(tmp_path)}}))
    work.queued_job(ledger)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.glob("ledger.sqlite*")}
    assert modes == {"ledger.sqlite": 0o600, "ledger.sqlite-wal": 0o600, "ledger.sqlite-shm": 0o600}
    ledger.close()


def test_sqlite_waits_for_the_disk_where_it_must(tmp_path: Path) -> None:
    """Moves are FULL, the index is NORMAL: it can be read again from the spool. Ref: sqlite.org/pragma synchronous."""
    ledger = Ledger("sqlite", tmp_path)
    with ledger.writing() as connection:
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 2
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
    with ledger.writing(index=True) as connection:
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 1
    ledger.close()


def test_limits_come_from_the_settings(tmp_path: Path) -> None:
    """Attempts and time limits are the site's."""
    workers = {"max_attempts": 5, "time_limit_s": {"prepare": 7, "infer": 8, "compose": 9, "deliver": 10}}
    settings = Settings.model_validate({"node": {"data_dir": str(tmp_path)}, "workers": workers})
    ledger = open_ledger(settings)
    assert (ledger.limits.max_attempts, ledger.limits.time_limit_s["infer"]) == (5, 8)
    ledger.close()
