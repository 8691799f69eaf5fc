"""Shapes the thorax generator is built from: smooth noise, tubes, lesions.

Points are LPS millimetres (x, y, z); arrays are (z, y, x) with z to the head, y to the back, x to the patient's left.
Every shape is drawn as an occupancy in 0..1, so that a voxel at an edge holds a mixture (partial volume).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
Point = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """The sampling points of a scan: one increasing axis each, in LPS millimetres, and the spacing (z, y, x).

    span  (low, high) of the whole scan along (z, y, x): noise is laid over it, so that a part of a scan, or the same scan on
          another spacing, shows the same body
    """

    z_mm: NDArray[np.float64]
    y_mm: NDArray[np.float64]
    x_mm: NDArray[np.float64]
    spacing_mm: tuple[float, float, float]
    span: tuple[tuple[float, float], tuple[float, float], tuple[float, float]]

    @property
    def shape(self) -> tuple[int, int, int]:
        """Give the voxels along (z, y, x)."""
        return len(self.z_mm), len(self.y_mm), len(self.x_mm)

    @property
    def edge_mm(self) -> float:
        """Give the width over which an edge is mixed: the side of a cube of a voxel's volume."""
        return float(np.prod(self.spacing_mm) ** (1 / 3))

    @property
    def axes(self) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """Give the axes along (z, y, x)."""
        return self.z_mm, self.y_mm, self.x_mm

    def part(self, middle: Point, size_mm: tuple[float, float, float]) -> Frame:
        """Cut a box of that size (z, y, x) about a point; moved inwards where it would leave the scan."""
        axes = []
        for axis, centre, size in zip(self.axes, middle[::-1], size_mm, strict=True):
            count = min(len(axis), round(size / (axis[1] - axis[0])))
            first = int(np.clip(np.searchsorted(axis, centre - size / 2), 0, len(axis) - count))
            axes.append(axis[first : first + count])
        return replace(self, z_mm=axes[0], y_mm=axes[1], x_mm=axes[2])

    def near(self, low: Point, high: Point) -> tuple[slice, slice, slice]:
        """Give the index box that holds every sampling point between two corners; it may be empty."""
        axes = ((self.z_mm, 2), (self.y_mm, 1), (self.x_mm, 0))
        return tuple(slice(int(np.searchsorted(axis, low[k])), int(np.searchsorted(axis, high[k]))) for axis, k in axes)  # type: ignore[return-value]

    def offsets(self, box: tuple[slice, slice, slice], point: Point) -> tuple[Array, Array, Array]:
        """Give x, y, z distances from a point to the sampling points of a box, shaped to broadcast."""
        z = (self.z_mm[box[0]] - point[2]).astype(np.float32)[:, None, None]
        y = (self.y_mm[box[1]] - point[1]).astype(np.float32)[None, :, None]
        x = (self.x_mm[box[2]] - point[0]).astype(np.float32)[None, None, :]
        return x, y, z

    def index(self, point: Point) -> tuple[int, int, int] | None:
        """Give the voxel nearest to a point, None outside the scan."""
        found = []
        for axis, k in ((self.z_mm, 2), (self.y_mm, 1), (self.x_mm, 0)):
            i = round((point[k] - axis[0]) / (axis[1] - axis[0]))
            if not 0 <= i < len(axis):
                return None
            found.append(i)
        return found[0], found[1], found[2]


def smooth_noise(rng: np.random.Generator, frame: Frame, wavelength_mm: float) -> Array:
    """Give noise of mean 0 and variance 1 that changes over about one wavelength."""
    step = wavelength_mm / 2
    weights = []
    for axis, (low, high) in zip(frame.axes, frame.span, strict=True):
        knots = np.arange(low - 2 * step, high + 2.01 * step, step)
        weight = np.exp(-0.5 * ((axis[:, None] - knots[None, :]) / (0.6 * step)) ** 2)
        weights.append((weight / np.sqrt((weight**2).sum(axis=1, keepdims=True))).astype(np.float32))
    coarse = rng.standard_normal(tuple(w.shape[1] for w in weights), dtype=np.float32)
    plane = weights[1] @ (coarse @ weights[2].T)
    spread: Array = (weights[0] @ plane.reshape(len(plane), -1)).reshape(frame.shape)
    return spread


def across(one: Array, other: Array) -> Array:
    """Give the length of (one, other) at every point; much faster than numpy's hypot, which minds overflow."""
    length: Array = np.sqrt(one * one + other * other)
    return length


def phase(values: Array, pitch: float) -> Array:
    """Give how far every value is past a multiple of the pitch; much faster than numpy's mod."""
    past: Array = values - np.float32(pitch) * np.floor(values * np.float32(1 / pitch))
    return past


@dataclass(frozen=True, slots=True, kw_only=True)
class Tube:
    """A straight piece of a vessel or an airway, its radius changing evenly from start to end."""

    start: Point
    end: Point
    start_radius_mm: float
    end_radius_mm: float


def stamp_tubes(occupancy: Array, frame: Frame, tubes: list[Tube], grow_mm: float = 0.0) -> None:
    """Draw tubes into an occupancy; a tube thinner than a voxel fills it in part."""
    edge = frame.edge_mm
    for tube in _reaching(frame, tubes, grow_mm + edge):
        reach = max(tube.start_radius_mm, tube.end_radius_mm) + grow_mm + edge
        box = frame.near(np.minimum(tube.start, tube.end) - reach, np.maximum(tube.start, tube.end) + reach)
        target = occupancy[box]
        if target.size == 0:
            continue
        x, y, z = frame.offsets(box, tube.start)
        dx, dy, dz = (float(v) for v in tube.end - tube.start)
        along = np.clip((x * dx + y * dy + z * dz) / (dx * dx + dy * dy + dz * dz + 1e-6), 0, 1)
        distance = np.sqrt((x - along * dx) ** 2 + (y - along * dy) ** 2 + (z - along * dz) ** 2)
        radius = tube.start_radius_mm + grow_mm + along * (tube.end_radius_mm - tube.start_radius_mm)
        inside = np.clip((radius - distance) / edge + 0.5, 0, 1) * np.minimum(1, 1.6 * radius / edge)
        np.maximum(target, inside, out=target)


def _reaching(frame: Frame, tubes: list[Tube], margin_mm: float) -> list[Tube]:
    """Keep the tubes that come near a frame's points."""
    if not tubes:
        return []
    starts, ends = np.array([t.start for t in tubes]), np.array([t.end for t in tubes])
    margin = np.array([max(t.start_radius_mm, t.end_radius_mm) for t in tubes])[:, None] + margin_mm
    low = np.array([axis[0] for axis in frame.axes])[::-1]
    high = np.array([axis[-1] for axis in frame.axes])[::-1]
    near = ((np.maximum(starts, ends) + margin > low) & (np.minimum(starts, ends) - margin < high)).all(axis=1)
    return [tube for tube, keep in zip(tubes, near, strict=True) if keep]


@dataclass(frozen=True, slots=True, kw_only=True)
class Lesion:
    """How a nodule looks: lumps and spicules are relative swings of the radius, `core` the share that is solid."""

    centre: Point
    radius_mm: float
    lumps: float
    spicules: float
    edge_mm: float
    core: float


def stamp_lesion(rng: np.random.Generator, frame: Frame, lesion: Lesion) -> tuple[tuple[slice, slice, slice], Array, Array]:
    """Give the box a lesion touches, its occupancy there, and the occupancy of its solid core."""
    reach = lesion.radius_mm * (1.1 + 2 * lesion.lumps + 2 * lesion.spicules) + 3 * lesion.edge_mm
    box = frame.near(lesion.centre - reach, lesion.centre + reach)
    x, y, z = frame.offsets(box, lesion.centre)
    stretch = np.exp(rng.normal(0, 0.12, 3))
    stretch /= np.prod(stretch) ** (1 / 3)
    x, y, z = x * np.float32(stretch[0]), y * np.float32(stretch[1]), z * np.float32(stretch[2])
    distance = np.sqrt(x * x + y * y + z * z) + np.float32(1e-3)
    swing = np.zeros_like(distance)
    for turns, depth, many in ((2.0, lesion.lumps, 4), (7.0, lesion.spicules, 6)):
        for _ in range(many if depth > 0 else 0):
            toward = rng.standard_normal(3) * turns
            angle = (x * toward[0] + y * toward[1] + z * toward[2]) / distance
            swing += np.float32(depth / np.sqrt(many)) * np.sin(angle + rng.uniform(0, 2 * np.pi)).astype(np.float32)
    edge = max(lesion.edge_mm, frame.edge_mm)
    radius = lesion.radius_mm * (1 + np.clip(swing, -0.5, 0.9))
    whole = np.clip((radius - distance) / edge + 0.5, 0, 1).astype(np.float32)
    core = np.clip((radius * lesion.core - distance) / edge + 0.5, 0, 1).astype(np.float32)
    return box, whole, core
