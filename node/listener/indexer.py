"""Write received instances to the ledger, in batches, behind the acknowledgement's back.

The spool is the truth: what is not indexed when the process ends is found again in incoming/ at the next start.
"""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from dataclasses import dataclass
from itertools import islice
from math import inf

import sqlalchemy as sa

from node import journal
from node.errors import Retryable
from node.ledger import Ledger, instances, looks
from node.ledger.schema import INSTANCES
from node.spool import Spool
from node.study import Instance

log = journal.get("indexer")

BATCH, BATCH_WAIT_S = 200, 0.05
QUEUE_MAX = 50_000  # beyond it instances are left to a rescan, not to memory
RETRY_FIRST_S, RETRY_MAX_S = 0.1, 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """How an association ended that brought images of a study: a remark in the ledger, behind those images."""

    study_instance_uid: str
    calling_ae: str
    images: int
    released: bool
    at: float


class Indexer(threading.Thread):
    """The one writer of the instance index in this process. A ledger that fails is tried for ever, with back-off."""

    def __init__(self, ledger: Ledger, spool: Spool) -> None:
        super().__init__(name="indexer", daemon=True)
        self._ledger = ledger
        self._spool = spool
        self._queue: queue.Queue[Instance | Ended] = queue.Queue(QUEUE_MAX)
        self._rescan = threading.Event()
        self._rescan.set()
        self._ending = threading.Event()
        self._stuck: list[Instance] = []
        self._retry_at = self._rescan_at = inf
        self.indexed = 0
        self.indexed_until = 0.0
        """All that was acknowledged before is in the ledger, but for single images that it will not take."""

    def put(self, instance: Instance) -> None:
        """Queue an instance; never blocks."""
        try:
            self._queue.put_nowait(instance)
        except queue.Full:
            self._rescan.set()

    def remark(self, ended: Ended) -> None:
        """Queue a remark behind the instances it is about; never blocks, may be lost."""
        with contextlib.suppress(queue.Full):
            self._queue.put_nowait(ended)

    @property
    def waiting(self) -> int:
        """Give how many instances are not indexed yet."""
        return self._queue.qsize() + len(self._stuck)

    def run(self) -> None:
        """Index what the last run left in incoming/, then what arrives, until stop()."""
        while not (self._ending.is_set() and self._queue.empty()):
            if self._rescan.is_set() and not self._ending.is_set():
                self._rescan.clear()
                self._index_incoming()
            self._note_how_far()
            batch = self._batch()
            arrived = [entry for entry in batch if isinstance(entry, Instance)]
            if arrived and not self._write(arrived):
                return
            self._write_remarks([entry for entry in batch if isinstance(entry, Ended)])
            self._retry_stuck()

    def stop(self, within_s: float = 10) -> None:
        """Write what is queued, then end; what a failing ledger does not take is left to the next start."""
        self._ending.set()
        self.join(within_s)

    def _note_how_far(self) -> None:
        """Note what is indexed: all before the oldest that waits, all until now where nothing does. For this thread, which alone takes."""
        now = self._spool.clock()
        with self._queue.mutex:
            first = self._queue.queue[0] if self._queue.queue else None
        if not self._rescan.is_set():  # else some are in incoming/ alone
            came = now if first is None else first.at if isinstance(first, Ended) else first.received_at
            self.indexed_until = min(now, came)

    def _batch(self) -> list[Instance | Ended]:
        try:
            batch = [self._queue.get(timeout=BATCH_WAIT_S)]
        except queue.Empty:
            return []
        until = time.monotonic() + BATCH_WAIT_S
        while len(batch) < BATCH and (left_s := until - time.monotonic()) > 0:
            try:
                batch.append(self._queue.get(timeout=left_s))
            except queue.Empty:
                break
        return batch

    def _write(self, batch: list[Instance]) -> bool:
        """Index a batch, however long the ledger is away; False when the process ends first."""
        wait_s = RETRY_FIRST_S
        while True:
            try:
                instances.index(self._ledger, batch)
            except Retryable as error:
                log.warning("index.waits", reason=error.reason, waiting=self.waiting + len(batch), retry_s=wait_s)
                if self._ending.wait(wait_s):
                    return False
                wait_s = min(wait_s * 2, RETRY_MAX_S)
            except Exception as error:  # noqa: BLE001 -- whatever the database says, the files are safe
                self._one_by_one(batch, type(error).__name__)
                return True
            else:
                self.indexed += len(batch)
                return True

    def _write_remarks(self, remarks: list[Ended]) -> None:
        """Write how associations ended; what the ledger does not take is no loss."""
        for ended in {entry.study_instance_uid: entry for entry in remarks}.values():
            facts = {"calling_ae": ended.calling_ae, "images": ended.images, "released": ended.released, "at": ended.at}
            try:
                looks.sender_ended(self._ledger, ended.study_instance_uid, facts)
            except Exception as error:  # noqa: BLE001 -- whatever the database says
                log.warning("remark.lost", error=type(error).__name__)

    def _one_by_one(self, batch: list[Instance], error: str) -> None:
        """Index the others of a batch that the ledger will not take; the one at fault waits and is tried again, for ever."""
        if len(batch) > 1:
            for instance in batch:
                if not self._write([instance]):
                    return
            return
        log.error("index.failed", error=error, sop=batch[0].sop_instance_uid, retry_s=RETRY_MAX_S)
        if len(self._stuck) < BATCH:
            self._stuck.append(batch[0])
        else:
            self._rescan_at = time.monotonic() + RETRY_MAX_S
        self._retry_at = time.monotonic() + RETRY_MAX_S

    def _retry_stuck(self) -> None:
        now = time.monotonic()
        if now > self._rescan_at:
            self._rescan_at = inf
            self._rescan.set()
        if self._stuck and now > self._retry_at:
            stuck, self._stuck = self._stuck, []
            for instance in stuck:
                self._write([instance])

    def _index_incoming(self) -> None:
        """Index the files of incoming/ that the ledger does not know: only those are read."""
        begin, count = time.monotonic(), 0
        paths = self._spool.paths()
        while batch := list(islice(paths, BATCH)):
            unknown = self._unknown(batch)
            found = [instance for instance in map(self._spool.read, unknown) if instance is not None]
            if found and not self._write(found):
                return
            count += len(found)
        log.info("index.rescanned", instances=count, seconds=round(time.monotonic() - begin, 3))

    def _unknown(self, paths: list[str]) -> list[str]:
        query = sa.select(INSTANCES.c.path).where(INSTANCES.c.path.in_(paths), ~INSTANCES.c.removed)
        try:
            with self._ledger.reading() as connection:
                known = set(connection.scalars(query))
        except Exception as error:  # noqa: BLE001 -- indexing is idempotent: in doubt all of them
            log.error("index.failed", error=type(error).__name__, waiting=self.waiting, retry_s=0)  # noqa: TRY400 -- as above
            return paths
        return [path for path in paths if path not in known]
