"""Memory of device and host: what is free, whether an error means that it ran out, and giving it back."""

from __future__ import annotations

import ctypes
import gc
import sys
import traceback
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from models.execution import Need

GIB = 1024**3
# Of what is free: the rest is for what an estimate forgets, and for the other processes of this host.
USABLE = 0.9
# "CUDA error: out of memory" and the like are memory, whatever else they sound like.
RAN_OUT = (
    "out of memory",
    "CUDNN_STATUS_ALLOC_FAILED",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "can't allocate memory",
    "not enough memory",
    "Failed to allocate memory",
    "smaller than requested bytes",
    "Cannot allocate memory",
    "bad_alloc",
    "bad allocation",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """Bytes free, or altogether, on a device and on this host; None where this system does not tell.

    A processor has no memory besides the host's: its `device` is 0.
    """

    device: int | None
    host: int | None

    def holds(self, need: Need, device: str) -> bool:
        """Tell whether a prediction that needs this fits, the margin kept."""
        if device == "cpu":
            return _fits(need.device + need.host, self.host)
        return _fits(need.device, self.device) and _fits(need.host, self.host)


def _fits(needed: int, there: int | None) -> bool:
    return there is None or needed <= USABLE * there


def free(device: str) -> Room:
    """Give what is free now; what this process has reserved on the device and does not use counts."""
    return Room(device=_on_device(device)[0], host=_host_free())


def whole(device: str) -> Room:
    """Give what there is altogether, whoever uses it."""
    return Room(device=_on_device(device)[1], host=_host_whole())


def _on_device(device: str) -> tuple[int, int]:
    if device == "cpu":
        return 0, 0
    import torch  # noqa: PLC0415 -- see the package's docstring

    there, altogether = torch.cuda.mem_get_info(device)
    return there + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device), altogether


def used(device: str, status: Path = Path("/proc/self/status")) -> int:
    """Give the bytes that this process takes: its tensors on a device, all that is its own in the host's memory.

    0 on systems that do not tell. Ref: RssAnon, proc_pid_status(5).
    """
    if device == "cpu":
        return _meminfo("RssAnon", status) or 0
    import torch  # noqa: PLC0415

    return torch.cuda.memory_allocated(device)


def _host_free() -> int | None:
    known = [_meminfo("MemAvailable"), *(limit - used for limit, used in _control_groups())]
    return min((count for count in known if count is not None), default=None)


def _host_whole() -> int | None:
    known = [_meminfo("MemTotal"), *(limit for limit, _ in _control_groups())]
    return min((count for count in known if count is not None), default=None)


def _meminfo(key: str, path: Path = Path("/proc/meminfo")) -> int | None:
    """Read one line of the kernel's account, which it gives in kB, in bytes. Ref: proc_meminfo(5)."""
    with suppress(OSError, ValueError):
        for line in path.read_text(encoding="ascii").splitlines():
            if line.startswith(f"{key}:"):
                return int(line.split()[1]) * 1024
    return None


def _control_groups(root: Path = Path("/sys/fs/cgroup"), mine: Path = Path("/proc/self/cgroup")) -> list[tuple[int, int]]:
    """Give (limit, use) of every group with a limit that this process is in, itself or by its parents, in bytes.

    Pages of files that the kernel would drop first count as free. Ref: cgroups(7), of version 2 and version 1.
    """
    found = []
    with suppress(OSError):
        for line in mine.read_text(encoding="utf-8").splitlines():
            _number, controllers, path = line.split(":", 2)
            if controllers == "":
                places, names = _upwards(root, path), ("memory.max", "memory.current", "inactive_file")
            elif "memory" in controllers.split(","):
                places, names = _upwards(root / "memory", path), ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
            else:
                continue
            found += [entry for place in places if (entry := _limit(place, names)) is not None]
    return found


def _upwards(root: Path, path: str) -> Iterator[Path]:
    place = root / path.lstrip("/")
    yield place
    while place != root:
        place = place.parent
        yield place


def _limit(place: Path, names: tuple[str, str, str]) -> tuple[int, int] | None:
    """Read one group's limit and use; None where it has none (version 2 says "max")."""
    with suppress(OSError, ValueError):
        limit, used = (int((place / name).read_text(encoding="ascii")) for name in names[:2])
        stat = dict(line.split() for line in (place / "memory.stat").read_text(encoding="ascii").splitlines())
        return limit, max(0, used - int(stat.get(names[2], 0)))
    return None


def ran_out(error: BaseException) -> bool:
    """Tell whether an error, or what caused it, means that memory ran out, of a device or of the host."""
    import torch  # noqa: PLC0415

    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, torch.OutOfMemoryError | MemoryError):
            return True
        if isinstance(seen, RuntimeError | OSError) and any(words in str(seen) for words in RAN_OUT):
            return True
        seen = seen.__cause__ or seen.__context__  # what was raised "from None" came of it all the same
    return False


def let_go(error: BaseException) -> None:
    """Empty the frames that an error holds: the arrays in them are what there was no room beside."""
    seen: BaseException | None = error
    while seen is not None:
        traceback.clear_frames(seen.__traceback__)
        seen = seen.__cause__ or seen.__context__


def give_back() -> None:
    """Return what nobody uses any more to the device and to the system."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()
    # glibc keeps freed memory for itself; other systems have no such call.
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def gigabytes(count: int | None) -> str:
    """Say bytes as people read them: 12.5 GB, of 2**30 bytes as the tools of administrators count."""
    return "an unknown amount" if count is None else f"{count / GIB:.1f} GB"


def budget(device: str, given_gb: float | None) -> int | None:
    """Give the bytes that warm models may take on a device: the setting, else half of a GPU or a quarter of this host's memory."""
    if given_gb is not None:
        return int(given_gb * GIB)
    room = whole(device)
    if device == "cpu":
        # Several workers, the broker and the archive's images share it.
        return None if room.host is None else room.host // 4
    return None if room.device is None else room.device // 2
