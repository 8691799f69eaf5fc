"""The sample study holds what its truth says, where it says it. Witness: SimpleITK reads the files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk  # noqa: N813 -- its documentation's own name

from overread.sample import Patient, Scan
from tests import phantoms
from tests.real.validators import iod_faults


@pytest.mark.parametrize("name", phantoms.ORIENTATIONS)
def test_lungs_and_nodules_lie_where_the_truth_says(tmp_path: Path, name: str) -> None:
    """Read by ITK, the voxels that the truth calls lung are dark, its nodules are denser, and a mirrored truth does not fit."""
    truth = phantoms.thorax(tmp_path, phantoms.ORIENTATIONS[name])
    image = phantoms.read_with_itk(truth.files)
    hu, centres = sitk.GetArrayFromImage(image), phantoms.voxel_centres_mm(image)
    found = phantoms.on_grid(truth, centres)
    for label in (1, 2):
        assert np.median(hu[found.labels == label]) < -800
    largest = hu[found.instances == 1]
    assert largest.mean() > -250
    middle = 2 * truth.thorax.centre_mm[0]
    mirrored = phantoms.on_grid(truth, centres * [-1, 1, 1] + [middle, 0, 0])
    assert hu[found.labels > 0].mean() + 25 < hu[mirrored.labels > 0].mean()


def test_the_right_lung_is_the_larger_one(tmp_path: Path) -> None:
    """Volumes are an adult's, the right lung's at least a tenth above the left's, and the raster agrees with the scan's voxels."""
    truth = phantoms.thorax(tmp_path)
    volumes = truth.lung_volume_ml
    assert 1200 < volumes["left"] * 1.1 < volumes["right"] < 3500
    image = phantoms.read_with_itk(truth.files)
    inside = truth.in_lung("right", phantoms.voxel_centres_mm(image))
    assert inside.sum() * np.prod(image.GetSpacing()) / 1000 == pytest.approx(volumes["right"], rel=0.02)


def test_the_same_seed_and_scan_give_the_same_bytes(tmp_path: Path) -> None:
    """Two runs are byte-identical; another seed is another patient with other UIDs."""
    first, second = phantoms.thorax(tmp_path / "a"), phantoms.thorax(tmp_path / "b")
    assert [path.read_bytes() for path in first.files] == [path.read_bytes() for path in second.files]
    other = phantoms.thorax(tmp_path / "c", seed=2)
    assert other.study_instance_uid != first.study_instance_uid
    assert other.nodules != first.nodules


def test_a_faulty_study_is_a_part_of_the_whole_one(tmp_path: Path) -> None:
    """A study that lacks a slice has the UIDs of the complete one, so that the late slice can follow."""
    whole = phantoms.thorax(tmp_path / "whole", phantoms.EMPTY)
    lacking = phantoms.thorax(tmp_path / "lacking", replace(phantoms.EMPTY, missing=(20,)))
    uids = [{pydicom.dcmread(path, stop_before_pixels=True).SOPInstanceUID for path in truth.files} for truth in (whole, lacking)]
    assert uids[1] < uids[0]
    assert len(uids[0] - uids[1]) == 1


@pytest.mark.parametrize("name", phantoms.NAMES)
def test_names_survive_in_their_character_set(tmp_path: Path, name: str) -> None:
    """What the patient is called is what the file says, in each character set."""
    patient = phantoms.NAMES[name]
    truth = phantoms.thorax(tmp_path, replace(phantoms.EMPTY, slices=1, patient=patient))
    assert str(pydicom.dcmread(truth.files[0]).PatientName) == patient.name


@pytest.mark.parametrize(
    "syntax",
    [
        "1.2.840.10008.1.2",
        "1.2.840.10008.1.2.1",
        "1.2.840.10008.1.2.1.99",
        "1.2.840.10008.1.2.4.80",
        "1.2.840.10008.1.2.5",
    ],
)
def test_every_transfer_syntax_holds_the_same_pixels(tmp_path: Path, syntax: str) -> None:
    """Lossless compression and other encodings change no voxel."""
    plain = phantoms.thorax(tmp_path / "plain", replace(phantoms.EMPTY, slices=2))
    coded = phantoms.thorax(tmp_path / "coded", replace(phantoms.EMPTY, slices=2, transfer_syntax=syntax))
    for one, other in zip(plain.files, coded.files, strict=True):
        dataset = pydicom.dcmread(other)
        assert dataset.file_meta.TransferSyntaxUID == syntax
        assert np.array_equal(dataset.pixel_array, pydicom.dcmread(one).pixel_array)


@pytest.mark.real
def test_the_images_are_valid_ct(tmp_path: Path) -> None:
    """Dciodvfy finds no fault in a slice, with a full header."""
    scan = Scan(slices=2, matrix=(32, 32), nodules_mm=(), patient=Patient(referring="A^B", institution="C", comments="D"))
    truth = phantoms.thorax(tmp_path, scan)
    assert iod_faults(truth.files[0]) == []
