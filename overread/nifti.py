"""NIfTI files on our grids. A NIfTI counts (x, y, z) and points to right, front and head (RAS); we count (z, y, x) in LPS."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from nibabel.filebasedimages import ImageFileError
from numpy.typing import NDArray

from models.vocabulary import Grid, Volume
from node.errors import Refused

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
SCANNER = 1
SUFFIXES = (".nii.gz", ".nii")


def affine_of(grid: Grid) -> NDArray[np.float64]:
    """Give the matrix that takes (x, y, z, 1) indices to RAS mm.

    Example: axial, origin (10, 20, 30), spacing (2, 0.5, 0.5): index (8, 4, 3) lies at LPS (14, 22, 36), RAS (-14, -22, 36).
    """
    lps = grid.affine[:, [2, 1, 0, 3]]
    return np.asarray(LPS_TO_RAS @ lps)


def grid_of(affine: NDArray[np.float64], shape: tuple[int, int, int]) -> Grid:
    """Give the grid of an array (z, y, x) whose NIfTI affine, for (x, y, z), that is; shape is (z, y, x)."""
    lps = (LPS_TO_RAS @ affine)[:, [2, 1, 0, 3]]
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    directions = (lps[:3, :3] / spacing).T
    return Grid(
        shape=shape,
        origin_mm=_triple(lps[:3, 3]),
        axes=(_triple(directions[0]), _triple(directions[1]), _triple(directions[2])),
        spacing_mm=_triple(spacing),
    )


def write(path: Path, array: NDArray[Any], grid: Grid) -> Path:
    """Write an array (z, y, x) with its place in the patient; bool as uint8. The same array gives the same bytes."""
    stored = array.astype(np.uint8) if array.dtype == np.bool_ else array
    image: Any = nibabel.Nifti1Image(np.ascontiguousarray(stored.T), affine_of(grid))  # type: ignore[no-untyped-call]
    image.header.set_xyzt_units("mm")
    image.set_sform(affine_of(grid), SCANNER)
    if grid.is_orthogonal():  # a quaternion cannot hold a sheared grid
        image.set_qform(affine_of(grid), SCANNER)
    nibabel.save(image, path)
    return path


def read(path: Path) -> tuple[NDArray[Any], Grid]:
    """Read an array (z, y, x) and its grid; raises Refused where it is no NIfTI volume, or has no place in the patient."""
    try:
        image: Any = nibabel.load(path)
        array = np.asanyarray(image.dataobj)
    except (OSError, ImageFileError, ValueError, EOFError) as error:
        raise Refused(f"{path.name} is no NIfTI file that can be read ({str(error).splitlines()[0]})") from None
    if not isinstance(image, nibabel.Nifti1Image):
        raise Refused(f"{path.name} is no NIfTI file")
    header: Any = image.header
    array = array.reshape(array.shape[:3]) if array.ndim > 3 and set(array.shape[3:]) == {1} else array
    if array.ndim != 3 or min(array.shape) < 1:
        raise Refused(f"{path.name} has the shape {array.shape}; one volume is wanted")
    if not int(header["sform_code"]) and not int(header["qform_code"]):
        raise Refused(f"{path.name} does not say where it lies in the patient (sform and qform codes are 0)")
    if header.get_xyzt_units()[0] not in {"mm", "unknown"}:
        raise Refused(f"{path.name} counts in {header.get_xyzt_units()[0]}s, not in millimetres")
    if not np.isfinite(image.affine).all() or abs(np.linalg.det(image.affine[:3, :3])) < 1e-9:
        raise Refused(f"{path.name} has an affine that places nothing")
    turned = np.ascontiguousarray(array.T)
    return turned, grid_of(np.asarray(image.affine, dtype=float), (turned.shape[0], turned.shape[1], turned.shape[2]))


def volume(path: Path, modality: str) -> Volume:
    """Read an image as a model's input: whole numbers that fit as int16, else float32. Raises Refused."""
    array, grid = read(path)
    if array.dtype.kind not in "iuf":
        raise Refused(f"{path.name} holds {array.dtype}, not numbers")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise Refused(f"{path.name} holds numbers that are none")
    fits = array.dtype.kind in "iu" and np.iinfo(np.int16).min <= array.min() and array.max() <= np.iinfo(np.int16).max
    unit = "HU" if modality == "CT" else "1"
    numbers: NDArray[np.int16] | NDArray[np.float32] = array.astype(np.int16) if fits else array.astype(np.float32)
    return Volume(array=numbers, grid=grid, unit=unit, modality=modality)


def _triple(values: NDArray[np.float64]) -> tuple[float, float, float]:
    return float(values[0]), float(values[1]), float(values[2])
