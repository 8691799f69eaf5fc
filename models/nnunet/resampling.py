"""nnU-Net's resampling: splines by scipy as its own function calls it, so that every number is the same.

Its function resizes with scikit-image's `resize`, which is scipy's `zoom` on pixel areas (grid_mode) with the ends going on,
cut to the range of what came in; scipy is called directly here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from models.nnunet.plans import Resampler

Array = NDArray[Any]
Shape = tuple[int, int, int]


def new_shape(shape: Sequence[int], source_mm: Sequence[float], target_mm: Sequence[float]) -> Shape:
    """Give the shape that keeps the field of view.

    Example: 300 voxels of 0.7 mm at 1.5 mm: 140.
    """
    z, y, x = (round(step / wanted * count) for step, wanted, count in zip(source_mm, target_mm, shape, strict=True))
    return max(1, z), max(1, y), max(1, x)


def apart(resampler: Resampler, source_mm: Sequence[float], target_mm: Sequence[float]) -> int | None:
    """Give the axis whose slices are resampled each on its own; None where all axes go together.

    It is the one with the coarsest spacing, of the source where it is anisotropic, else of the target.
    Example: 5 x 0.7 x 0.7 mm with the threshold 3: axis 0, since 5 / 0.7 is above it.
    """
    spacing: Sequence[float] | None = None
    if resampler.force_separate_z is None:
        spacing = next((step for step in (source_mm, target_mm) if max(step) / min(step) > resampler.threshold), None)
    elif resampler.force_separate_z:
        spacing = source_mm
    if spacing is None:
        return None
    coarsest = [axis for axis, step in enumerate(spacing) if max(spacing) / step == 1]
    return coarsest[0] if len(coarsest) == 1 else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """How an array is brought to a shape: `axis` is the one whose slices stay apart, or None."""

    resampler: Resampler
    shape: Shape
    axis: int | None


def image(array: Array, way: Way) -> Array:
    """Resample one channel, float in float64 and back to its own type."""
    return _resampled(array, way, _resized)


def labels(array: Array, way: Way) -> Array:
    """Resample a label map: each label's share is interpolated, the greatest wins.

    Where two share the first place exactly, the nearest voxel's label is taken if it is one of them, else the smallest.
    Ref: batchgenerators 0.25.5, resize_segmentation
    """
    return _resampled(array, way, _resized_labels)


def _resampled(array: Array, way: Way, resize: Callable[[Array, Sequence[int], int], Array]) -> Array:
    if array.shape == way.shape or way.resampler.none:
        return array
    given: Array = array.astype(float)
    if way.axis is None:
        return np.asarray(resize(given, way.shape, way.resampler.order).astype(array.dtype))
    slices = np.moveaxis(given, way.axis, 0)
    flat = [count for axis, count in enumerate(way.shape) if axis != way.axis]
    resized: Array = np.stack([resize(plane, flat, way.resampler.order) for plane in slices])
    resized = np.moveaxis(resized, 0, way.axis)
    if resized.shape == way.shape:
        return resized.astype(array.dtype)
    return _between(resized, way, keep_labels=resize is _resized_labels).astype(array.dtype)


def _between(array: Array, way: Way, *, keep_labels: bool) -> Array:
    """Resample along the axis that stayed apart."""
    assert way.axis is not None
    if way.resampler.order_z == 0:
        return np.take(array, nearest(array.shape[way.axis], way.shape[way.axis]), axis=way.axis)
    places = [places_of(array.shape[axis], count) for axis, count in enumerate(way.shape)]
    where = np.array(np.meshgrid(*places, indexing="ij"))
    if not keep_labels:
        return np.asarray(ndimage.map_coordinates(array, where, order=way.resampler.order_z, mode="nearest"))
    result = np.zeros(way.shape)
    for label in np.unique(array):
        share = ndimage.map_coordinates((array == label).astype(float), where, order=way.resampler.order_z, mode="nearest")
        result[np.round(share) > 0.5] = label
    return result


def places_of(count_in: int, count_out: int) -> NDArray[np.float64]:
    """Give where the centres of `count_out` samples lie among `count_in`, not held to the ends.

    Example: 4 to 2: 0.5 and 2.5. 2 to 4: -0.25, 0.25, 0.75, 1.25.
    """
    return np.asarray((np.arange(count_out) + 0.5) * (float(count_in) / count_out) - 0.5, dtype=np.float64)


def nearest(count_in: int, count_out: int) -> NDArray[np.int64]:
    """Give the nearest of `count_in` samples to each place, as scipy rounds."""
    found = ndimage.map_coordinates(np.arange(count_in, dtype=float), [places_of(count_in, count_out)], order=0, mode="nearest")
    return np.asarray(found, dtype=np.int64)


def _resized(array: Array, shape: Sequence[int], order: int) -> Array:
    factors = [1 / factor for factor in np.divide(array.shape, shape)]
    out: Array = ndimage.zoom(array, factors, order=order, mode="nearest", grid_mode=True)
    return np.clip(out, array.min(), array.max(), out=out)


def _resized_labels(array: Array, shape: Sequence[int], order: int) -> Array:
    near = _resized(array, shape, 0)
    found = np.unique(array)
    if order == 0 or len(found) == 1:
        return near
    best, winner = np.full(tuple(shape), -np.inf), np.full(tuple(shape), found[0])
    near_ties = np.zeros(tuple(shape), dtype=bool)
    for label in found:
        share = _resized((array == label).astype(float), shape, order)
        better, equal = share > best, (share == best) & (share > 0)
        winner[better], best[better] = label, share[better]
        near_ties = np.where(better, near == label, near_ties | (equal & (near == label)))
    return np.where(near_ties, near, winner)
