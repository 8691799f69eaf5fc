"""Other people's programs read our objects: validators, DCMTK, dcmqi with ITK, highdicom."""

from __future__ import annotations

import json
import re
import subprocess
from io import BytesIO
from pathlib import Path
from typing import Any

import highdicom
import numpy as np
import pytest
import SimpleITK as Itk

from tests.servers import require
from tests.workers.results import scans
from tests.workers.results.scans import Scan
from workers.results import compose

pytestmark = pytest.mark.real
FORMS: dict[str, dict[str, Any]] = {
    "findings": {},
    "oblique": {"scan": Scan(plane="oblique")},
    "nothing found": {"nodules": 0},
    "nothing at all": {"nodules": 0, "organs": False},
    "organs of MR": {"finds": False, "scan": Scan(modality="MR")},
    "a labelmap": {"scan": Scan(shape=(10, 25, 31))},
    "one nodule alone": {"nodules": 1, "organs": False},
}
# What dciodvfy of 2022 says about LABELMAP (2024) and references to it: limits of the tool.
ALLOWED = {
    "Error - Information Object Not found",
    "Error - Shall not be present for Referenced SOP Class that is not segmentation - attribute <ReferencedSegmentNumber>",
}
DCMTK_AND_LABELMAP = {
    "W: Invalid or unknown image SOP class referenced from IMAGE content item",
    "W: Reading invalid/incomplete content item IMAGE",
}
NAMES_OF_OBJECTS = {"Segmentation", "Comprehensive3DSR"}


def written(tmp_path: Path, arguments: dict[str, Any]) -> dict[str, Path]:
    """Compose into files."""
    paths = {}
    for entry in compose(scans.request(**arguments)).objects:
        paths[entry.kind] = tmp_path / f"{entry.kind}.dcm"
        paths[entry.kind].write_bytes(entry.dataset_bytes)
    return paths


def run(*command: str | Path) -> str:
    """Run a program that must end well; give all it said."""
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.mark.parametrize("form", FORMS)
def test_dciodvfy_finds_no_fault(form: str, tmp_path: Path) -> None:
    """Its lines are compared with an exact list, so a new warning fails too."""
    tool = require("dciodvfy")
    for path in written(tmp_path, FORMS[form]).values():
        done = subprocess.run([tool, str(path)], capture_output=True, text=True, check=False)
        lines = {line.strip() for line in (done.stdout + done.stderr).splitlines()} - NAMES_OF_OBJECTS
        assert lines <= (ALLOWED if form == "a labelmap" else set())


def test_dciodvfy_would_find_a_fault(tmp_path: Path) -> None:
    """A SEG without its type 1 content label is flagged, so the silence above means something."""
    import pydicom  # noqa: PLC0415

    path = written(tmp_path, {})["seg"]
    dataset = pydicom.dcmread(path)
    del dataset.ContentLabel
    dataset.save_as(path)
    done = subprocess.run([require("dciodvfy"), str(path)], capture_output=True, text=True, check=False)
    assert "ContentLabel" in done.stdout + done.stderr


@pytest.mark.parametrize("form", FORMS)
def test_dsrdump_reads_the_report(form: str, tmp_path: Path) -> None:
    """DCMTK accepts the content tree without a complaint; only LABELMAP, which is younger than 3.6.7, it does not know."""
    labelmap = form == "a labelmap"
    said = run(require("dsrdump"), "+Pl", *(["-Ee"] if labelmap else []), written(tmp_path, FORMS[form])["sr"])
    assert "Not verified by a physician." in said
    complaints = {re.sub(r' "[0-9.]+"', "", line) for line in said.splitlines() if line.startswith(("W:", "E:"))}
    assert complaints == (DCMTK_AND_LABELMAP if labelmap else set())


@pytest.mark.parametrize("plane", ["axial", "axial-feet-first", "sagittal", "oblique"])
@pytest.mark.parametrize("columns", [32, 31])
def test_itk_finds_every_voxel_where_the_truth_has_it(plane: str, columns: int, tmp_path: Path) -> None:
    """Dcmqi turns the SEG into one image a segment; sampled at the patient's places, each is the mask. 31 columns: LABELMAP."""
    scan = Scan(plane=plane, shape=(10, 25 if columns == 31 else 24, columns), reverse=plane == "sagittal")
    request = scans.request(scan)
    path = written(tmp_path, {"scan": scan})["seg"]
    out = tmp_path / "itk"
    out.mkdir()
    run(require("segimage2itkimage"), "--inputDICOM", path, "--outputDirectory", out, "--outputType", "nrrd")
    assert request.prediction.instances is not None
    masks = [request.prediction.labels == 1, request.prediction.labels == 2]
    masks += [request.prediction.instances == 1, request.prediction.instances == 2]
    labelmap = columns == 31  # dcmqi writes a LABELMAP as one image of segment numbers
    assert len(list(out.glob("*.nrrd"))) == (1 if labelmap else 4)
    for number, mask in enumerate(masks, start=1):
        image = Itk.ReadImage(str(out / ("1.nrrd" if labelmap else f"{number}.nrrd")))
        values = Itk.GetArrayFromImage(image) == number
        assert values.sum() == mask.sum()
        for place in scan.places_mm()[mask]:
            x, y, z = (round(part) for part in image.TransformPhysicalPointToContinuousIndex(place.tolist()))
            assert np.abs(np.array(image.TransformIndexToPhysicalPoint((x, y, z))) - place).max() < 1e-3
            assert values[z, y, x]


@pytest.mark.parametrize("form", ["findings", "organs of MR", "oblique"])
def test_dcmqi_reads_the_measurements(form: str, tmp_path: Path) -> None:
    """tid1500reader finds each segment's group with its numbers."""
    out = tmp_path / "report.json"
    run(require("tid1500reader"), "--inputDICOM", written(tmp_path, FORMS[form])["sr"], "--outputMetadata", out)
    groups = json.loads(out.read_text())["Measurements"]
    names = ["Left lung", "Right lung"] if form == "organs of MR" else ["Nodule 1", "Nodule 2", "Left lung", "Right lung"]
    volumes = {group["TrackingIdentifier"]: group for group in groups if group.get("measurementItems")}
    assert list(volumes) == names
    first = volumes[names[0]]
    assert first["ReferencedSegment"] == (1 if form == "organs of MR" else 3)
    quantity = first["measurementItems"][0]
    assert quantity["quantity"]["CodeValue"] == "118565006"
    assert quantity["value"] == ("1.6" if form == "organs of MR" else "38")


def test_highdicom_finds_the_groups_by_template() -> None:
    """The report can be queried as TID 1500, with volume groups and outline groups apart."""
    objects = compose(scans.request()).objects
    report = highdicom.sr.srread(BytesIO(objects[1].dataset_bytes))
    assert len(report.content.get_volumetric_roi_measurement_groups()) == 4
    outlines = report.content.get_planar_roi_measurement_groups()
    assert [group.roi.graphic_type.value for group in outlines] == ["POLYLINE"] * 4
