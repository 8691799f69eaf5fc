"""The end of a process that hangs, or whose device is broken: it leaves, and Celery's parent starts another.

A hung call cannot be broken off from within, and after a fault on a CUDA device nothing works there until the process has
ended. So the job is given back first, with its reason, and the process ends without a word to anybody else.
"""

from __future__ import annotations

import faulthandler
import os
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import NoReturn, Self

from node import journal
from node.errors import Retryable

log = journal.get("gpu")
HUNG, POISONED = 70, 71
"""Exit codes, for whoever reads the journal of the parent."""
# Celery's soft limit ends what still answers; this comes after it and before its hard one (workers.app).
GRACE_S = 5.0
LOOK_S = 0.5
# How much longer a process may take whose threads cannot run: giving a job back waits for a busy ledger.
LOCKED_S = 60.0
# After these a CUDA context is lost, or cannot be trusted. Memory that ran out is asked for first (memory.ran_out).
POISON = (
    "device-side assert",
    "illegal memory access",
    "misaligned address",
    "unspecified launch failure",
    "uncorrectable ECC",
    "CUDA error",
    "CUDA driver error",
    "cuDNN error",
    "CUDNN_STATUS_",
    "CUBLAS_STATUS_",
    "CUFFT_",
    "CUDA failure",  # these three as ONNX Runtime says it
    "CUDNN failure",
    "CUBLAS failure",
)


class Poisoned(Retryable):
    """The device of this process does not work any more: give the job back and leave."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """stall_s: how long a model may show no progress; limit_s: how long the stage may take altogether."""

    stall_s: float
    limit_s: float


def raise_if_poisoned(error: BaseException, device: str) -> None:
    """Raise Poisoned where an error, or what caused it, says that the device is lost; memory that ran out is another matter."""
    from workers.gpu import memory  # noqa: PLC0415 -- torch comes with the question

    seen: BaseException | None = None if memory.ran_out(error) else error
    while seen is not None:
        told = str(seen) if isinstance(seen, RuntimeError) else ""
        for words in POISON:
            if words in told:
                raise Poisoned(f"{device} failed ({words}), and the worker's process was replaced") from error
        seen = seen.__cause__ or seen.__context__


def leave(code: int, reason: str) -> NoReturn:
    """End this process at once, without a clean-up that might hang too."""
    log.error("process.leaves", alert=True, code=code, reason=reason)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


class Watchdog:
    """A thread that ends the process when a model hangs. Use as a context manager, and `tell` progress.

    give_up  gives the job back with the reason; whatever it raises, the process ends. A call that keeps Python's lock stops
             this thread too: then the lease runs out, and a thread that needs no lock (faulthandler) ends the process a little
             later, with exit code 1 and the places of all threads on stderr.
    """

    def __init__(self, patience: Patience, give_up: Callable[[str], object]) -> None:
        self._patience = patience
        self._give_up = give_up
        self._ended = threading.Event()
        self._told_at = 0.0
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def __enter__(self) -> Self:
        self.tell(0)
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._ended.set()
        self._thread.join()
        faulthandler.cancel_dump_traceback_later()

    def tell(self, _part: float) -> None:
        """Note that the model still works."""
        self._told_at = time.monotonic()
        if sys.__stderr__ is not None:
            faulthandler.dump_traceback_later(self._patience.stall_s + LOCKED_S, exit=True, file=sys.__stderr__)

    def _watch(self) -> None:
        end = time.monotonic() + self._patience.limit_s + GRACE_S
        while not self._ended.wait(LOOK_S):
            now = time.monotonic()
            if now - self._told_at > self._patience.stall_s:
                self._end_with(f"the model made no progress for {self._patience.stall_s:.0f} s, and the worker's process was replaced")
            elif now > end:
                self._end_with(f"the model ran past the limit of {self._patience.limit_s:.0f} s, and the worker's process was replaced")

    def _end_with(self, reason: str) -> None:
        try:
            self._give_up(reason)
        except Exception as error:  # noqa: BLE001 -- the lease ends by itself; what hangs must not stay
            log.warning("job.not_given_back", error=type(error).__name__)
        if not self._ended.is_set():
            leave(HUNG, reason)
