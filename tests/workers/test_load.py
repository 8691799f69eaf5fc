"""Loading: every voxel lies where its file says, and what could lie elsewhere is refused with a reason."""

from __future__ import annotations

import re
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pydicom
import pytest
import SimpleITK
from pydicom.dataset import FileDataset
from pydicom.uid import generate_uid

from node.errors import Refused
from tests.servers import shared
from tests.workers.slices import AXIAL, AXIAL_FEET_UP, CORONAL, OBLIQUE, SAGITTAL, Scan, datasets, series, slope_of_place, write
from workers.load import Loaded, headers, load
from workers.pixels import stored_values


def voxels_mm(loaded: Loaded) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Give the LPS position of every voxel by the loaded grid."""
    shape = loaded.volume.grid.shape
    return loaded.volume.grid.to_world_mm(np.argwhere(np.ones(shape))).reshape(*shape, 3)


@pytest.mark.parametrize(
    "planes", [AXIAL, AXIAL_FEET_UP, SAGITTAL, CORONAL, OBLIQUE], ids=["axial", "feet-up", "sagittal", "coronal", "oblique"]
)
@pytest.mark.parametrize("spacing_mm", [(0.5, 0.75), (0.9, 0.4)])
def test_every_voxel_lies_where_its_slice_puts_it(tmp_path: Path, planes: Any, spacing_mm: tuple[float, float]) -> None:
    """A volume's value at each grid point is the value the generator put at that LPS point, pixels square or not."""
    loaded = load(series(tmp_path, Scan(planes=planes, spacing_mm=spacing_mm)))
    assert loaded.volume.grid.shape == (6, 10, 14)
    assert loaded.volume.grid.spacing_mm == pytest.approx((2.0, *spacing_mm))
    assert np.abs(loaded.volume.array - slope_of_place(voxels_mm(loaded))).max() < 0.51


def test_a_marker_is_found_at_its_place_in_the_patient(tmp_path: Path) -> None:
    """A ball drawn at a known LPS point of an oblique series has its centre of mass there."""
    centre = np.array([-27.0, -17.5, 52.0])

    def ball(points: Any) -> Any:
        return np.where(np.linalg.norm(points - centre, axis=-1) < 2.5, 400.0, -800.0)

    loaded = load(series(tmp_path, Scan(planes=OBLIQUE, shape=(20, 40, 40), gap_mm=0.7, spacing_mm=(0.5, 0.6), truth=ball)))
    inside = np.argwhere(loaded.volume.array > 0)
    assert np.linalg.norm(loaded.volume.grid.to_world_mm(inside).mean(axis=0) - centre) < 0.1


def test_file_order_does_not_matter(tmp_path: Path) -> None:
    """Paths in any order give the same volume, with the headers in the order of its slices."""
    paths = series(tmp_path, Scan(planes=SAGITTAL))
    one, other = load(paths), load(paths[::-1])
    assert np.array_equal(one.volume.array, other.volume.array)
    assert one.volume.grid == other.volume.grid
    places = [one.volume.grid.to_index(np.array([header.ImagePositionPatient], dtype=float))[0] for header in one.sources]
    assert np.allclose(places, [(index, 0, 0) for index in range(6)], atol=1e-6)
    assert all("PixelData" not in header for header in one.sources)


def test_slices_numbered_against_their_positions_are_ordered_by_position(tmp_path: Path) -> None:
    """Instance numbers that run from head to feet do not turn the volume over."""
    loaded = load(series(tmp_path, Scan(gap_mm=2.0, each=lambda index: {"InstanceNumber": 6 - index, "SliceLocation": -2.0 * index})))
    assert loaded.volume.grid.axes[0] == (0.0, 0.0, 1.0)
    assert [int(header.InstanceNumber) for header in loaded.sources] == [6, 5, 4, 3, 2, 1]
    assert np.abs(loaded.volume.array - slope_of_place(voxels_mm(loaded))).max() < 0.51


def _without(index: int) -> Callable[[list[FileDataset]], list[FileDataset]]:
    return lambda made: [*made[:index], *made[index + 1 :]]


def _every(**values: Any) -> Callable[[list[FileDataset]], list[FileDataset]]:
    def change(made: list[FileDataset]) -> list[FileDataset]:
        for slice_ in made:
            for keyword, value in values.items():
                setattr(slice_, keyword, value)
        return made

    return change


def _one(index: int, **values: Any) -> Callable[[list[FileDataset]], list[FileDataset]]:
    return lambda made: [*made[:index], *_every(**values)(made[index : index + 1]), *made[index + 1 :]]


def _missing(keyword: str) -> Callable[[list[FileDataset]], list[FileDataset]]:
    def change(made: list[FileDataset]) -> list[FileDataset]:
        del made[2][keyword]
        return made

    return change


def _missing_everywhere(keyword: str) -> Callable[[list[FileDataset]], list[FileDataset]]:
    def change(made: list[FileDataset]) -> list[FileDataset]:
        for slice_ in made:
            del slice_[keyword]
        return made

    return change


def _twice(**values: Any) -> Callable[[list[FileDataset]], list[FileDataset]]:
    """Add a copy of every slice, with other UIDs and values."""

    def change(made: list[FileDataset]) -> list[FileDataset]:
        copies = []
        for slice_ in _every(AcquisitionNumber=1, TemporalPositionIdentifier=1, ConvolutionKernel="B30f")(made):
            copy = pydicom.dcmread(_through_bytes(slice_))
            copy.SOPInstanceUID = copy.file_meta.MediaStorageSOPInstanceUID = generate_uid()
            for keyword, value in values.items():
                setattr(copy, keyword, value)
            copies.append(copy)
        return [*made, *copies]

    return change


def _through_bytes(slice_: FileDataset) -> Any:
    buffer = BytesIO()
    slice_.save_as(buffer, enforce_file_format=True)
    buffer.seek(0)
    return buffer


def _interleaved(made: list[FileDataset]) -> list[FileDataset]:
    for index, slice_ in enumerate(made):
        slice_.AcquisitionNumber = 1 + index % 2
    return made


def _moved(index: int, *by_mm: float) -> Callable[[list[FileDataset]], list[FileDataset]]:
    def change(made: list[FileDataset]) -> list[FileDataset]:
        made[index].ImagePositionPatient = [float(part) + more for part, more in zip(made[index].ImagePositionPatient, by_mm, strict=True)]
        return made

    return change


REFUSALS: dict[str, tuple[Callable[[list[FileDataset]], list[FileDataset]], str]] = {
    "a missing slice": (_without(3), "Slices are missing: image 3 and image 5 lie 4.0 mm apart, where the step is 2.0 mm"),
    "one image": (lambda made: made[:1], "fewer than two images"),
    "one place twice": (_moved(3, 0, 0, -2), "Two images lie at the same position"),
    "two acquisitions at the same places": (_twice(AcquisitionNumber=2), "several acquisitions"),
    "two time points, one unnamed": (_twice(TemporalPositionIdentifier=None), "several time points"),
    "two kernels": (_twice(ConvolutionKernel="B70f"), "several reconstruction kernels"),
    "interleaved acquisitions": (_interleaved, "mixes 2 acquisitions of the same region"),
    "the same file twice": (lambda made: [*made, made[0]], "the same image"),
    "uneven spacing": (_moved(3, 0, 0, 0.3), "unevenly spaced"),
    "a slice shifted sideways": (_moved(3, 1.5, 0, 0), "shifted sideways"),
    "a localizer among them": (_one(2, ImageOrientationPatient=[0, 1, 0, 0, 0, -1]), "mixes orientations: 1 of 6"),
    "two sizes": (_one(2, Rows=5), "differ in size: 5 x 14 and 10 x 14"),
    "two pixel spacings": (_one(2, PixelSpacing=[0.5, 0.8]), "differ in pixel spacing"),
    "no position": (_missing("ImagePositionPatient"), "does not say where it lies"),
    "no orientation": (_missing("ImageOrientationPatient"), "does not say where it lies"),
    "no pixel spacing": (_missing("PixelSpacing"), "no usable pixel spacing"),
    "zero pixel spacing": (_one(2, PixelSpacing=[0, 0.8]), "no usable pixel spacing"),
    "axes not at right angles": (_every(ImageOrientationPatient=[1, 0, 0, 0.6, 0.8, 0]), "not at right angles"),
    "two frames of reference": (_one(2, FrameOfReferenceUID="1.2.3"), "one frame of reference"),
    "no frame of reference": (_missing_everywhere("FrameOfReferenceUID"), "no frame of reference"),
    "two series": (_one(2, SeriesInstanceUID="1.2.3"), "more than one series"),
    "two patients": (_one(2, PatientID="HID-0815"), "more than one patient"),
    "multi-frame": (_every(NumberOfFrames=2), "multi-frame"),
    "colour": (_one(1, SamplesPerPixel=3, PhotometricInterpretation="RGB"), "colour"),
    "no rescale": (_missing("RescaleSlope"), "not Hounsfield units"),
    "another unit": (_every(RescaleType="MGML"), "another unit"),
    "pixel data too short": (_one(4, PixelData=b"\0" * 100), "shorter than"),
    "no pixel data": (_missing("PixelData"), "no integer pixel data"),
    "every second slice gone": (_every(SpacingBetweenSlices=1.0, SliceThickness=1.0), "lie 2.0 mm apart and declare 1.0 mm"),
}


@pytest.mark.parametrize(("change", "reason"), REFUSALS.values(), ids=REFUSALS.keys())
def test_what_is_no_single_even_stack_is_refused(tmp_path: Path, change: Any, reason: str) -> None:
    """A series with this fault is refused, and the reason names the fault and nobody's data."""
    with pytest.raises(Refused, match=re.escape(reason)) as refused:
        load(write(tmp_path, change(datasets(Scan()))))
    assert "Strange" not in refused.value.reason
    assert "4711" not in refused.value.reason


def test_the_unchanged_series_of_these_refusals_loads(tmp_path: Path) -> None:
    """The scan that the faults are planted in has none itself."""
    assert load(write(tmp_path, datasets(Scan()))).volume.grid.shape == (6, 10, 14)


def test_a_tilted_gantry_gives_a_sheared_grid(tmp_path: Path) -> None:
    """Slices stacked along the table while the gantry leans are loaded as they lie, and the angle is said."""
    lean = np.radians(12.0)
    planes = ((1.0, 0.0, 0.0), (0.0, float(np.cos(lean)), float(-np.sin(lean))))
    loaded = load(series(tmp_path, Scan(planes=planes, step_mm=(0.0, 0.0, 2.0))))
    assert loaded.origin.remark == "gantry tilt 12.0 degrees"
    assert not loaded.volume.grid.is_orthogonal()
    assert loaded.volume.grid.spacing_mm[0] == pytest.approx(2.0)
    assert loaded.volume.grid.between_planes_mm == pytest.approx(2 * np.cos(lean))
    assert np.abs(loaded.volume.array - slope_of_place(voxels_mm(loaded))).max() < 0.51


def test_acquisitions_one_after_another_are_one_stack(tmp_path: Path) -> None:
    """A step-and-shoot scan with an acquisition a table step loads."""
    assert load(series(tmp_path, Scan(each=lambda index: {"AcquisitionNumber": index // 2}))).volume.grid.shape[0] == 6


def test_positions_rounded_to_a_tenth_are_even(tmp_path: Path) -> None:
    """Slices of 0.625 mm whose writer rounds positions to 0.1 mm load with a spacing of 0.625 mm."""
    made = datasets(Scan(gap_mm=0.625, shape=(41, 4, 4)))
    for slice_ in made:
        slice_.ImagePositionPatient = [round(float(part), 1) for part in slice_.ImagePositionPatient]
    assert load(write(tmp_path, made)).volume.grid.spacing_mm[0] == pytest.approx(0.625, abs=0.003)


def test_a_gap_declared_as_spacing_does_not_cost_a_series(tmp_path: Path) -> None:
    """Writers that put the gap between thick slices into Spacing Between Slices are known, and loaded."""
    assert (
        load(series(tmp_path, Scan(gap_mm=6.0, extra={"SpacingBetweenSlices": 1.0, "SliceThickness": 5.0}))).volume.grid.spacing_mm[0]
        == 6.0
    )


def test_nothing_to_load_is_refused() -> None:
    """An empty list of files is refused."""
    with pytest.raises(Refused, match="fewer than two"):
        load([])


def test_headers_hold_no_pixels(tmp_path: Path) -> None:
    """Headers are read in the given order, without pixel data."""
    paths = series(tmp_path, Scan())
    assert [header.filename for header in headers(paths)] == [str(path) for path in paths]
    assert not any("PixelData" in header for header in headers(paths))


@pytest.mark.parametrize("folder", ["mr_t1_sag_anon", "body_ct_totalseg_dicom/example_ct_dicom"])
def test_real_series_agree_with_an_independent_reader(folder: str) -> None:
    """SimpleITK's reader and ours give the same value at the same LPS point, over the whole of a real series."""
    files = sorted(path for path in shared(f"data/{folder}").iterdir() if path.suffix != ".md")
    loaded = load(files)
    reader = SimpleITK.ImageSeriesReader()
    reader.SetFileNames([header.filename for header in loaded.sources])
    image = reader.Execute()
    theirs = SimpleITK.GetArrayFromImage(image)
    assert theirs.shape == loaded.volume.grid.shape
    corners = [(0, 0, 0), *np.diag(np.array(theirs.shape) - 1).tolist(), [count - 1 for count in theirs.shape]]
    for z, y, x in corners:
        point = image.TransformIndexToPhysicalPoint((int(x), int(y), int(z)))
        assert np.allclose(loaded.volume.grid.to_index(np.array([point]))[0], (z, y, x), atol=2e-3)
    assert np.array_equal(theirs, loaded.volume.array)


@pytest.mark.parametrize("step", [(0.0, 3.0, 2.0), (5.0, 0.0, 2.0)])
def test_what_no_gantry_can_do_is_refused(tmp_path: Path, step: Any) -> None:
    """Slices that lean by more than 45 degrees, or two slices alone that lie askew, are a mistake of somebody's."""
    with pytest.raises(Refused, match="no gantry"):
        load(series(tmp_path, Scan(step_mm=step)))
    with pytest.raises(Refused, match="no gantry"):
        load(series(tmp_path / "two", Scan(shape=(2, 10, 14), step_mm=(0.0, 0.3, 2.0))))


def test_a_real_tilted_head_lies_where_its_files_say() -> None:
    """Slices of the GE head with its 18.5 degrees of tilt have the values and the corners that SimpleITK reads from their files.

    Its lower half lies 4 mm apart, its upper one 7 mm: the whole is refused for that.
    """
    whole = sorted(shared("data/head_ct_ge_tilt").glob("*.dcm"), key=lambda path: pydicom.dcmread(path).InstanceNumber)
    with pytest.raises(Refused, match=r"unevenly spaced: gaps range from 1\.08 to 7\.00 mm"):
        load(whole)
    loaded = load(whole[:14])
    assert loaded.origin.remark == "gantry tilt 18.5 degrees"
    for index, header in enumerate(loaded.sources):
        image = SimpleITK.ReadImage(str(header.filename))
        values = SimpleITK.GetArrayFromImage(image)[0]
        values[values == -1500] = -1024  # what the files declare as padding is air to us
        assert np.array_equal(values, loaded.volume.array[index])
        rows, columns = loaded.volume.grid.shape[1:]
        for y, x in ((0, 0), (rows - 1, 0), (0, columns - 1)):
            theirs = np.array(image.TransformIndexToPhysicalPoint((x, y, 0)))
            assert np.abs(loaded.volume.grid.to_world_mm(np.array([[index, y, x]], dtype=float))[0] - theirs).max() < 0.06


@pytest.mark.parametrize("kind", ["CT1", "CT2", "MR1", "MR3", "MR4"])
def test_lossless_transfer_syntaxes_give_the_same_values(kind: str) -> None:
    """One real slice in RLE, JPEG, JPEG-LS and JPEG 2000 lossless decodes to the values of the uncompressed one."""
    folder = shared("data/edge_wg04_ct_mr_us/WG04")
    packed = (folder / "REF" / f"{kind}_UNC.zst").read_bytes()
    plain = stored_values(pydicom.dcmread(BytesIO(imagecodecs.zstd_decode(packed))))
    others = [path for part in ("RLE", "JPLL", "JLSL", "J2KR") for path in (folder / part).glob(f"{kind}_*")]
    assert len(others) >= 3
    for path in others:
        assert np.array_equal(stored_values(pydicom.dcmread(path)), plain), path.name
