"""What is free, and which errors mean that it is not."""

from __future__ import annotations

import mmap
from pathlib import Path

import pytest
import torch

from models.execution import Need
from workers.gpu import memory

GIB = memory.GIB


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB"),
        torch.AcceleratorError("CUDA error: out of memory"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("std::bad_alloc"),
        MemoryError(),
        OSError(12, "Cannot allocate memory"),
    ],
)
def test_every_way_to_run_out_of_memory_is_known(error: Exception) -> None:
    """Device and host, torch, cuDNN, cuBLAS, numpy and C++: each is memory, also as the cause of another error."""
    assert memory.ran_out(error)
    outer = ValueError("a library's own words")
    outer.__cause__ = error
    assert memory.ran_out(outer)


def test_a_real_failed_allocation_is_known() -> None:
    """What torch raises on this host when it gets no memory counts."""
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60)
    assert memory.ran_out(caught.value)


@pytest.mark.parametrize("error", [RuntimeError("CUDA error: device-side assert triggered"), ValueError("out of memory"), KeyError("x")])
def test_other_errors_are_not_memory(error: Exception) -> None:
    """A broken device, and words in an error that no allocator raises, are not taken for it."""
    assert not memory.ran_out(error)


def test_what_is_free_is_less_than_the_whole_and_falls_when_memory_is_taken() -> None:
    """The host's free memory is positive, below the whole, and counts what this process takes."""
    room, whole = memory.free("cpu"), memory.whole("cpu")
    assert room.device == whole.device == 0
    assert room.host is not None
    assert whole.host is not None
    assert 0 < room.host < whole.host
    before, size = memory.used("cpu"), 256 << 20
    with mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as block:
        block.write(b"\1" * size)
        assert memory.used("cpu") - before > 0.9 * size
    assert memory.used("cpu") - before < 0.1 * size


def test_a_processors_prediction_needs_host_memory_for_both_parts() -> None:
    """On a processor device and host are one memory; on a GPU each must fit its own, and a tenth stays free."""
    room = memory.Room(device=8 * GIB, host=4 * GIB)
    assert room.holds(Need(device=7 * GIB, host=3 * GIB), "cuda:0")
    assert not room.holds(Need(device=int(7.5 * GIB), host=0), "cuda:0")
    assert not room.holds(Need(device=0, host=4 * GIB), "cuda:0")
    assert not memory.Room(device=0, host=4 * GIB).holds(Need(device=2 * GIB, host=2 * GIB), "cpu")
    assert memory.Room(device=None, host=None).holds(Need(device=GIB, host=GIB), "cuda:0")


def _group(place: Path, **files: object) -> None:
    place.mkdir(parents=True, exist_ok=True)
    for name, value in files.items():
        (place / name.replace("__", ".")).write_text(f"{value}\n")


def test_a_containers_limit_counts_with_those_of_its_parents(tmp_path: Path) -> None:
    """Version 2: the limit of the group or of any parent, droppable pages free; "max" is no limit."""
    mine = tmp_path / "cgroup"
    mine.write_text("0::/site/overread.service\n")
    _group(tmp_path / "site", memory__max=4096, memory__current=1000, memory__stat="anon 300\ninactive_file 200")
    _group(tmp_path / "site" / "overread.service", memory__max="max", memory__current=900, memory__stat="inactive_file 1")
    assert memory._control_groups(tmp_path, mine) == [(4096, 800)]


def test_the_older_kind_of_group_counts_too(tmp_path: Path) -> None:
    """Version 1 has other names for the same."""
    mine = tmp_path / "cgroup"
    mine.write_text("9:name=systemd:/\n4:memory:/job\n0::/\n")
    files = {"memory__limit_in_bytes": 5000, "memory__usage_in_bytes": 700, "memory__stat": "inactive_file 9\ntotal_inactive_file 100"}
    _group(tmp_path / "memory" / "job", **files)
    assert memory._control_groups(tmp_path, mine) == [(5000, 600)]


def test_the_budget_is_the_setting_or_a_share() -> None:
    """Gigabytes of the setting, without one a quarter of this host's memory on a processor."""
    whole = memory.whole("cpu").host
    assert whole is not None
    assert memory.budget("cpu", 1.5) == GIB * 3 // 2
    assert memory.budget("cpu", None) == whole // 4
