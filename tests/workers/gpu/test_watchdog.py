"""A process that hangs ends, with the job given back first."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from workers.gpu import watchdog

ROOT = Path(__file__).parents[3]
HANG = """
import ctypes, sys, time, threading
from tests.runtimes import planted
from workers.gpu import watchdog
watchdog.GRACE_S = 0
stall_s, limit_s, after = float(sys.argv[1]), float(sys.argv[2]), sys.argv[3]

def give_up(reason):
    print(reason, flush=True)
    if after == "ledger away":
        raise OSError

with watchdog.Watchdog(watchdog.Patience(stall_s=stall_s, limit_s=limit_s), give_up) as dog:
    if after == "busy":
        threading.Thread(target=lambda: [(dog.tell(0.5), time.sleep(0.1)) for _ in range(600)], daemon=True).start()
    if after == "locked":
        watchdog.LOCKED_S = 1
        dog.tell(0.5)
        ctypes.PyDLL(None).sleep(600)
    planted._hang()
"""


def _hang(stall_s: float, limit_s: float, after: str = "") -> tuple[int, list[str]]:
    """Give the exit code and the lines of a process that hangs: the reason, then the journal."""
    command = [sys.executable, "-c", HANG, str(stall_s), str(limit_s), after]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    return ended.returncode, ended.stdout.splitlines()


@pytest.mark.parametrize("after", ["", "ledger away"])
def test_a_call_that_never_returns_ends_the_process(after: str) -> None:
    """An endless loop inside torch: the job is given back with the reason and the process leaves with its code, also without a ledger."""
    code, lines = _hang(1, 600, after)
    assert (code, lines[0]) == (watchdog.HUNG, "the model made no progress for 1 s, and the worker's process was replaced")
    assert "process.leaves" in lines[-1]


def test_progress_does_not_extend_the_stages_limit() -> None:
    """A model that tells progress for ever is ended at the limit."""
    code, lines = _hang(600, 1, "busy")
    assert (code, lines[0]) == (watchdog.HUNG, "the model ran past the limit of 1 s, and the worker's process was replaced")


def test_a_call_that_keeps_pythons_lock_ends_the_process_too() -> None:
    """Where no thread of Python gets to run, the process still leaves, a little later and without having given the job back."""
    assert _hang(1, 600, "locked") == (1, [])


def test_a_model_that_works_is_left_alone() -> None:
    """Within its patience nothing is given back, and the thread ends with the block."""
    given_back: list[str] = []
    with watchdog.Watchdog(watchdog.Patience(stall_s=60, limit_s=60), given_back.append) as dog:
        dog.tell(0.5)
    assert not dog._thread.is_alive()
    assert given_back == []


@pytest.mark.parametrize(
    "words",
    [
        "CUDA error: device-side assert triggered",
        "CUDA error: an illegal memory access was encountered",
        "CUDA error: unspecified launch failure",
        "CUDA error: uncorrectable ECC error encountered",
        "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR",
        "CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm`",
    ],
)
def test_a_lost_device_is_known_by_its_words(words: str) -> None:
    """Faults after which a CUDA context is of no use are told from memory and from the model's own errors."""
    with pytest.raises(watchdog.Poisoned, match="cuda:0 failed"):
        watchdog.raise_if_poisoned(RuntimeError(words), "cuda:0")
    watchdog.raise_if_poisoned(RuntimeError("CUDA error: out of memory"), "cuda:0")
    watchdog.raise_if_poisoned(RuntimeError("mat1 and mat2 shapes cannot be multiplied"), "cuda:0")
    watchdog.raise_if_poisoned(ValueError(words), "cuda:0")
