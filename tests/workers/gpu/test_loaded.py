"""Warm models and their budget."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from models.vocabulary import Volume
from tests import planted
from tests.models.cards import lines
from tests.models.grids import grid
from workers.gpu import loaded, memory

MIB = 1 << 20
ROOT = Path(__file__).parents[3]


def test_a_warm_model_is_loaded_once(tmp_path: Path) -> None:
    """The second ask gives the same model, and another device another one."""
    shelved = planted.put(tmp_path, "one")
    first = loaded.warm(shelved, "cpu")
    assert loaded.warm(shelved, "cpu") is first
    assert loaded.warm(shelved, "cuda:0") is not first
    assert loaded.names("cpu") == ("one",)


def test_the_least_recently_used_model_leaves_and_its_memory_with_it(tmp_path: Path) -> None:
    """Under a budget for two of three, the one not asked for longest goes, and the process shrinks by what it held."""
    one, two, three = (planted.put(tmp_path, name, holds_mb=100) for name in ("one", "two", "three"))
    budget = 250 * MIB
    loaded.warm(one, "cpu", budget)
    loaded.warm(two, "cpu", budget)
    loaded.warm(one, "cpu", budget)
    full = memory.used("cpu")
    loaded.warm(three, "cpu", budget)
    assert loaded.names("cpu") == ("one", "three")
    assert abs(memory.used("cpu") - full) < 20 * MIB
    assert abs(loaded.total("cpu") - 200 * MIB) < 20 * MIB


def test_a_model_above_the_budget_runs_alone(tmp_path: Path) -> None:
    """What is larger than the budget is loaded all the same, and leaves when the next one comes."""
    large, small = planted.put(tmp_path, "large", holds_mb=120), planted.put(tmp_path, "small", holds_mb=20)
    loaded.warm(small, "cpu", 60 * MIB)
    loaded.warm(large, "cpu", 60 * MIB)
    assert loaded.names("cpu") == ("large",)
    loaded.warm(small, "cpu", 60 * MIB)
    assert loaded.names("cpu") == ("small",)


def test_models_are_warmed_until_the_budget_is_full_and_a_bad_one_stops_no_other(tmp_path: Path) -> None:
    """At a worker's start what fits is loaded; a card that cannot be is left to its job, which tells."""
    bad = planted.put(tmp_path, "bad")
    bad.card.runtime.options["holds_mb"] = 1 << 40
    others = [planted.put(tmp_path, name, holds_mb=100) for name in ("one", "two", "three")]
    loaded.warm_up([bad, *others], "cpu", 0.15, tmp_path / "run")
    assert loaded.names("cpu") == ("one",)


def test_a_model_that_kills_its_process_while_it_loads_is_left_to_its_job(tmp_path: Path) -> None:
    """The next process skips it and warms the rest; after a while it is tried again."""
    shelf = [planted.put(tmp_path, "bad", dies_loading=True), planted.put(tmp_path, "good")]
    code = "import sys; from pathlib import Path; from models.card import read; from tests import planted; from workers.gpu import loaded\n"
    code += "planted.install(); home = Path(sys.argv[1]); shelf = [read(home / name / 'card.toml') for name in ('bad', 'good')]\n"
    code += "loaded.warm_up(shelf, 'cpu', None, home / 'run'); print(*loaded.names('cpu'))"
    ended = [_run(code, tmp_path) for _ in range(2)]
    assert [process.returncode for process in ended] == [-signal.SIGSEGV, 0]
    assert ended[1].stdout.splitlines()[-1] == "good"
    (mark,) = (tmp_path / "run").iterdir()
    assert shelf[0].digest.startswith(mark.name.removeprefix("loading-cpu-"))
    os.utime(mark, (time.time() - loaded.MARK_S - 1,) * 2)
    assert _run(code, tmp_path).returncode == -signal.SIGSEGV


def _run(code: str, home: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code, str(home)], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)


def test_what_is_fastest_runs_where_it_is_asked_for(tmp_path: Path) -> None:
    """With the site's word a model on a processor says what ran it, and without it nothing is tried."""
    ways = {}
    for engine in ("torch", "fastest"):
        loaded.choose(engine)
        shelved = lines(tmp_path / engine, 'version = "1"', f'version = "{engine}"')
        source = grid("axial", (8, 40, 40), (3.0, 1.5, 1.5))
        volume = Volume(array=np.full(source.shape, -300, np.int16), grid=source, unit="HU", modality="CT")
        try:
            ways[engine] = loaded.warm(shelved, "cpu").predict({"ct": volume}, lambda _part: None).variant
        finally:
            loaded.choose("torch")
    assert "engine" not in ways["torch"]
    assert "openvino" in ways["fastest"]["engine"]
