"""A listener on a free port, with its ledger and spool."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from node.ledger import instances, open_ledger
from node.listener import Listener
from node.settings import Peer, Settings
from node.spool import Spool


def soon(condition: Callable[[], object], within_s: float = 30) -> None:
    """Wait until the condition holds."""
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.01)


@contextmanager
def listening(folder: Path, *, spool: Spool | None = None, ledger: Any = None, **node: Any) -> Iterator[Listener]:
    """Run a listener whose [node] settings are these."""
    settings = Settings.model_validate({"node": {"data_dir": folder, "port": 0, "free_disk_min_mb": 0, **node}})
    own = open_ledger(settings) if ledger is None else ledger
    listener = Listener(settings, own, spool or Spool(folder))
    listener.start()
    try:
        yield listener
    finally:
        listener.stop(grace_s=3)
        if ledger is None:
            own.close()


def us(listener: Listener, **changes: Any) -> Peer:
    """Describe the listener as a peer."""
    values = {"name": "us", "ae_title": "OVERREAD", "host": "127.0.0.1", "port": listener.port, "calling_ae": "MODALITY"}
    return Peer.model_validate({**values, **changes})


def indexed(listener: Listener, study_uid: str) -> list[Any]:
    """Give what the ledger holds of a study's first revision."""
    study = instances.study(listener._ledger, study_uid, 1)
    return [instance for series in study.series for instance in series.instances]
