"""The lungs' exact border: a coarse network says which air is lung and which side it is, the image says where it ends.

All arrays are (z, y, x) on one isotropic grid; what the network gave on its coarser grid is interpolated onto it first.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage

from models.chest import candidates
from models.grids.transforms import Resampling

Floats = NDArray[np.float32]
Mask = NDArray[np.bool_]
SLOPE_HU = 200.0
ISLAND_ML = 5.0
# Airways, bowel and what is around the patient are darker than lung, where the scanner's 0 and the noise allow to say so.
GAS_HU = -970.0
LEAST_KNOWN = 0.3
# The share of an air pocket's faces that must lie on lung for it to be lung.
ENCLOSED = 0.6
# An island of less than that share of the largest is no lung where more than that share of its faces lies open to other air.
SMALL, OPEN = 0.2, 0.25


@dataclass(frozen=True, slots=True, kw_only=True)
class Edge:
    """How the border is drawn.

    air_hu    below it a voxel near the network's border is air
    reach_mm  how far the network's border may be off: beyond it inwards all is lung, beyond it outwards nothing is
    """

    air_hu: float
    reach_mm: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """Lungs on the fine grid.

    mask      what is lung, vessels and nodules included
    border    above 0 in the lungs, below outside, and 0 where the image crosses air_hu: to be interpolated
    leftness  above 0 in the left lung, below 0 in the right
    aerated   the share of the network's lungs that is air
    sure      the network's mean probability in its lungs
    """

    mask: Mask
    border: Floats
    leftness: Floats
    aerated: float
    sure: float


def onto(values: torch.Tensor, coarse: Resampling, fine: Resampling) -> Floats:
    """Interpolate an array (*coarse model shape) linearly onto the fine model grid; both share the field of view's centre."""
    for axis in range(3):
        n, m = fine.model.shape[axis], coarse.model.shape[axis]
        ratio = fine.model.spacing_mm[axis] / coarse.model.spacing_mm[axis]
        places = np.clip((np.arange(n) - (n - 1) / 2) * ratio + (m - 1) / 2, 0, m - 1)
        low = np.clip(np.floor(places).astype(np.int64), 0, max(m - 2, 0))
        part = torch.from_numpy((places - low).astype(np.float32)).to(values.device)
        part = part.reshape([-1 if at == axis else 1 for at in range(3)])
        first = values.index_select(axis, torch.from_numpy(low).to(values.device))
        second = values.index_select(axis, torch.from_numpy(np.minimum(low + 1, m - 1)).to(values.device))
        values = first + (second - first) * part
    return np.asarray(values.cpu().numpy(), dtype=np.float32)


def draw(hu: Floats, shares: torch.Tensor, plans: tuple[Resampling, Resampling], edge: Edge) -> Field:
    """Draw the lungs on the fine grid.

    hu      the image there
    shares  (none, left, right), one softmax on the network's grid; `plans` are the network's and the fine one
    """
    coarse, fine = plans
    lung = shares[1] + shares[2]
    net = (lung > 0.5).cpu().numpy()
    depth = onto(torch.from_numpy(_signed_mm(net, coarse.model.spacing_mm)), coarse, fine)
    leftness = onto(torch.from_numpy(_sides(_turned((shares[1] - shares[2]).cpu().numpy(), net), net)), coarse, fine)
    smooth = ndimage.gaussian_filter(hu, 0.6)
    air = smooth < edge.air_hu
    mask = _connected(air & (depth > -edge.reach_mm), depth > 0) | _missed(air & (smooth > GAS_HU), depth > 0)
    aerated = float((mask & (depth > 0)).sum()) / max(1, int((depth > 0).sum()))
    spacing = fine.model.spacing_mm[0]
    mask |= candidates.hull(mask, spacing) & (depth > 0)
    mask |= depth > edge.reach_mm
    mask = _large(mask, air & ~mask, spacing)
    mask |= _enclosed(air & ~mask, mask)
    border = np.clip((edge.air_hu - smooth) / SLOPE_HU, -1, 1).astype(np.float32)
    border = np.where(mask, np.where(air, border, np.float32(0.5)), np.where(air, np.float32(-1), border))
    sure = float(lung[lung > 0.5].mean()) if net.any() else 0.0
    return Field(mask=mask, border=border, leftness=leftness, aerated=aerated, sure=sure)


def _signed_mm(mask: Mask, spacing_mm: tuple[float, float, float]) -> Floats:
    """Give how deep voxels lie in a mask, in mm; negative outside. 0 lies between the voxels of its border."""
    if not mask.any():
        return np.full(mask.shape, -1e3, np.float32)
    half = min(spacing_mm) / 2
    inside = ndimage.distance_transform_edt(mask, sampling=spacing_mm)
    outside = ndimage.distance_transform_edt(~mask, sampling=spacing_mm)
    signed: Floats = np.where(mask, inside - half, half - outside).astype(np.float32)
    return signed


def _connected(air: Mask, net: Mask) -> Mask:
    """Keep the pieces of air that lie mostly in the network's lungs: a trachea beside them is a piece of its own."""
    pieces, count = ndimage.label(air)
    whole = np.bincount(pieces.ravel(), minlength=count + 1)
    within = np.bincount(pieces[net], minlength=count + 1)
    keep = within > 0.5 * whole
    keep[0] = False
    return np.asarray(keep[pieces])


def _missed(aerated: Mask, net: Mask) -> Mask:
    """Give lung that the network missed: what hangs together with lung it knows by more than a neck of two voxels' radius.

    A piece counts where the network knows LEAST_KNOWN of it; so a lung cut by the field of view, or blown up as no lung it has seen,
    is whole, and a trachea beside it is not.
    """
    whole = ndimage.binary_erosion(aerated, iterations=2)
    pieces, count = ndimage.label(whole)
    keep = np.bincount(pieces[net], minlength=count + 1) >= LEAST_KNOWN * np.bincount(pieces.ravel(), minlength=count + 1)
    keep[0] = False
    return np.asarray(ndimage.binary_dilation(keep[pieces], iterations=3, mask=aerated))


def _enclosed(dark: Mask, mask: Mask) -> Mask:
    """Give the pieces that border on a mask more than on what else there is, or the image's edge.

    Of air, dark as it may be, that is a bulla, or lung the network missed.

    Stomach gas under a diaphragm and a trachea beside a lung have walls of tissue, and stay out.
    """
    pieces, count = ndimage.label(dark)
    keep = _shares_on(pieces, count, mask) > ENCLOSED
    keep[0] = False
    return np.asarray(keep[pieces])


def _shares_on(pieces: NDArray[Any], count: int, other: Mask) -> NDArray[np.float64]:
    """Give the share of each piece's faces that lies on a mask; faces at the image's ends lie on nothing."""
    beside, faces = np.zeros(count + 1), np.zeros(count + 1)
    for axis in range(3):
        for step in (slice(None), slice(None, None, -1)):
            here, there = np.moveaxis(pieces, axis, 0)[step], np.moveaxis(other, axis, 0)[step]
            ends = (here[:-1] > 0) & (here[1:] == 0)
            beside += np.bincount(here[:-1][ends & there[1:]], minlength=count + 1)
            faces += np.bincount(here[:-1][ends], minlength=count + 1) + np.bincount(here[-1].ravel(), minlength=count + 1)
    return np.asarray(beside / np.maximum(faces, 1))


def largest(mask: Mask) -> Mask:
    """Give the largest piece of a mask."""
    pieces, count = ndimage.label(mask)
    return np.asarray(pieces == 1 + int(np.bincount(pieces.ravel(), minlength=2)[1:].argmax())) if count else mask


def _turned(leftness: Floats, net: Mask) -> Floats:
    """Give a core of one lung that is called the other one's to the lung around it; the largest piece of either side stays."""
    turned = leftness.copy()
    for side, other in ((net & (leftness > 0), net & (leftness <= 0)), (net & (leftness <= 0), net & (leftness > 0))):
        turned[_enclosed(side & ~largest(side), other)] *= -1
    return turned


def _sides(leftness: Floats, net: Mask) -> Floats:
    """Give outside the network's lungs the side of the nearest of its voxels."""
    if not net.any():
        return leftness
    nearest = ndimage.distance_transform_edt(~net, return_distances=False, return_indices=True)
    return np.asarray(leftness[tuple(nearest)])


def _large(mask: Mask, other_air: Mask, spacing_mm: float) -> Mask:
    """Drop islands under ISLAND_ML, and small ones open to air that is no lung: foam between arm and trunk is as dense as lung."""
    pieces, count = ndimage.label(mask)
    voxels = np.bincount(pieces.ravel(), minlength=count + 1)
    voxels[0] = 0
    keep = voxels * spacing_mm**3 / 1000 >= ISLAND_ML
    small = keep & (voxels < SMALL * voxels.max())
    if small.any():
        keep &= ~(small & (_shares_on(pieces, count, other_air) > OPEN))
    return np.asarray(keep[pieces])


def side(left: int, right: int) -> Any:
    """Give the rule that makes of interpolated (border, leftness) a label."""

    def decide(values: torch.Tensor) -> torch.Tensor:
        sides = torch.where(values[1] > 0, left, right)
        return torch.where(values[0] > 0, sides, 0).to(torch.uint8)

    return decide
