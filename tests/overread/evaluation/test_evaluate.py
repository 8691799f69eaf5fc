"""`overread models evaluate` on made-up cases whose every answer is known: a network that tells tissues by their HU."""

from __future__ import annotations

import json
import shutil
import tomllib
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from models.card import EvaluationPart
from overread import nifti
from tests.models import cards, grids
from tests.models.cards import AIR_HU, MARK_HU, ONE_HU, TWO_HU
from tests.overread.front import overread

GRID = grids.grid("oblique", shape=(24, 40, 40), spacing_mm=(1.5, 1.5, 1.5))
CENTRE = (20.0, 20.0)


def block(low: tuple[int, int, int], high: tuple[int, int, int]) -> tuple[slice, slice, slice]:
    """Give the place of a half-open box."""
    return slice(low[0], high[0]), slice(low[1], high[1]), slice(low[2], high[2])


ONE, TWO = block((4, 4, 4), (20, 16, 36)), block((4, 18, 4), (20, 36, 36))
SPOTS = [block((8, 22, 8), (13, 27, 13)), block((8, 26, 24), (13, 31, 29))]


def case(folder: Path, *, missing: int = 0) -> NDArray[np.int16]:
    """Write a case: two organs with a bright spot in the second; the truth has a second spot, and organ one longer by `missing` planes."""
    folder.mkdir(parents=True)
    image = np.full(GRID.shape, AIR_HU, dtype=np.int16)
    image[ONE], image[TWO], image[SPOTS[0]] = ONE_HU, TWO_HU, MARK_HU
    truth = np.zeros(GRID.shape, dtype=np.uint8)
    truth[ONE], truth[TWO], truth[SPOTS[0]] = 1, 2, 9
    truth[20 : 20 + missing, ONE[1], ONE[2]] = 1
    spots = np.zeros(GRID.shape, dtype=np.uint8)
    spots[SPOTS[0]], spots[SPOTS[1]] = 1, 2
    nifti.write(folder / "image.nii.gz", image, GRID)
    nifti.write(folder / "labels.nii.gz", truth, GRID)
    nifti.write(folder / "findings.nii.gz", spots, GRID)
    return image


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a site with the network of the tests and two cases."""
    home = tmp_path_factory.mktemp("site")
    cards.lines(
        home / "models" / "lines",
        "threshold = 0.5\nmin_volume_ml = 0.1\nwithin",
        "threshold = 0.5\nextent = 0.2\nmin_volume_ml = 0.1\nwithin",
    )
    case(home / "cases" / "a")
    case(home / "cases" / "b", missing=4)
    text = f'[node]\ndata_dir = "{home / "data"}"\n[models]\ndir = "{home / "models"}"\nstarters = false\n'
    (home / "overread.toml").write_text(text, encoding="utf-8")
    return home


def run(site: Path, out: Path, *more: str, data: Path | None = None) -> tuple[int, dict[str, object], str]:
    """Evaluate and give exit code, figures and what was said."""
    words = ("--data", str(data or site / "cases"), "--out", str(out), "--config", str(site / "overread.toml"))
    said = overread("models", "evaluate", "lines", "--json", *words, *more)
    return said.code, json.loads(said.out) if said.out else {}, said.error


def test_the_figures_are_those_of_the_made_up_cases(site: Path, tmp_path: Path) -> None:
    """Organ 2 is found whole; organ 1 lacks 4 of 20 planes in one case; one of two lesions a case is found, and nothing is false."""
    code, found, error = run(site, tmp_path)
    assert code == 0, error
    one, two, spot = found["labels"]
    assert one["label"] == "First organ"
    assert one["dice"]["value"] == pytest.approx((1 + 2 * 16 / 36) / 2, abs=0.02)
    assert one["dice"]["low"] <= one["dice"]["value"] <= one["dice"]["high"]
    assert one["error_percent"]["value"] == pytest.approx(-10, abs=1.5)
    assert one["hd95_mm"]["value"] == pytest.approx(6 / 2, abs=1.0)
    assert two["dice"]["value"] > 0.97
    assert (spot["label"], spot["cases"], spot["missed"]) == ("Nodule", 2, 0)
    marks = found["findings"]
    assert (marks["scans"], marks["lesions"], marks["threshold"]) == (2, 4, 0.5)
    assert [at["value"] for at in marks["at_rates"]] == [0.5] * 7
    assert marks["false_marks"]["value"] == 0
    diameter = (6 * 125 * 1.5**3 / np.pi) ** (1 / 3)
    assert [(size["low_mm"], size["high_mm"], size["lesions"]) for size in marks["sizes"]] == [(8, 12, 4)]
    assert 8 <= diameter < 12


def test_files_are_written_that_a_reader_can_use(site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """JSON, three pictures and a block of TOML that a card takes; the table names labels and the rule of a hit."""
    run(site, tmp_path)
    block = tomllib.loads((tmp_path / "evaluation.toml").read_text())["evaluation"]
    assert EvaluationPart.model_validate(block).figures["froc_1"] == 0.5
    assert block["data"] == "2 cases, 4 lesions"
    for name in ("froc.png", "volumes.png", "dice.png"):
        with Image.open(tmp_path / name) as picture:
            assert picture.size == (910, 650)
    monkeypatch.setenv("COLUMNS", "200")
    said = overread("models", "evaluate", "lines", "--data", str(site / "cases"), "--out", str(tmp_path), "-c", str(site / "overread.toml"))
    assert "First organ" in said.out
    assert "within the radius" in said.out


def test_predictions_are_kept_until_card_or_images_change(site: Path, tmp_path: Path) -> None:
    """A second run reads every prediction; other images are predicted anew."""
    data = shutil.copytree(site / "cases", tmp_path / "cases")
    run(site, tmp_path / "out", data=data)
    kept = sorted((tmp_path / "out" / "predictions").iterdir())
    before = [entry.stat().st_mtime_ns for entry in kept]
    assert len(kept) == 4  # plain and with all marks, for two cases
    assert run(site, tmp_path / "out", data=data)[0] == 0
    assert [entry.stat().st_mtime_ns for entry in sorted((tmp_path / "out" / "predictions").iterdir())] == before
    shutil.rmtree(data / "a")
    case(data / "a")
    run(site, tmp_path / "out", data=data)
    assert len(list((tmp_path / "out" / "predictions").iterdir())) == 6


def test_bad_cases_are_named_and_the_others_go_on(site: Path, tmp_path: Path) -> None:
    """A truth on another grid, one without truth and one without image are left out with the reason, and exit code 1 says so."""
    data = shutil.copytree(site / "cases", tmp_path / "cases")
    moved = nifti.grid_of(nifti.affine_of(GRID) + np.diag([0, 0, 0, 0]) + np.array([[0, 0, 0, 2.0], *[[0.0] * 4] * 3]), GRID.shape)
    shutil.copytree(data / "a", data / "moved")
    nifti.write(data / "moved" / "labels.nii.gz", np.zeros(GRID.shape, dtype=np.uint8), moved)
    shutil.copytree(data / "a", data / "cut")
    nifti.write(data / "cut" / "labels.nii.gz", np.zeros((23, 40, 40), dtype=np.uint8), nifti.grid_of(nifti.affine_of(GRID), (23, 40, 40)))
    shutil.copytree(data / "a", data / "untold")
    for path in (data / "untold").glob("[lf]*"):
        path.unlink()
    (data / "empty").mkdir()
    code, found, _ = run(site, tmp_path / "out", data=data)
    assert code == 1
    assert set(found["bad"]) == {"moved", "cut", "untold", "empty"}
    assert "2.00 mm away" in found["bad"]["moved"]
    assert "40 x 40 x 23" in found["bad"]["cut"]
    assert "no truth" in found["bad"]["untold"]
    assert "image.nii.gz" in found["bad"]["empty"]
    assert len(found["cases"]) == 2
    assert run(site, tmp_path / "out", "--skip", data=data)[0] == 0


def test_a_declined_case_is_a_figure_not_a_fault(site: Path, tmp_path: Path) -> None:
    """What the model declines is told with its reason and counted in the card's words."""
    data = shutil.copytree(site / "cases", tmp_path / "cases")
    nifti.write(data / "b" / "image.nii.gz", np.full(GRID.shape, AIR_HU, dtype=np.int16), GRID)
    code, found, _ = run(site, tmp_path / "out", data=data)
    assert code == 0
    assert list(found["declined"]) == ["b"]
    assert "1 more declined" in (tmp_path / "out" / "evaluation.toml").read_text()


def test_lesions_may_be_a_list_of_points_or_boxes_and_values_may_be_mapped(site: Path, tmp_path: Path) -> None:
    """A CSV in LPS mm finds what the numbered voxels find; a line that need not be found counts neither way; labels.toml renames."""
    data = tmp_path / "cases"
    case(data / "a")
    (data / "a" / "findings.nii.gz").unlink()
    centre = GRID.to_world_mm(np.array([[10.0, 24.0, 10.0]]))[0]
    points = "x_mm,y_mm,z_mm,diameter_mm,kind,counts\n" + ",".join(f"{value:.3f}" for value in centre) + ",9,solid,1\n0,0,0,5,solid,0\n"
    (data / "a" / "findings.csv").write_text(points)
    truth, _ = nifti.read(data / "a" / "labels.nii.gz")
    nifti.write(data / "a" / "labels.nii.gz", np.where(truth == 2, 77, truth), GRID)
    (data / "labels.toml").write_text('"77" = 2\n"1" = 0\n')
    _, found, error = run(site, tmp_path / "out", data=data)
    assert (found["findings"]["lesions"], found["findings"]["sensitivity"]["value"]) == (1, 1), error
    assert [(kind["kind"], kind["lesions"]) for kind in found["findings"]["kinds"]] == [("solid", 1)]
    assert [label["label"] for label in found["labels"]] == ["Second organ"]
    corners = [*(centre - 3), *(centre + 3)]
    (data / "a" / "findings.csv").write_text(
        "x_low_mm,y_low_mm,z_low_mm,x_high_mm,y_high_mm,z_high_mm\n" + ",".join(f"{value:.3f}" for value in corners) + "\n"
    )
    _, found, _ = run(site, tmp_path / "out", data=data)
    assert found["findings"]["sizes"][0]["low_mm"] == 6
    (data / "a" / "findings.csv").write_text("x,y\n1,2\n")
    code, found, error = run(site, tmp_path / "out", data=data)
    assert (code, "columns x, y" in error) == (2, True)
    (data / "labels.toml").write_text('"77" = 5\n')
    assert "5 is no label of the card" in run(site, tmp_path / "out", data=data)[2]
