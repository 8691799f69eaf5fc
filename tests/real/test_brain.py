"""A real head MR through a real PACS: the published network gives through the node what it gives by its own command."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk  # noqa: N813 -- its documentation's own name
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from tests.real.node import Site, site
from tests.real.validators import iod_faults
from tests.servers import shared
from tests.test_orientation import read_with_dcmqi

pytestmark = [pytest.mark.real, pytest.mark.timeout(900)]
DEEPBET = Path(sys.executable).with_name("deepbet-cli")


@pytest.fixture(scope="module")
def pacs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Run one Orthanc and one node for this file's tests."""
    shared("data/mr_t1_sag_anon")
    with site(tmp_path_factory.mktemp("site")) as running_site:
        yield running_site


def _by_their_command(files: list[Path], folder: Path) -> tuple[NDArray[np.bool_], float]:
    """Run deepbet's own command on the series as NIfTI; gives the mask (z, y, x) of ITK's grid, and its volume in ml."""
    image = sitk.ReadImage([str(path) for path in files])
    folder.mkdir()
    source, brain, masked = (str(folder / name) for name in ("t1.nii.gz", "brain.nii.gz", "mask.nii.gz"))
    sitk.WriteImage(image, source)
    command = [str(DEEPBET), "-i", source, "-o", brain, "-m", masked, "--no_gpu"]
    subprocess.run(command, check=True, capture_output=True, timeout=600, env={**os.environ, "OMP_NUM_THREADS": "1"})
    mask = sitk.GetArrayFromImage(sitk.ReadImage(masked)) > 0
    return mask, float(mask.sum() * np.prod(image.GetSpacing()) / 1000)


def test_a_brain_comes_back_as_deepbets_own_command_gives_it(pacs: Site, tmp_path: Path) -> None:
    """Orthanc routes a real T1; the SEG in it, read by dcmqi, has Dice 0.99 or more with deepbet's own mask; the SR has the volume."""
    folder = shared("data/mr_t1_sag_anon")
    names = sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder))
    files = [Path(name) for name in names]
    study = str(pydicom.dcmread(files[0], stop_before_pixels=True).StudyInstanceUID)
    pacs.archive.upload(files)
    theirs, volume_ml = _by_their_command(files, tmp_path / "deepbet")
    pacs.until(study, "COMMITTED", seconds=600)
    (instance,) = pacs.archive.find(study, "SEG")
    path = tmp_path / "seg.dcm"
    path.write_bytes(pacs.archive.file(instance))
    assert [fault for fault in iod_faults(path) if fault.startswith("Error")] == []
    ((mask, _centres),) = read_with_dcmqi(path, tmp_path / "dcmqi")["Brain"]
    ours = _on_grid(tmp_path / "dcmqi" / "s-1.nrrd", sitk.ReadImage(list(names)))
    assert ours.sum() == mask.sum()
    assert 2 * (ours & theirs).sum() / (ours.sum() + theirs.sum()) >= 0.99
    (report,) = pacs.archive.datasets(study, "SR")
    assert _volume_ml(report) == pytest.approx(volume_ml, rel=0.01)


def _on_grid(path: Path, reference: sitk.Image) -> NDArray[np.bool_]:
    """Lay what dcmqi read, which may be cut to the mask's own extent, on the images' grid: same planes, nearest voxel."""
    image = sitk.Resample(sitk.ReadImage(str(path)), reference, sitk.Transform(), sitk.sitkNearestNeighbor, 0)
    return np.asarray(sitk.GetArrayFromImage(image) > 0)


def _volume_ml(report: Dataset) -> float:
    """Find the report's volume. Ref: PS3.16 TID 1411, (118565006, SCT, "Volume")."""
    for element in report.iterall():
        item = getattr(element, "value", None)
        if element.keyword == "ContentSequence":
            for entry in item or ():
                if entry.ValueType == "NUM" and entry.ConceptNameCodeSequence[0].CodeValue == "118565006":
                    measured = entry.MeasuredValueSequence[0]
                    unit = str(measured.MeasurementUnitsCodeSequence[0].CodeValue)
                    return float(measured.NumericValue) / {"mL": 1.0, "ml": 1.0, "mm3": 1000.0}[unit]
    raise AssertionError("the report has no volume")
