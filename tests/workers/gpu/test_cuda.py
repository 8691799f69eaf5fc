"""The same on a real GPU: memory comes back, runs out, and a device that fails is known. Skips where torch has no CUDA."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from models.card import ShelvedCard
from models.vocabulary import Grid, Volume
from tests.workers.gpu import large
from workers.gpu import hardware, ladder, loaded, memory

pytestmark = [pytest.mark.verify, pytest.mark.skipif(not torch.cuda.is_available(), reason="torch has no CUDA device here")]
ROOT = Path(__file__).parents[3]
DEVICE = "cuda:0"
MIB = 1 << 20


def card(folder: Path, name: str) -> ShelvedCard:
    """Write a card of a network that looks at 64^3 voxels of 1 mm."""
    return large.put(folder, name, window=64, spacing_mm=1.0)


@pytest.fixture
def scan() -> dict[str, Volume]:
    """Make 256 x 320 x 320 voxels of 1 mm with smooth contents."""
    rng = np.random.default_rng(5)
    coarse = torch.from_numpy(rng.normal(-300, 400, (1, 1, 16, 20, 20)).astype(np.float32))
    fine = torch.nn.functional.interpolate(coarse, size=(256, 320, 320), mode="trilinear")[0, 0].numpy().astype(np.int16)
    grid = Grid(shape=(256, 320, 320), origin_mm=(0, 0, 0), axes=((0, 0, 1), (0, 1, 0), (1, 0, 0)), spacing_mm=(1, 1, 1))
    return {"ct": Volume(array=fine, grid=grid, unit="HU", modality="CT")}


@pytest.fixture
def cramped() -> Iterator[None]:
    """Let this process have a tenth of the device, in which the plain way does not fit; the device's own account does not show it."""
    torch.cuda.set_per_process_memory_fraction(min(0.1, 1.2 * memory.GIB / torch.cuda.get_device_properties(DEVICE).total_memory), DEVICE)
    yield
    torch.cuda.set_per_process_memory_fraction(1.0, DEVICE)


def test_an_evicted_model_gives_the_device_its_memory_back(tmp_path: Path) -> None:
    """What two models took is free again when they left."""
    torch.zeros(1, device=DEVICE)
    memory.give_back()
    before = torch.cuda.mem_get_info(DEVICE)[0]
    for name in ("one", "two"):
        loaded.warm(card(tmp_path, name), DEVICE)
    assert loaded.total(DEVICE) > 15 * MIB
    assert before - torch.cuda.mem_get_info(DEVICE)[0] > 15 * MIB
    while loaded.evict(DEVICE):
        pass
    assert before - torch.cuda.mem_get_info(DEVICE)[0] < 8 * MIB


def test_a_real_shortage_climbs_and_gives_nearly_the_same_labels(tmp_path: Path, scan: dict[str, Volume], cramped: None) -> None:
    """Where the allocator refuses, the next ways are taken until one fits; the labels are those of the roomy run but for rounding."""
    shelved = card(tmp_path, "one")
    short = ladder.predict(shelved, scan, DEVICE, ladder.Policy())
    torch.cuda.set_per_process_memory_fraction(1.0, DEVICE)
    ladder._ways.clear()
    roomy = ladder.predict(shelved, scan, DEVICE, ladder.Policy())
    assert (roomy.variant["way"], short.variant["way"] != "plain") == ("plain", True)
    assert float(np.mean(short.labels == roomy.labels)) > 0.999


def test_half_precision_is_used_where_it_is_asked_for(tmp_path: Path, scan: dict[str, Volume]) -> None:
    """Under "auto" the network runs in half precision on hardware that has it, says so, and labels nearly the same."""
    shelved = card(tmp_path, "one")
    full = ladder.predict(shelved, scan, DEVICE, ladder.Policy())
    half = ladder.predict(shelved, scan, DEVICE, ladder.Policy(precision="auto"))
    assert (full.variant["precision"], half.variant["precision"]) == ("float32", hardware.precision(DEVICE, "auto"))
    assert float(np.mean(full.labels == half.labels)) > 0.99


def test_a_device_side_assert_is_known_for_what_it_is() -> None:
    """A real fault of the device, in a process of its own, reads as a lost device and not as memory."""
    code = """
import torch
from workers.gpu import watchdog
try:
    torch.zeros(2, device="cuda:0")[torch.tensor([5], device="cuda:0")].sum().item()
except RuntimeError as error:
    try:
        watchdog.raise_if_poisoned(error, "cuda:0")
    except watchdog.Poisoned as lost:
        print(lost.reason, flush=True)
        watchdog.leave(watchdog.POISONED, lost.reason)
"""
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert (ended.returncode, "cuda:0 failed" in ended.stdout) == (71, True)


def test_memory_is_flat_on_the_device(tmp_path: Path, scan: dict[str, Volume]) -> None:
    """After studies of three sizes and two models nothing more is allocated than the models."""
    shelved = [card(tmp_path, name) for name in ("one", "two")]
    taken = []
    for number in range(12):
        cut = (96, 160, 256)[number % 3]
        part = replace(scan["ct"], array=scan["ct"].array[:cut], grid=replace(scan["ct"].grid, shape=(cut, 320, 320)))
        ladder.predict(shelved[number % 2], {"ct": part}, DEVICE, ladder.Policy())
        taken.append(torch.cuda.memory_allocated(DEVICE))
    assert max(taken[6:]) <= max(taken[:6]) + MIB
