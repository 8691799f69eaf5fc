"""Memory stays flat, whatever comes."""

from __future__ import annotations

import gc
from pathlib import Path

import numpy as np
import pytest

from models.vocabulary import Grid, Volume
from node import journal
from tests.workers.gpu import large
from workers.gpu import ladder, loaded, memory

STUDIES, SETTLED = 50, 10
MIB = 1 << 20


@pytest.mark.verify
@pytest.mark.timeout(1800)
def test_memory_is_flat_over_fifty_studies_of_changing_sizes_and_models(tmp_path: Path) -> None:
    """Three models under a budget for two, series of random sizes: after the fiftieth the process is as large as after the tenth."""
    shelf = [large.put(tmp_path, name, spacing_mm=12.0) for name in ("one", "two", "three")]
    loaded.warm(shelf[0], "cpu")
    loaded.evict("cpu")
    loaded.warm(shelf[0], "cpu")
    budget_gb = 2.5 * loaded.total("cpu") / memory.GIB
    rng = np.random.default_rng(3)
    sizes_mb, left = [], 0
    for _ in range(STUDIES):
        before = loaded.names("cpu")
        ladder.predict(shelf[rng.integers(3)], {"ct": _series(rng)}, "cpu", ladder.Policy(budget_gb=budget_gb))
        left += len(set(before) - set(loaded.names("cpu")))
        assert len(loaded.names("cpu")) <= 2
        gc.collect()
        sizes_mb.append(memory.used("cpu") / MIB)
    marks = {f"after_{number}": round(sizes_mb[number - 1]) for number in (1, SETTLED, 20, 30, 40, STUDIES)}
    journal.get("tests").info("process.mib", left=left, **marks)
    assert left > STUDIES / 10
    assert max(sizes_mb[-SETTLED:]) < max(sizes_mb[:SETTLED]) * 1.05


def _series(rng: np.random.Generator) -> Volume:
    """Make a series of 20 to 100 slices of 96^2 to 256^2 pixels, of which the networks see a few windows."""
    side = int(rng.integers(96, 256))
    shape = (int(rng.integers(20, 100)), side, side)
    grid = Grid(shape=shape, origin_mm=(0, 0, 0), axes=((0, 0, 1), (0, 1, 0), (1, 0, 0)), spacing_mm=(4, 2, 2))
    return Volume(array=rng.integers(-1000, 400, shape, dtype=np.int16), grid=grid, unit="HU", modality="CT")
