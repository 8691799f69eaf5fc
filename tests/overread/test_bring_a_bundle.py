"""A MONAI bundle in five minutes: made, added, its codes filled in, checked, and run on a phantom, all by the command."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import ndimage

from models.shelving import writing
from tests import phantoms
from tests.models.runtimes import bundles
from tests.models.runtimes.bundles import INFERENCE, METADATA, POINT, changed
from tests.overread.front import overread
from tests.test_orientation import read_with_dcmqi

TOLD = {
    "model.licence": "Apache-2.0",
    "model.intended_use": "To show how a bundle is brought.",
    "model.limits": ["Means nothing."],
    "inputs.ct.accept.region": ["chest", "unknown"],
}


def bundle(folder: Path) -> Path:
    """Make a bundle as MONAI's users do, whose network tells lung from what is lighter and denser by its HU alone."""
    inference = changed(INFERENCE, network_def=POINT, spacing=[5.0, 5.0, 5.0])
    image = {"num_channels": 1, "spatial_shape": [32, 32, 32], "modality": "CT", "channel_def": {"0": "image"}}
    pred = {"num_channels": 3, "channel_def": {"0": "background", "1": "lung", "2": "soft tissue"}}
    about = changed(METADATA, network_data_format__inputs__image=image, network_data_format__outputs__pred=pred, name="Lung by HU")
    # Intensities 0..1 stand for -1000..400 HU: none below -930, lung up to -500.
    return bundles.write(folder, inference, about, bundles.lines(inference, ((0.0, 0.0), (400.0, -20.0), (800.0, -162.8))))


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give a site with a settings file and a phantom seen from the side, and a wide terminal."""
    monkeypatch.setenv("COLUMNS", "160")
    text = f'[node]\ndata_dir = "{tmp_path / "data"}"\n[models]\ndir = "{tmp_path / "models"}"\nstarters = false\n'
    (tmp_path / "overread.toml").write_text(text, encoding="utf-8")
    return tmp_path


def said(*words: str, site: Path) -> dict[str, Any]:
    """Run a command of `overread models` and give what it says as JSON."""
    done = overread("models", *words, "--json", "--config", str(site / "overread.toml"))
    assert done.code == 0, done.error
    found: dict[str, Any] = json.loads(done.out)
    return found


def test_a_bundle_is_brought_in_five_minutes(site: Path) -> None:
    """Add reads metadata and pins files; four keys and confirmed codes later the model runs, and its lungs are the phantom's."""
    truth = phantoms.thorax(site / "study", phantoms.ORIENTATIONS["sagittal"])
    path = str(bundle(site / "bundle"))
    added = said("add", path, site=site)
    assert (added["name"], added["format"]) == ("lung-by-hu", "monai-bundle")
    assert sorted(added["files"]) == ["configs/inference.json", "configs/metadata.json", "models/model.safetensors"]
    assert set(TOLD) - {"model.intended_use"} <= set(added["missing"])
    assert json.loads(added["proposals"]["output.labels.1.kind"]) == "organ"
    sets = [word for key, value in TOLD.items() for word in ("--set", f"{key}={writing.value(value)}")]
    filled = said("add", path, *sets, "--confirm-codes", site=site)
    assert filled["missing"] == {}
    checked = said("check", "lung-by-hu", "--shelve", site=site)
    assert [trial["holds"] for trial in checked["trials"]] == [True, True]
    ran = said("run", "lung-by-hu", str(site / "study"), "--out", str(site / "out"), site=site)
    assert ran["variant"]["runtime"] == "monai-bundle"
    (seg,) = [Path(name) for name in ran["files"] if "seg" in Path(name).name]
    ((mask, centres_mm),) = read_with_dcmqi(seg, site / "read")["lung"]
    lungs = truth.in_lung("left", centres_mm) | truth.in_lung("right", centres_mm)
    # The skin's blurred border has lung's HU too; what touches no lung is not looked at.
    parts, _ = ndimage.label(mask)
    mask = np.isin(parts, np.setdiff1d(parts[lungs], 0))
    assert 2 * np.count_nonzero(mask & lungs) / (np.count_nonzero(mask) + np.count_nonzero(lungs)) > 0.85
