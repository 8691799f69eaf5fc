"""Fixtures of the DICOM side: a ledger on each database, a clock that only moves when told."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from node.ledger import Ledger
from tests.node import databases


@dataclass
class Clock:
    """Seconds since the epoch, under the test's hand."""

    now: float = 1_700_000_000.0

    def __call__(self) -> float:
        """Give the time."""
        return self.now


@pytest.fixture
def clock() -> Clock:
    """Give a clock that only moves when told."""
    return Clock()


@pytest.fixture(scope="session")
def postgresql() -> Iterator[str]:
    """Give the URL of a PostgreSQL server, one for the whole run."""
    with databases.server() as url:
        yield url


@pytest.fixture(params=databases.KINDS)
def ledger_url(request: pytest.FixtureRequest) -> Iterator[str]:
    """Give the URL of an empty database, of each kind."""
    if request.param == "sqlite":
        yield "sqlite"
        return
    with databases.own_schema(request.getfixturevalue("postgresql")) as url:
        yield url


@pytest.fixture
def ledger(ledger_url: str, tmp_path: Path, clock: Clock) -> Iterator[Ledger]:
    """Give an empty ledger, on each kind of database."""
    opened = Ledger(ledger_url, tmp_path / "data", clock)
    yield opened
    opened.close()
