"""NIfTI files lie in the patient where the grid does, as other libraries read them."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK

from node.errors import Refused
from overread import nifti
from tests.models import grids


@pytest.mark.parametrize("orientation", list(grids.AXES))
def test_voxels_lie_where_the_grid_says_as_simpleitk_reads_them(tmp_path: Path, orientation: str) -> None:
    """A ramp over LPS positions, written and read by SimpleITK (LPS too): each voxel's value is that of its place."""
    grid = grids.grid(orientation)
    path = nifti.write(tmp_path / "ramp.nii.gz", grids.ramp(grid), grid)
    image = SimpleITK.ReadImage(str(path))
    for index in ((0, 0, 0), (11, 19, 15), (3, 7, 2)):
        x, y, z = image.TransformIndexToPhysicalPoint([index[2], index[1], index[0]])
        assert image[index[2], index[1], index[0]] == pytest.approx(3 * x + 5 * y - 7 * z, abs=1e-3)
        assert (x, y, z) == pytest.approx(tuple(grid.to_world_mm(np.array([index], dtype=float))[0]), abs=1e-4)


@pytest.mark.parametrize("orientation", list(grids.AXES))
def test_what_was_written_is_read_back_on_the_same_grid(tmp_path: Path, orientation: str) -> None:
    """Shape, place and values return; the same array twice gives the same bytes."""
    grid = grids.grid(orientation)
    array = grids.ramp(grid)
    path = nifti.write(tmp_path / "a.nii.gz", array, grid)
    back, place = nifti.read(path)
    np.testing.assert_array_equal(back, array)
    assert place.shape == grid.shape
    np.testing.assert_allclose(place.affine, grid.affine, atol=1e-5)
    assert path.read_bytes() == nifti.write(tmp_path / "b.nii.gz", array, grid).read_bytes()


def test_a_sheared_grid_keeps_its_shear(tmp_path: Path) -> None:
    """A tilted gantry's planes stay where they are, in an sform, which a quaternion could not hold."""
    grid = nifti.grid_of(np.array([[-1.0, 0, 0, 0], [0, -1, 0.5, 0], [0, 0, 2, 0], [0, 0, 0, 1]]), (3, 4, 5))
    assert not grid.is_orthogonal()
    image = nibabel.load(nifti.write(tmp_path / "a.nii", np.zeros(grid.shape, dtype=np.uint8), grid))
    assert (int(image.header["sform_code"]), int(image.header["qform_code"])) == (1, 0)
    np.testing.assert_allclose(image.affine[:, 2], [0, 0.5, 2, 0], atol=1e-6)


def test_images_become_volumes_of_their_unit(tmp_path: Path) -> None:
    """Whole numbers stay whole in HU for CT; scaled numbers are floats; a fourth dimension of one is dropped."""
    affine = np.diag([1.0, 1, 1, 1])
    nibabel.save(nibabel.Nifti1Image(np.full((2, 3, 4, 1), -900, dtype=np.int32), affine), tmp_path / "ct.nii.gz")
    ct = nifti.volume(tmp_path / "ct.nii.gz", "CT")
    assert (ct.unit, ct.array.dtype, ct.array.shape, int(ct.array.min())) == ("HU", np.int16, (4, 3, 2), -900)
    nibabel.save(nibabel.Nifti1Image(np.full((2, 3, 4), 0.5, dtype=np.float64), affine), tmp_path / "mr.nii.gz")
    assert (nifti.volume(tmp_path / "mr.nii.gz", "MR").unit, nifti.volume(tmp_path / "mr.nii.gz", "MR").array.dtype) == ("1", np.float32)


def test_what_cannot_be_placed_is_refused(tmp_path: Path) -> None:
    """No codes, a time series, NaN, other bytes and half a file each give a reason."""
    image = nibabel.Nifti1Image(np.zeros((2, 3, 4), dtype=np.uint8), None)
    nibabel.save(image, tmp_path / "nowhere.nii.gz")
    nibabel.save(nibabel.Nifti1Image(np.zeros((2, 3, 4, 5), dtype=np.uint8), np.eye(4)), tmp_path / "film.nii.gz")
    nibabel.save(nibabel.Nifti1Image(np.full((2, 3, 4), np.nan, dtype=np.float32), np.eye(4)), tmp_path / "nan.nii.gz")
    (tmp_path / "text.nii.gz").write_text("words")
    whole = nifti.write(tmp_path / "whole.nii.gz", np.random.default_rng(1).random((12, 20, 16)), grids.grid("axial"))
    (tmp_path / "half.nii.gz").write_bytes(whole.read_bytes()[:900])
    for name, words in (
        ("nowhere", "where it lies"),
        ("film", "one volume"),
        ("nan", "are none"),
        ("text", "no NIfTI"),
        ("half", "no NIfTI"),
    ):
        with pytest.raises(Refused, match=words):
            nifti.volume(tmp_path / f"{name}.nii.gz", "CT")
