"""Every real odd file and series: loaded and equal to what SimpleITK reads, value by value and corner by corner, or refused.

The tables below are exact: a change that loads one file more or fewer, or refuses for another reason, shows.
"""

from __future__ import annotations

import warnings
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk  # noqa: N813 -- its documentation's own name
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid

from node.errors import Refused
from tests.servers import shared
from workers.frames import PROJECTIONS
from workers.load import Loaded, load

NOT_AN_IMAGE, COLOUR, NOWHERE = "it has no rows and columns", "in colour", "does not say where it lies"
KINDLESS, TOO_FEW, TWICE = "does not name its modality", "fewer than two images", "are the same image"
OTHER_FRAMES, NO_GROUPS, UNIT = "multi-frame images of a kind", "no functional groups", "another unit"
NO_DICOM, SAME_PLACE, NO_FRAME, UNEVEN = "cannot be read as DICOM", "at the same position", "no frame of reference", "unevenly spaced"
UNDECODED, SHORT, NO_PIXELS, SEVERAL = "cannot be decoded", "shorter than", "no integer pixel data", "radiographs and neither view"
REASONS = (
    NOT_AN_IMAGE, COLOUR, NOWHERE, KINDLESS, TOO_FEW, TWICE, OTHER_FRAMES, NO_GROUPS, UNIT, NO_DICOM, SAME_PLACE, NO_FRAME, UNEVEN,
    UNDECODED, SHORT, NO_PIXELS, SEVERAL,
)  # fmt: skip
# Decoders of lossy streams may round differently; everything else is equal to the bit.
LOSSY = {"1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51", "1.2.840.10008.1.2.4.91"}
SERIES: dict[str, dict[str, int]] = {
    "edge_fodicom": {
        NOWHERE: 16,
        TOO_FEW: 12,
        NOT_AN_IMAGE: 10,
        COLOUR: 7,
        TWICE: 1,
        NO_DICOM: 1,
        KINDLESS: 1,
        "loaded": 4,
        OTHER_FRAMES: 1,
        NO_PIXELS: 1,
        SEVERAL: 1,
    },
    "edge_pydicom_data": {
        OTHER_FRAMES: 9,
        NOWHERE: 6,
        COLOUR: 5,
        TOO_FEW: 3,
        NO_FRAME: 1,
        SAME_PLACE: 1,
        NOT_AN_IMAGE: 1,
        UNIT: 1,
        NO_GROUPS: 1,
        SEVERAL: 1,
        "loaded": 1,
    },
    "edge_wg04_ct_mr_us": {NOT_AN_IMAGE: 6, SAME_PLACE: 6, TOO_FEW: 5},
    "ct_slices_small": {TWICE: 4, KINDLESS: 1, NOT_AN_IMAGE: 1, "loaded": 1},
    "seg_dcmqi_liver": {NOT_AN_IMAGE: 12, OTHER_FRAMES: 3, "loaded": 1},
    "mr_t1_sag_anon": {"loaded": 1, NOT_AN_IMAGE: 1},
    "body_ct_totalseg_dicom": {NOT_AN_IMAGE: 2, "loaded": 1},
    "head_ct_ge_tilt": {UNEVEN: 1, NOT_AN_IMAGE: 1},
}
FILES: dict[str, dict[str, int]] = {
    "edge_fodicom": {
        NOWHERE: 20,
        "loaded": 15,
        NO_PIXELS: 3,
        NOT_AN_IMAGE: 12,
        COLOUR: 10,
        KINDLESS: 2,
        UNDECODED: 1,
        TWICE: 1,
        SHORT: 1,
        NO_DICOM: 1,
        OTHER_FRAMES: 1,
    },
    "edge_pydicom_data": {
        COLOUR: 32,
        OTHER_FRAMES: 18,
        NOWHERE: 7,
        NO_GROUPS: 6,
        NO_FRAME: 4,
        "loaded": 7,
        KINDLESS: 2,
        NOT_AN_IMAGE: 1,
        UNIT: 1,
    },
    "edge_wg04_ct_mr_us": {"loaded": 38, NOT_AN_IMAGE: 6},
    "ct_slices_small": {"loaded": 35, UNDECODED: 4, KINDLESS: 2, UNIT: 2, NOT_AN_IMAGE: 1},
    "seg_dcmqi_liver": {NOT_AN_IMAGE: 12, OTHER_FRAMES: 4, "loaded": 3},
}


def files_of(folder: str) -> list[Path]:
    """Give every file of a folder."""
    return [path for path in sorted(shared(f"data/{folder}").rglob("*")) if path.is_file()]


def outcome(paths: list[Path]) -> Loaded | str:
    """Load, or give the known part of the reason; an unknown one is given whole, so that it shows."""
    try:
        return load(paths)
    except Refused as refused:
        return next((part for part in REASONS if part in refused.reason), refused.reason)


@pytest.mark.parametrize("folder", SERIES)
def test_every_real_series_is_what_simpleitk_reads_or_refused(folder: str) -> None:
    """All files of a series together; each slice of what loads is compared with its own file."""
    series: dict[str, list[Path]] = defaultdict(list)
    for path in files_of(folder):
        series[_series_of(path)].append(path)
    counts: Counter[str] = Counter()
    for paths in series.values():
        found = outcome(paths)
        if isinstance(found, Loaded) and found.volume.grid.space == "image":
            _compare_picture(found, paths[0])
        elif isinstance(found, Loaded):
            for index, header in enumerate(found.sources):
                _compare(found, index, Path(getattr(header, "filename", paths[0])))
        counts[found if isinstance(found, str) else "loaded"] += 1
    assert dict(counts) == SERIES[folder]


@pytest.mark.parametrize("folder", FILES)
def test_every_odd_file_is_what_simpleitk_reads_or_refused(folder: str, tmp_path: Path) -> None:
    """Each file by itself where it is multi-frame, else beside a copy of itself 3 mm further along its normal."""
    counts: Counter[str] = Counter()
    for path in files_of(folder):
        found = outcome(_beside_itself(path, tmp_path))
        if isinstance(found, Loaded) and found.volume.grid.space == "image":
            _compare_picture(found, path)
        elif isinstance(found, Loaded):
            frames = [index for index, source in enumerate(found.origin.sources) if source.frame is not None]
            for index in frames or [0]:
                _compare(found, index, path)
        counts[found if isinstance(found, str) else "loaded"] += 1
    assert dict(counts) == FILES[folder]


def _series_of(path: Path) -> str:
    try:
        header = pydicom.dcmread(path, force=True, stop_before_pixels=True)
        return str(header.get("SeriesInstanceUID") or (path.parent if "SOPClassUID" in header else path))
    except Exception:  # noqa: BLE001 -- what is no DICOM file is a series of its own
        return str(path)


def _beside_itself(path: Path, tmp_path: Path) -> list[Path]:
    """Give the file and a copy of it one step further; a radiograph, what is too broken to copy, or holds frames stands alone."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if str(_header(path).get("SOPClassUID", "")) in PROJECTIONS:
            return [path]
    try:
        image = pydicom.dcmread(path, force=True)
        cosines = np.array(image.ImageOrientationPatient, dtype=float)
        normal = np.cross(cosines[:3], cosines[3:])
        image.ImagePositionPatient = [float(part) for part in np.array(image.ImagePositionPatient, dtype=float) + 3 * normal]
        image.SOPInstanceUID = generate_uid()
        image.save_as(tmp_path / "next", enforce_file_format=False)
    except Exception:  # noqa: BLE001 -- see above
        header = _header(path)
        return [path] if "NumberOfFrames" in header else [path, path]
    return [path, tmp_path / "next"]


def _header(path: Path) -> Dataset:
    try:
        return pydicom.dcmread(path, force=True, stop_before_pixels=True)
    except Exception:  # noqa: BLE001 -- see above
        return Dataset()


def _compare(loaded: Loaded, index: int, path: Path) -> None:
    """Compare a slice with SimpleITK's reading of its file: three corners in LPS, and every value that is not padding."""
    image: Any = sitk.ReadImage(str(path))
    frame = loaded.origin.sources[index].frame
    theirs = sitk.GetArrayFromImage(image)
    at = 0
    grid = loaded.volume.grid
    if frame is not None and theirs.shape[0] > 1:
        at = frame - 1 if _ascends(image, loaded, index, frame) else theirs.shape[0] - frame
    for y, x in ((0, 0), (grid.shape[1] - 1, 0), (0, grid.shape[2] - 1)):
        theirs_mm = np.array(image.TransformIndexToPhysicalPoint((x, y, at)))
        assert np.abs(grid.to_world_mm(np.array([[index, y, x]], dtype=float))[0] - theirs_mm).max() < 0.06, path.name
    differ = _differ(loaded.volume.array[index], theirs[at], 2.0 if _syntax(path) in LOSSY else 0.0)
    if differ.any():
        # Padding is air or darkness to us.
        assert "PixelPaddingValue" in loaded.sources[index], path.name
        assert len(np.unique(theirs[at][differ])) == 1, path.name


def _compare_picture(loaded: Loaded, path: Path) -> None:
    """Compare a radiograph with SimpleITK's values, which turn MONOCHROME1 over as we do: pixel for pixel a brightness of theirs.

    Windows, tables and lossy rounding keep the order of values: in 64 steps of theirs ours rises, and varies little within a
    step. A picture that is mirrored, or of another file, varies; one that is not turned over falls.
    """
    theirs = sitk.GetArrayFromImage(sitk.ReadImage(str(path)))[0].astype(float)
    ours = loaded.volume.array[0].astype(float)
    assert ours.shape == theirs.shape, path.name
    step = np.searchsorted(np.unique(np.quantile(theirs, np.linspace(0, 1, 65)[1:-1])), theirs)
    counts = np.bincount(step.ravel())
    means = np.bincount(step.ravel(), ours.ravel())[counts > 0] / counts[counts > 0]
    assert (np.diff(means) > -1e-3).all(), path.name
    full = np.zeros(len(counts))
    full[counts > 0] = means
    assert np.var(ours - full[step]) < 0.02 * np.var(ours), path.name


def _ascends(image: Any, loaded: Loaded, index: int, frame: int) -> bool:
    place = np.array(loaded.sources[index].ImagePositionPatient, dtype=float)
    return bool(np.abs(np.array(image.TransformIndexToPhysicalPoint((0, 0, frame - 1))) - place).max() < 0.06)


def _differ(ours: NDArray[Any], theirs: NDArray[Any], by: float) -> NDArray[np.bool_]:
    return np.asarray(np.abs(ours.astype(float) - theirs.astype(float)) > by + 1e-3)


def _syntax(path: Path) -> str:
    return str(pydicom.dcmread(path, stop_before_pixels=True).file_meta.TransferSyntaxUID)
