"""Try the chest CT starter on generated scans it was not trained on, beside a baseline.

    python -m models.starter.chest_ct.evaluate --scans 16

The model runs as the node runs it: card, weights by hash, registry, resampling and back. Scans have native spacings
(0.8-1.2 mm, slices 1.25-5 mm); their seeds are never trained on. Marks are hits by the rule of models.evaluation.froc. Both are
compared at thresholds that leave the same number of false marks; the model also at the card's.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import process_time

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from models import card, registry
from models.evaluation import froc, interval, overlap
from models.starter.chest_ct import baseline
from models.starter.chest_ct.generator import LEFT, RIGHT, Scan, draw
from models.vocabulary import Grid, Prediction, Triple, Unfit, Volume

FIRST_SEED = 900_000  # training's seeds lie below 200,000
SIZES_MM = ((4, 6), (6, 8), (8, 12), (12, 20), (20, 40))
LEAST_MM, COUNTED_MM = 4.0, 6.0
LEAST_LUNG_ML = 50.0
CARD = Path(__file__).with_name("card.toml")
Said = tuple[NDArray[np.uint8], tuple[froc.Mark, ...]]
Judge = Callable[[Volume], Said]


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One scan and its truth: lungs (LEFT, RIGHT), which of their voxels are nodule, and the lesions."""

    volume: Volume
    lungs: NDArray[np.uint8]
    nodules: NDArray[np.bool_]
    lesions: tuple[froc.Lesion, ...]
    name: str


@dataclass(slots=True, kw_only=True)
class Tally:
    """What one judge did: readings and lungs' Dice and HD95 a scan, what it declined, and its processor seconds."""

    readings: list[froc.Reading] = field(default_factory=list)
    dice: list[tuple[float, ...]] = field(default_factory=list)
    hd95_mm: list[float] = field(default_factory=list)
    declined: list[str] = field(default_factory=list)
    seconds: float = 0.0


def generated(number: int) -> Case:
    """Draw evaluation scan `number`, on a native spacing."""
    rng = np.random.default_rng([FIRST_SEED, number])
    plane = float(rng.uniform(0.8, 1.2))
    thick = float(rng.choice([1.25, 2.0, 2.5, 3.0, 5.0]))
    return case_of(draw(FIRST_SEED + number, (thick, plane, plane)), f"{number} at {thick:g} mm")


def case_of(scan: Scan, name: str) -> Case:
    """Make a case of a generated scan; its masses are lesions that do not count."""
    numbers = [nodule.number for nodule in scan.nodules]
    middles = np.array(ndimage.center_of_mass(scan.instances > 0, scan.instances, numbers)).reshape(-1, 3)
    centres = scan.volume.grid.to_world_mm(middles)
    lesions = [
        froc.Lesion(centre_mm=_triple(centre), size_mm=nodule.diameter_mm, kind=nodule.kind, counts=nodule.diameter_mm >= LEAST_MM)
        for nodule, centre in zip(scan.nodules, centres, strict=True)
    ]
    lesions += [froc.Lesion(centre_mm=mass.centre_mm, size_mm=2 * mass.radius_mm, kind="mass", counts=False) for mass in scan.masses]
    return Case(volume=scan.volume, lungs=scan.organs, nodules=scan.instances > 0, lesions=tuple(lesions), name=name)


def _triple(values: NDArray[np.float64]) -> Triple:
    x, y, z = (float(value) for value in values)
    return x, y, z


def marks_of(prediction: Prediction) -> tuple[froc.Mark, ...]:
    """Give a prediction's findings as marks at the middle of their voxels."""
    if prediction.instances is None:
        return ()
    marks = []
    for finding in prediction.findings:
        box = tuple(slice(a, b) for a, b in zip(finding.box.low, finding.box.high, strict=True))
        centre = np.argwhere(prediction.instances[box] == finding.number).mean(axis=0) + np.array(finding.box.low)
        marks.append(froc.Mark(centre_mm=_triple(prediction.grid.to_world_mm(centre[None])[0]), score=finding.score))
    return tuple(marks)


def count(tally: Tally, case: Case, said: Said) -> None:
    """Add one scan's result to a tally; voxels of nodules count neither way for the lungs."""
    labels, marks = said
    tally.readings.append(froc.read(case.lesions, marks))
    grid, dices = case.volume.grid, []
    for side in (LEFT, RIGHT):
        truth, found = (case.lungs == side) & ~case.nodules, (labels == side) & ~case.nodules
        if truth.sum() * grid.voxel_mm3 / 1000 > LEAST_LUNG_ML:
            dices.append(overlap.dice(found, truth) or 0.0)
            far = overlap.hausdorff_mm(found[:, ::2, ::2], truth[:, ::2, ::2], _halved(grid))
            tally.hd95_mm.append(far if far is not None else float("inf"))
    tally.dice.append(tuple(dices))


def _halved(grid: Grid) -> Grid:
    z, y, x = grid.spacing_mm
    return replace(grid, shape=(grid.shape[0], (grid.shape[1] + 1) // 2, (grid.shape[2] + 1) // 2), spacing_mm=(z, 2 * y, 2 * x))


def run(judges: dict[str, Judge], cases: Iterable[Case]) -> dict[str, Tally]:
    """Let every judge see the same scans."""
    tallies = {name: Tally() for name in judges}
    for case in cases:
        for name, judge in judges.items():
            begun = process_time()
            try:
                said = judge(case.volume)
            except Unfit as verdict:
                tallies[name].declined.append(f"{case.name}: {verdict.reason}")
                continue
            tallies[name].seconds += process_time() - begun
            count(tallies[name], case, said)
        print(f"scan {case.name}  " + "  ".join(f"{n}: Dice {lung_dice(t.dice):.3f}" for n, t in tallies.items()), flush=True)
    return tallies


def lung_dice(scans: Sequence[tuple[float, ...]]) -> float:
    """Give the mean over all lungs."""
    values = [value for scan in scans for value in scan]
    return float(np.mean(values)) if values else float("nan")


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One figure of a table: sensitivity for some nodules, at a threshold or at a number of false marks a scan."""

    low_mm: float = COUNTED_MM
    high_mm: float = 1e9
    kind: str = ""
    rate: float | None = None

    def of(self, lesion: froc.Scored) -> bool:
        """Tell whether a nodule is asked for."""
        return self.low_mm <= lesion.size_mm < self.high_mm and self.kind in {"", lesion.kind}

    def value(self, readings: Sequence[froc.Reading], above: float) -> float:
        """Give the figure."""
        return froc.sensitivity(readings, above if self.rate is None else froc.cut_at(readings, self.rate), self.of)


ROWS = (
    {"sensitivity_6mm_and_more": Row()}
    | {f"sensitivity_{low}_{high}mm": Row(low_mm=low, high_mm=high) for low, high in SIZES_MM}
    | {f"sensitivity_6mm_{kind.replace('-', '_')}": Row(kind=kind) for kind in ("solid", "part-solid", "ground-glass")}
    | {f"froc_{rate:g}": Row(rate=rate) for rate in froc.RATES}
)


def figures(tally: Tally, above: float) -> dict[str, interval.Interval]:
    """Give the numbers of one judge at one threshold, and its FROC points for nodules of COUNTED_MM and more."""
    found = {"lung_dice_mean": interval.bootstrap(tally.dice, lung_dice)[0]}
    lowest = min((value for scan in tally.dice for value in scan), default=float("nan"))
    found["lung_dice_worst"] = interval.Interval(value=lowest, low=float("nan"), high=float("nan"))
    found["lung_hd95_mm_mean"] = interval.bootstrap(tally.hd95_mm, lambda values: float(np.mean(values)))[0]
    found["false_positives_per_scan"] = interval.bootstrap(tally.readings, lambda readings: froc.false_rate(readings, above))[0]
    values = interval.bootstrap(tally.readings, lambda readings: [row.value(readings, above) for row in ROWS.values()], 300)
    return found | dict(zip(ROWS, values, strict=True))


def reliability(tally: Tally) -> list[tuple[float, float, int]]:
    """Give, for five ranges of the probability, its mean, the share of marks that were right, and how many there were."""
    right = [lesion.score for reading in tally.readings for lesion in reading.lesions if lesion.score >= 0]
    wrong = [score for reading in tally.readings for score in reading.false_marks]
    scores, hits = np.array(right + wrong), np.array([1.0] * len(right) + [0.0] * len(wrong))
    bins = np.clip((scores * 5).astype(int), 0, 4)
    return [(float(scores[bins == k].mean()), float(hits[bins == k].mean()), int((bins == k).sum())) for k in range(5) if (bins == k).any()]


def open_judge(shelved: card.ShelvedCard, device: str) -> Judge:
    """Load the card's model with its threshold lowered to where it looks at all: marks below it are wanted for the FROC."""
    raw = shelved.card.model_dump()
    options = raw["runtime"]["options"]["nodules"]
    options["threshold"] = options["doubt"]
    for label in raw["output"]["labels"]:
        label["threshold"] = None
    model = registry.load(replace(shelved, card=card.Card.model_validate(raw)), device)

    def judge(volume: Volume) -> Said:
        prediction = model.predict({shelved.card.reference_role: volume}, lambda _share: None)
        return prediction.labels, marks_of(prediction)

    return judge


def threshold_judge(volume: Volume) -> Said:
    """Let the baseline judge."""
    labels, blobs = baseline.judge(volume)
    return labels, tuple(froc.Mark(centre_mm=place, score=score) for place, score in blobs)


def table(tallies: dict[str, Tally], above: float) -> None:
    """Print what each judge reached: the model at the card's threshold, the baseline at as many false marks."""
    rate = froc.false_rate(tallies["chest-ct"].readings, above)
    cuts = {"chest-ct": above, "baseline": froc.cut_at(tallies["baseline"].readings, rate)}
    columns = {name: figures(tally, cuts[name]) for name, tally in tallies.items()}
    lesions = sum(len(reading.lesions) for reading in tallies["baseline"].readings)
    print(f"\n{len(tallies['baseline'].readings)} scans, {lesions} nodules of 4 mm and more\n")
    print("| figure | " + " | ".join(columns) + " |\n|---|" + "---|" * len(columns))
    for key in columns["chest-ct"]:
        print(f"| {key} | " + " | ".join(f"{c[key].value:.3f} ({c[key].low:.2f}-{c[key].high:.2f})" for c in columns.values()) + " |")
    print("\nprobability: mean, share right, marks: " + ", ".join(f"{p:.2f} {r:.2f} {n}" for p, r, n in reliability(tallies["chest-ct"])))
    for name, tally in tallies.items():
        print(f"{name}: {tally.seconds / max(1, len(tally.readings)):.1f} CPU s a scan; declined: {'; '.join(tally.declined) or 'none'}")


def main() -> None:
    """Read the command line, evaluate, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scans", type=int, default=16)
    parser.add_argument("--first", type=int, default=0, help="number of the first scan; 1000 and more were used to choose the threshold")
    parser.add_argument("--card", type=Path, default=CARD)
    parser.add_argument("--device", default="cpu")
    given = parser.parse_args()
    shelved = card.read(given.card)
    judges = {"chest-ct": open_judge(shelved, given.device), "baseline": threshold_judge}
    cases = (generated(number) for number in range(given.first, given.first + given.scans))
    table(run(judges, cases), shelved.card.runtime.options["nodules"]["threshold"])


if __name__ == "__main__":
    main()
