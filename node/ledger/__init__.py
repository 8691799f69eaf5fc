"""The ledger: what is known of instances, revisions, jobs and deliveries; only moves write.

A move is one UPDATE ... WHERE state AND fence inside a transaction, so that any number of
processes may try it and exactly one succeeds. SQLite serves one host on a local disk, PostgreSQL several.
"""

from __future__ import annotations

import os
import sqlite3
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine

from node.errors import Misconfigured, Retryable
from node.ledger import schema
from node.settings import Settings
from node.settings_workers import WorkersSection

BUSY_TIMEOUT_S = 30
_READING = "overread_reading"


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What bounds a job: claims of one stage, and seconds of one stage whatever its heartbeat says."""

    max_attempts: int = 3
    time_limit_s: Mapping[str, float] = field(default_factory=lambda: MappingProxyType(dict(WorkersSection().time_limit_s)))


class Ledger:
    """A database of states; `url` is "sqlite" (a file in `data_dir`) or a postgresql+psycopg URL.

    Creates what is missing; raises Misconfigured on another schema, Retryable while the database is away.
    Safe to use from threads, from several processes, and after a fork.
    """

    def __init__(self, url: str, data_dir: Path, clock: Callable[[], float] = time.time, limits: Limits | None = None) -> None:
        self.data_dir = data_dir
        self.clock = clock
        self.opened_at = clock()
        self.limits = limits or Limits()
        self.sqlite = url == "sqlite"
        if self.sqlite:
            data_dir.mkdir(parents=True, exist_ok=True)
            file = data_dir / "ledger.sqlite"
            # Headers are in it: for this user only. SQLite gives its side files the same mode.
            file.touch(mode=0o600)
            self.engine = _sqlite_engine(file, "FULL")
            # The index can be read again from the spool: its commits need not wait for the disk.
            self.index_engine = _sqlite_engine(file, "NORMAL")
        else:
            self.engine = _server_engine(url)
            self.index_engine = self.engine
        _forget_after_fork(self.engine, self.index_engine)
        try:
            self._create()
        except BaseException:
            self.close()
            raise

    @contextmanager
    def writing(self, *, index: bool = False) -> Iterator[Connection]:
        """Open a transaction that writes; commits at the end, rolls back on an exception."""
        with _away_is_retryable(), (self.index_engine if index else self.engine).begin() as connection:
            yield connection

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """Open a transaction that only reads: one consistent view, never waits for a writer."""
        with _away_is_retryable(), self.engine.connect().execution_options(**{_READING: True}) as connection, connection.begin():
            yield connection

    def lock(self, connection: Connection, names: Iterable[str]) -> None:
        """Keep other writers off what these names stand for until the transaction ends (SQLite: the transaction itself does)."""
        if not self.sqlite:
            for name in sorted(set(names)):
                connection.execute(sa.select(sa.func.pg_advisory_xact_lock(sa.func.hashtextextended(name, 0))))

    def insert(self, table: sa.Table) -> Any:
        """Give an INSERT that knows on_conflict_do_nothing and on_conflict_do_update."""
        if self.sqlite:
            from sqlalchemy.dialects.sqlite import insert  # noqa: PLC0415 -- one dialect of two
        else:
            from sqlalchemy.dialects.postgresql import insert  # type: ignore[assignment]  # noqa: PLC0415
        return insert(table)

    def close(self) -> None:
        """Give every connection back to the system."""
        self.engine.dispose()
        self.index_engine.dispose()

    def _create(self) -> None:
        with self.writing() as connection:
            self.lock(connection, ["overread schema"])
            version = None
            if sa.inspect(connection).has_table("meta"):
                version = connection.execute(sa.select(schema.META.c.value).where(schema.META.c.key == "schema")).scalar()
            if version is not None and int(version) > schema.VERSION:
                raise Misconfigured(
                    f"a newer Overread wrote the ledger (schema {version}, this one knows {schema.VERSION}); install that version again"
                )
            if version is not None and int(version) < schema.VERSION:
                place = "the ledger.sqlite files in the data folder" if self.sqlite else "its tables"
                raise Misconfigured(
                    f"an older Overread wrote the ledger (schema {version}, this one knows {schema.VERSION}): "
                    f"move {place} away and run `overread ledger rebuild`, which reads the images again"
                )
            if version is None:
                schema.METADATA.create_all(connection)
                connection.execute(self.insert(schema.META).values(key="schema", value=str(schema.VERSION)).on_conflict_do_nothing())


def open_ledger(settings: Settings, clock: Callable[[], float] = time.time) -> Ledger:
    """Open the ledger the settings name."""
    limits = Limits(max_attempts=settings.workers.max_attempts, time_limit_s=dict(settings.workers.time_limit_s))
    return Ledger(settings.ledger.url.get_secret_value(), settings.data_dir, clock, limits)


@contextmanager
def _away_is_retryable() -> Iterator[None]:
    try:
        yield
    except (sa.exc.OperationalError, sa.exc.InterfaceError, sa.exc.TimeoutError) as error:
        raise Retryable(f"the ledger does not answer: {type(error.__cause__ or error).__name__}") from error


def _sqlite_engine(file: Path, synchronous: str) -> Engine:
    engine = sa.create_engine(f"sqlite:///{file}", connect_args={"timeout": BUSY_TIMEOUT_S}, pool_size=8, max_overflow=24)

    @sa.event.listens_for(engine, "connect")
    def _configure(connection: Any, _record: Any) -> None:
        connection.isolation_level = None
        connection.execute(f"PRAGMA busy_timeout={BUSY_TIMEOUT_S * 1000}").close()
        _switch_to_wal(connection)
        connection.execute(f"PRAGMA synchronous={synchronous}").close()
        connection.execute("PRAGMA foreign_keys=ON").close()

    @sa.event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        # IMMEDIATE takes the write lock first: a transaction that reads, then writes, can never find itself out of date.
        connection.exec_driver_sql("BEGIN" if connection.get_execution_options().get(_READING) else "BEGIN IMMEDIATE")

    return engine


def _switch_to_wal(connection: sqlite3.Connection) -> None:
    """Turn the write-ahead log on; SQLite's own busy time-out does not cover that first switch. Ref: sqlite.org/wal 2.2."""
    deadline = time.monotonic() + BUSY_TIMEOUT_S
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL").close()
        except sqlite3.OperationalError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.01)
        else:
            return


def _server_engine(url: str) -> Engine:
    try:
        parsed = sa.make_url(url)
        engine = sa.create_engine(parsed, pool_pre_ping=True, pool_size=8, max_overflow=24)
    except (sa.exc.ArgumentError, ValueError, ImportError) as error:
        what = str(error) if isinstance(error, ImportError) else "it cannot be read as a URL"
        raise Misconfigured(f"[ledger] url is not a database Overread can open ({what}); use sqlite or postgresql+psycopg://") from None
    if parsed.drivername != "postgresql+psycopg":
        raise Misconfigured(f"[ledger] url names {parsed.drivername}; use sqlite or postgresql+psycopg://")
    return engine


def _forget_after_fork(*engines: Engine) -> None:
    """Leave the parent's connections to the parent: a forked child opens its own."""
    kept = [weakref.ref(engine) for engine in engines]

    def in_child() -> None:
        for reference in kept:
            engine = reference()
            if engine is not None:
                engine.dispose(close=False)

    os.register_at_fork(after_in_child=in_child)
