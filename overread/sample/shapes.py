"""Solids as depths: how many millimetres a point lies inside (negative: outside), and the lattice they are sampled on.

Points are (..., 3) LPS millimetres. Depths of ellipsoids are first-order estimates, exact at the surface.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]
Triple = tuple[float, float, float]
Slices3 = tuple[slice, slice, slice]


def norm(vectors: Floats) -> Floats:
    """Give the lengths of (..., 3) vectors; numpy's own sum over so short an axis takes five times as long."""
    return np.asarray(np.sqrt(np.einsum("...i,...i->...", vectors, vectors)))


def ellipsoid(points: Floats, centre: Triple, radii: Triple) -> Floats:
    """Give the depth inside an axis-aligned ellipsoid.

    Example: radii (2, 3, 4): the centre's depth is infinite in this estimate and clipped to 2;
    the point (2, 0, 0) has depth 0, (3, 0, 0) has -1.
    """
    widths = np.asarray(radii, dtype=points.dtype)
    scaled = (points - np.asarray(centre, dtype=points.dtype)) / widths
    length = norm(scaled)
    depth = length * (1.0 - length) / np.maximum(norm(scaled / widths), 1e-9)
    return np.where(length < 0.5, points.dtype.type(min(radii) / 2), np.minimum(depth, min(radii)))


def capsule(points: Floats, start: Triple, end: Triple, radius_mm: float) -> Floats:
    """Give the depth inside a cylinder with round ends."""
    first, axis = np.asarray(start, dtype=points.dtype), np.subtract(end, start).astype(points.dtype)
    length2 = float(axis @ axis)
    along = np.clip(((points - first) @ axis) / length2, 0.0, 1.0) if length2 else np.zeros(points.shape[:-1])
    nearest = first + along[..., None] * axis
    return np.asarray(radius_mm - norm(points - nearest))


def paint(hu: Floats, value: Floats | float, depth: Floats, soft_mm: float) -> None:
    """Lay a material over an image in place; its edge is as soft as a voxel is large (partial volume)."""
    cover = np.clip(0.5 + depth / soft_mm, 0.0, 1.0)
    hu += cover * (value - hu)


@dataclass(frozen=True, slots=True, kw_only=True)
class Lattice:
    """Sample positions: index (z, y, x) lies at origin_mm + z*steps_mm[0] + y*steps_mm[1] + x*steps_mm[2]."""

    shape: tuple[int, int, int]
    origin_mm: Triple
    steps_mm: tuple[Triple, Triple, Triple]

    @property
    def soft_mm(self) -> float:
        """Give the edge of a cube as large as one voxel."""
        return float(abs(np.linalg.det(np.asarray(self.steps_mm))) ** (1 / 3))

    def points(self, box: Slices3 | None = None) -> Floats:
        """Give the LPS positions of a box of voxels, (z, y, x, 3)."""
        box = box or (slice(0, self.shape[0]), slice(0, self.shape[1]), slice(0, self.shape[2]))
        z, y, x = np.meshgrid(*(np.arange(part.start, part.stop) for part in box), indexing="ij")
        steps = np.asarray(self.steps_mm)
        return np.asarray(np.asarray(self.origin_mm) + z[..., None] * steps[0] + y[..., None] * steps[1] + x[..., None] * steps[2])

    def box(self, ends: Floats, margin_mm: float) -> Slices3 | None:
        """Give the voxels within margin_mm of the points' bounding box; None where there are none."""
        inverse = np.linalg.inv(np.asarray(self.steps_mm))
        indices = (np.atleast_2d(ends) - np.asarray(self.origin_mm)) @ inverse
        margin = margin_mm * np.sqrt((inverse**2).sum(axis=0))
        low = np.maximum(np.floor(indices.min(axis=0) - margin), 0).astype(int)
        high = np.minimum(np.ceil(indices.max(axis=0) + margin) + 1, self.shape).astype(int)
        if (low >= high).any():
            return None
        return slice(low[0], high[0]), slice(low[1], high[1]), slice(low[2], high[2])

    def waves(self, vectors: Floats, phases: Floats) -> Floats:
        """Sum plane waves cos(k.p + phase); they factorise along the lattice's axes, so this is cheap."""
        total = np.zeros(self.shape)
        for vector, phase in zip(vectors, phases, strict=True):
            factors = [
                np.exp(1j * np.arange(count) * (np.asarray(step) @ vector)) for count, step in zip(self.shape, self.steps_mm, strict=True)
            ]
            plane = factors[1][:, None] * factors[2][None, :]
            start = np.exp(1j * (np.asarray(self.origin_mm) @ vector + phase))
            for index, factor in enumerate(factors[0]):
                total[index] += (start * factor * plane).real
        return total
