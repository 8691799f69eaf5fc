"""Try the chest CT starter on the demo's phantom, which another generator draws than the one it was trained on, beside a baseline.

    python bench/chest_ct.py --scans 8

Nodules of 6 to 24 mm, slices of 2 to 5 mm, four amounts of noise; axial, the field of view around the chest. Prints the table
of models.starter.chest_ct.evaluate.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

from models import card
from models.evaluation import froc
from models.starter.chest_ct import evaluate
from overread.sample import Scan, Truth, write
from workers import load

FIRST_SEED = 500
SLICES_MM = (2.0, 3.0, 5.0)
NOISES_HU = (8.0, 14.0, 25.0, 18.0)
NODULES_MM = (24.0, 15.0, 11.0, 9.0, 7.0, 6.0)


def phantom(number: int) -> evaluate.Case:
    """Make phantom `number`, write it as DICOM files and read it as the node does."""
    thick = SLICES_MM[number % len(SLICES_MM)]
    scan = Scan(
        slice_spacing_mm=thick,
        slices=round(285 / thick),
        matrix=(250, 250),
        pixel_spacing_mm=(1.4, 1.4),
        nodules_mm=NODULES_MM,
        noise_hu=NOISES_HU[number % len(NOISES_HU)],
    )
    with tempfile.TemporaryDirectory() as folder:
        truth = write(Path(folder), seed=FIRST_SEED + number, scan=scan)
        volume = load.load(truth.files).volume
    return case_of(truth, volume, f"{number} at {thick:g} mm")


def case_of(truth: Truth, volume: evaluate.Volume, name: str) -> evaluate.Case:
    """Lay the formulas' truth on the volume's grid, plane by plane."""
    grid = volume.grid
    lungs, nodules = np.zeros(grid.shape, np.uint8), np.zeros(grid.shape, bool)
    plane = np.argwhere(np.ones(grid.shape[1:]))
    for z in range(grid.shape[0]):
        points = grid.to_world_mm(np.column_stack([np.full(len(plane), z), plane]).astype(float))
        for value, side in ((evaluate.LEFT, "left"), (evaluate.RIGHT, "right")):
            lungs[z][truth.in_lung("left" if side == "left" else "right", points).reshape(grid.shape[1:])] = value
        for index in range(len(truth.nodules)):
            nodules[z] |= truth.in_nodule(index, points).reshape(grid.shape[1:])
    lesions = tuple(froc.Lesion(centre_mm=nodule.centre_mm, size_mm=nodule.diameter_mm, kind="solid") for nodule in truth.nodules)
    return evaluate.Case(volume=volume, lungs=lungs, nodules=nodules, lesions=lesions, name=name)


def cases(first: int, count: int) -> Iterator[evaluate.Case]:
    """Make phantoms one after the other."""
    for number in range(first, first + count):
        yield phantom(number)


def main() -> None:
    """Read the command line, evaluate, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scans", type=int, default=8)
    parser.add_argument("--first", type=int, default=0)
    given = parser.parse_args()
    shelved = card.read(evaluate.CARD)
    judges = {"chest-ct": evaluate.open_judge(shelved, "cpu"), "baseline": evaluate.threshold_judge}
    evaluate.table(evaluate.run(judges, cases(given.first, given.scans)), shelved.card.runtime.options["nodules"]["threshold"])


if __name__ == "__main__":
    main()
