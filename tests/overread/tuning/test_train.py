"""`overread models train` on cases of the demo's generator: folder in, model folder out; what is wrong is told before any work."""

from __future__ import annotations

import json
import resource
import shutil
import signal
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from models.evaluation import froc
from models.evaluation.froc import Reading, Scored
from models.tuning import calibrating, parts
from overread.tuning import comparison, training
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
    """Stopped by Ctrl-C and begun again: pinned weights other than the base's, figures, a picture; nothing tells of a patient."""
    monkeypatch.setattr(calibrating, "BLOCKS", 0)
    stopped = _stopped_after_a_step(site, tmp_path, monkeypatch)
    said = train(site, tmp_path, "--json")
    assert said.code == 0, said.error
    told = json.loads(said.out)
    assert told["verdict"] == "no clear difference"  # one case held out cannot tell
    figures = {entry["name"]: entry for entry in told["figures"]}
    assert 0 <= figures["sensitivity_at_1"]["before"]["value"] <= 1
    assert told["history"]["cases_held_out"] == 1
    assert (told["history"]["steps_nodules"], told["history"]["steps_lungs"]) == (2, 2)
    made = tmp_path / "chest-ct-site"
    path = made / ("card.toml" if told["better"] else "card.draft.toml")
    card = tomllib.loads(path.read_text())
    assert not (made / ("card.draft.toml" if told["better"] else "card.toml")).exists()
    assert ("A draft, not for use." in " ".join(card["model"]["limits"])) != told["better"]
    assert card["evaluation"]["figures"]["base_digest"] == told["history"]["base_digest"]
    shown = overread("models", "show", "chest-ct-site", "--dir", str(tmp_path), "--json", "-c", str(site / "overread.toml"))
    assert json.loads(shown.out)["files"] == {"lungs": "ok", "nodules": "ok"}
    base = tomllib.loads((Path(calibrating.__file__).parents[1] / "starter" / "chest_ct" / "card.toml").read_text())
    for part, file in card["runtime"]["files"].items():
        assert file["sha256"] != base["runtime"]["files"][part]["sha256"]
    with Image.open(tmp_path / "report.png") as picture:
        assert picture.size == (1320, 440)
    assert not list(tmp_path.rglob("*.partial"))
    words = stopped.out + stopped.error + said.out + said.error + path.read_text() + (tmp_path / "report.json").read_text()
    assert "secret" not in words.lower()
    names = " ".join(str(entry.relative_to(tmp_path)) for entry in tmp_path.rglob("*"))
    assert "secret" not in names.lower()


def _stopped_after_a_step(site: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> Said:
    """Run the command, and press Ctrl-C in the first step of two: it ends after that step, with a checkpoint of it."""
    loss = parts.NodulePart.loss

    def pressed(self: parts.NodulePart, step: int) -> Tensor:
        signal.raise_signal(signal.SIGINT)
        return loss(self, step)

    with monkeypatch.context() as patch:
        patch.setattr(parts.NodulePart, "loss", pressed)
        said = train(site, out)
    assert (said.code, "the same command goes on" in said.out) == (130, True)
    assert torch.load(out / "work" / "nodules.checkpoint", weights_only=True)["done"] == 1
    return said


def test_a_stop_before_any_step_is_a_stop_too(site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C while cases are looked at: exit code 130, and no traceback."""
    monkeypatch.setattr(training, "look", lambda *_given: signal.raise_signal(signal.SIGINT))
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # what a shell runs in the background ignores it
    try:
        said = train(site, tmp_path)
    finally:
        signal.signal(signal.SIGINT, before)
    assert (said.code, said.out.count("Stopped.")) == (130, 1)


def test_a_full_disk_is_told_and_leaves_nothing_half_written(site: Path, tmp_path: Path) -> None:
    """Where no file may be larger than a megabyte, no lesson can be kept: exit code 2, what is wrong, and that it goes on."""
    for name in ("Secret Name 0", "Secret Name 2"):
        shutil.copytree(site / "cases" / name, tmp_path / "cases" / name)
    with limited(1_000_000):
        said = train(site, tmp_path, data=tmp_path / "cases")
    assert said.code == 2
    assert "File too large" in said.error
    assert "the same command goes on" in said.error
    assert not [path for path in (tmp_path / "work").iterdir() if path.is_file()]


@contextmanager
def limited(most: int) -> Iterator[None]:
    """Let no file grow beyond `most` bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_name_or_place_that_cannot_be_is_refused_before_any_case_is_read(site: Path, tmp_path: Path) -> None:
    """Names that no card may have, the starter's own, a folder below a file, and a folder with a model that was brought."""
    none = tmp_path / "no such cases"
    for name in ("Not A Name", "../elsewhere", "a" * 33):
        said = train(site, tmp_path / "out", "--name", name, data=none)
        assert (said.code, "is no name for a model" in said.error) == (2, True), said.error
    assert "on the shelf" in train(site, tmp_path / "out", "--name", "chest-ct", data=none).error
    assert not (tmp_path / "out").exists()
    (tmp_path / "file").write_text("a file, no folder")
    said = train(site, tmp_path / "file" / "out", data=none)
    assert (said.code, "nothing can be written there" in said.error) == (2, True), said.error
    (tmp_path / "out" / "brought").mkdir(parents=True)
    (tmp_path / "out" / "brought" / "origin.json").write_text("{}")
    assert "another" in train(site, tmp_path / "out", "--name", "brought", data=none).error


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


UNCLEAR = "no clear difference"
VERDICTS = [(0.9, 0.95, "better"), (0.9, 0.85, "worse"), (froc.MISSED, 0.95, "worse"), (0.3, 0.9, UNCLEAR)]


@pytest.mark.parametrize(("score", "dice", "kind"), VERDICTS)
def test_better_is_better_in_a_part_and_worse_in_none(score: float, dice: float, kind: str) -> None:
    """Before, the nodule is found below two false marks, and Dice is 0.9; a nodule that is not found any more is worse."""
    rows = comparison.rows([seen(0.3, 0.9)] * 5, [seen(score, dice)] * 5, (0.55, 0.55))
    assert comparison.verdict(rows, ["nodules", "lungs"])[0] == kind


def test_what_the_interval_does_not_show_is_no_clear_difference() -> None:
    """Dice is better in five of six cases and worse in one: the mean is higher, and 0 lies within the interval. Four cases cannot tell."""
    before = [seen(0.9, 0.9)] * 6
    mixed = [seen(0.9, dice) for dice in (0.91, 0.91, 0.91, 0.91, 0.91, 0.87)]
    rows = comparison.rows(before, mixed, (0.55, 0.55))
    assert rows[0].difference.value > 0
    kind, why = comparison.verdict(rows, ["lungs"])
    assert kind == UNCLEAR
    assert "lung_dice 0.900 before, 0.903 after, no clear difference" in why
    for cases, expected in ((4, UNCLEAR), (5, "better")):
        rows = comparison.rows(before[:cases], [seen(0.9, 0.95)] * cases, (0.55, 0.55))
        kind, why = comparison.verdict(rows, ["lungs"])
        assert (kind, "4 held out; fewer than 5 cannot tell" in why) == (expected, cases == 4)
