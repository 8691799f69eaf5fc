"""Files as scanners, archives and other people's tests wrote them: valid results, or a refusal with its reason. Which, is pinned."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.errors import InvalidDicomError

from node.errors import OverreadError, Refused
from tests.servers import SHARED, shared
from tests.workers.results import pictures, sources
from tests.workers.results.test_validators import dcmtk, iod, refers_to_labelmap, report, strict, voxels_are_the_predictions
from workers.load import Loaded, load
from workers.pixels import quiet
from workers.results import ComposeRequest, compose, header

pytestmark = [pytest.mark.real, pytest.mark.timeout(1800)]
NO_IMAGES = {".md", ".gz", ".zip", ".json", ".nrrd", ".xml", ".zst", ".png"}
REPEATED_MM = 5.0
FOLDERS = ("edge_wg04_ct_mr_us", "edge_fodicom", "edge_pydicom_data", "ct_slices_small")
LOSSY = (
    *("JPEG2000TransferSyntax_1.2.840.10008.1.2.4.91", "JPEGLSLossyTransferSyntax_1.2.840.10008.1.2.4.81"),
    *("JPEGProcess1TransferSyntax_1.2.840.10008.1.2.4.50", "JPEGProcess2_4TransferSyntax_1.2.840.10008.1.2.4.51"),
)
# One file of each header that is analysed; other files of these folders are of the same study, encoded otherwise, or are refused.
ANALYSED: dict[str, tuple[str, ...]] = {
    "edge_wg04_ct_mr_us": (
        *("CT1_J2KI", "CT2_J2KI", "MR1_J2KI", "MR2_J2KI", "MR3_J2KI", "MR4_J2KI"),
        *("CT1_RLE", "CT2_RLE", "MR1_RLE", "MR3_RLE", "MR4_RLE"),
    ),
    "edge_fodicom": (
        *("CR-MONO1-10-chest", "OutOfBoundsOverlay.dcm", "mr_brucker.dcm"),
        *("GH064.dcm", "GH1261.dcm", "GH1308.dcm", "GH184.dcm", "GH342.dcm", "GH610.dcm"),
    ),
    "edge_pydicom_data": ("MR-SIEMENS-DICOM-WithOverlays.dcm", "explicit_VR-UN.dcm", "RG1_J2KI.dcm", "RG3_J2KI.dcm"),
    "ct_slices_small": (
        "CTImage.dcm",
        *(f"CTImage.dcm_{name}.dcm" for name in LOSSY),
        *("1-001.dcm", "1-002.dcm", "1-003.dcm"),
    ),
}
# Stacks of several slices: which files are their images.
STACKS = {"body_ct_totalseg_dicom/example_ct_dicom": "CT.*", "seg_dcmqi_liver": "0?.dcm"}
PROFILES = ("everything", "editable", "basic")
# What dciodvfy says of what is kept as the images have it.
KEPT = {
    "Warning - Value is zero for value 1 of attribute <Patient's Weight>",
    "Warning - Unrecognized defined term <PARTIALBODY> for value 1 of attribute <Body Part Examined>",
    "Warning - Unrecognized defined term <SECTRA> for value 1 of attribute <Coding Scheme Designator>",
    *(
        f"Warning - Missing attribute or value that would be needed to build DICOMDIR - {what}"
        for what in ("Patient ID", "Study ID", "Study Date", "Study Time")
    ),
}
IN_EVERY_RUN = {("CT2_J2KI", "everything"), ("CR-MONO1-10-chest", "everything"), ("mr_brucker.dcm", "everything")}
FILES = [(folder, name) for folder, names in ANALYSED.items() for name in names] + list(STACKS.items())
CELLS = [
    pytest.param(*file, profile, id="-".join((*file, profile)), marks=() if (file[1], profile) in IN_EVERY_RUN else pytest.mark.verify)
    for file in FILES
    for profile in PROFILES
]


def files(folder: str) -> list[Path]:
    """Give what may be an image; skips where the data is absent."""
    return sorted(path for path in shared(f"data/{folder}").rglob("*") if path.is_file() and path.suffix not in NO_IMAGES)


def loaded(paths: list[Path], folder: Path) -> Loaded:
    """Load a series; of a single slice, four of it are made along its normal, under the scanner's own header."""
    try:
        return load(paths)
    except Refused as refused:
        if "fewer than two images" not in refused.reason or not _lies(paths[0]):
            raise
    with quiet():
        repeated = _repeated(paths[0], folder)
    return load(repeated)


def _lies(path: Path) -> bool:
    with quiet():
        return "ImageOrientationPatient" in pydicom.dcmread(path)


def _repeated(path: Path, folder: Path) -> list[Path]:
    slice_ = pydicom.dcmread(path)
    normal = np.cross(*np.array(slice_.ImageOrientationPatient, dtype=float).reshape(2, 3))
    first, uid = np.array(slice_.ImagePositionPatient, dtype=float), str(slice_.SOPInstanceUID)
    made = []
    for number in range(4):
        slice_.ImagePositionPatient = [f"{part:.6f}"[:16] for part in first + normal * REPEATED_MM * number]
        slice_.SOPInstanceUID = slice_.file_meta.MediaStorageSOPInstanceUID = f"{uid[:60]}.{number + 1}"
        slice_.InstanceNumber = number + 1
        if "SliceLocation" in slice_:
            del slice_.SliceLocation
        made.append(folder / f"{number}.dcm")
        slice_.save_as(made[-1], enforce_file_format=True)
    return made


def analysis(known: Loaded) -> ComposeRequest:
    """Give a synthetic analysis: a lung and a nodule of a volume, a box on a radiograph."""
    if not known.volume.grid.is_projection:
        return sources.OUTCOMES["findings"](sources.analysed(_named(known)))
    _, rows, columns = known.volume.grid.shape
    return pictures.boxed(known, [((0, rows // 4, columns // 5), (1, rows // 2, columns // 3))])


def _named(known: Loaded) -> Loaded:
    """Give images that were stripped of their UIDs when they were published other ones."""
    for number, source in enumerate(known.sources, start=1):
        if not source.get("SOPInstanceUID"):
            source.SOPClassUID, source.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.2", f"1.2.3.{number}"
            source.StudyInstanceUID, source.SeriesInstanceUID = "1.2.4", "1.2.5"
    return known


@pytest.mark.parametrize(("folder", "name", "profile"), CELLS)
def test_every_validator_accepts_results_on_an_edge_file(folder: str, name: str, profile: str, tmp_path: Path) -> None:
    """Whatever stands in a real header, every kind of object under every profile is valid, and dcmqi's voxels are the prediction's."""
    found = [path for path in files(folder) if path.match(name)]
    assert found, f"{name} is not in {folder}"
    request = replace(analysis(loaded(found if folder in STACKS else found[:1], tmp_path)), profile=sources.PROFILES[profile])
    said = []
    for number, entry in enumerate(compose(request).objects):
        path = tmp_path / f"{number}-{entry.kind}.dcm"
        path.write_bytes(entry.dataset_bytes)
        said += [f"{path.name}: {line}" for line in (*iod(path), *dcmtk(path, entry), *strict(path)) if line not in KEPT]
        if entry.kind == "seg":
            voxels_are_the_predictions(request, path)
        if entry.kind == "sr":
            said += report(path, labelmap=refers_to_labelmap(path))
    assert said == []


@pytest.mark.verify
@pytest.mark.parametrize("folder", FOLDERS)
def test_every_other_edge_file_is_of_the_same_study_or_refused_with_its_reason(folder: str, tmp_path: Path) -> None:
    """No file is analysed that is not listed above, none breaks anything, and a reason says what is wrong and nobody's name."""
    listed = {_study(path) for other, names in ANALYSED.items() for path in files(other) if path.name in names}
    for path in files(folder):
        place = tmp_path / path.name
        place.mkdir(exist_ok=True)
        reason = _refusal(path, place)
        if reason is None:
            assert _study(path) in listed, f"{path.name} is analysed, and no file of its study is listed"
            continue
        assert path.name not in ANALYSED[folder], reason
        assert len(reason) > 15
        assert not any(len(word) > 3 and word in reason for word in _names(path)), path.name


def _refusal(path: Path, place: Path) -> str | None:
    """Give why a file is not analysed: it is no volume or picture, or no result can point at it."""
    try:
        known = loaded([path], place)
        with quiet():
            header.donor(known.sources[0])
    except OverreadError as error:
        return error.reason
    return None


def _study(path: Path) -> Any:
    with quiet():
        first = pydicom.dcmread(path, specific_tags=["StudyInstanceUID"], stop_before_pixels=True, force=True)
    return first.get("StudyInstanceUID", path.name)


def _names(path: Path) -> list[str]:
    try:
        with quiet():
            whose = pydicom.dcmread(path, specific_tags=["PatientName", "PatientID"], stop_before_pixels=True)
            return [*str(whose.get("PatientName", "")).replace("^", " ").split(), str(whose.get("PatientID", ""))]
    except (InvalidDicomError, ValueError, OSError, AttributeError):
        return []


@pytest.mark.skipif(not SHARED.exists(), reason="real data is not beside this checkout")
def test_a_tilted_head_with_uneven_gaps_is_refused() -> None:
    """Slices whose gaps differ would put a mark into another place than it has."""
    with pytest.raises(Refused, match=r"unevenly spaced: gaps range from 1\.08 to 7\.00 mm"):
        load(files("head_ct_ge_tilt"))
