"""Geometry through everything, the network included: however the patient lay, its marks are where the nodules are."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from models.card import STARTERS, read
from node.settings import Settings
from overread.sample import Scan
from tests import phantoms
from tests.test_orientation import read_with_dcmqi
from workers import pipeline

pytestmark = [pytest.mark.real, pytest.mark.timeout(600)]
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


@pytest.mark.parametrize("name", [pytest.param(name, marks=() if name == IN_CI else pytest.mark.verify) for name in VARIANTS])
def test_the_models_marks_lie_where_the_nodules_are(tmp_path: Path, name: str) -> None:
    """The chest starter's SEG, read by dcmqi: left is left, each lung covers the true one, each nodule is marked at its centre."""
    truth = phantoms.thorax(tmp_path / "study", VARIANTS[name])
    pipeline.run(read(STARTERS / "chest_ct" / "card.toml"), tmp_path / "study", tmp_path / "out", Settings())
    (seg,) = (tmp_path / "out").glob("*seg.dcm")
    found = read_with_dcmqi(seg, tmp_path / "dcmqi")
    for side in ("left", "right"):
        ((mask, centres),) = found[f"{side.capitalize()} lung"]
        truly = truth.in_lung("left" if side == "left" else "right", centres)
        assert 2 * (mask & truly).sum() / (mask.sum() + truly.sum()) > 0.9
    marks = [centres[mask].mean(axis=0) for label, entries in found.items() if label.startswith("Nodule") for mask, centres in entries]
    voxel_mm = float(np.linalg.norm((*truth.scan.pixel_spacing_mm, truth.scan.slice_spacing_mm)))
    for nodule in truth.nodules:
        assert min(np.linalg.norm(mark - nodule.centre_mm) for mark in marks) < voxel_mm
