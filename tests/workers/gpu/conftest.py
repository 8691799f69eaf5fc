"""Models with planted faults, and a device that is not there."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from models import runtimes
from models.vocabulary import Grid, Volume
from tests import planted
from workers.gpu import hardware, ladder, loaded, memory

GIB = memory.GIB


@pytest.fixture(autouse=True)
def cold(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Begin and end without warm models and without memory of earlier predictions."""
    monkeypatch.setattr(runtimes, "__path__", [*runtimes.__path__, str(planted.PLACE)])
    loaded._warm.clear()
    ladder._ways.clear()
    yield
    loaded._warm.clear()
    ladder._ways.clear()


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> memory.Room:
    """Plant a GPU of 24 GiB, 16 of them free, which computes in half precision; the tests' runtime is content with its name."""
    room = memory.Room(device=16 * GIB, host=8 * GIB)
    monkeypatch.setattr(memory, "free", lambda _device: room)
    monkeypatch.setattr(memory, "whole", lambda _device: memory.Room(device=24 * GIB, host=12 * GIB))
    monkeypatch.setattr(memory, "used", lambda _device: 0)
    monkeypatch.setattr(hardware, "has_half", lambda device: device.startswith("cuda"))
    return room


@pytest.fixture
def series() -> dict[str, Volume]:
    """Make one small series."""
    grid = Grid(shape=(12, 16, 16), origin_mm=(0, 0, 0), axes=((0, 0, 1), (0, 1, 0), (1, 0, 0)), spacing_mm=(2, 1, 1))
    return {"ct": Volume(array=np.zeros(grid.shape, dtype=np.int16), grid=grid, unit="HU", modality="CT")}
