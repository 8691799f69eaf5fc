"""`overread models train` on cases of the demo's generator: folder in, model folder out; what is wrong is told before any work."""

from __future__ import annotations

import json
import shutil
import tomllib
from pathlib import Path

import nibabel
import numpy as np
import pytest
from PIL import Image

from models.evaluation import froc
from models.evaluation.froc import Reading, Scored
from models.tuning import calibrating
from overread.tuning import comparison
from overread.tuning.comparison import Seen
from tests.overread.front import Said, overread
from tests.overread.tuning import labelled


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give three cases: one of DICOM files, two of NIfTI, one of them with nodules alone."""
    home = tmp_path_factory.mktemp("site")
    for number in range(3):
        labelled.case(home / "cases" / f"Secret Name {number}", number + 1, dicom=number == 0, lungs=number != 1)
    (home / "overread.toml").write_text(f'[node]\ndata_dir = "{home / "data"}"\n', encoding="utf-8")
    return home


def train(site: Path, out: Path, *more: str, data: Path | None = None) -> Said:
    """Run the command for two steps."""
    words = ("--data", str(data or site / "cases"), "--out", str(out), "--steps", "2", "-c", str(site / "overread.toml"))
    return overread("models", "train", "chest-ct", *words, *more)


@pytest.mark.timeout(1200)
def test_a_folder_of_cases_becomes_a_model_folder(site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pinned weights other than the base's, figures before and after, a picture; a draft if not better; nothing tells of a patient."""
    monkeypatch.setattr(calibrating, "BLOCKS", 0)
    said = train(site, tmp_path, "--json")
    assert said.code == 0, said.error
    told = json.loads(said.out)
    figures = {entry["name"]: entry for entry in told["figures"]}
    assert 0 <= figures["sensitivity_at_1"]["before"]["value"] <= 1
    assert told["history"]["cases_held_out"] == 1
    assert (told["history"]["steps_nodules"], told["history"]["steps_lungs"]) == (2, 2)
    made = tmp_path / "chest-ct-site"
    path = made / ("card.toml" if told["better"] else "card.draft.toml")
    card = tomllib.loads(path.read_text())
    assert not (made / ("card.draft.toml" if told["better"] else "card.toml")).exists()
    assert ("not better" in " ".join(card["model"]["limits"])) != told["better"]
    assert card["evaluation"]["figures"]["base_digest"] == told["history"]["base_digest"]
    shown = overread("models", "show", "chest-ct-site", "--dir", str(tmp_path), "--json", "-c", str(site / "overread.toml"))
    assert json.loads(shown.out)["files"] == {"lungs": "ok", "nodules": "ok"}
    base = tomllib.loads((Path(calibrating.__file__).parents[1] / "starter" / "chest_ct" / "card.toml").read_text())
    for part, file in card["runtime"]["files"].items():
        assert file["sha256"] != base["runtime"]["files"][part]["sha256"]
    with Image.open(tmp_path / "report.png") as picture:
        assert picture.size == (1320, 440)
    words = said.out + said.error + path.read_text() + (tmp_path / "report.json").read_text()
    assert "secret" not in words.lower()
    names = " ".join(str(entry.relative_to(tmp_path)) for entry in tmp_path.rglob("*"))
    assert "secret" not in names.lower()


def test_what_is_wrong_is_told_before_any_work(site: Path, tmp_path: Path) -> None:
    """Labels on another grid, unknown values, exchanged sides, no voxel, a broken file: each with its case and what to do."""
    data = tmp_path / "cases"
    sound = site / "cases" / "Secret Name 2"
    for name in ("moved", "strange", "exchanged", "empty", "broken"):
        shutil.copytree(sound, data / name)
    image = nibabel.load(sound / "labels.nii.gz")
    drawn = np.asarray(image.dataobj)
    away = np.array(image.affine)
    away[0, 3] += 5
    labelled.save(data / "moved" / "labels.nii.gz", drawn, away)
    labelled.save(data / "strange" / "labels.nii.gz", np.where(drawn == 1, 9, drawn), image.affine)
    labelled.save(data / "exchanged" / "labels.nii.gz", np.array([0, 2, 1], np.uint8)[drawn], image.affine)
    labelled.save(data / "empty" / "labels.nii.gz", drawn * 0, image.affine)
    (data / "empty" / "findings.nii.gz").unlink()
    (data / "broken" / "image.nii.gz").write_bytes(b"no image")
    said = train(site, tmp_path / "out", data=data)
    assert said.code == 2
    words = " ".join(said.error.split())
    assert "moved: labels.nii.gz lies 5.00 mm away" in words
    for expected in ("has the value 9", "left and right are exchanged", "no voxel of a label", "--skip"):
        assert expected in words, words
    assert "broken: image.nii.gz is no NIfTI" in words
    assert not list((tmp_path / "out").rglob("*.checkpoint"))


def test_one_patient_alone_cannot_be_trained_on(site: Path, tmp_path: Path) -> None:
    """Two cases of one patient, as patients.toml has it, leave nobody to hold out."""
    data = tmp_path / "cases"
    for name in ("a", "b"):
        shutil.copytree(site / "cases" / "Secret Name 2", data / name)
    (data / "patients.toml").write_text('"a" = "one"\n"b" = "one"\n')
    said = train(site, tmp_path / "out", data=data)
    assert (said.code, "at least two patients" in said.error) == (2, True)
    assert overread("models", "train", "chest-ct", "--data", str(tmp_path / "none"), "-c", str(site / "overread.toml")).code == 2


def seen(score: float, dice: float) -> Seen:
    """Give a case with one nodule of that score, and a false mark of 0.5."""
    reading = Reading(lesions=(Scored(size_mm=8.0, kind="", score=score),), false_marks=(0.5, 0.4))
    return Seen(dice=(dice, dice), reading=reading)


VERDICTS = [(0.9, 0.95, True), (0.9, 0.85, False), (froc.MISSED, 0.95, False), (0.3, 0.9, False)]


@pytest.mark.parametrize(("score", "dice", "better"), VERDICTS)
def test_better_is_better_in_a_part_and_worse_in_none(score: float, dice: float, better: bool) -> None:  # noqa: FBT001 -- a parameter
    """Before, the nodule is found below two false marks, and Dice is 0.9; a nodule that is not found any more is worse."""
    rows = comparison.rows([seen(0.3, 0.9)] * 2, [seen(score, dice)] * 2, (0.55, 0.55))
    assert comparison.verdict(rows, ["nodules", "lungs"])[0] is better
