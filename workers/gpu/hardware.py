"""Which device a stage runs on, what it can do, and one job at a time on each."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Literal

from models.execution import Precision
from node.errors import Misconfigured, Retryable

POLL_S = 0.05
ASK_S = 120.0
NVIDIA = "nvidia[0-9]*"
OPEN = frozenset({"auto", "cuda"})
# From this compute capability on the hardware multiplies matrices in half precision (tensor cores).
HALF_FROM = (7, 0)
Wanted = Literal["auto", "float32", "float16"]


def devices(wanted: Sequence[str]) -> tuple[str, ...]:
    """Resolve the setting `devices`: "auto" is every CUDA device, or the CPU where there is none.

    Raises Misconfigured for a device that this machine or this torch does not have.
    """
    import torch  # noqa: PLC0415 -- see the package's docstring

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    cuda = [f"cuda:{number}" for number in range(count)]
    found: list[str] = []
    for name in wanted:
        if name == "auto":
            found += cuda or ["cpu"]
        elif name == "cuda":
            found += cuda or _absent(name, count)
        elif name == "cpu" or name in cuda:
            found.append(name)
        else:
            _absent(name, count)
    return tuple(dict.fromkeys(found))


def _absent(name: str, count: int) -> list[str]:
    raise Misconfigured(
        f'[workers] devices names {name!r}, but torch sees {count} CUDA device(s) here; use "auto", "cpu" or cuda:0..{count - 1}'
    )


def processes(wanted: Sequence[str], nodes: Path = Path("/dev")) -> int:
    """Count the devices for a worker's parent, which must not import torch: one process a device.

    Where the machine has several GPUs and the setting leaves open which, another process asks torch.
    nodes  the folder of device nodes. Raises Misconfigured where that process cannot say.
    """
    if not OPEN & set(wanted):
        return len(set(wanted))
    if set(wanted) <= OPEN and len(list(nodes.glob(NVIDIA))) < 2:
        return 1
    return len(_ask(wanted))


def _ask(wanted: Sequence[str]) -> tuple[str, ...]:
    code = "import sys; from workers.gpu import devices; print(*devices(sys.argv[1:]))"
    try:
        told = subprocess.run(  # noqa: S603 -- our own program; names of devices come from the settings
            [sys.executable, "-c", code, *wanted], capture_output=True, text=True, check=True, timeout=ASK_S
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise Misconfigured("torch cannot say which GPUs are here; run `overread check`, or name them in [workers] devices") from error
    return tuple(told.stdout.split())


def precision(device: str, wanted: Wanted) -> Precision:
    """Give the precision to begin with on a device; raises Misconfigured where "float16" is wanted and the hardware has none."""
    if wanted == "float32":
        return "float32"
    if has_half(device):
        return "float16"
    if wanted == "float16":
        raise Misconfigured(
            f'[workers] precision = "float16", but {device} does not compute in half precision; set "auto" to use it where it is to be had'
        )
    return "float32"


def has_half(device: str) -> bool:
    """Tell whether the hardware multiplies in half precision. A processor does not: there it would be fifty times slower."""
    import torch  # noqa: PLC0415

    return device.startswith("cuda") and torch.cuda.get_device_capability(device) >= HALF_FROM


def set_threads(threads: int) -> None:
    """Bound torch's own threads; 0 leaves its choice."""
    import torch  # noqa: PLC0415

    if threads:
        torch.set_num_threads(threads)


@cache
def home(run_dir: Path, names: tuple[str, ...]) -> str:
    """Give the device that this process is to prefer until it ends: the first that no other process of this host has taken.

    So two processes keep their models warm on two devices, and neither on both. Where there are more processes than devices
    the rest prefer the first.
    """
    run_dir.mkdir(parents=True, exist_ok=True)
    for name in names:
        # Never closed: the kernel lets go when the process dies.
        if _lock(run_dir / f"home-{name.replace(':', '')}.lock") is not None:
            return name
    return names[0]


@contextmanager
def lease(run_dir: Path, names: Sequence[str], wait_s: float) -> Iterator[str]:
    """Hold the first free device of this host until the block ends; raises Retryable when none frees up in time.

    The lock is the kernel's (flock), so a killed process gives its device back by dying.
    """
    run_dir.mkdir(parents=True, exist_ok=True)
    give_up = time.monotonic() + wait_s
    while True:
        for name in names:
            descriptor = _lock(run_dir / f"device-{name.replace(':', '')}.lock")
            if descriptor is not None:
                try:
                    yield name
                finally:
                    os.close(descriptor)
                return
        if time.monotonic() > give_up:
            raise Retryable(f"no free device among {', '.join(names)}")
        time.sleep(POLL_S)


def _lock(path: Path) -> int | None:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor
