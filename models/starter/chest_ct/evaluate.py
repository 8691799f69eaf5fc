"""Try the chest CT starter on generated scans it was not trained on, beside a baseline.

    python -m models.starter.chest_ct.evaluate --scans 24

The model runs as the node runs it: card, weights by hash, registry, resampling and back. Scans have native spacings
(0.75-1 mm, slices 1.25-5 mm); their seeds are never trained on. Prints lung Dice, sensitivity by nodule size at the card's
operating point, and sensitivity at given false positives a scan. A mark is a hit where its centre lies within the nodule's
radius (at least 3 mm) of the nodule's centre; a second mark on one nodule counts neither way.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import perf_counter

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from models import card, registry
from models.starter.chest_ct import baseline
from models.starter.chest_ct.generator import LEFT, RIGHT, Scan, draw
from models.vocabulary import Prediction, Triple, Unfit, Volume

FIRST_SEED = 900_000  # training's seeds lie below 30,000
SIZES_MM = ((4, 6), (6, 8), (8, 12), (12, 20), (20, 40))
RATES = (0.125, 0.25, 0.5, 1, 2, 4, 8)
Marks = list[tuple[Triple, float]]
Judge = Callable[[Volume], tuple[NDArray[np.uint8], Marks]]


@dataclass(slots=True, kw_only=True)
class Tally:
    """What one judge did over all scans: Dice of each lung, each nodule's (diameter, kind, best score or -1), scores of false marks."""

    scans: int = 0
    declined: int = 0
    dice: list[float] = field(default_factory=list)
    nodules: list[tuple[float, str, float]] = field(default_factory=list)
    false_marks: list[float] = field(default_factory=list)
    seconds: float = 0.0


def scan_of(number: int) -> Scan:
    """Draw evaluation scan `number`, on a native spacing."""
    rng = np.random.default_rng([FIRST_SEED, number])
    plane = float(rng.uniform(0.75, 1.0))
    return draw(FIRST_SEED + number, (float(rng.choice([1.25, 2.0, 2.5, 3.0, 5.0])), plane, plane))


def marks_of(prediction: Prediction) -> Marks:
    """Give a prediction's findings as (centre in LPS mm, score)."""
    if prediction.instances is None or not prediction.findings:
        return []
    marks = []
    for finding in prediction.findings:
        box = tuple(slice(a, b) for a, b in zip(finding.box.low, finding.box.high, strict=True))
        centre = np.argwhere(prediction.instances[box] == finding.number).mean(axis=0) + np.array(finding.box.low)
        x, y, z = (float(v) for v in prediction.grid.to_world_mm(centre[None])[0])
        marks.append(((x, y, z), finding.score))
    return marks


def count(tally: Tally, scan: Scan, labels: NDArray[np.uint8], marks: Marks) -> None:
    """Add one scan's result to a tally; a finding's voxels count as the lung that holds them on both sides."""
    tally.scans += 1
    for side in (LEFT, RIGHT):
        truth, said = (scan.organs == side) & (scan.instances == 0), (labels == side) & (scan.instances == 0)
        if truth.sum() * scan.volume.grid.voxel_mm3 > 50_000:
            tally.dice.append(float(2 * (truth & said).sum() / max(1, truth.sum() + said.sum())))
    best = dict.fromkeys((n.number for n in scan.nodules), -1.0)
    centres = _centres(scan)
    for place, score in marks:
        near = [n for n in scan.nodules if np.linalg.norm(np.subtract(place, centres[n.number])) <= max(3.0, n.diameter_mm / 2)]
        for nodule in near:
            best[nodule.number] = max(best[nodule.number], score)
        if not near:
            tally.false_marks.append(score)
    tally.nodules += [(n.diameter_mm, n.kind, best[n.number]) for n in scan.nodules]


def _centres(scan: Scan) -> dict[int, NDArray[np.float64]]:
    numbers = [n.number for n in scan.nodules]
    middles = np.array(ndimage.center_of_mass(scan.instances > 0, scan.instances, numbers)).reshape(-1, 3)
    return dict(zip(numbers, scan.volume.grid.to_world_mm(middles), strict=True))


def sensitivity(tally: Tally, above: float, low_mm: float = 0, high_mm: float = 1e9) -> float:
    """Give the share of nodules of that size with a mark scored at least `above`; NaN where there is none."""
    hits = [score >= above for size, _, score in tally.nodules if low_mm <= size < high_mm]
    return float(np.mean(hits)) if hits else float("nan")


def cut_at(tally: Tally, rate: float) -> float:
    """Give the lowest score that leaves at most `rate` false marks a scan. Example: 2 scans, false 0.9 0.8 0.3, rate 1 -> just over 0.3."""
    allowed = int(rate * tally.scans)
    ranked = sorted(tally.false_marks, reverse=True)
    return 0.0 if len(ranked) <= allowed else float(np.nextafter(ranked[allowed], 2))


def figures(tally: Tally, above: float) -> dict[str, float]:
    """Give the numbers of one judge at one operating point, and its FROC points for nodules of 4 mm and more."""
    out = {
        "lung_dice_mean": float(np.mean(tally.dice)),
        "lung_dice_worst": float(np.min(tally.dice)),
        "false_positives_per_scan": sum(s >= above for s in tally.false_marks) / tally.scans,
        "sensitivity_8mm_and_more": sensitivity(tally, above, 8),
    }
    out |= {f"sensitivity_{low}_{high}mm": sensitivity(tally, above, low, high) for low, high in SIZES_MM}
    for kind in ("solid", "part-solid", "ground-glass"):
        hits = [score >= above for size, what, score in tally.nodules if what == kind and size >= 8]
        out[f"sensitivity_8mm_{kind.replace('-', '_')}"] = float(np.mean(hits)) if hits else float("nan")
    out |= {f"froc_{rate:g}": sensitivity(tally, cut_at(tally, rate), 4) for rate in RATES}
    return out


def run(judges: dict[str, Judge], numbers: range) -> dict[str, Tally]:
    """Let every judge see the same scans."""
    tallies = {name: Tally() for name in judges}
    for number in numbers:
        scan = scan_of(number)
        for name, judge in judges.items():
            begun = perf_counter()
            try:
                labels, marks = judge(scan.volume)
            except Unfit as verdict:
                print(f"scan {number}: {name} declined: {verdict.reason}")
                tallies[name].declined += 1
                continue
            tallies[name].seconds += perf_counter() - begun
            count(tallies[name], scan, labels, marks)
        print(f"scan {number}  " + "  ".join(f"{n}: Dice {np.mean(t.dice or [0]):.3f}" for n, t in tallies.items()), flush=True)
    return tallies


def _open(shelved: card.ShelvedCard) -> card.ShelvedCard:
    """Give the card with its nodules' threshold lowered to their extent: marks below the operating point are wanted for the FROC."""
    raw = shelved.card.model_dump()
    findings = raw["runtime"]["options"]["findings"]
    findings["threshold"] = findings["extent"]
    for label in raw["output"]["labels"]:
        label["threshold"] = None
    return replace(shelved, card=card.Card.model_validate(raw))


def main() -> None:
    """Read the command line, evaluate, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scans", type=int, default=24)
    parser.add_argument("--first", type=int, default=0, help="number of the first scan; 1000 and more were used to choose the thresholds")
    parser.add_argument("--card", type=Path, default=Path(__file__).with_name("card.toml"))
    parser.add_argument("--device", default="cpu")
    given = parser.parse_args()
    shelved = card.read(given.card)
    model = registry.load(_open(shelved), given.device)
    operating = shelved.card.runtime.options["findings"]["threshold"]

    def ours(volume: Volume) -> tuple[NDArray[np.uint8], Marks]:
        prediction = model.predict({shelved.card.reference_role: volume}, lambda _share: None)
        return prediction.labels, marks_of(prediction)

    tallies = run({"chest-ct": ours, "baseline": baseline.judge}, range(given.first, given.first + given.scans))
    blob_cut = cut_at(tallies["baseline"], 2)
    table = {"chest-ct": figures(tallies["chest-ct"], operating), "baseline": figures(tallies["baseline"], blob_cut)}
    nodules = len(tallies["baseline"].nodules)
    declined = {name: tally.declined for name, tally in tallies.items()}
    print(f"\n{given.scans} scans, {nodules} nodules; declined {declined}; baseline at 2 false positives a scan\n")
    print("| figure | " + " | ".join(table) + " |\n|---|" + "---|" * len(table))
    for key in table["chest-ct"]:
        print(f"| {key} | " + " | ".join(f"{column[key]:.3f}" for column in table.values()) + " |")
    for name, tally in tallies.items():
        print(f"{name}: {tally.seconds / max(1, tally.scans):.1f} s a scan")


if __name__ == "__main__":
    main()
