"""Pixels: stored values become real ones exactly, whatever their depth, sign, padding and rescale."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom.dataset import FileDataset
from pydicom.uid import ExplicitVRBigEndian, ImplicitVRLittleEndian, RLELossless

from tests.workers.slices import Scan, datasets, series, slope_of_place, write
from workers.load import load


def test_a_rescale_of_each_slice_is_honoured(tmp_path: Path) -> None:
    """Slices with slopes and intercepts of their own give one volume in one unit."""
    plain = load(series(tmp_path / "plain", Scan()))
    scan = Scan(stored=lambda index: (0.25 * (index + 1), -1024.0 - index))
    rescaled = load(series(tmp_path / "rescaled", scan))
    assert rescaled.volume.array.dtype == np.float32
    assert np.abs(rescaled.volume.array - plain.volume.array).max() <= 0.5 + 0.25 * 3.01


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({}, np.int32),
        ({"bits": (16, 12)}, np.int16),
        ({"signed": True, "stored": lambda _: (1.0, 0.0)}, np.int16),
        ({"signed": True, "bits": (16, 12), "stored": lambda _: (1.0, 0.0)}, np.int16),
        ({"bits": (32, 32)}, np.float32),
        ({"stored": lambda _: (0.5, -1024.0)}, np.float32),
    ],
    ids=["16 bits", "12 bits", "signed", "signed 12 bits", "32 bits", "half steps"],
)
def test_the_smallest_exact_type_is_taken(tmp_path: Path, changes: dict[str, Any], kind: Any) -> None:
    """The array has the smallest type that can hold every value its slices could have, and the right values."""
    loaded = load(series(tmp_path, Scan(**changes)))
    assert loaded.volume.array.dtype == kind
    grid = loaded.volume.grid
    points = grid.to_world_mm(np.argwhere(np.ones(grid.shape))).reshape(*grid.shape, 3)
    assert np.abs(loaded.volume.array - slope_of_place(points)).max() < 0.51


def test_bits_above_the_stored_ones_are_no_value(tmp_path: Path) -> None:
    """An overlay in the four unused bits of a 12-bit image does not change its values."""
    clean = datasets(Scan(bits=(16, 12)))
    expected = load(write(tmp_path / "clean", clean)).volume.array
    for slice_ in clean:
        slice_.PixelData = (np.frombuffer(slice_.PixelData, dtype="<u2") | 0xA000).tobytes()
    assert np.array_equal(load(write(tmp_path / "overlaid", clean)).volume.array, expected)


def test_padding_of_a_ct_becomes_air(tmp_path: Path) -> None:
    """Padding stored as -2000 in signed pixels, declared as 63536, is air in the volume; tissue beside it is untouched."""
    made = datasets(Scan(signed=True, stored=lambda _: (1.0, 0.0)))
    for slice_ in made:
        slice_.add_new("PixelPaddingValue", "US", 63536)
        values = np.frombuffer(slice_.PixelData, dtype="<i2").copy()
        values[:3] = -2000
        slice_.PixelData = values.tobytes()
    array = load(write(tmp_path, made)).volume.array
    assert (array[:, 0, :3] == -1024).all()
    assert array[:, 0, 3:].min() > -1024


def test_a_padding_value_inside_tissue_is_not_believed(tmp_path: Path) -> None:
    """A CT that declares 0 HU as padding keeps its water."""
    water = load(
        series(
            tmp_path,
            Scan(signed=True, stored=lambda _: (1.0, 0.0), truth=lambda points: points[..., 0] * 0, extra={"PixelPaddingValue": 0}),
        )
    )
    assert (water.volume.array == 0).all()


def test_padding_of_an_mr_becomes_its_darkest_value(tmp_path: Path) -> None:
    """A range of padding far below an MR's values does not stretch them."""
    scan = Scan(
        modality="MR", signed=True, stored=lambda _: (1.0, 0.0), truth=lambda points: 500 + points[..., 0],
        extra={"PixelPaddingValue": -32768, "PixelPaddingRangeLimit": -30000},
    )  # fmt: skip
    made = datasets(scan)
    values = np.frombuffer(made[0].PixelData, dtype="<i2").copy()
    values[:2] = -32768, -30000
    made[0].PixelData = values.tobytes()
    array = load(write(tmp_path, made)).volume.array
    assert array.min() == 0
    assert np.count_nonzero(array == 0) == 2


def test_an_inverted_mr_is_bright_where_it_is_meant_to_be(tmp_path: Path) -> None:
    """MONOCHROME1 of an MR is turned over within the series' range; a CT's Hounsfield units are left alone."""
    truth = lambda points: 300 - points[..., 0]  # noqa: E731
    mr = Scan(modality="MR", stored=lambda _: (1.0, 0.0), truth=truth)
    plain = load(series(tmp_path / "plain", mr)).volume.array
    inverted = load(series(tmp_path / "inverted", mr, extra={"PhotometricInterpretation": "MONOCHROME1"})).volume.array
    assert np.array_equal(inverted, plain.max() + plain.min() - plain)
    ct = load(series(tmp_path / "ct", Scan(truth=truth, extra={"PhotometricInterpretation": "MONOCHROME1"}))).volume.array
    assert np.array_equal(ct, plain)


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRBigEndian, RLELossless], ids=["implicit", "big endian", "rle"])
def test_transfer_syntaxes_give_the_same_volume(tmp_path: Path, syntax: Any) -> None:
    """A series in another transfer syntax loads to the same values."""
    made = datasets(Scan(bits=(16, 12)))
    expected = load(write(tmp_path / "plain", made)).volume.array
    for slice_ in made:
        if syntax == RLELossless:
            slice_.compress(RLELossless, generate_instance_uid=False)
        else:
            slice_["PixelData"].VR = "OW"
            if syntax == ExplicitVRBigEndian:
                slice_.PixelData = np.frombuffer(slice_.PixelData, dtype="<u2").astype(">u2").tobytes()
            slice_.file_meta.TransferSyntaxUID = syntax
    paths = []
    for index, slice_ in enumerate(made):
        paths.append(tmp_path / str(index))
        encoding = {"is_implicit_VR": syntax.is_implicit_VR, "is_little_endian": syntax.is_little_endian}
        FileDataset("", slice_, file_meta=slice_.file_meta, preamble=slice_.preamble, **encoding).save_as(paths[-1])
    assert np.array_equal(load(paths).volume.array, expected)
