"""Results to rows of figures with intervals: whole scans are resampled, because what is in one scan hangs together."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from models.evaluation import froc, interval
from models.evaluation.froc import Reading, Scored
from models.evaluation.interval import Interval
from models.starter.chest_ct.evaluation.scoring import Lung, Result

SIZES_MM = ((4.0, 6.0), (6.0, 8.0), (8.0, 12.0), (12.0, 20.0), (20.0, 40.0))
WORDS = ("solid", "part-solid", "ground-glass", "cavity", "free", "vessel", "pleura", "fissure", "spiculated", "calcified")
COUNTED_MM = 6.0
COMPARED_AT = 1.0
RESAMPLES = 300
NAN = float("nan")
Results = Mapping[str, Sequence[Result]]
Of = Callable[[Scored], bool]
Figure = Callable[[Sequence[Result]], float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One figure by judge, and how many lungs, lesions or scans it rests on.

    difference  the first judge's figure less the second's over the same resamples, of scans on which they can be compared;
                None for figures that are not resampled, and where there are not two judges
    """

    name: str
    among: int
    values: Mapping[str, Interval]
    difference: Interval | None = None


def classes() -> dict[str, Of]:
    """Give the classes of lesions by name; all but those by size begin at COUNTED_MM."""

    def sized(low: float, high: float) -> Of:
        return lambda lesion: low <= lesion.size_mm < high

    def called(word: str) -> Of:
        return lambda lesion: lesion.size_mm >= COUNTED_MM and word in lesion.kind.split()

    found = {f"{COUNTED_MM:g} mm and more": sized(COUNTED_MM, np.inf)}
    return found | {f"{low:g} to {high:g} mm": sized(low, high) for low, high in SIZES_MM} | {word: called(word) for word in WORDS}


def rows(results: Results, threshold: float) -> list[Row]:
    """Give the rows of a group of scans that every judge saw; `threshold` is the operating point of the judge "model".

    Classes are told for every judge at its own thresholds, those that leave as many false marks a scan, so that they can be compared:
    at COMPARED_AT, and as the mean over froc.RATES, which is LUNA16's score.
    """
    some = next(iter(results.values()))
    lesions = [lesion for result in some for lesion in result.lesions]
    known = {name: (of, sum(map(of, lesions))) for name, of in classes().items()}
    counted, among = known[f"{COUNTED_MM:g} mm and more"]
    found = [*_lung_rows(results), _plain("declined", len(some), results, _declined)]
    if among:
        found += [_row(f"sensitivity at {rate:g} false marks", among, results, _at(rate, counted)) for rate in froc.RATES]
    found += [_row(f"... {name}, at {COMPARED_AT:g}", n, results, _at(COMPARED_AT, of)) for name, (of, n) in known.items() if n]
    found += [_row(f"... {name}, score", n, results, _score(of)) for name, (of, n) in known.items() if n]
    own = {judge: given for judge, given in results.items() if judge == "model"}
    found.append(_row("false marks at the operating point", len(some), own, lambda given: froc.false_rate(_readings(given), threshold)))
    found += [_row(f"... {name}, found there", n, own, _above(threshold, of)) for name, (of, n) in known.items() if n]
    return found


def _lung_rows(results: Results) -> list[Row]:
    count = max(len(_lungs(given)) for given in results.values())
    if not count:
        return []

    def row(name: str, what: Callable[[Lung], float], how: Callable[[list[float]], float], *, resampled: bool) -> Row:
        def figure(given: Sequence[Result]) -> float:
            return how([what(lung) for lung in _lungs(given)] or [NAN])

        if not resampled:
            return _plain(name, count, results, figure)
        # A scan that one judge declines shows no lung of it: it would gain by declining what is hard.
        return _row(name, count, results, figure, lambda result: bool(result.lungs))

    return [
        row("lung Dice", lambda lung: lung.dice, _mean, resampled=True),
        row("lung Dice, worst", lambda lung: lung.dice, min, resampled=False),
        row("lung HD95, mm", lambda lung: lung.hd95_mm, _mean, resampled=True),
        row("lung volume, error in %", _error, _mean, resampled=True),
        row("lung volume, largest error in %", _error, max, resampled=False),
    ]


def _plain(name: str, among: int, results: Results, figure: Figure) -> Row:
    """Give a row without intervals."""
    values = {judge: Interval(value=figure(given), low=NAN, high=NAN) for judge, given in results.items()}
    return Row(name=name, among=among, values=values)


def _row(name: str, among: int, results: Results, figure: Figure, comparable: Callable[[Result], bool] = lambda _result: True) -> Row:
    """Give a row with intervals; `comparable` tells which results take part in the difference."""

    def figures(seen: Sequence[tuple[Result, ...]]) -> list[float]:
        each = [figure([scan[number] for scan in seen]) for number in range(len(results))]
        both = [scan for scan in seen if all(map(comparable, scan))]
        return [*each, figure([scan[0] for scan in both]) - figure([scan[1] for scan in both])] if len(results) == 2 else each

    found = interval.bootstrap(list(zip(*results.values(), strict=True)), figures, RESAMPLES)
    difference = found[len(results)] if len(found) > len(results) else None
    return Row(name=name, among=among, values=dict(zip(results, found, strict=False)), difference=difference)


def _at(rate: float, of: Of) -> Figure:
    return lambda given: froc.at_rates(_readings(given), (rate,), of)[0]


def _score(of: Of) -> Figure:
    return lambda given: float(np.mean(froc.at_rates(_readings(given), of=of)))


def _above(threshold: float, of: Of) -> Figure:
    return lambda given: froc.sensitivity(_readings(given), threshold, of)


def _declined(given: Sequence[Result]) -> float:
    return float(sum(bool(result.declined) for result in given))


def _readings(given: Sequence[Result]) -> list[Reading]:
    return [result.reading for result in given]


def _lungs(given: Sequence[Result]) -> list[Lung]:
    return [lung for result in given for lung in result.lungs]


def _mean(values: list[float]) -> float:
    return float(np.mean(values))


def _error(lung: Lung) -> float:
    return 100 * abs(lung.said_ml - lung.truth_ml) / lung.truth_ml
