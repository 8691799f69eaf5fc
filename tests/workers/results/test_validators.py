"""Other people's validators and readers on every kind of object, under every profile, on every kind of source.

The whole matrix is long: every run takes each source once, and each outcome under each profile once.
"""

from __future__ import annotations

import re
import subprocess
import warnings
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
import SimpleITK as Itk
from pydicom.dataset import Dataset

from tests.radiographs import Radiograph
from tests.servers import require
from tests.workers.results import pictures, sources
from tests.workers.results.strict import broken
from workers.results import ComposedObject, ComposeRequest, compose

pytestmark = [pytest.mark.real, pytest.mark.timeout(600)]
LABELMAP = "1.2.840.10008.5.1.4.1.1.66.7"
# Each line exactly as dciodvfy of 2022 says it, beside the reason why it is not about our object.
UNTRUE = {
    "Error - Information Object Not found": "LABELMAP is of 2024",
    "Error - Shall not be present for Referenced SOP Class that is not segmentation - attribute <ReferencedSegmentNumber>": (
        "it does not know that LABELMAP is a segmentation"
    ),
    "Error - Missing attribute Type 2C Conditional Element=<Laterality> Module=<GeneralSeries>": (
        "required of paired body parts only; it asks wherever no body part is named"
    ),
    "Warning - Unrecognized defined term <QUANTITY> for value 4 of attribute <Image Type>": "derived pixel contrast is younger than it",
    "Warning - Unrecognized defined term <QUANTITY> for value 4 of attribute <Frame Type>": "derived pixel contrast is younger than it",
    (
        "Warning - is only permitted to be empty when actually unknown; should be absent (not empty) if an unpaired body part, "
        "and have a value if a paired body part - attribute <Laterality>"
    ): "the side is as unknown as in the images",
    "Warning - Attribute is not present in standard DICOM IOD - (0x0032,0x1033) LO Requesting Service": (
        "it stands in the General Study module, copied from the images. Ref: PS3.3 C.7.2.1"
    ),
    "Warning - Dicom dataset contains attributes not present in standard DICOM IOD - this is a Standard Extended SOP Class": (
        "the line above once more, in general"
    ),
    "Warning - Value dubious for this VR - PN - Retired Person Name form": "a name without a caret is kept as the images have it",
}
PERSON_NAME = re.compile(r"Value dubious for this VR - \(0x....,0x....\) PN .* - Retired Person Name form")
# What DCMTK 3.6.7 says of a report that refers to a LABELMAP, which it does not know.
DSRDUMP_UNTRUE = {
    "W: Invalid or unknown image SOP class referenced from IMAGE content item",
    "W: Reading invalid/incomplete content item IMAGE",
}
# Its checker of values reads single-byte character sets only; the text itself it reads.
CHARACTER_SETS = (
    "W: The VR checker does not support this Specific Character Set:",
    "W: Reading unknown/unsupported SpecificCharacterSet (",
)
CELLS = [(source, outcome, profile) for source in sources.SOURCES for outcome in sources.OUTCOMES for profile in sources.PROFILES]


def _in_every_run(source: str, outcome: str, profile: str) -> bool:
    return (outcome, profile) == ("findings", "everything") or source == "axial CT"


ROWS = [pytest.param(*cell, id="-".join(cell), marks=() if _in_every_run(*cell) else pytest.mark.verify) for cell in CELLS]


@pytest.mark.parametrize(("source", "outcome", "profile"), ROWS)
def test_every_validator_accepts_and_every_reader_reads(source: str, outcome: str, profile: str, tmp_path: Path) -> None:
    """Dciodvfy, DCMTK, pydicom and dcmqi have nothing to say that is true, and dcmqi's voxels are the prediction's."""
    request = sources.request(source, outcome, profile, tmp_path / "images")
    said = []
    for number, entry in enumerate(compose(request).objects):
        path = tmp_path / f"{number}-{entry.kind}.dcm"
        path.write_bytes(entry.dataset_bytes)
        said += [f"{path.name}: {line}" for line in (*iod(path), *dcmtk(path, entry), *strict(path))]
        if entry.kind == "seg":
            voxels_are_the_predictions(request, path)
        if entry.kind == "sr":
            said += report(path, labelmap=refers_to_labelmap(path))
    assert said == []


@pytest.mark.parametrize("kind", ["DX", pytest.param("CR", marks=pytest.mark.verify), pytest.param("MG", marks=pytest.mark.verify)])
@pytest.mark.parametrize("profile", ["ohif", pytest.param("editable", marks=pytest.mark.verify), "basic"])
def test_every_validator_accepts_results_on_radiographs(kind: str, profile: str, tmp_path: Path) -> None:
    """Boxes on CR, digital X-ray and mammography: presentation states, pages and reports are as valid as those of slices."""
    request = pictures.request(tmp_path / "images", Radiograph(kind=kind), profile=sources.PROFILES[profile])
    said = []
    for number, entry in enumerate(compose(request).objects):
        path = tmp_path / f"{number}-{entry.kind}.dcm"
        path.write_bytes(entry.dataset_bytes)
        said += [f"{path.name}: {line}" for line in (*iod(path), *dcmtk(path, entry), *strict(path))]
        said += report(path, labelmap=False) if entry.kind == "sr" else []
    assert said == []


def iod(path: Path) -> list[str]:
    """Give what dciodvfy says, without what is known to be untrue."""
    ran = subprocess.run([require("dciodvfy"), str(path)], capture_output=True, text=True, errors="replace", check=False, timeout=120)
    lines = {
        PERSON_NAME.sub("Value dubious for this VR - PN - Retired Person Name form", line.strip())
        for line in (ran.stdout + ran.stderr).splitlines()
    }
    return sorted(line for line in lines - set(UNTRUE) if line.startswith(("Error", "Warning")))


# Dcmpschk of 3.6.7 does not find the form of its own message in the value beside it, and knows no names in UTF-8.
DATE_TIME = re.compile(
    r"E: Error: Attribute value does not conform.*\nE: +Affected attribute: (?:ContributionDateTime|PatientName) .*\n(E:.*\n){3}"
)
# An image's second window is kept in a presentation state, where the checker knows one. Ref: PS3.3 C.11.2 (VM 1-n)
WINDOWS = tuple(f"W: windowCenter present but {what} != 1 in presentation state" for what in ("windowWidth VM", "VM"))
# Nobody was born then, and the images say so.
DUBIOUS = re.compile(r"W: Warning: Dubious date .*\nE: +Affected attribute: PatientBirthDate .*\n(E:.*\n){2}")
CHATTER = ("W: Testing: ", "W: Test failed - ", "W: Test passed")


def dcmtk(path: Path, entry: ComposedObject) -> list[str]:
    """Let DCMTK read every element, and its presentation state checker look at a GSPS."""
    program = ["dcmpschk"] if entry.kind == "gsps" else ["dcmdump", "-q", "+P", "SOPInstanceUID"]
    ran = subprocess.run(
        [require(program[0]), *program[1:], str(path)], capture_output=True, text=True, errors="replace", check=False, timeout=120
    )
    lines = DUBIOUS.sub("", DATE_TIME.sub("", ran.stdout + ran.stderr)).splitlines()
    told = [line for line in lines if line.startswith(("E:", "W:", "F:", "Error", "Warning")) and not line.startswith(CHATTER)]
    said = [line for line in told if line not in WINDOWS]
    failed = ran.returncode != 0 and (entry.kind != "gsps" or not DATE_TIME.search(ran.stdout + ran.stderr))
    return [f"{program[0]}: {line}" for line in said] + ([f"{program[0]} ended with {ran.returncode}"] if failed else [])


def strict(path: Path) -> list[str]:
    """Let pydicom read everything without a warning, and hold every value against its VR."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            return [f"pydicom: {line}" for line in broken(pydicom.dcmread(path))]
    except (ValueError, TypeError, Warning) as error:
        return [f"pydicom: {error}"]


def report(path: Path, *, labelmap: bool) -> list[str]:
    """Let dsrdump print the tree, and tid1500reader the groups of a TID 1500 report."""
    ran = subprocess.run(
        [require("dsrdump"), "+Pl", *(["-Ee"] if labelmap else []), str(path)],
        capture_output=True, text=True, errors="replace", check=False, timeout=120,
    )  # fmt: skip
    lines = {re.sub(r' "[0-9.]+"', "", line) for line in (ran.stdout + ran.stderr).splitlines() if line.startswith(("W:", "E:", "F:"))}
    said = [f"dsrdump: {line}" for line in sorted(lines - (DSRDUMP_UNTRUE if labelmap else set())) if not line.startswith(CHARACTER_SETS)]
    if ran.returncode or "Not verified by a physician." not in ran.stdout:
        said.append(f"dsrdump ended with {ran.returncode}")
    if pydicom.dcmread(path).ConceptNameCodeSequence[0].CodeValue == "126000":
        said += _tid1500(path)
    return said


def _tid1500(path: Path) -> list[str]:
    out = path.with_suffix(".json")
    command = [require("tid1500reader"), "--inputDICOM", str(path), "--outputMetadata", str(out)]
    ran = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False, timeout=120)
    return [] if ran.returncode == 0 and out.stat().st_size > 100 else [f"tid1500reader: {(ran.stdout + ran.stderr)[-500:]}"]


def refers_to_labelmap(path: Path) -> bool:
    """Tell whether a report names a LABELMAP, which DCMTK 3.6.7 does not know."""
    return LABELMAP.encode() + b"\0" in path.read_bytes() or LABELMAP.encode() in path.read_bytes()


def voxels_are_the_predictions(request: ComposeRequest, path: Path) -> None:
    """Compare each segment, as dcmqi and ITK read it, with its mask, voxel by voxel in millimetres."""
    seg = pydicom.dcmread(path)
    if "PixelData" in seg and seg.file_meta.TransferSyntaxUID.is_compressed:
        return  # dcmqi refuses JPEG-LS; the RLE and JPEG-LS forms are read back in test_readers
    if not request.prediction.grid.is_orthogonal():
        return  # dcmqi makes no image of slices that lie askew; test_frames reads them with highdicom
    out = path.parent / f"{path.stem}-itk"
    out.mkdir()
    command = [require("segimage2itkimage"), "--inputDICOM", str(path), "--outputDirectory", str(out), "--outputType", "nrrd"]
    ran = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False, timeout=300)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    labelmap = seg.SOPClassUID == LABELMAP
    for item in seg.SegmentSequence:
        number = int(item.SegmentNumber)
        image = Itk.ReadImage(str(out / ("1.nrrd" if labelmap else f"{number}.nrrd")))
        values = Itk.GetArrayFromImage(image) == number
        mask = mask_of(request, item)
        assert values.sum() == mask.sum()
        inside = np.argwhere(mask).astype(float)
        for place in request.prediction.grid.to_world_mm(inside):
            x, y, z = (round(part) for part in image.TransformPhysicalPointToContinuousIndex(place.tolist()))
            assert np.abs(np.array(image.TransformIndexToPhysicalPoint((x, y, z))) - place).max() < 1e-3
            assert values[z, y, x]


def mask_of(request: ComposeRequest, item: Dataset) -> Any:
    """Give the prediction's voxels of a segment, by its label: an organ's name, or a finding's and its number."""
    label = str(item.SegmentLabel)
    for part in request.card.card.output.labels:
        if part.kind == "organ" and part.label == label:
            return request.prediction.masks.get(part.index, request.prediction.labels == part.index)
    assert request.prediction.instances is not None
    return request.prediction.instances == int(label.rsplit(" ", 1)[1])


def test_a_planted_fault_is_seen(tmp_path: Path) -> None:
    """A broken value, a missing type 1 attribute and a mask shifted by a voxel each turn a validator red."""
    request = sources.request("axial CT", "findings", "ohif", tmp_path)
    entries = {entry.kind: entry for entry in compose(request).objects}
    path = tmp_path / "seg.dcm"
    dataset = pydicom.dcmread(BytesIO(entries["seg"].dataset_bytes))
    del dataset.ContentLabel
    dataset.save_as(path)
    assert any("ContentLabel" in line for line in iod(path))
    assert strict(path) == []
    path.write_bytes(entries["seg"].dataset_bytes.replace(b"19600229", b"1960229x"))
    assert strict(path) != []
    dataset.PixelData = dataset.PixelData[-8:] + dataset.PixelData[:-8]
    dataset.save_as(path)
    with pytest.raises(AssertionError):
        voxels_are_the_predictions(request, path)
