"""Other people's programs read every form of SEG: dcmqi with ITK, DCMTK, dciodvfy."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
import SimpleITK as Itk
from numpy.typing import NDArray

from tests.real.validators import iod_faults
from tests.servers import require
from tests.workers.results import scans
from tests.workers.results.scans import Scan
from tests.workers.results.test_readers import run
from tests.workers.results.test_seg import FORMS, asked, overlapping
from workers.results import ComposeRequest, compose

pytestmark = pytest.mark.real
NODULE = ((2, 5, 4), (4, 8, 8))
ODD = {"axial": (10, 25, 31), "sagittal": (5, 250, 250), "oblique": (5, 250, 252)}


def files(request: ComposeRequest, folder: Path) -> list[Path]:
    """Write the SEGs as files."""
    paths = []
    for number, entry in enumerate(entry for entry in compose(request).objects if entry.kind == "seg"):
        paths.append(folder / f"{number}.dcm")
        paths[-1].write_bytes(entry.dataset_bytes)
    return paths


def places_mm(image: Any, value: int) -> NDArray[np.float64]:
    """Give where ITK has the voxels of a value, in the patient."""
    found = np.argwhere(Itk.GetArrayFromImage(image) == value)
    return np.array([image.TransformIndexToPhysicalPoint(tuple(int(part) for part in index[::-1])) for index in found])


def same_places(found_mm: NDArray[np.float64], truth_mm: NDArray[np.float64], off_mm: float = 1e-3) -> bool:
    """Tell whether two sets of places are one, to a thousandth of a millimetre."""
    if len(found_mm) != len(truth_mm):
        return False
    apart = np.abs(found_mm[:, None] - truth_mm[None]).max(axis=-1)
    return bool(apart.min(axis=0).max() < off_mm and apart.min(axis=1).max() < off_mm)


@pytest.mark.parametrize("plane", ODD)
@pytest.mark.parametrize("form", ["binary", "labelmap", "labelmap RLE"])
def test_itk_finds_odd_sizes_where_the_truth_has_them(plane: str, form: str, tmp_path: Path) -> None:
    """Dcmqi reads bits that run on from frame to frame, and numbers in RLE, voxel by voxel. JPEG-LS it refuses."""
    scan = Scan(plane=plane, shape=ODD[plane])
    (path,) = files(asked(scans.request(scan, nodules=1), sr_form="text", **FORMS[form]), tmp_path)
    run(require("segimage2itkimage"), "--inputDICOM", path, "--outputDirectory", tmp_path, "--outputType", "nrrd")
    labelmap = form != "binary"  # one image of numbers; of BINARY one a segment, with the segment's number as value
    image = Itk.ReadImage(str(tmp_path / ("1.nrrd" if labelmap else "3.nrrd")))
    assert same_places(places_mm(image, 3), scan.places_mm()[scans.block(scan, *NODULE)])


@pytest.mark.parametrize(("form", "file"), [("binary", "3.nrrd"), ("labelmap", "1.nrrd")])
def test_itk_stacks_slices_that_lie_unevenly(form: str, file: str, tmp_path: Path) -> None:
    """Positions rounded to 0.1 mm are no obstacle: the volume is whole, and no voxel farther off than the rounding."""
    scan = Scan(spacing_mm=(1.25, 0.7, 0.9))
    request = asked(scans.request(scan), sr_form="text", **FORMS[form])
    sources = [deepcopy(source) for source in request.sources]
    for source in sources:
        source.ImagePositionPatient = [round(float(part), 1) for part in source.ImagePositionPatient]
    (path,) = files(replace(request, sources=tuple(sources)), tmp_path)
    run(require("segimage2itkimage"), "--inputDICOM", path, "--outputDirectory", tmp_path, "--outputType", "nrrd")
    found = places_mm(Itk.ReadImage(str(tmp_path / file)), 3)
    assert same_places(found, scan.places_mm()[scans.block(scan, *NODULE)], off_mm=0.0501)


def test_itk_finds_segments_that_overlap(tmp_path: Path) -> None:
    """Each mask is whole, although another covers a part of it."""
    (path,) = files(asked(overlapping(), seg_type="binary", sr_form="text"), tmp_path)
    run(require("segimage2itkimage"), "--inputDICOM", path, "--outputDirectory", tmp_path, "--outputType", "nrrd")
    scan = Scan()
    for number, corners in ((2, ((1, 4, 3), (8, 20, 20))), (3, ((3, 6, 9), (6, 12, 18))), (4, NODULE)):
        image = Itk.ReadImage(str(tmp_path / f"{number}.nrrd"))
        assert same_places(places_mm(image, number), scan.places_mm()[scans.block(scan, *corners)])


@pytest.mark.parametrize(("form", "tool"), [("labelmap RLE", "dcmdrle"), ("labelmap JPEG-LS", "dcmdjpls")])
@pytest.mark.parametrize("size", [(25, 31), (250, 252)])
def test_dcmtk_decodes_the_same_numbers(form: str, tool: str, size: tuple[int, int], tmp_path: Path) -> None:
    """DCMTK's decoders give the bytes that the uncompressed form has."""
    request = scans.request(Scan(shape=(7, *size)))
    (path,) = files(asked(request, sr_form="text", **FORMS[form]), tmp_path)
    run(require(tool), path, tmp_path / "plain.dcm")
    (tmp_path / "explicit").mkdir()
    (explicit,) = files(asked(request, sr_form="text", seg_type="labelmap"), tmp_path / "explicit")
    assert pydicom.dcmread(tmp_path / "plain.dcm").PixelData == pydicom.dcmread(explicit).PixelData


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("more", [{}, {"seg_empty_frames": True}, {"seg_segments_max": 2}])
def test_dciodvfy_finds_no_fault_in_any_form(form: str, more: dict[str, Any], tmp_path: Path) -> None:
    """It does not know LABELMAP, and finds nothing else; BINARY is whole, also with segments that overlap."""
    for path in files(asked(overlapping(), sr_form="text", **FORMS[form], **more), tmp_path):
        assert iod_faults(path) == ([] if form == "binary" else ["Error - Information Object Not found"])
