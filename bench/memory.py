"""Memory of a network of 104 organs: its peak above the warmed process, from the volume on the disk to labels on the source grid.

Each case runs in a process of its own, which first takes a small volume through everything. The network is two convolutions, so
that what is measured is the scores' way and not a network's own activations; its labels are bands of intensity. An array of
classes x volume alone would take 7 GB of the smaller case and 19 GB of the larger.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch

from bench.inference import LOW_HU, Banded, model, scene
from bench.results import memory_mb
from models.execution import PLAIN
from models.vocabulary import Volume
from tests.workers.results import scans

ORGANS, BAND_HU = 104, 40
SPACING_MM = (1.0, 0.7, 0.7)
# GB above the warmed process, at most; of the larger what the machine has
GOALS = {"300 x 512 x 512": 4.5, "800 x 512 x 512": 24.0}


def child(path: Path) -> None:
    """Warm up, take the volume through, and print what it took."""
    torch.manual_seed(0)
    first, last = torch.nn.Conv3d(1, 4, 3, padding=1), torch.nn.Conv3d(4, ORGANS + 1, 1)
    network = Banded(torch.nn.Sequential(first, torch.nn.ReLU(), last), ORGANS + 1)
    runtime = model(network, ORGANS, "cpu", BAND_HU)
    small = scene(ORGANS, (40, 128, 128), BAND_HU)
    predict(runtime, small)
    del small
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before, begin = memory_mb("VmRSS"), time.perf_counter()
    volume = np.load(path)
    found = predict(runtime, volume)
    spent, peak = time.perf_counter() - begin, memory_mb("VmHWM")
    expected = np.rint((volume[::20].astype(np.float32) - LOW_HU) / BAND_HU)
    print(json.dumps({
        "gb": (peak - before) / 1e3, "before_gb": before / 1e3, "wall_s": spent, "organs": len(np.unique(found)) - 1,
        "alike": float((found[::20] == expected.clip(0, ORGANS)).mean()),
    }))  # fmt: skip


def predict(runtime: Any, volume: np.ndarray[Any, np.dtype[np.int16]]) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Give the labels."""
    grid = scans.Scan(shape=volume.shape, spacing_mm=SPACING_MM).grid
    found: np.ndarray[Any, np.dtype[np.uint8]] = runtime.predict(
        {"ct": Volume(array=volume, grid=grid, unit="HU", modality="CT")}, lambda _: None, PLAIN
    ).labels
    return found


def main() -> int:
    """Print the table or the object; exit code 0 when the goals hold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slices", type=int, nargs="*", default=[300, 800])
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(options.child)
        return 0
    cases = {}
    with tempfile.TemporaryDirectory(prefix="overread-memory-") as temporary:
        for slices in options.slices:
            path = Path(temporary) / "volume.npy"
            np.save(path, scene(ORGANS, (slices, 512, 512), BAND_HU))
            done = subprocess.run([sys.executable, __file__, "--child", str(path)], check=True, capture_output=True, text=True)
            cases[f"{slices} x 512 x 512"] = json.loads(done.stdout.splitlines()[-1])
    ratios = {name: case["gb"] for name, case in cases.items()}
    holds = all(ratios[name] <= goal for name, goal in GOALS.items() if name in ratios)
    if options.json:
        print(json.dumps({"name": "memory", "ratios": ratios, "goals": GOALS, "holds": holds, "cases": cases}))
        return 0 if holds else 1
    for name, case in cases.items():
        print(
            f"{name}: {case['gb']:.2f} GB above {case['before_gb']:.2f} GB, goal {GOALS.get(name)}; "
            f"{case['wall_s']:.0f} s, {case['organs']} organs, {case['alike']:.2%} as drawn"
        )
    print("goals hold" if holds else "goals fail")
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())
