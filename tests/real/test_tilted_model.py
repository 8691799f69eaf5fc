"""A leaning gantry through everything, the network included: its marks lie where the nodules are."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest

from models.card import STARTERS, read
from node.settings import Settings
from overread.sample import Scan
from tests import phantoms
from workers import pipeline
from workers.pipeline import Wanted

pytestmark = [pytest.mark.real, pytest.mark.verify, pytest.mark.timeout(600)]
UPRIGHT = Scan(nodules_mm=(20.0, 15.0))


@pytest.mark.parametrize("tilt_degrees", [18.5, -24.0])
def test_the_marks_on_tilted_slices_lie_where_the_nodules_are(tmp_path: Path, tilt_degrees: float) -> None:
    """Asked at the generator's own positions, each lung covers the true one, each nodule is marked at its centre, the SR says the tilt."""
    scan = replace(UPRIGHT, tilt_degrees=tilt_degrees)
    truth = phantoms.thorax(tmp_path / "study", scan)
    card = read(STARTERS / "chest_ct" / "card.toml")
    ran = pipeline.run(card, *pipeline.routed(card, tmp_path / "study"), Wanted(out=tmp_path / "out"), Settings())
    assert f"gantry tilt {abs(tilt_degrees):.1f} degrees" in ran.summary
    points = scan.lattice(truth.thorax.centre_mm).points()
    for label, side in ((1, "left"), (2, "right")):
        mask, truly = ran.prediction.labels == label, truth.in_lung("left" if side == "left" else "right", points)
        assert 2 * (mask & truly).sum() / (mask.sum() + truly.sum()) > 0.9
    assert ran.prediction.instances is not None
    marks = [points[ran.prediction.instances == finding.number].mean(axis=0) for finding in ran.prediction.findings]
    voxel_mm = float(np.linalg.norm((*scan.pixel_spacing_mm, scan.slice_spacing_mm)))
    for nodule in truth.nodules:
        assert min(np.linalg.norm(mark - nodule.centre_mm) for mark in marks) < voxel_mm
    corners = {str(pydicom.dcmread(path).ImagePositionPatient) for path in truth.files}
    seg = pydicom.dcmread(next((tmp_path / "out").glob("*seg.dcm")))
    assert {str(group.PlanePositionSequence[0].ImagePositionPatient) for group in seg.PerFrameFunctionalGroupsSequence} <= corners
