"""Radiographs: the picture as it is displayed, in millimetres only where they are the patient's, or refused with a reason."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from node.errors import Refused
from tests.radiographs import BACKGROUND, OPACITY, Radiograph
from workers.load import Loaded, load
from workers.radiographs import grid, looked_up, windowed


def loaded(folder: Path, **what: Any) -> Loaded:
    """Write one radiograph and load it."""
    return load([Radiograph(**what).write(folder)])


def test_worked_examples_hold() -> None:
    """Every number in the docstrings is what the function gives."""
    values = np.array([0, 4095, 2047.5], dtype=np.float32)
    assert windowed(values, 2048, 4096).tolist() == [0, 1, 0.5]
    assert windowed(np.array([2048], dtype=np.float32), 2048, 4096, "SIGMOID").tolist() == [0.5]
    table, image = Dataset(), Dataset()
    table.LUTDescriptor, table.LUTData, image.PixelRepresentation = [3, 10, 8], [0, 100, 255], 0
    shown, white = looked_up(np.array([9, 11, 200]), table, image)
    assert (shown.tolist(), white) == ([0, 100, 255], 255)


@pytest.mark.parametrize("kind", ["DX", "CR", "MG", "DX raw", "MG raw"])
@pytest.mark.parametrize("inverted", [False, True], ids=["monochrome2", "monochrome1"])
def test_dense_is_white_whatever_was_stored(tmp_path: Path, kind: str, inverted: bool) -> None:  # noqa: FBT001
    """MONOCHROME1 and MONOCHROME2 of one patient give the same picture, and it is the generator's."""
    shown = Radiograph(kind=kind, inverted=inverted)
    volume = loaded(tmp_path, kind=kind, inverted=inverted).volume
    assert (volume.array.shape, volume.array.dtype, volume.unit) == ((1, 220, 260), np.float32, "1")
    truth = shown.density()
    if "raw" in kind:  # no window: from the lowest to the highest value
        truth = (truth - truth.min()) / (truth.max() - truth.min())
    assert np.abs(volume.array[0] - truth).max() < 1e-3


SPACINGS: list[tuple[dict[str, Any], tuple[float, float], bool]] = [
    ({}, (0.5, 0.4), True),
    ({"PixelSpacingCalibrationType": "FIDUCIAL"}, (0.5, 0.4), True),
    ({"PixelSpacingCalibrationType": None}, (0.5, 0.4), True),  # differs from the detector's
    ({"PixelSpacingCalibrationType": None, "ImagerPixelSpacing": ["0.5", "0.4"]}, (0.5, 0.4), False),
    ({"PixelSpacingCalibrationType": None, "ImagerPixelSpacing": None}, (0.5, 0.4), False),
    ({"PixelSpacing": None}, (0.55, 0.44), False),
    ({"PixelSpacing": ["0", "0.4"]}, (0.55, 0.44), False),
    ({"PixelSpacing": ["-1", "0.4"]}, (0.55, 0.44), False),
    ({"PixelSpacing": None, "ImagerPixelSpacing": None}, (1.0, 1.0), False),
    ({"PixelSpacing": None, "ImagerPixelSpacing": None, "PixelAspectRatio": ["5", "4"]}, (1.25, 1.0), False),
]


@pytest.mark.parametrize(("changes", "spacing_mm", "calibrated"), SPACINGS)
def test_millimetres_are_those_of_a_calibration(changes: dict[str, Any], spacing_mm: tuple[float, float], calibrated: bool) -> None:  # noqa: FBT001
    """Only what is calibrated in the patient is in millimetres; the detector's spacing and the aspect ratio give proportions."""
    found = grid(Radiograph(spacing_mm=(0.5, 0.4), changes=changes).dataset())
    assert found.is_projection
    assert found.spacing_mm[1:] == pytest.approx(spacing_mm)
    assert found.calibrated == calibrated


def test_a_look_up_table_shows_what_it_shows(tmp_path: Path) -> None:
    """A VOI look-up table goes before a window: here it turns everything round."""
    table = Dataset()
    table.LUTDescriptor, table.LUTData = [4096, 0, 16], (65535 - 16 * np.arange(4096)).astype("<u2").tobytes()
    path = Radiograph().write(tmp_path)
    image = pydicom.dcmread(path)
    image.VOILUTSequence = Sequence([table])
    image.save_as(path)
    picture = load([path]).volume.array[0]
    shown = Radiograph()
    expected = 1 - 16 * np.rint(200 + shown.density() * 3200) / 65535
    assert np.abs(picture - expected).max() < 1e-4


def test_padding_is_black_on_either_kind_of_picture(tmp_path: Path) -> None:
    """Sixteen bits with a padding value: what is no image is black, and does not widen the range of the rest."""
    for inverted in (False, True):
        shown = Radiograph(kind="CR", inverted=inverted, changes={"PixelPaddingValue": 65535, "BitsStored": 16, "HighBit": 15})
        image = shown.dataset()
        del image.WindowCenter
        values = np.frombuffer(image.PixelData, "<u2").reshape(shown.shape).copy()
        values[:, :30] = 65535
        image.PixelData = values.tobytes()
        image.save_as(tmp_path / "padded.dcm", enforce_file_format=True)
        picture = load([tmp_path / "padded.dcm"]).volume.array[0]
        assert not picture[:, :30].any()
        truth = shown.density()
        inside = truth[:, 30:]
        assert np.abs(picture[:, 30:] - (inside - inside.min()) / (inside.max() - inside.min())).max() < 1e-3


def test_one_row_is_a_picture_too(tmp_path: Path) -> None:
    """The smallest of pictures loads; no axis is taken for another."""
    assert loaded(tmp_path, shape=(1, 260), opacities=()).volume.grid.shape == (1, 1, 260)


def test_a_picture_needs_no_frame_of_reference_and_no_orientation(tmp_path: Path) -> None:
    """What radiographs often lack stops nothing."""
    found = loaded(tmp_path, changes={"PatientOrientation": None, "ImageLaterality": None, "WindowCenter": None, "WindowWidth": None})
    assert "FrameOfReferenceUID" not in found.sources[0]
    assert found.origin.images == (str(found.sources[0].SOPInstanceUID),)
    assert found.volume.array[0][Radiograph().masks()[0]].min() > OPACITY - 0.1 > BACKGROUND


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"changes": {"NumberOfFrames": 2}}, "multi-frame"),
    ({"changes": {"PhotometricInterpretation": "RGB"}}, "colour"),
    ({"changes": {"VOILUTFunction": "OWN"}}, "function"),
    ({"changes": {"PixelData": b"\0\0"}}, "shorter"),
    ({"kind": "DX raw", "changes": {"PixelIntensityRelationshipSign": 1}}, "contradicts itself"),
    ({"changes": {"RescaleSlope": "0"}}, "rescale"),
]


@pytest.mark.parametrize(("what", "reason"), REFUSED)
def test_what_cannot_be_shown_rightly_is_refused(tmp_path: Path, what: dict[str, Any], reason: str) -> None:
    """Each fault ends with a reason for a technologist."""
    with pytest.raises(Refused, match=reason):
        loaded(tmp_path, **what)


def test_two_pictures_of_one_series_are_refused(tmp_path: Path) -> None:
    """Where a series holds several radiographs and nothing chose one, none is guessed."""
    paths = [Radiograph(number=number).write(tmp_path) for number in (1, 2)]
    with pytest.raises(Refused, match="2 radiographs"):
        load(paths)
