"""How the chest starter is judged: cases whose truth stays where it was drawn, results that are kept, figures one can check by hand."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from pathlib import Path

import nibabel
import numpy as np
import pytest
from scipy import ndimage

from bench import chest_ct
from models.chest import candidates
from models.evaluation.froc import MISSED, Mark, Scored
from models.starter.chest_ct import generator
from models.starter.chest_ct.evaluation import cases, figures, illness, judging, pictures, report, scoring
from models.starter.chest_ct.evaluation.cases import Case
from models.starter.chest_ct.evaluation.judging import Said
from models.starter.chest_ct.evaluation.scoring import Lung, Result
from models.starter.chest_ct.generator import AXES, LEFT, RIGHT, Scan, draw
from models.starter.chest_ct.nodules import Nodule
from models.vocabulary import Grid, Unfit, Volume

NAMES = ("key", "case", "model")


@cache
def _scan() -> Scan:
    return draw(41, (4.0, 3.0, 3.0), nodules=(5, 8))


@cache
def _case() -> Case:
    return cases.case_of(_scan())


def _block(hu: float = -850) -> Volume:
    grid = Grid(shape=(40, 50, 60), origin_mm=(-30.0, 20.0, 100.0), axes=AXES, spacing_mm=(2.0, 1.0, 1.0))
    return Volume(array=np.full(grid.shape, hu, np.int16), grid=grid, unit="HU", modality="CT")


def _middle_mm(grid: Grid, mask: np.ndarray) -> np.ndarray:
    middle: np.ndarray = grid.to_world_mm(np.argwhere(mask).mean(axis=0, keepdims=True))[0]
    return middle


def test_the_truth_itself_is_right_in_everything() -> None:
    """Given as a judge's answer it has Dice 1, finds every nodule that counts and marks nothing falsely."""
    case = _case()
    marks = tuple(Mark(centre_mm=lesion.centre_mm, score=0.9) for lesion in case.lesions)

    def judge(_volume: Volume) -> Said:
        assert case.lungs is not None
        return case.lungs, marks

    result, failures = scoring.score(case, judge, NAMES, 0.8)
    assert [(lung.dice, lung.hd95_mm, lung.said_ml) for lung in result.lungs] == [(1.0, 0.0, lung.truth_ml) for lung in result.lungs]
    assert len(result.lungs) == 2
    assert {lesion.score for lesion in result.lesions} == {0.9}
    assert result.false_marks == ()
    assert failures == ()


def test_a_mirrored_answer_is_wrong() -> None:
    """Lungs exchanged have no voxel in common; marks on the other side hit nothing, and each is shown as a failure."""
    case = _case()
    marks = tuple(Mark(centre_mm=(-x - 15, y, z), score=0.9) for x, y, z in (lesion.centre_mm for lesion in case.lesions))

    def judge(_volume: Volume) -> Said:
        assert case.lungs is not None
        return np.select([case.lungs == LEFT, case.lungs == RIGHT], [RIGHT, LEFT], 0).astype(np.uint8), marks

    result, failures = scoring.score(case, judge, NAMES, 0.8)
    assert [lung.dice for lung in result.lungs] == [0.0, 0.0]
    assert {lesion.score for lesion in result.lesions} == {MISSED}
    assert len(result.false_marks) == len(marks)
    assert sum(failure.words.startswith("false") for failure in failures) == len(marks)


def test_a_declined_scan_has_found_nothing() -> None:
    """Its nodules count as missed, so that declining is no way to a better figure."""

    def judge(_volume: Volume) -> Said:
        raise Unfit("no lungs")

    result, _ = scoring.score(_case(), judge, NAMES, 0.8)
    assert result.declined == "no lungs"
    assert [lesion.score for lesion in result.lesions] == [MISSED] * sum(lesion.counts for lesion in _case().lesions)


def test_thicker_slices_leave_everything_where_it_was() -> None:
    """Averaged slices keep the lungs' places in the patient, and each its height; the lesions are the same."""
    case, thick = _case(), cases.thicker(_case(), 2)
    assert thick.volume.grid.spacing_mm == (8.0, 3.0, 3.0)
    assert thick.lesions == case.lesions
    assert case.lungs is not None
    assert thick.lungs is not None
    for side in (LEFT, RIGHT):
        off = _middle_mm(thick.volume.grid, thick.lungs == side) - _middle_mm(case.volume.grid, case.lungs == side)
        assert np.abs(off).max() < 2.0
    block = _block()
    heights = block.grid.to_world_mm(np.array([[z, 0.0, 0.0] for z in range(40)]))[:, 2]
    block.array[:] = 10 * heights[:, None, None]
    tall = cases.thicker(Case(volume=block, lungs=None, nodules=block.array > 1200, lesions=()), 4).volume
    assert tall.grid.shape == (10, 50, 60)
    found = tall.grid.to_world_mm(np.array([[z, 0.0, 0.0] for z in range(10)]))[:, 2]
    assert tall.array[:, 0, 0] == pytest.approx(10 * found, abs=0.5)


def test_noise_is_added_and_the_same_again() -> None:
    """Noise has the strength asked for, and follows from the seed."""
    case = Case(volume=_block(), lungs=None, nodules=np.zeros((40, 50, 60), bool), lesions=())
    noisy = cases.noisier(case, 30.0, 5).volume.array
    assert np.std(noisy.astype(float)) == pytest.approx(30, rel=0.02)
    assert (noisy == cases.noisier(case, 30.0, 5).volume.array).all()


def test_balls_lie_in_a_real_scan_where_the_truth_says(tmp_path: Path) -> None:
    """Each ball's voxels have their middle at its lesion's centre, its HU, and lie in the lungs; number 0 is the scan as it is."""
    places = np.stack(np.meshgrid(*(np.linspace(-1, 1, n) for n in (80, 90, 110)), indexing="ij"))
    lung = (places**2).sum(axis=0) < 0.9
    hu = np.where(lung, -850, 40).astype(np.int16)
    hu[:, :10] = 900  # bone in front
    path = tmp_path / "scan.nii.gz"
    nibabel.save(nibabel.Nifti1Image(hu.transpose(2, 1, 0), np.diag([-1.5, -1.5, 2.0, 1.0])), path)  # type: ignore[no-untyped-call]
    plain, case = cases.real(path, 0), cases.real(path, 3)
    assert plain.lesions == ()
    assert (plain.volume.array == hu).all()
    assert plain.volume.grid.spacing_mm == (2.0, 1.5, 1.5)
    assert sorted(lesion.size_mm for lesion in case.lesions) == sorted(diameter for diameter, _ in cases.BALLS)
    balls, count = ndimage.label(case.nodules)
    assert count == len(cases.BALLS)
    for lesion in case.lesions:
        at = tuple(np.rint(case.volume.grid.to_index(np.array([lesion.centre_mm]))[0]).astype(int))
        assert np.abs(_middle_mm(case.volume.grid, balls == balls[at]) - lesion.centre_mm).max() < 0.1
        assert lung[at]
        assert case.volume.array[at] == pytest.approx(30 if lesion.kind == "solid drawn" else -500, abs=40)


@pytest.mark.parametrize(("number", "ill", "part"), [(0, LEFT, "upper"), (1, RIGHT, "upper"), (2, LEFT, "lower")])
def test_a_tumour_and_a_collapsed_lobe_are_no_lung(number: int, ill: int, part: str, tmp_path: Path) -> None:
    """In a scan whose lungs are known one lung stays whole; of the other a lobe and the tumour are soft tissue and not in the truth."""
    well = LEFT + RIGHT - ill
    scan = draw(5, (3.0, 3.0, 3.0), nodules=(0, 0))
    path = tmp_path / "scan.nii.gz"
    nibabel.save(nibabel.Nifti1Image(scan.volume.array.transpose(2, 1, 0), np.diag([-3.0, -3.0, 3.0, 1.0])), path)  # type: ignore[no-untyped-call]
    case = illness.ill(path, number)
    assert case.lungs is not None

    def dice(one: np.ndarray, other: np.ndarray) -> float:
        return float(2 * (one & other).sum() / (one.sum() + other.sum()))

    assert dice(case.lungs == well, scan.organs == well) > 0.95
    filled = (scan.organs == ill) & (case.lungs != ill) & (scan.volume.array < -600)
    assert 0.1 < filled.sum() / (scan.organs == ill).sum() < 0.9
    inner = ndimage.binary_erosion(filled, iterations=2)
    assert inner.any()
    assert abs(np.median(case.volume.array[inner]) - 55) < 45
    (mass,) = case.lesions
    assert not mass.counts
    at = tuple(np.rint(case.volume.grid.to_index(np.array([mass.centre_mm]))[0]).astype(int))
    assert case.lungs[at] == 0
    heights = np.argwhere(filled)[:, 0].mean() - np.argwhere(scan.organs == ill)[:, 0].mean()
    assert heights > 0 if part == "upper" else heights < 0


def test_planes_are_seen_as_a_radiologist_sees_them() -> None:
    """What lies to the patient's left is on the right, what lies in front or towards the head is up."""
    volume = _block()
    centre = tuple(float(v) for v in volume.grid.to_world_mm(np.array([[20.0, 25.0, 30.0]]))[0])
    for offset, places in (
        ((10, 0, 0), {"axial": (32, 42), "coronal": (32, 42)}),
        ((0, -10, 0), {"axial": (22, 32), "sagittal": (32, 22)}),
        ((0, 0, 10), {"coronal": (22, 32), "sagittal": (22, 32)}),
    ):
        array = volume.array.copy()
        z, y, x = (round(v) for v in volume.grid.to_index(np.add(centre, offset)[None])[0])
        array[z, y - 1 : y + 2, x - 1 : x + 2] = 300
        grey = scoring.planes(Volume(array=array, grid=volume.grid, unit="HU", modality="CT"), (centre[0], centre[1], centre[2]))
        for view, (row, column) in places.items():
            part = grey[:, 64 * ("axial", "coronal", "sagittal").index(view) :][:, :64]
            assert part[row, column] == part.max() > 200
            assert part[part.shape[0] - row, 64 - column] < 120


def test_a_result_is_kept_for_its_key(tmp_path: Path) -> None:
    """It comes back the same, pictures too; one of another model, a broken one and a missing one do not."""
    lung = Lung(dice=0.9, hd95_mm=float("inf"), said_ml=1.0, truth_ml=2.0)
    lesion = Scored(size_mm=7.0, kind="solid free", score=0.5)
    result = Result(key="key", case="case", judge="model", lungs=(lung,), lesions=(lesion,), false_marks=(0.1,), seconds=2.0)
    failure = scoring.Failure(words="false: p 0.90", weight=0.9, planes=np.arange(64 * 192, dtype=np.uint8).reshape(64, 192))
    scoring.keep(tmp_path, result, (failure,))
    assert scoring.kept(tmp_path, "key", "case", "model") == result
    (again,) = scoring.failures_of(tmp_path, result)
    assert (again.words, again.weight) == (failure.words, failure.weight)
    assert (again.planes == failure.planes).all()
    assert scoring.kept(tmp_path, "other", "case", "model") is None
    assert scoring.kept(tmp_path, "key", "case", "baseline") is None
    scoring.keep(tmp_path, result, ())
    assert scoring.failures_of(tmp_path, result) == ()
    (tmp_path / "case.model.json").write_text('{"key": "key", "lun', encoding="utf-8")
    assert scoring.kept(tmp_path, "key", "case", "model") is None


@pytest.mark.parametrize("judge", chest_ct.JUDGES)
def test_kept_results_are_another_programs_once_the_code_changes(judge: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The candidates' code, which both judges run, is in their keys; so is what draws the scans."""
    before, code = chest_ct.key_of(judge, judging.CARD), chest_ct.code()
    for module in (candidates, cases, generator):
        assert Path(module.__file__).read_text(encoding="utf-8") in code
    monkeypatch.setattr(chest_ct, "code", lambda: code + "# another")
    assert chest_ct.key_of(judge, judging.CARD) != before


def _result(judge: str, scores: tuple[float, float, float], false_marks: tuple[float, ...], dice: float) -> Result:
    sizes, kinds = (5.0, 9.0, 14.0), ("solid free", "ground-glass vessel", "solid pleura spiculated")
    lesions = tuple(Scored(size_mm=size, kind=kind, score=score) for size, kind, score in zip(sizes, kinds, scores, strict=True))
    lung = Lung(dice=dice, hd95_mm=2.0, said_ml=110.0, truth_ml=100.0)
    return Result(key="", case="", judge=judge, lungs=(lung,), lesions=lesions, false_marks=false_marks)


def test_rows_are_what_one_counts_by_hand(tmp_path: Path) -> None:
    """Two scans, three nodules each: sensitivities by class at one false mark and at the operating point, lungs, calibration, tables."""
    results = {
        "model": [_result("model", (0.9, 0.95, 0.99), (0.5,), 0.98), _result("model", (MISSED, 0.3, 0.85), (0.97, 0.6), 0.94)],
        "baseline": [_result("baseline", (MISSED, MISSED, 0.2), (0.9, 0.8, 0.7), 0.5), _result("baseline", (0.1, 0.1, 0.1), (0.6,), 0.7)],
    }
    rows = {row.name: row for row in figures.rows(results, 0.8)}

    def value(name: str, judge: str = "model") -> float:
        return rows[name].values[judge].value

    assert value("lung Dice") == pytest.approx(0.96)
    assert value("lung Dice, worst", "baseline") == 0.5
    assert value("lung volume, error in %") == pytest.approx(10)
    assert rows["sensitivity at 1 false marks"].among == 4
    assert value("sensitivity at 1 false marks") == 0.75  # two false marks stand on two scans: over 0.5; 0.3 is missed
    assert value("sensitivity at 0.125 false marks") == 0.25  # none may stand: over 0.97
    assert value("sensitivity at 1 false marks", "baseline") == 0.0
    assert value("... ground-glass, at 1") == 0.5
    assert value("... spiculated, at 1") == 1.0
    assert value("... 4 to 6 mm, at 1") == 0.5
    assert value("false marks at the operating point") == 0.5
    assert value("... 8 to 12 mm, found there") == 0.5
    assert rows["false marks at the operating point"].values.keys() == {"model"}
    # Nothing of spiculated nodules is found above 0.97, one of two over 0.6 (1/2), both from there on.
    assert value("... spiculated, score") == pytest.approx((0.5 + 0.5 + 1.0 + 4 * 1.0) / 7)
    assert value("... spiculated, score", "baseline") == pytest.approx((0 + 0 + 0 + 0 + 1 + 1 + 1) / 7)
    difference = rows["... spiculated, score"].difference
    assert difference is not None
    assert difference.value == pytest.approx(value("... spiculated, score") - value("... spiculated, score", "baseline"))
    assert rows["false marks at the operating point"].difference is None
    assert "| ... spiculated, at 1 | 2 | 1.000 (1.00 to 1.00) | 0.000" in report.table("group", list(rows.values()), results)
    json.dumps(report.facts(list(rows.values())), allow_nan=False)
    pictures.curves({"group": results}, tmp_path / "froc.png")
    pictures.robustness({"noise": {1.0: list(rows.values()), 2.0: list(rows.values())}}, ("lung Dice",), tmp_path / "robust.png")
    failure = scoring.Failure(words="false: p 0.90", weight=0.9, planes=np.zeros((64, 192), np.uint8))
    pictures.failures([("scan", failure)], tmp_path / "failures.png")
    assert all((tmp_path / name).read_bytes().startswith(b"\x89PNG") for name in ("froc.png", "robust.png", "failures.png"))


def test_a_difference_is_of_the_same_scans_and_of_those_both_judged() -> None:
    """Two alike judges differ by 0 in every resample; a scan that one declined is left out of the lungs' difference alone."""
    given = [_result("", (0.9, 0.95, 0.99), (0.5,), 0.98), _result("", (MISSED, 0.3, 0.85), (0.97, 0.6), 0.5)]
    rows = {row.name: row for row in figures.rows({"model": given, "baseline": given}, 0.8)}
    same = [row.difference for row in rows.values() if row.difference is not None]
    assert len(same) > 20
    assert all((entry.value, entry.low, entry.high) == (0, 0, 0) for entry in same)
    declined = [given[0], replace(given[1], lungs=(), declined="too thick")]
    dice = {row.name: row for row in figures.rows({"model": declined, "baseline": given}, 0.8)}["lung Dice"]
    assert (dice.values["model"].value, dice.values["baseline"].value) == pytest.approx((0.98, 0.74))
    assert dice.difference is not None
    assert dice.difference.value == pytest.approx(0)


def test_what_a_nodule_is_stands_in_words() -> None:
    """Its kind, its place, and how it looks: rows are made by these."""
    nodule = Nodule(number=1, centre_mm=(0, 0, 0), diameter_mm=7, kind="part-solid", site="vessel", spiculated=True)
    assert cases.words(nodule) == "part-solid vessel spiculated"
    assert cases.words(replace(nodule, site="free", spiculated=False, calcified=True)) == "part-solid free calcified"


@pytest.mark.verify
def test_the_command_tells_figures_and_goes_on_with_what_is_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One phantom through both judges in other processes: tables, JSON, pictures; again, it makes none anew."""
    given = ["--out", str(tmp_path), "--phantom", "1", "--generated", "0", "--robust", "0", "--first", "20", "--json"]
    chest_ct.main(given)
    said = capsys.readouterr()
    assert "1/1  phantom-20-5mm-8hu: model" in said.err
    rows = {row["name"]: row["values"] for row in json.loads(said.out)["groups"]["phantom"]}
    assert rows["lung Dice"]["model"]["value"] > 0.97
    assert rows["... 12 to 20 mm, at 1"]["model"]["value"] == 1.0
    chest_ct.main(given)
    assert "1/1  phantom-20-5mm-8hu: kept" in capsys.readouterr().err
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"results", "evaluation.json", "tables.md", "froc.png", "reliability.png", "failures-phantom.png"}
