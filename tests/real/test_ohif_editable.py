"""Marks of the editable form become OHIF's own measurements, at the points where the truth has them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from node.profiles import Profile
from tests import phantoms
from tests.composed import perfect
from tests.real.ohif import VERSIONS, Study, served, visit
from tests.real.orthanc import orthanc
from tests.real.processes import free_port
from tests.real.studies import Looked, masks

pytestmark = [pytest.mark.real, pytest.mark.verify, pytest.mark.timeout(600)]
EDGE_MM = 0.02


@pytest.mark.parametrize("version", VERSIONS)
def test_every_mark_becomes_a_measurement_at_its_place(tmp_path: Path, version: str) -> None:
    """Three nodules are long and short axes, two lungs outlines; each point lies on a border of its voxels, in mm of the patient."""
    study = editable(tmp_path)
    with orthanc(tmp_path / "orthanc", node_port=free_port()) as archive:
        archive.upload(study.files)
        with served(tmp_path / "nginx", archive, version) as address:
            visited = Study(name="editable", uid=study.truth.study_instance_uid, hydrate=True)
            seen = visit(address, [visited], tmp_path / f"editable-{version}")["editable"]
    assert seen.faults() == []
    tracked = seen.of("SR")["tracked"]
    assert sorted(entry["tool"] for entry in tracked) == ["Bidirectional"] * 3 + ["PlanarFreehandROI"] * 2
    met = [_mark_of(study, entry) for entry in tracked]
    assert sorted(met) == sorted(study.masks)
    for label, entry in zip(met, tracked, strict=True):
        points_mm, borders_mm = np.array(entry["points"]), _borders_mm(study, label, entry["image"])
        if entry["tool"] == "Bidirectional":
            _axes_are_true(points_mm, borders_mm)
        else:
            for direction in np.eye(3):
                assert np.ptp(points_mm @ direction) == pytest.approx(np.ptp(borders_mm.reshape(-1, 3) @ direction), abs=EDGE_MM)


def editable(folder: Path) -> Looked:
    """Generate a thorax, and the report alone in the form that can be edited."""
    truth = phantoms.thorax(folder / "images", replace(phantoms.SMALL, identity="editable alone"))
    profile = Profile(name="alone", objects=("sr",), sr_form="editable")
    result = perfect(truth, lambda request: replace(request, profile=profile))
    written = result.write(folder / "results")
    return Looked(truth=truth, result=result, masks=masks(result.request), files=(*truth.files, *written.values()))


def _slice_of(study: Looked, image: str) -> int:
    return [str(source.SOPInstanceUID) for source in study.result.loaded.sources].index(image)


def _mark_of(study: Looked, entry: dict[str, Any]) -> str:
    """Give the mark on that image whose voxels lie nearest to the points' middle, among nodules or among lungs."""
    index = _slice_of(study, entry["image"])
    middle_mm = np.array(entry["points"]).mean(axis=0)
    nodules = entry["tool"] == "Bidirectional"
    here = {
        label: np.linalg.norm(study.result.centres_mm[index][mask[index]].mean(axis=0) - middle_mm)
        for label, mask in study.masks.items()
        if mask[index].any() and label.startswith("Nodule") == nodules
    }
    return min(here, key=lambda label: float(here[label]))


def _borders_mm(study: Looked, label: str, image: str) -> NDArray[np.float64]:
    """Give both ends of every border edge of a mark's pixels on an image, (n, 2, 3) in LPS, by ITK's places of their centres."""
    index = _slice_of(study, image)
    mask, centres = study.masks[label][index], study.result.centres_mm[index]
    down, right = centres[1, 0] - centres[0, 0], centres[0, 1] - centres[0, 0]
    padded, edges = np.pad(mask, 1), []
    for row, column in np.argwhere(mask):
        for aside, along, beyond in ((down, right, (1, 0)), (-down, right, (-1, 0)), (right, down, (0, 1)), (-right, down, (0, -1))):
            if not padded[row + 1 + beyond[0], column + 1 + beyond[1]]:
                middle = centres[row, column] + aside / 2
                edges.append((middle - along / 2, middle + along / 2))
    return np.array(edges)


def _axes_are_true(points_mm: NDArray[np.float64], borders_mm: NDArray[np.float64]) -> None:
    """Look that the long axis is the longest between two borders' middles, and the short one lies across it and is no longer."""
    middles = borders_mm.mean(axis=1)
    longest = np.linalg.norm(middles[:, None] - middles[None], axis=-1).max()
    lines = points_mm.reshape(2, 2, 3)
    (long_mm, short_mm), steps = np.linalg.norm(lines[:, 1] - lines[:, 0], axis=1), lines[:, 1] - lines[:, 0]
    assert long_mm == pytest.approx(longest, abs=EDGE_MM)
    assert short_mm <= long_mm + EDGE_MM
    assert abs(steps[0] @ steps[1]) < 0.01 * long_mm * short_mm
    for point in lines[0]:
        assert np.linalg.norm(middles - point, axis=1).min() < EDGE_MM
