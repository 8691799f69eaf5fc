"""Enhanced multi-frame images: every voxel lies where its frame says, and results point at frames."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
from pydicom.dataset import Dataset, FileDataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    HTJ2KLossless,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from node.errors import Refused
from tests.workers.multiframe import Stack, enhanced, mixed, save
from tests.workers.slices import AXIAL, CORONAL, OBLIQUE, SAGITTAL, Scan, datasets, slope_of_place, write
from workers.frames import frames, headers
from workers.load import Loaded, load

KINDS = {
    "CT": Scan(),
    "MR": Scan(modality="MR", stored=lambda _: (0.5, -700.0)),
    "PT": Scan(modality="PT", stored=lambda _: (0.25, -700.0)),
}


def off(loaded: Loaded) -> float:
    """Give the largest difference between a voxel and what the generator put at its LPS place."""
    grid = loaded.volume.grid
    points = grid.to_world_mm(np.argwhere(np.ones(grid.shape)).astype(float)).reshape(*grid.shape, 3)
    return float(np.abs(loaded.volume.array - slope_of_place(points)).max())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("planes", [AXIAL, SAGITTAL, CORONAL, OBLIQUE], ids=["axial", "sagittal", "coronal", "oblique"])
def test_every_voxel_of_an_enhanced_image_lies_where_its_frame_puts_it(tmp_path: Path, kind: str, planes: Any) -> None:
    """Frames in any order, with orientation and spacing shared and position and rescale of their own, give the true volume."""
    loaded = load(save(tmp_path, enhanced(replace(KINDS[kind], planes=planes), order=mixed(6))))
    assert loaded.volume.grid.shape == (6, 10, 14)
    assert loaded.volume.grid.spacing_mm == pytest.approx((2.0, 0.5, 0.75))
    assert loaded.volume.unit == ("HU" if kind == "CT" else "1")
    assert off(loaded) < 0.51


def test_a_frame_says_what_a_single_image_would(tmp_path: Path) -> None:
    """The series as single images and as one enhanced image load to the same array, grid and sources in the same order."""
    scan = Scan(planes=OBLIQUE)
    single, multi = load(write(tmp_path / "single", datasets(scan))), load(save(tmp_path / "multi", enhanced(scan, order=mixed(6))))
    assert np.array_equal(single.volume.array, multi.volume.array)
    assert single.volume.grid == multi.volume.grid
    assert [str(header.ImagePositionPatient) for header in multi.sources] == [str(header.ImagePositionPatient) for header in single.sources]


def test_every_slice_knows_its_frame(tmp_path: Path) -> None:
    """Frame k of the file, counted from 1, is named as the source of the slice that lies where frame k lies."""
    order = mixed(6)
    paths = save(tmp_path, enhanced(Scan(), order=order))
    loaded = load(paths)
    assert [source.frame for source in loaded.origin.sources] == [order.index(index) + 1 for index in range(6)]
    assert loaded.origin.given == 6
    again = headers(loaded.origin.sources, {loaded.origin.images[0]: paths[0]})
    assert [header.ImagePositionPatient for header in again] == [header.ImagePositionPatient for header in loaded.sources]


def test_a_volume_may_come_in_several_enhanced_images(tmp_path: Path) -> None:
    """Two images of three frames each, one behind the other, are one volume."""
    scan = Scan(shape=(3, 10, 14))
    later = Scan(shape=(3, 10, 14), origin_mm=(-31.0, -22.0, 51.0))
    loaded = load(save(tmp_path, enhanced(later), enhanced(scan)))
    assert loaded.volume.grid.shape == (6, 10, 14)
    assert [source.frame for source in loaded.origin.sources] == [1, 2, 3, 1, 2, 3]
    assert len(loaded.origin.images) == 2
    assert off(loaded) < 0.51


def test_enhanced_images_of_one_frame_are_images_of_their_own(tmp_path: Path) -> None:
    """A scanner that writes one enhanced image a slice has no frame to name."""
    images = [enhanced(Scan(), order=[index]) for index in range(6)]
    loaded = load(save(tmp_path, *images))
    assert [source.frame for source in loaded.origin.sources] == [None] * 6
    assert off(loaded) < 0.51


def _packed(image: FileDataset, encode: Any) -> bytes:
    planes = np.frombuffer(image.PixelData, dtype="<u2").reshape(-1, image.Rows, image.Columns)
    return encapsulate([encode(plane) for plane in planes])


ENCODERS = {
    JPEG2000Lossless: lambda plane: imagecodecs.jpeg2k_encode(plane, level=0, reversible=True, codecformat="j2k"),
    HTJ2KLossless: lambda plane: imagecodecs.htj2k_encode(plane, reversible=True),
    JPEGLSLossless: imagecodecs.jpegls_encode,
    JPEGLosslessSV1: lambda plane: imagecodecs.ljpeg_encode(plane, bitspersample=16),
}
SYNTAXES = {
    "rle": RLELossless,
    "jpeg": JPEGLosslessSV1,
    "j2k": JPEG2000Lossless,
    "htj2k": HTJ2KLossless,
    "jls": JPEGLSLossless,
    "big": ExplicitVRBigEndian,
    "deflated": DeflatedExplicitVRLittleEndian,
}


@pytest.mark.parametrize("syntax", SYNTAXES.values(), ids=SYNTAXES.keys())
def test_compressed_frames_are_the_same(tmp_path: Path, syntax: Any) -> None:
    """Each frame of an enhanced image is decoded by itself, whatever the transfer syntax."""
    image = enhanced(Scan(), order=mixed(6))
    expected = load(save(tmp_path / "plain", image)).volume.array
    if syntax == ExplicitVRBigEndian:
        image.PixelData = np.frombuffer(image.PixelData, dtype="<u2").astype(">u2").tobytes()
        image["PixelData"].VR = "OW"
        image.file_meta.TransferSyntaxUID = syntax
        image = FileDataset("", image, file_meta=image.file_meta, preamble=b"\0" * 128, is_implicit_VR=False, is_little_endian=False)
    elif syntax == RLELossless:
        image.compress(syntax, generate_instance_uid=False)
    elif syntax == DeflatedExplicitVRLittleEndian:
        image.file_meta.TransferSyntaxUID = syntax
    else:
        image.PixelData = _packed(image, ENCODERS[syntax])
        image["PixelData"].is_undefined_length = True
        image.file_meta.TransferSyntaxUID = syntax
    assert np.array_equal(load(save(tmp_path / "packed", image)).volume.array, expected)


def _without(image: FileDataset, keyword: str) -> FileDataset:
    del image[keyword]
    return image


def _with(image: FileDataset, **values: Any) -> FileDataset:
    for keyword, value in values.items():
        setattr(image, keyword, value)
    return image


def _perfusion(image: FileDataset) -> FileDataset:
    image.SharedFunctionalGroupsSequence[0].PixelValueTransformationSequence[0].RescaleType = "US"
    return image


def _lost_frame(image: FileDataset) -> FileDataset:
    image.PerFrameFunctionalGroupsSequence = image.PerFrameFunctionalGroupsSequence[1:]
    return image


def _nowhere(image: FileDataset) -> FileDataset:
    del image.PerFrameFunctionalGroupsSequence[2].PlanePositionSequence
    return image


REFUSALS: dict[str, tuple[Any, str]] = {
    "no groups": (
        lambda image: _without(_without(image, "SharedFunctionalGroupsSequence"), "PerFrameFunctionalGroupsSequence"),
        "no functional groups",
    ),
    "a frame without description": (_lost_frame, "describes 5 frames and says that it holds 6"),
    "a frame without position": (_nowhere, "does not say where it lies"),
    "a perfusion map": (_perfusion, "another unit"),
    "frames cut off": (lambda image: _with(image, PixelData=image.PixelData[:-10]), "shorter"),
    "another class": (lambda image: _with(image, SOPClassUID="1.2.840.10008.5.1.4.1.1.7.3"), "multi-frame"),
    "a missing frame": (lambda _: enhanced(Scan(), order=[0, 1, 2, 4, 5]), "Slices are missing: frame 3 and frame 4"),
    "a frame twice": (lambda _: enhanced(Scan(), order=[0, 1, 2, 2, 3, 4, 5]), "frame 3 and frame 4"),
    "a mosaic": (lambda image: _with(image, ImageType=["ORIGINAL", "PRIMARY", "M", "ND", "MOSAIC"]), "Siemens mosaics"),
}


@pytest.mark.parametrize(("change", "reason"), REFUSALS.values(), ids=REFUSALS.keys())
def test_an_enhanced_image_that_cannot_be_placed_is_refused(tmp_path: Path, change: Any, reason: str) -> None:
    """A multi-frame image with this fault is refused, and the reason names the fault and nobody's data."""
    with pytest.raises(Refused, match=reason) as refused:
        load(save(tmp_path, change(enhanced(Scan()))))
    assert "Strange" not in refused.value.reason


def test_a_private_mark_tells_a_mosaic_too(tmp_path: Path) -> None:
    """A mosaic whose image type was anonymised away is known by Siemens' number of images in it."""
    made = datasets(Scan(modality="MR", stored=lambda _: (0.5, -700.0)))
    for image in made:
        image.private_block(0x0019, "SIEMENS MR HEADER", create=True).add_new(0x0A, "US", 36)
    with pytest.raises(Refused, match="mosaics"):
        load(write(tmp_path, made))


def test_nothing_but_the_frames_header_is_kept(tmp_path: Path) -> None:
    """An unfolded header has no functional groups and no pixels, so that a thousand of them fit into memory."""
    (first, *_) = frames(save(tmp_path, enhanced(Scan(), [Stack(says={"StackID": "1"})])))
    assert not {"SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence", "PixelData"} & set(first.header.dir())
    assert first.header.StackID == "1"


def test_what_a_frame_says_of_itself_changes_no_other(tmp_path: Path) -> None:
    """A value that is shared and that one frame overrides is another in that frame alone."""
    image = enhanced(Scan())
    image.SharedFunctionalGroupsSequence[0].FrameAnatomySequence = []
    own = Dataset()
    own.SliceThickness, own.PixelSpacing = 9.0, [0.5, 0.75]
    image.PerFrameFunctionalGroupsSequence[2].PixelMeasuresSequence = [own]
    assert [float(frame.header.SliceThickness) for frame in frames(save(tmp_path, image))] == [1, 1, 9, 1, 1, 1]
