"""Devices: choice, and one job at a time on each."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from node.errors import Misconfigured, Retryable
from workers import gpu


def test_auto_is_the_cpu_where_there_is_no_cuda_device() -> None:
    """The setting "auto" resolves to every CUDA device, or to the CPU alone; a device named twice counts once."""
    wanted = tuple(f"cuda:{number}" for number in range(torch.cuda.device_count())) or ("cpu",)
    assert gpu.devices(("auto", "auto")) == wanted


def test_a_device_that_is_not_there_is_misconfigured() -> None:
    """A named device that torch does not see stops with the setting's name, instead of running elsewhere."""
    with pytest.raises(Misconfigured, match="devices"):
        gpu.devices(("cuda:17",))


def test_one_device_serves_one_holder_and_two_serve_two(tmp_path: Path) -> None:
    """A second holder gets another free device, and Retryable where there is none."""
    with gpu.lease(tmp_path, ("cuda:0", "cuda:1"), 0) as first, gpu.lease(tmp_path, ("cuda:0", "cuda:1"), 0) as second:
        assert {first, second} == {"cuda:0", "cuda:1"}
        with pytest.raises(Retryable), gpu.lease(tmp_path, ("cuda:0", "cuda:1"), 0.1):
            pass
    with gpu.lease(tmp_path, ("cuda:0",), 0) as again:
        assert again == "cuda:0"


def test_a_killed_holder_gives_its_device_back(tmp_path: Path) -> None:
    """Kill -9 of the process that holds a device frees it at once: the kernel holds the lock, no file does."""
    code = (
        "import sys, time; from pathlib import Path; from workers import gpu\n"
        f"with gpu.lease(Path({str(tmp_path)!r}), ('cpu',), 0): print('held', flush=True); time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, cwd=Path(__file__).parents[2])
    assert process.stdout is not None
    with process.stdout:
        assert process.stdout.readline() == b"held\n"
        with pytest.raises(Retryable), gpu.lease(tmp_path, ("cpu",), 0.1):
            pass
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    with gpu.lease(tmp_path, ("cpu",), 5) as device:
        assert device == "cpu"


def test_the_error_of_a_job_is_not_swallowed_by_the_lease(tmp_path: Path) -> None:
    """An error inside the block passes through, and the device is free after it."""
    with pytest.raises(BlockingIOError), gpu.lease(tmp_path, ("cpu",), 0):
        raise BlockingIOError
    with gpu.lease(tmp_path, ("cpu",), 0):
        pass
