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

ROOT = Path(__file__).parents[3]


def test_auto_is_the_cpu_where_there_is_no_cuda_device() -> None:
    """The setting "auto" resolves to every CUDA device, or to the CPU alone; a device named twice counts once."""
    wanted = tuple(f"cuda:{number}" for number in range(torch.cuda.device_count())) or ("cpu",)
    assert gpu.devices(("auto", "auto")) == wanted


def test_a_worker_has_one_process_a_device_and_its_parent_never_asks_torch(tmp_path: Path) -> None:
    """Named devices are counted, one GPU or none is one process; of several another process asks torch."""
    assert gpu.processes(("cuda:0", "cuda:1", "cuda:0")) == 2
    assert gpu.processes(("auto",), nodes=tmp_path) == 1
    (tmp_path / "nvidia0").touch()
    (tmp_path / "nvidiactl").touch()
    code = "import sys; from pathlib import Path; from workers import gpu; print(gpu.processes(('auto',), Path(sys.argv[1]))); "
    code += "sys.exit('torch' in sys.modules)"
    command = [sys.executable, "-c", code, str(tmp_path)]
    assert subprocess.run(command, check=True, cwd=ROOT, capture_output=True, text=True).stdout == "1\n"
    (tmp_path / "nvidia1").touch()
    found = len(gpu.devices(("auto",)))
    assert subprocess.run(command, check=True, cwd=ROOT, capture_output=True, text=True).stdout == f"{found}\n"


def test_two_processes_prefer_two_devices(tmp_path: Path) -> None:
    """Each process keeps to the device it took first; a third, without one of its own, prefers the first."""
    code = "import sys, time; from pathlib import Path; from workers import gpu\n"
    code += f"print(gpu.home(Path({str(tmp_path)!r}), ('cuda:0', 'cuda:1')), flush=True); time.sleep(60)"
    others = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, cwd=ROOT) for _ in range(2)]
    try:
        assert sorted(line.stdout.readline() for line in others if line.stdout) == [b"cuda:0\n", b"cuda:1\n"]
        assert gpu.home(tmp_path, ("cuda:0", "cuda:1")) == "cuda:0"
    finally:
        for process in others:
            process.kill()
            process.communicate()


def test_half_precision_is_refused_where_the_hardware_has_none() -> None:
    """A processor computes in single precision under "auto", and "float16" names the setting instead of running for hours."""
    assert gpu.precision("cpu", "auto") == "float32"
    with pytest.raises(Misconfigured, match="precision"):
        gpu.precision("cpu", "float16")


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
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, cwd=ROOT)
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
