"""The index follows what was acknowledged, whatever the ledger does meanwhile."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from pydicom.uid import CTImageStorage, generate_uid

from node.errors import Retryable
from node.ledger import Ledger, instances, open_ledger
from node.listener import indexer
from node.settings import Settings
from node.spool import Spool
from tests.node.listening import indexed, listening, soon
from tests.node.raw import Caller
from tests.node.wire import command, ct, encoded


def test_restart_indexes_what_was_acknowledged(tmp_path: Path) -> None:
    """What was acknowledged but not indexed when the process died is indexed by the next start, and by no later one."""
    sets = [ct(StudyInstanceUID="1.2.77") for _ in range(3)]
    spool = Spool(tmp_path)
    for ds in sets:
        spool.store(command(ds), encoded(ds))
    with listening(tmp_path) as listener:
        soon(lambda: len(indexed(listener, "1.2.77")) == 3)
        assert listener._indexer.indexed == 3
    with listening(tmp_path) as listener:
        ds = ct(StudyInstanceUID="1.2.77")
        with Caller(listener.port) as caller:
            caller.associate()
            caller.store(CTImageStorage, ds.SOPInstanceUID, encoded(ds))
        soon(lambda: listener._indexer.indexed == 1)
        assert len(indexed(listener, "1.2.77")) + len(instances.study(listener._ledger, "1.2.77", 2).series) >= 4


class FailingLedger:
    """A ledger that is away for the first calls, then is the real one."""

    def __init__(self, real: Ledger, failures: list[Exception]) -> None:
        self._real = real
        self._failures = failures

    def __getattr__(self, name: str) -> Any:
        """Fail as long as failures are left."""
        if name == "writing" and self._failures:
            raise self._failures.pop(0)
        return getattr(self._real, name)


def test_ledger_away(tmp_path: Path) -> None:
    """A ledger that fails holds up no acknowledgement and loses nothing: indexing is tried until it works."""
    settings = Settings.model_validate({"node": {"data_dir": tmp_path}})
    real = open_ledger(settings)
    failing = FailingLedger(real, [Retryable("away"), Retryable("away"), Retryable("away")])
    ds = ct()
    with listening(tmp_path, ledger=failing) as listener, Caller(listener.port) as caller:
        caller.associate()
        assert caller.store(CTImageStorage, ds.SOPInstanceUID, encoded(ds)) == 0x0000
        soon(lambda: indexed(listener, ds.StudyInstanceUID))
        assert not failing._failures
    real.close()


def test_it_tells_how_far_it_is(tmp_path: Path) -> None:
    """While the ledger is away nothing counts as indexed that came since; afterwards all does, but for what the ledger will not take."""
    settings = Settings.model_validate({"node": {"data_dir": tmp_path}})
    real = open_ledger(settings)
    failing = FailingLedger(real, [])
    ds = ct()
    with listening(tmp_path, ledger=failing) as listener, Caller(listener.port) as caller:
        began = time.time()
        soon(lambda: listener._indexer.indexed_until > began)
        failing._failures.extend([Retryable("away")] * 5)
        caller.associate()
        asked = time.time()
        assert caller.store(CTImageStorage, ds.SOPInstanceUID, encoded(ds)) == 0x0000
        acknowledged = time.time()
        while failing._failures:
            assert asked - 1 < listener._indexer.indexed_until <= acknowledged
        soon(lambda: indexed(listener, ds.StudyInstanceUID))
        soon(lambda: listener._indexer.indexed_until > acknowledged)
    real.close()


def test_one_instance_the_ledger_will_not_take(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An instance that the ledger will not take does not hold up the others of its batch."""
    real = instances.index
    bad = generate_uid()

    def index(ledger: Ledger, batch: Any) -> int:
        if any(instance.sop_instance_uid == bad for instance in batch):
            raise ValueError("no")
        return real(ledger, batch)

    monkeypatch.setattr(instances, "index", index)
    sets = [ct(StudyInstanceUID="1.2.78") for _ in range(3)] + [ct(StudyInstanceUID="1.2.78", SOPInstanceUID=bad)]
    with listening(tmp_path) as listener, Caller(listener.port) as caller:
        caller.associate()
        for ds in reversed(sets):
            assert caller.store(CTImageStorage, ds.SOPInstanceUID, encoded(ds)) == 0x0000
        soon(lambda: len(indexed(listener, "1.2.78")) == 3)
        soon(lambda: listener.not_indexed == 1)
        now = time.time()
        soon(lambda: listener._indexer.indexed_until > now)


def test_queue_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """More instances than the queue holds are left to a rescan of incoming/, not to memory, and are indexed all the same."""
    monkeypatch.setattr(indexer, "QUEUE_MAX", 2)
    settings = Settings.model_validate({"node": {"data_dir": tmp_path}})
    real = open_ledger(settings)
    failing = FailingLedger(real, [Retryable("away")] * 3)
    sets = [ct(StudyInstanceUID="1.2.79") for _ in range(12)]
    with listening(tmp_path, ledger=failing) as listener, Caller(listener.port) as caller:
        caller.associate()
        for ds in sets:
            assert caller.store(CTImageStorage, ds.SOPInstanceUID, encoded(ds)) == 0x0000
        soon(lambda: len(indexed(listener, "1.2.79")) == 12)
    real.close()


def test_stop_writes_what_is_queued(tmp_path: Path) -> None:
    """What was acknowledged before stop() is in the ledger after it."""
    sets = [ct(StudyInstanceUID="1.2.80") for _ in range(30)]
    with listening(tmp_path) as listener, Caller(listener.port) as caller:
        caller.associate()
        for ds in sets:
            caller.store(CTImageStorage, ds.SOPInstanceUID, encoded(ds))
        listener.stop()
        assert len(indexed(listener, "1.2.80")) == 30
