"""The commands of docs/bring-your-model.md do what it says, as they stand there."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK
import torch

from tests import phantoms
from tests.models.runtimes import bundles, detectors
from tests.overread.front import overread
from tests.overread.test_bring_a_bundle import bundle

PAGE = (Path(__file__).parents[2] / "docs" / "bring-your-model.md").read_text(encoding="utf-8")


def section(title: str) -> str:
    """Give one section of the page."""
    return PAGE.split(f"\n## {title}\n")[1].split("\n## ")[0]


def commands(text: str) -> list[list[str]]:
    """Give the commands of a section, in order."""
    blocks = re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    return [shlex.split(line) for line in lines]


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give a folder with settings, a study, and the files that the page shows."""
    text = f'[node]\ndata_dir = "{tmp_path / "data"}"\n[models]\ndir = "{tmp_path / "models"}"\nstarters = false\n'
    (tmp_path / "overread.toml").write_text(text, encoding="utf-8")
    for name, content in re.findall(r"`(\S+\.toml)`:\n\n```toml\n(.*?)```", PAGE, re.DOTALL):
        (tmp_path / name).write_text(content, encoding="utf-8")
    phantoms.thorax(tmp_path / "study")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    return tmp_path


def follow(title: str, lacking: int) -> None:
    """Run a section's commands; `show` of a draft that lacks something is the only one that may end with 1."""
    ended = []
    for words in commands(section(title)):
        assert words[0] == "overread"
        said = overread(*words[1:])
        ended.append(said.code)
        assert said.code == 0 or (words[2], said.code) == ("show", 1), (words, said.out, said.error)
    assert ended.count(1) == lacking
    assert len(ended) > 3


def lungs_by_density(folder: Path, path: Path) -> None:
    """Save a bundle's network, which tells lung by its HU, as TorchScript."""
    made = bundle(folder)
    inference = json.loads((made / "configs" / "inference.json").read_text())
    network = bundles.network(inference)
    network.load_state_dict(torch.load(made / "models" / "model.pt", weights_only=True))
    torch.jit.trace(network.eval(), torch.zeros(1, 1, 32, 32, 32)).save(str(path))  # type: ignore[no-untyped-call]


def test_a_torchscript_file_is_brought_and_measured_by_the_page(site: Path) -> None:
    """Added, filled in, checked, run, shelved and evaluated; the lungs that it marks are the generator's, by ITK's geometry."""
    lungs_by_density(site / "made", site / "lungs.ts")
    follow("A TorchScript file", lacking=1)
    assert (site / "models" / "lungs" / "card.toml").is_file()
    truth = phantoms.thorax(site / "cases" / "one" / "image")
    image = phantoms.read_with_itk(truth.files)
    labels = (phantoms.on_grid(truth, phantoms.voxel_centres_mm(image)).labels > 0).astype(np.uint8)
    saved = SimpleITK.GetImageFromArray(labels)
    saved.CopyInformation(image)
    SimpleITK.WriteImage(saved, str(site / "cases" / "one" / "labels.nii.gz"))
    ((_, *words),) = commands(section("Your own cases"))
    said = overread(*words, "--json")
    assert said.code == 0, said.error
    (lung,) = json.loads(said.out)["labels"]
    assert lung["dice"]["value"] > 0.8  # the skin's blurred border has lung's HU too


def test_a_bundle_is_brought_by_the_page(site: Path) -> None:
    """The bundle's commands run as they stand."""
    bundle(site / "lung-bundle")
    follow("A MONAI bundle", lacking=0)
    assert (site / "out-bundle" / "labels.nii.gz").is_file()


def test_a_detection_bundle_is_brought_by_the_page(site: Path) -> None:
    """The detector's commands run as they stand, and its report has as many boxes as the bundle lets pass, each with its score."""
    inference = json.loads(json.dumps(detectors.INFERENCE).replace("detections_per_img=300", "detections_per_img=6"))
    inference["preprocessing"]["transforms"][4]["pixdim"] = [6.0, 6.0, 6.0]  # coarse, so that it is soon done
    detectors.write(site / "nodule-bundle", inference)
    follow("A MONAI detection bundle", lacking=1)
    (report,) = (site / "out-boxes").glob("*-sr.dcm")
    items = [item for item in pydicom.dcmread(report).iterall() if item.keyword == "ContentSequence" for item in item.value]
    groups = [item for item in items if item.get("ConceptNameCodeSequence") and _name(item) == "Measurement Group"]
    scores = [item for item in items if item.ValueType == "NUM" and _name(item) == "Certainty of Finding"]
    assert len(groups) == len(scores) == 6
    assert sum(item.ValueType == "SCOORD" and item.GraphicType == "POLYLINE" for item in items) == 6


def _name(item: pydicom.Dataset) -> str:
    return str(item.ConceptNameCodeSequence[0].CodeMeaning)


def test_an_nnunet_folder_is_brought_by_the_page(site: Path) -> None:
    """The results folder's commands run as they stand, where nnU-Net is there to train one."""
    from tests.models import trained  # noqa: PLC0415 -- imports nnU-Net

    table = trained.configuration(patch=(32, 32, 32), spacing=(8.0, 8.0, 8.0))
    trained.train(trained.Training(configurations={"3d_fullres": table}, mirroring=None), site / "Dataset001_Small")
    follow("An nnU-Net results folder", lacking=0)
    assert (site / "out-abdomen" / "labels.nii.gz").is_file()


def test_what_the_page_says_of_evaluations_is_what_the_code_does() -> None:
    """The files, columns, rates and resamples that the page names are the code's own."""
    from models.evaluation import froc, interval  # noqa: PLC0415
    from overread.evaluation import truth  # noqa: PLC0415

    text = section("Your own cases")
    assert ",".join(truth.BOX) in text
    assert ",".join(truth.POINT) in text
    assert f"{interval.RESAMPLES} resamples" in text
    assert (froc.RATES[0], froc.RATES[-1], froc.LEAST_MM) == (1 / 8, 8, 3)
    assert "at least 3 mm" in text
