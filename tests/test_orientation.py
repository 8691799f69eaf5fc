"""Geometry, whatever way the patient lay and the planes ran: what other readers find in our SEG is where the truth is, in LPS."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 -- its documentation's own name
from numpy.typing import NDArray

from overread.sample import Truth
from tests import phantoms
from tests.composed import TrueResult, perfect

DCMQI = Path(sys.executable).with_name("segimage2itkimage")


def read_with_dcmqi(seg: Path, folder: Path) -> dict[str, list[tuple[NDArray[np.bool_], NDArray[np.float64]]]]:
    """Read a SEG with dcmqi: label -> masks and their voxels' positions in LPS, by ITK."""
    folder.mkdir(parents=True, exist_ok=True)
    command = [str(DCMQI), "--inputDICOM", str(seg), "--outputDirectory", str(folder), "--outputType", "nrrd", "--prefix", "s"]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    meta = json.loads((folder / "s-meta.json").read_text())
    found: dict[str, list[tuple[NDArray[np.bool_], NDArray[np.float64]]]] = {}
    for number, group in enumerate(meta["segmentAttributes"], start=1):
        image = sitk.ReadImage(str(folder / f"s-{number}.nrrd"))
        centres, array = phantoms.voxel_centres_mm(image), sitk.GetArrayFromImage(image)
        for segment in group:
            found.setdefault(segment["SegmentLabel"], []).append((array == segment["labelID"], centres))
    return found


def faults(truth: Truth, found: dict[str, list[tuple[NDArray[np.bool_], NDArray[np.float64]]]]) -> list[str]:
    """Compare what was read with the formulas: sides, volumes, and each nodule's centre within one voxel."""
    said = []
    middle_mm = truth.thorax.centre_mm[0]
    for side, sign in (("left", 1.0), ("right", -1.0)):
        ((mask, centres),) = found[f"{side.capitalize()} lung"]
        if sign * (centres[mask].mean(axis=0)[0] - middle_mm) < 40:
            said.append(f"the {side} lung is not on the {side}")
        if not truth.in_lung("left" if side == "left" else "right", centres[mask]).all():
            said.append(f"voxels marked {side} lung lie outside it")
    nodules = [entry for label, entries in found.items() if label.startswith("Nodule") for entry in entries]
    if len(nodules) != len(truth.nodules):
        said.append(f"{len(nodules)} nodules instead of {len(truth.nodules)}")
    voxel_mm = float(np.linalg.norm((*truth.scan.pixel_spacing_mm, truth.scan.slice_spacing_mm)))
    for nodule in truth.nodules:
        distances = [np.linalg.norm(centres[mask].mean(axis=0) - nodule.centre_mm) for mask, centres in nodules]
        if min(distances) > voxel_mm:
            said.append(f"no nodule within a voxel of {nodule.centre_mm}: nearest at {min(distances):.1f} mm")
    return said


def _written(tmp_path: Path, name: str) -> tuple[Truth, TrueResult, Path]:
    truth = phantoms.thorax(tmp_path / "study", phantoms.ORIENTATIONS[name])
    result = perfect(truth)
    return truth, result, result.write(tmp_path / "results")["seg"]


@pytest.mark.parametrize("name", phantoms.ORIENTATIONS)
def test_dcmqi_finds_lungs_and_nodules_where_they_are(tmp_path: Path, name: str) -> None:
    """Left is left, each nodule lies within one voxel of its centre, and every voxel is the truth's."""
    truth, result, seg = _written(tmp_path, name)
    found = read_with_dcmqi(seg, tmp_path / "dcmqi")
    assert faults(truth, found) == []
    for label, value in (("Left lung", 1), ("Right lung", 2)):
        ((mask, centres),) = found[label]
        expected = result.centres_mm[result.expected.labels == value]
        assert _same_points(centres[mask], expected)
    marked = np.concatenate([centres[mask] for label in found if label.startswith("Nodule") for mask, centres in found[label]])
    assert _same_points(marked, result.centres_mm[result.expected.instances > 0])


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_planted_flip_is_seen(tmp_path: Path, axis: int) -> None:
    """Were the array turned over along any axis, the comparison would say so."""
    truth, _result, seg = _written(tmp_path, "axial")
    found = read_with_dcmqi(seg, tmp_path / "dcmqi")
    flipped = {label: [(np.flip(mask, axis), centres) for mask, centres in entries] for label, entries in found.items()}
    assert faults(truth, flipped) != []


def test_a_planted_shift_by_two_slices_is_seen(tmp_path: Path) -> None:
    """Were the masks two slices off, the comparison would say so."""
    truth, _result, seg = _written(tmp_path, "sagittal-non-square")
    found = read_with_dcmqi(seg, tmp_path / "dcmqi")
    shifted = {label: [(np.roll(mask, 2, axis=0), centres) for mask, centres in entries] for label, entries in found.items()}
    assert faults(truth, shifted) != []


def _same_points(one: NDArray[np.float64], other: NDArray[np.float64]) -> bool:
    """Tell whether two sets of positions are the same to a hundredth of a millimetre, in whatever order."""
    if one.shape != other.shape:
        return False
    # Both are sorted along the same skewed line, so that no two voxels of one grid tie.
    line = np.asarray([1.0, 0.137, 0.0191])
    return bool(np.abs(one[np.argsort(one @ line)] - other[np.argsort(other @ line)]).max() < 0.01)
