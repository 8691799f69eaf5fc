"""`overread models run` on folders of DICOM files: NIfTI in the patient's place, several studies, reasons."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from models import card
from models.vocabulary import Box, Finding, Prediction
from overread import nifti
from overread.commands import models_run
from tests import phantoms
from tests.models import cards, grids
from tests.overread.front import Said, overread


@dataclass(frozen=True)
class Site:
    """A folder with a settings file and the network of the tests, whose organ 1 is what has -650 to 0 HU."""

    home: Path

    def run(self, source: Path, out: Path, *more: str) -> Said:
        """Run the model."""
        return overread("models", "run", "lines", str(source), "--out", str(out), "--config", str(self.home / "overread.toml"), *more)


@pytest.fixture
def site(tmp_path: Path) -> Site:
    """Give a site."""
    cards.lines(tmp_path / "models" / "lines", "spacing_mm = [1.5, 1.5, 1.5]", "spacing_mm = [6.0, 6.0, 6.0]")
    text = f'[node]\ndata_dir = "{tmp_path / "data"}"\n[models]\ndir = "{tmp_path / "models"}"\nstarters = false\n'
    (tmp_path / "overread.toml").write_text(text, encoding="utf-8")
    return Site(tmp_path)


def test_labels_lie_in_the_patient_where_the_generator_put_the_lungs(site: Site, tmp_path: Path) -> None:
    """Of an oblique study, the soft tissue in the NIfTI lies outside the generator's lungs, by the file's own affine alone."""
    truth = phantoms.thorax(tmp_path / "study", phantoms.ORIENTATIONS["oblique"])
    said = site.run(tmp_path / "study", tmp_path / "out", "--json")
    assert said.code == 0, said.error
    facts = json.loads(said.out)
    (path,) = [Path(name) for name in facts["nifti"] if Path(name).name == "labels.nii.gz"]
    labels, grid = nifti.read(path)
    points = grid.to_world_mm(np.argwhere(np.ones(grid.shape, dtype=bool)).astype(float))
    lungs = (truth.in_lung("left", points) | truth.in_lung("right", points)).reshape(grid.shape)
    inside = float((labels[lungs] == 2).mean())
    around = float((labels[~lungs] == 2).mean())
    assert lungs.any()
    assert inside < 0.1 < around


def test_every_study_of_a_folder_is_run_in_a_folder_of_its_own(site: Site, tmp_path: Path) -> None:
    """Two patients in one folder give two results; where one is declined the other stands, and the exit code is 1."""
    phantoms.thorax(tmp_path / "study" / "a")
    phantoms.thorax(tmp_path / "study" / "b", seed=2)
    said = site.run(tmp_path / "study", tmp_path / "out", "--json")
    assert said.code == 0, said.error
    assert len(json.loads(said.out)["studies"]) == 2
    assert (tmp_path / "out" / "study-2" / "labels.nii.gz").is_file()


def test_what_lay_in_the_folder_before_is_not_taken_for_a_result(site: Site, tmp_path: Path) -> None:
    """A file of an earlier run stays, and is named as none of this one; what is written again is not."""
    phantoms.thorax(tmp_path / "study")
    old = tmp_path / "out" / "09-seg.dcm"
    old.parent.mkdir()
    old.write_bytes(b"of another patient")
    for _ in range(2):
        said = site.run(tmp_path / "study", tmp_path / "out", "--json")
        assert json.loads(said.out)["others"] == [str(old)]
    assert f"not of this run: {old}" in site.run(tmp_path / "study", tmp_path / "out").out


def test_nifti_and_nothing_are_refused_with_what_to_do(site: Site, tmp_path: Path) -> None:
    """A folder of NIfTI is told where NIfTI is taken; one that is not there is told so."""
    (tmp_path / "nifti").mkdir()
    nifti.write(tmp_path / "nifti" / "ct.nii.gz", np.zeros((4, 4, 4), dtype=np.int16), grids.grid("axial", shape=(4, 4, 4)))
    said = site.run(tmp_path / "nifti", tmp_path / "out")
    assert (said.code, "`overread models evaluate` takes NIfTI" in said.error) == (2, True)
    said = site.run(tmp_path / "absent", tmp_path / "out")
    assert (said.code, "is not a folder" in said.error) == (2, True)


def test_everything_with_voxels_is_saved(tmp_path: Path) -> None:
    """Labels, numbered findings, masks and probabilities each become a file on the grid; boxes and a radiograph none."""
    grid = grids.grid("sagittal")
    empty = np.zeros(grid.shape, dtype=np.uint8)
    levels = np.full(grid.shape, 51, dtype=np.uint8)
    full = Prediction(
        grid=grid,
        labels=empty,
        instances=empty.astype(np.uint16),
        masks={4: empty.astype(bool)},
        probabilities={7: levels},
    )
    names = [path.name for path in models_run.save(full, tmp_path)]
    assert names == ["findings.nii.gz", "mask-4.nii.gz", "probability-7.nii.gz"]
    values, place = nifti.read(tmp_path / "probability-7.nii.gz")
    assert float(values.max()) == pytest.approx(0.2)
    np.testing.assert_allclose(place.affine, grid.affine, atol=1e-5)
    assert [path.name for path in models_run.save(Prediction(grid=grid, labels=empty), tmp_path)] == ["labels.nii.gz"]
    boxes = (Finding(number=1, label=1, score=0.5, box=Box(low=(0, 0, 0), high=(1, 1, 1))),)
    assert models_run.save(Prediction(grid=grid, labels=empty, findings=boxes), tmp_path) == []


def test_a_findings_numbers_are_told_as_the_model_gave_them() -> None:
    """Score and deviation by name; a model with one opinion has no deviation."""
    shelved = card.read(card.STARTERS / "chest_ct" / "card.toml")
    finding = Finding(number=2, label=3, score=0.87654, box=Box(low=(0, 0, 0), high=(1, 1, 1)), deviation=0.04)
    assert models_run.mark(shelved, finding) == {"number": 2, "label": "Nodule", "score": 0.8765, "deviation": 0.04}
    assert "deviation" not in models_run.mark(shelved, replace(finding, deviation=None))
