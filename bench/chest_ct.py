"""Try the chest CT starter on scans it was not trained on, beside a baseline; a broken run goes on where it was.

    python bench/chest_ct.py --out FOLDER --real FOLDER_OF_NIFTI --processes 2

    phantom    the demo's, which another generator draws than the one the model was trained on: axial, slices of 2, 3 and 5 mm,
               four amounts of noise, solid nodules of 6 to 24 mm
    generated  scans of the training's generator, of seeds that are never trained on, slices of 1.25 to 5 mm
    real       chest CTs without nodules (NIfTI, HU): as they are, with balls of soft tissue and haze drawn in by chance, and with a
               tumour at a hilum and the lobe beyond it collapsed
    robust     phantoms and generated scans again and again, with thicker slices and with more noise: the same nodules each time

Prints tables; --out gets evaluation.json, tables.md and PNGs: FROC, reliability, robustness, failures. Results are kept in
--out/results for the model's digest and the code: what is there is not done again.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch

from models import card
from models.chest import candidates
from models.evaluation import froc, reliability
from models.runtimes import lung_nodules
from models.starter.chest_ct import generator
from models.starter.chest_ct.evaluation import baseline, cases, figures, illness, judging, pictures, report, scoring
from models.starter.chest_ct.evaluation.cases import Case
from models.starter.chest_ct.evaluation.scoring import Failure, Result
from models.starter.chest_ct.generator import LEFT, RIGHT
from models.vocabulary import Triple, Volume
from overread.sample import Scan, Truth, write
from workers import load

JUDGES = ("model", "baseline")
FIRST_PHANTOM = 500
PHANTOM_MM, PHANTOM_NOISES_HU = (2.0, 3.0, 5.0), (8.0, 14.0, 25.0, 18.0)
PHANTOM_NODULES_MM = (24.0, 15.0, 11.0, 9.0, 7.0, 6.0)
PHANTOM_HEIGHT_MM = 285
DRAWS, ILL = 3, 4
THICKNESSES_MM, NOISES_HU = (1.25, 2.5, 3.75, 5.0), (10.0, 25.0, 50.0, 80.0)
BETWEEN_MM, BETWEEN_HU = 2.5, 18.0
FINE_MM = (1.25, 0.9, 0.9)
SLICES, MORE_NOISE_HU = (1, 2, 4), (0.0, 30.0, 60.0)
CURVES = ("lung Dice", "... 6 mm and more, at 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class Spec:
    """One case before it is made: its name, its group, and for the curves what was changed and to which value."""

    name: str
    group: str
    make: Callable[[], Case]
    series: str = ""
    at: float = 0.0


def phantom(number: int, thick_mm: float, noise_hu: float) -> Case:
    """Make a phantom, write it as DICOM files and read it as the node does."""
    scan = Scan(
        slice_spacing_mm=thick_mm,
        slices=round(PHANTOM_HEIGHT_MM / thick_mm),
        matrix=(250, 250),
        pixel_spacing_mm=(1.4, 1.4),
        nodules_mm=PHANTOM_NODULES_MM,
        noise_hu=noise_hu,
    )
    with tempfile.TemporaryDirectory() as folder:
        truth = write(Path(folder), seed=FIRST_PHANTOM + number, scan=scan)
        volume = load.load(truth.files).volume
    return case_of(truth, volume)


def case_of(truth: Truth, volume: Volume) -> Case:
    """Lay the formulas' truth on the volume's grid, plane by plane."""
    grid = volume.grid
    lungs, nodules = np.zeros(grid.shape, np.uint8), np.zeros(grid.shape, bool)
    plane = np.argwhere(np.ones(grid.shape[1:]))
    for z in range(grid.shape[0]):
        points = grid.to_world_mm(np.column_stack([np.full(len(plane), z), plane]).astype(float))
        lungs[z][truth.in_lung("left", points).reshape(grid.shape[1:])] = LEFT
        lungs[z][truth.in_lung("right", points).reshape(grid.shape[1:])] = RIGHT
        for index in range(len(truth.nodules)):
            nodules[z] |= truth.in_nodule(index, points).reshape(grid.shape[1:])
    lesions = tuple(froc.Lesion(centre_mm=nodule.centre_mm, size_mm=nodule.diameter_mm, kind="solid") for nodule in truth.nodules)
    return Case(volume=volume, lungs=lungs, nodules=nodules, lesions=lesions)


def changed(number: int, slices: int, noise_hu: float) -> Case:
    """Draw a scan finely, and make its slices thicker and its noise stronger."""
    return cases.noisier(cases.thicker(cases.generated(number, FINE_MM), slices), noise_hu, number)


def plan(given: argparse.Namespace) -> Iterator[Spec]:
    """Name every case; a name stands for all that makes it."""
    for number in range(given.first, given.first + given.phantom):
        thick, noise = PHANTOM_MM[number % len(PHANTOM_MM)], PHANTOM_NOISES_HU[number % len(PHANTOM_NOISES_HU)]
        yield Spec(name=f"phantom-{number}-{thick:g}mm-{noise:g}hu", group="phantom", make=partial(phantom, number, thick, noise))
    for number in range(given.first, given.first + given.generated):
        spacing: Triple = cases.native_mm(number)
        yield Spec(name=f"generated-{number}-{spacing[0]:g}mm", group="generated", make=partial(cases.generated, number, spacing))
    paths = sorted([*given.real.glob("*.nii"), *given.real.glob("*.nii.gz")]) if given.real else []
    for path in paths:
        named = f"real-{path.name.split('.')[0]}-{hashlib.sha256(path.read_bytes()).hexdigest()[:8]}"
        yield Spec(name=named, group="real", make=partial(cases.real, path, 0))
        for draw in range(given.first + 1, given.first + 1 + DRAWS):
            yield Spec(name=f"{named}-drawn-{draw}", group="real with drawn balls", make=partial(cases.real, path, draw))
        for draw in range(given.first, given.first + ILL):
            yield Spec(name=f"{named}-ill-{draw}", group="real with tumour and collapse", make=partial(illness.ill, path, draw))
    yield from _robust(range(given.first + 100, given.first + 100 + given.robust))


def _robust(numbers: Sequence[int]) -> Iterator[Spec]:
    for number in numbers:
        for series, steps in (("phantom: slice thickness, mm", THICKNESSES_MM), ("phantom: noise, HU", NOISES_HU)):
            for at in steps:
                thick, noise = (at, BETWEEN_HU) if steps == THICKNESSES_MM else (BETWEEN_MM, at)
                name = f"phantom-{number}-{thick:g}mm-{noise:g}hu"
                yield Spec(name=name, group="", make=partial(phantom, number, thick, noise), series=series, at=at)
        for slices in SLICES:
            series, thick = "generated: slice thickness, mm", FINE_MM[0] * slices
            yield Spec(name=f"generated-{number}-{slices}x", group="", make=partial(changed, number, slices, 0.0), series=series, at=thick)
        for noise in MORE_NOISE_HU:
            series, name = "generated: added noise, HU", f"generated-{number}-2x" + (f"-{noise:g}hu" if noise else "")
            yield Spec(name=name, group="", make=partial(changed, number, 2, noise), series=series, at=noise)


def key_of(judge: str, path: Path) -> str:
    """Name what a kept result depends on besides its case's name: the code that draws and judges, and the model's digest."""
    told = code() + (card.read(path).digest if judge == "model" else "")
    return hashlib.sha256(told.encode()).hexdigest()


@cache
def code() -> str:
    """Give the text of all that draws the scans and judges them: a change of it makes kept results another program's."""
    folders = (Path(candidates.__file__).parent, Path(generator.__file__).parent, Path(illness.__file__).parent)
    files = [Path(lung_nodules.__file__), *(file for folder in folders for file in sorted(folder.glob("*.py")))]
    return "".join(file.read_text(encoding="utf-8") for file in files)


@cache
def judge_of(name: str, path: Path, device: str) -> judging.Judge:
    """Load a judge once a process."""
    torch.set_num_threads(1)
    return judging.model(card.read(path), device) if name == "model" else baseline.judge


def done(given: argparse.Namespace, spec: Spec) -> tuple[str, list[str]]:
    """Make one case, let every judge that has not seen it see it, keep the results; gives its name and what was said of them."""
    folder, told = given.out / "results", []
    case: Case | None = None
    for judge in JUDGES:
        key = key_of(judge, given.card)
        if scoring.kept(folder, key, spec.name, judge) is None:
            case = case or spec.make()
            names = (key, spec.name, judge)
            result, failures = scoring.score(case, judge_of(judge, given.card, given.device), names, threshold_of(given.card))
            scoring.keep(folder, result, failures)
            told.append(f"{judge} {result.seconds:.0f} CPU s" + (f", declined: {result.declined}" if result.declined else ""))
    return spec.name, told


def threshold_of(path: Path) -> float:
    """Give the card's operating point."""
    return float(card.read(path).card.runtime.options["nodules"]["threshold"])


def run(specs: Sequence[Spec], given: argparse.Namespace) -> None:
    """Do what is not done yet, telling of each case on stderr. A case that breaks off, or Ctrl-C, ends all at once; what is kept stays."""
    (given.out / "results").mkdir(parents=True, exist_ok=True)
    begun, made = time.monotonic(), 0
    waiting = list({spec.name: spec for spec in specs}.values())
    with multiprocessing.get_context("spawn").Pool(given.processes, _leave_ctrl_c) as pool:
        for count, (name, told) in enumerate(pool.imap_unordered(partial(done, given), waiting), start=1):
            made += bool(told)
            left = (time.monotonic() - begun) / max(1, made) * (len(waiting) - count) / 60
            print(f"{count}/{len(waiting)}  {name}: {'; '.join(told) or 'kept'}  (about {left:.0f} min left)", file=sys.stderr, flush=True)


def _leave_ctrl_c() -> None:
    """Let the first process alone hear of Ctrl-C: it ends the others."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def results_of(specs: Sequence[Spec], given: argparse.Namespace) -> dict[str, list[Result]]:
    """Read the results of some cases, by judge."""
    found: dict[str, list[Result]] = {judge: [] for judge in JUDGES}
    for judge in JUDGES:
        key = key_of(judge, given.card)
        for spec in specs:
            result = scoring.kept(given.out / "results", key, spec.name, judge)
            assert result is not None
            found[judge].append(result)
    return found


def tell(specs: Sequence[Spec], given: argparse.Namespace) -> None:
    """Write figures and pictures, and print them."""
    threshold, shelved = threshold_of(given.card), card.read(given.card)
    groups = {group: results_of([spec for spec in specs if spec.group == group], given) for group in dict.fromkeys(s.group for s in specs)}
    groups.pop("", None)
    rows = {group: figures.rows(results, threshold) for group, results in groups.items()}
    bins = {group: reliability.bins([result.reading for result in results["model"]]) for group, results in groups.items()}
    series = {label: _steps(label, specs, given) for label in dict.fromkeys(spec.series for spec in specs if spec.series)}
    model = {"version": shelved.card.model.version, "digest": shelved.digest, "operating_point": threshold}
    facts = {
        "model": model,
        "groups": {group: report.facts(found) for group, found in rows.items()},
        "calibration": {group: report.calibration(group, found) for group, found in bins.items()},
        "robustness": {label: {f"{at:g}": report.facts(found) for at, found in steps.items()} for label, steps in series.items()},
    }
    text = "\n".join(report.table(group, found, groups[group]) for group, found in rows.items())
    text += "\n" + "\n".join(f"- {report.calibration(group, found)}" for group, found in bins.items()) + "\n"
    text += "\n" + "\n".join(report.series(label, steps, CURVES) for label, steps in series.items())
    (given.out / "evaluation.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    (given.out / "tables.md").write_text(text, encoding="utf-8")
    with_lesions = {group: results for group, results in groups.items() if any(result.lesions for result in results["model"])}
    pictures.curves(with_lesions, given.out / "froc.png")
    pictures.probabilities(bins, given.out / "reliability.png")
    if series:
        pictures.robustness(series, CURVES, given.out / "robustness.png")
    for group, results in groups.items():
        pictures.failures(_worst(results["model"], given.out / "results"), given.out / f"failures-{group.replace(' ', '-')}.png")
    print(json.dumps(facts, indent=2) if given.json else text)


def _steps(label: str, specs: Sequence[Spec], given: argparse.Namespace) -> dict[float, list[figures.Row]]:
    there = [spec for spec in specs if spec.series == label]
    steps = sorted({spec.at for spec in there})
    return {at: figures.rows(results_of([spec for spec in there if spec.at == at], given), threshold_of(given.card)) for at in steps}


def _worst(results: Sequence[Result], folder: Path) -> list[tuple[str, Failure]]:
    found = [(result.case, failure) for result in results for failure in scoring.failures_of(folder, result)]
    return sorted(found, key=lambda entry: -entry[1].weight)


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line, evaluate, tell."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("evaluation-chest-ct"))
    parser.add_argument("--phantom", type=int, default=12, help="how many phantoms")
    parser.add_argument("--generated", type=int, default=20, help="how many generated scans")
    parser.add_argument("--real", type=Path, help="a folder of real chest CTs without nodules")
    parser.add_argument("--robust", type=int, default=4, help="how many of each for the curves of robustness")
    parser.add_argument("--first", type=int, default=300, help="number of the first scan; lower ones helped to make the model")
    parser.add_argument("--card", type=Path, default=judging.CARD)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--json", action="store_true", help="print JSON, not tables")
    given = parser.parse_args(arguments)
    if given.real and not given.real.is_dir():
        parser.error(f"--real {given.real}: there is no such folder")
    specs = list(plan(given))
    if not specs:
        parser.error("nothing to evaluate: --phantom, --generated, --real and --robust ask for no scan")
    try:
        run(specs, given)
    except KeyboardInterrupt:
        print(f"stopped; what is done is kept in {given.out / 'results'}, and the same command goes on", file=sys.stderr)
        sys.exit(130)
    tell(specs, given)


if __name__ == "__main__":
    main()
