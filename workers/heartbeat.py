"""Keep a claim's lease alive while its stage works, and tell the stage when the claim is lost."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from node import journal
from node.errors import Retryable

log = journal.get("heartbeat")


class LostLease(Retryable):
    """Somebody else may work on this by now: write nothing durable any more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rhythm:
    """lease_s: how long one renewal holds; renew_s: how often; limit_s: the stage's absolute end."""

    lease_s: float
    renew_s: float
    limit_s: float


class Heartbeat:
    """A thread that renews a lease. Use as a context manager; call `check` before every durable write.

    It never renews past the stage's limit, so that a stage that hangs (a GPU that never answers) loses its lease
    although the thread itself still lives.
    """

    def __init__(self, renew: Callable[[], bool], rhythm: Rhythm) -> None:
        self._renew = renew
        self._rhythm = rhythm
        self._ended = threading.Event()
        self._lost = threading.Event()
        self._good_until = 0.0
        self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)

    def __enter__(self) -> Self:
        self._good_until = time.monotonic() + self._rhythm.lease_s
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._ended.set()
        self._thread.join(timeout=self._rhythm.lease_s)

    def check(self) -> None:
        """Raise LostLease when the lease is not ours any more, or cannot be known to be."""
        if self._lost.is_set() or time.monotonic() > self._good_until:
            raise LostLease("the lease ran out while the stage worked")

    def _beat(self) -> None:
        end = time.monotonic() + self._rhythm.limit_s
        while not self._ended.wait(self._rhythm.renew_s):
            asked_at = time.monotonic()
            if asked_at > end:
                self._lost.set()
                return
            try:
                renewed = self._renew()
            except Exception as error:  # noqa: BLE001 -- the ledger may be away for a moment; `_good_until` decides
                log.warning("lease.renewal_failed", error=type(error).__name__)
                continue
            if not renewed:
                self._lost.set()
                return
            self._good_until = asked_at + self._rhythm.lease_s
