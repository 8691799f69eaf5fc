"""Geometry through everything, the network included: however the patient lay, its marks are where the nodules are."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from models.card import STARTERS, read
from node.settings import Settings
from overread.sample import Scan, Truth
from tests import phantoms
from tests.real.node import Site, site
from tests.test_orientation import read_with_dcmqi
from workers import pipeline
from workers.pipeline import Wanted

pytestmark = [pytest.mark.real, pytest.mark.timeout(900)]
CLINICAL = Scan(nodules_mm=(20.0, 15.0))
VARIANTS = {
    "prone-non-square": replace(CLINICAL, position="HFP", matrix=(232, 280), pixel_spacing_mm=(1.5, 1.25)),
    "axial-reversed": replace(CLINICAL, reverse=True),
    "feet-first": replace(CLINICAL, position="FFS"),
    "sagittal": replace(CLINICAL, orientation="sagittal", slices=100),
    "coronal": replace(CLINICAL, orientation="coronal", slices=80),
    "oblique": replace(CLINICAL, orientation="oblique"),
}
IN_CI = "prone-non-square"


@pytest.fixture(scope="module")
def pacs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Run one Orthanc and one node for this file's tests."""
    with site(tmp_path_factory.mktemp("site")) as running_site:
        yield running_site


def _agrees(truth: Truth, seg: Path, folder: Path) -> None:
    """Read a SEG with dcmqi: left is left, each lung covers the true one, each nodule is marked at its centre."""
    found = read_with_dcmqi(seg, folder)
    for side in ("left", "right"):
        ((mask, centres),) = found[f"{side.capitalize()} lung"]
        truly = truth.in_lung("left" if side == "left" else "right", centres)
        assert 2 * (mask & truly).sum() / (mask.sum() + truly.sum()) > 0.9
        assert (centres[mask].mean(axis=0)[0] > truth.thorax.centre_mm[0]) == (side == "left")
    marks = [centres[mask].mean(axis=0) for label, entries in found.items() if label.startswith("Nodule") for mask, centres in entries]
    voxel_mm = float(np.linalg.norm((*truth.scan.pixel_spacing_mm, truth.scan.slice_spacing_mm)))
    for nodule in truth.nodules:
        assert min(np.linalg.norm(mark - nodule.centre_mm) for mark in marks) < voxel_mm


def test_the_models_marks_lie_where_the_nodules_are(tmp_path: Path) -> None:
    """The chest starter's SEG of a prone patient with oblong pixels agrees with the generator's formulas."""
    truth = phantoms.thorax(tmp_path / "study", VARIANTS[IN_CI])
    card = read(STARTERS / "chest_ct" / "card.toml")
    pipeline.run(card, *pipeline.routed(card, tmp_path / "study"), Wanted(out=tmp_path / "out"), Settings())
    (seg,) = (tmp_path / "out").glob("*seg.dcm")
    _agrees(truth, seg, tmp_path / "dcmqi")


@pytest.mark.verify
@pytest.mark.parametrize("name", VARIANTS)
def test_the_archives_copy_agrees_however_the_patient_lay(pacs: Site, tmp_path: Path, name: str) -> None:
    """Orthanc routes the study to the node and gets a SEG back; what it then holds agrees with the generator's formulas."""
    truth = phantoms.thorax(tmp_path / "study", replace(VARIANTS[name], identity=f"archive {name}"))
    pacs.archive.upload(list(truth.files))
    pacs.until(truth.study_instance_uid, "COMMITTED", seconds=600)
    (instance,) = pacs.archive.find(truth.study_instance_uid, "SEG")
    seg = tmp_path / "seg.dcm"
    seg.write_bytes(pacs.archive.file(instance))
    _agrees(truth, seg, tmp_path / "dcmqi")
