"""Which device a stage runs on, one job at a time on each, and the models kept warm there.

torch is imported inside the functions: the parent of a prefork worker must never have it, or its children hang.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from models.card import ShelvedCard
from models.vocabulary import Model
from node.errors import Misconfigured, Retryable

POLL_S = 0.05
_warm: dict[tuple[str, str], Model] = {}


def devices(wanted: Sequence[str]) -> tuple[str, ...]:
    """Resolve the setting `devices`: "auto" is every CUDA device, or the CPU where there is none.

    Raises Misconfigured for a device that this machine or this torch does not have.
    """
    import torch  # noqa: PLC0415 -- see the module's docstring

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


def set_threads(threads: int) -> None:
    """Bound torch's own threads; 0 leaves its choice."""
    import torch  # noqa: PLC0415

    if threads:
        torch.set_num_threads(threads)


@contextmanager
def lease(run_dir: Path, names: Sequence[str], wait_s: float) -> Iterator[str]:
    """Hold one free device of this host until the block ends; raises Retryable when none frees up in time.

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


def warm(shelved: ShelvedCard, device: str) -> Model:
    """Give the loaded model, from this process's memory when it has it; raises BadCard, Retryable."""
    from models import registry  # noqa: PLC0415

    key = (shelved.digest, device)
    if key not in _warm:
        with memory_bounds(device):
            _warm[key] = registry.load(shelved, device)
    return _warm[key]


@contextmanager
def memory_bounds(device: str) -> Iterator[None]:
    """Turn "out of memory" into Retryable, with the cache emptied so that the next attempt starts clean."""
    import torch  # noqa: PLC0415

    try:
        yield
    except torch.OutOfMemoryError as error:
        _warm.clear()
        torch.cuda.empty_cache()
        raise Retryable(f"the memory of {device} ran out; the job tries again") from error
    except MemoryError as error:
        _warm.clear()
        raise Retryable("this host's memory ran out; the job tries again") from error
