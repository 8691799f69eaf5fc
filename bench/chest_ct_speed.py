"""How long and how much memory the chest CT starter takes: the whole stage, each step of it, and the networks alone.

    OMP_NUM_THREADS=2 OMP_WAIT_POLICY=passive python bench/chest_ct_speed.py --slices 300 --threads 2

A generated thorax on as many 512 x 512 slices as wanted. Prints wall and CPU seconds (all threads together), and the
memory it took beside what `need` says. On a busy machine the CPU seconds are what counts; threads that spin while they wait for each
other are counted in them, which OMP_WAIT_POLICY=passive keeps from happening.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch

from models import card, registry
from models.chest import candidates, cubes, guard, lungfield, nodules
from models.execution import PLAIN
from models.grids import transforms, windows
from models.runtimes import lung_nodules
from models.starter.chest_ct import generator
from models.vocabulary import Grid, Volume

CARD = card.STARTERS / "chest_ct" / "card.toml"
MATRIX, HEIGHT_MM, WIDTH_MM = 512, 300.0, 360.0


def scan(slices: int, spacing_mm: float | None) -> Volume:
    """Give a drawn thorax, trilinear on slices x 512 x 512; `spacing_mm` between slices, else 300 mm shared out."""
    drawn = generator.draw(7, nodules=(4, 5)).volume
    z, y, x = (np.linspace(0, count - 1, wanted) for count, wanted in zip(drawn.array.shape, (slices, MATRIX, MATRIX), strict=True))
    array = np.empty((slices, MATRIX, MATRIX), np.int16)
    rows, columns = np.rint(y).astype(int)[:, None], np.rint(x).astype(int)[None]
    for index, at in enumerate(z):
        low = min(int(at), drawn.array.shape[0] - 2)
        plane = drawn.array[low] * (low + 1 - at) + drawn.array[low + 1] * (at - low)
        array[index] = plane[rows, columns]
    between = spacing_mm or HEIGHT_MM / slices
    grid = Grid(
        shape=array.shape,
        origin_mm=(-WIDTH_MM / 2, -WIDTH_MM / 2, 0.0),
        axes=((0.0, 0.0, 1.0), (0.0, 1.0, 0.0), (1.0, 0.0, 0.0)),
        spacing_mm=(between, WIDTH_MM / MATRIX, WIDTH_MM / MATRIX),
    )
    return Volume(array=array, grid=grid, unit="HU", modality="CT")


@contextmanager
def timed(name: str) -> Iterator[None]:
    """Print what was spent inside."""
    wall, used = time.perf_counter(), time.process_time()
    yield
    print(f"{name:32} {time.perf_counter() - wall:7.1f} s wall {time.process_time() - used:7.1f} s CPU", flush=True)


WATCHED = (
    (transforms, "to_model"),
    (windows, "scores"),
    (lungfield, "draw"),
    (lung_nodules.LungNodules, "_labels"),
    (guard, "lungs"),
    (guard, "unseen"),
    (nodules, "heat"),
    (candidates, "hull"),
    (candidates, "find"),
    (cubes, "both"),
    (nodules, "judge"),
    (nodules, "place"),
)


def _watch() -> dict[str, list[float]]:
    """Count what the steps of the stage take."""
    spent: dict[str, list[float]] = {}
    for owner, name in WATCHED:
        spent[name] = [0.0, 0.0]
        setattr(owner, name, _counted(getattr(owner, name), spent[name]))
    return spent


def _counted(step: Callable[..., Any], spent: list[float]) -> Callable[..., Any]:
    """Give a step that adds its wall and CPU seconds to `spent`."""

    def run(*args: Any, **kwargs: Any) -> Any:
        wall, used = time.perf_counter(), time.process_time()
        try:
            return step(*args, **kwargs)
        finally:
            spent[0] += time.perf_counter() - wall
            spent[1] += time.process_time() - used

    return run


def _forwards(model: Any) -> list[float]:
    """Count what the networks alone take."""
    spent = [0.0, 0.0]
    for net in (model._coarse, model._patches):  # noqa: SLF001 -- the stage is what is measured
        net.forward = _counted(net.forward, spent)
    return spent


def _resident(what: str) -> float:
    """Give VmRSS or VmHWM of this process in GiB."""
    line = next(line for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines() if line.startswith(what))
    return int(line.split()[1]) / 2**20


def main() -> None:
    """Read the command line, run once, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slices", type=int, default=300)
    parser.add_argument("--spacing", type=float, help="mm between slices; else 300 mm shared out")
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    volume = scan(given.slices, given.spacing)
    model = registry.load(card.read(CARD), "cpu")
    need = model.need({"ct": volume.grid}, PLAIN)
    spent = _watch()
    forward = _forwards(model)
    before = _resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak begins anew
    with timed(f"whole stage, {given.slices} slices"):
        prediction = model.predict({"ct": volume}, lambda _part: None)
    for name, (wall, used) in spent.items():
        print(f"  {name:30} {wall:7.1f} s wall {used:7.1f} s CPU")
    print(f"  {'bare forward, both networks':30} {forward[0]:7.1f} s wall {forward[1]:7.1f} s CPU")
    taken, said = _resident("VmHWM") - before, (need.host + need.device) / 2**30
    print(f"{len(prediction.findings)} findings; {before:.2f} GiB resident before, {taken:.2f} GiB more at most; need says {said:.2f} GiB")


if __name__ == "__main__":
    main()
