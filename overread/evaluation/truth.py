"""A case's truth on the images' grid: label values, and lesions with their place and size."""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom.errors import InvalidDicomError
from scipy import ndimage

from models.card import Card
from models.evaluation.froc import Lesion
from models.vocabulary import Grid, Triple
from node.errors import Refused
from overread import nifti, readback

Indices = NDArray[np.uint8]
APART_MM = 0.01
POINT = ("x_mm", "y_mm", "z_mm")
BOX = ("x_low_mm", "y_low_mm", "z_low_mm", "x_high_mm", "y_high_mm", "z_high_mm")


def labels(path: Path, grid: Grid, card: Card, values: Mapping[int, int]) -> Indices:
    """Read a truth as the card's label indices on the grid; raises Refused where it lies on another."""
    if path.suffix == ".dcm":
        return _segments(path, grid, card)
    array = whole_numbers(path, grid)
    found = np.zeros(grid.shape, dtype=np.uint8)
    for value, index in values.items():
        if index:
            found[array == value] = index
    return found


def lesions(path: Path, grid: Grid) -> tuple[Lesion, ...]:
    """Read lesions: parts of a NIfTI by their numbers, or lines of a CSV; raises Refused."""
    return _listed(path) if path.suffix == ".csv" else numbered(whole_numbers(path, grid), grid)


def whole_numbers(path: Path, grid: Grid) -> NDArray[np.int64]:
    """Read whole numbers that lie voxel for voxel on the grid; raises Refused."""
    array, place = nifti.read(path)
    if place.shape != grid.shape:
        raise Refused(f"{path.name} has {_sizes(place)} voxels, the image {_sizes(grid)}")
    corners = np.array(np.meshgrid(*((0.0, size - 1.0) for size in grid.shape), indexing="ij")).reshape(3, -1).T
    apart = float(np.abs(place.to_world_mm(corners) - grid.to_world_mm(corners)).max())
    if apart > max(APART_MM, 0.01 * min(grid.spacing_mm)):
        raise Refused(f"{path.name} lies {apart:.2f} mm away from the image; labels must be on the image's own grid")
    rounded = np.rint(array)
    if array.dtype.kind not in "iuf" or not np.isfinite(array).all() or not np.allclose(array, rounded, atol=1e-3):
        raise Refused(f"{path.name} holds values that are no label numbers")
    return np.asarray(rounded, dtype=np.int64)


def _sizes(grid: Grid) -> str:
    return " x ".join(str(size) for size in reversed(grid.shape))


def _segments(path: Path, grid: Grid, card: Card) -> Indices:
    """Place a SEG's segments whose labels are the card's; raises Refused where none is, or one lies beside the grid."""
    try:
        segments = readback.segments(path)
    except (InvalidDicomError, AttributeError, KeyError, IndexError, ValueError, NotImplementedError) as error:
        raise Refused(f"{path.name} is no SEG that can be read ({type(error).__name__})") from None
    names = {_unnumbered(label.label): label.index for label in card.output.labels}
    known = [(index, segment) for segment in segments if (index := names.get(_unnumbered(segment.label))) is not None]
    if segments and not known:
        told = ", ".join(segment.label for segment in segments)
        raise Refused(f"{path.name} has the segments {told}; none is called as a label of the card")
    found = np.zeros(grid.shape, dtype=np.uint8)
    for index, segment in known:
        places = grid.to_index(segment.points_mm)
        voxels = np.rint(places).astype(int)
        if np.abs(places - voxels).max() > 0.1 or (voxels < 0).any() or (voxels >= grid.shape).any():
            raise Refused(f"{path.name}: {segment.label} does not lie on the image's own voxels")
        found[tuple(voxels.T)] = index
    return found


def _unnumbered(label: str) -> str:
    """Give a segment's name without its number, which our own SEGs give each finding. Example: "Nodule 2" -> "nodule"."""
    return re.sub(r" \d+$", "", label).casefold()


def numbered(array: NDArray[np.int64], grid: Grid) -> tuple[Lesion, ...]:
    """Make a lesion of each number: its centre, and the diameter of a ball of its volume.

    Example: 524 mm3 have the diameter (6 * 524 / pi)^(1/3) = 10.0 mm.
    """
    numbers = [int(number) for number in np.unique(array) if number > 0]
    centres = grid.to_world_mm(np.array(ndimage.center_of_mass(array > 0, array, numbers)).reshape(-1, 3))
    volumes = [float((array == number).sum()) * grid.voxel_mm3 for number in numbers]
    return tuple(
        Lesion(centre_mm=_triple(centre), size_mm=(6 * volume / np.pi) ** (1 / 3)) for centre, volume in zip(centres, volumes, strict=True)
    )


def _listed(path: Path) -> tuple[Lesion, ...]:
    """Read a CSV: x_mm, y_mm, z_mm, diameter_mm, or a box's six corners; optional kind, and counts (0: need not be found)."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            rows, columns = list(reader), tuple(reader.fieldnames or ())
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise Refused(f"{path.name} is no CSV that can be read ({error})") from None
    if not set(POINT) <= set(columns) and not set(BOX) <= set(columns):
        raise Refused(
            f"{path.name} has the columns {', '.join(columns) or 'none'}; {', '.join(POINT)}, diameter_mm are wanted, or {', '.join(BOX)}"
        )
    found = []
    for number, row in enumerate(rows, start=2):
        try:
            found.append(_lesion(row, boxed=set(BOX) <= set(columns)))
        except (TypeError, ValueError):
            raise Refused(f"{path.name}, line {number}: a number is missing or none") from None
    return tuple(found)


def _lesion(row: Mapping[str, str], *, boxed: bool) -> Lesion:
    counts, kind = row.get("counts", "1") not in {"0", "false", "no"}, row.get("kind") or ""
    if boxed:
        corners = np.array([float(row[key]) for key in BOX]).reshape(2, 3)
        low, high = corners.min(axis=0), corners.max(axis=0)
        size = float(row["diameter_mm"]) if row.get("diameter_mm") else float((high - low).max())
        return Lesion(centre_mm=_triple((low + high) / 2), size_mm=size, box_mm=(_triple(low), _triple(high)), kind=kind, counts=counts)
    x, y, z = (float(row[key]) for key in POINT)
    return Lesion(centre_mm=(x, y, z), size_mm=float(row.get("diameter_mm") or 0), kind=kind, counts=counts)


def _triple(values: NDArray[np.float64]) -> Triple:
    return float(values[0]), float(values[1]), float(values[2])
