"""What is no chest CT that can be judged, with a reason for a technologist; and what of the lungs the images do not show.

Arrays are (z, y, x) on an isotropic grid in the orientation SPL: z grows to the head, y to the back, x to the left.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from scipy import ndimage

from models.chest.lungfield import Field as LungField
from models.chest.lungfield import largest
from models.vocabulary import Triple, Unfit

AIR_HU, TISSUE_HU, BONE_HU = -500.0, (-200.0, 300.0), 600.0
LEAST_AIR, LEAST_TISSUE, MOST_BONE = 0.005, 0.05, 0.2
"""Shares of the voxels: 600 ml of lung in 48 l of images are 0.0125."""
CUT, CUT_MM2 = 0.05, 200.0
"""A lung is cut where it meets the end of the images with that share of its largest section there, and that area."""
SMALLER = 0.6
"""A lung with less than that share of the other's air is not seen whole."""
TOUCHING = 1.2
"""Left and right may touch over that share of the smaller one's volume to the power of 2/3. In whole chests of both generators it was
0.7 at most, in images cut to one lung or turned, of which the network makes two, 1.3 to 7."""
ALONE, ONE_SIDE, ENDS = 1.5, 0.7, 0.6
"""One lung alone has that many times the least volume and height, that share of it on its side of the body's middle, and no more than
that share of the body's largest sagittal section at the images' sides: arms are up to 0.4, a body cut in its middle 0.9 and more."""
ABSENT = "It is collapsed, filled, removed or not in the images"
TRIED_HU, NOISY_HU = 80.0, 120.0
"""White noise in the lungs that the model was tried with, and from where on it is said that there is clearly more."""
PLANES = 40
"""Noise and order are measured on so many of the slices."""
DISORDER, DISORDER_HU, BLOCK_MM = 0.5, 20.0, 8.0
"""Slices are out of order where neighbours differ by that share of what slices a third of the scan apart differ by, and by that many HU,
each in the mean of blocks of that size. In order it was 0.03 to 0.23 (real and generated chests, slices up to 5 mm, noise up to 80 HU),
shuffled or with two or three parts interleaved 0.7 to 2.8."""
ORDERED_HU = (-1000.0, 200.0)
SIDES = (("below", "above"), ("in front", "at the back"), ("on the right", "on the left"))

Floats = NDArray[np.float32]
Mask = NDArray[np.bool_]


class Guard(BaseModel):
    """What a chest must show; less makes the series unfit.

    least_ml, least_height_mm  of each lung
    least_aerated              share of the coarse network's lungs that is air
    least_sure                 mean probability in the coarse network's lungs
    densest_hu, lightest_hu    bounds of the median in the lungs
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    least_ml: float = Field(ge=0)
    least_height_mm: float = Field(ge=0)
    least_aerated: float = Field(ge=0, le=1)
    least_sure: float = Field(ge=0, le=1)
    densest_hu: float
    lightest_hu: float = -970.0


def values(hu: torch.Tensor) -> None:
    """Refuse values that cannot be a chest's Hounsfield units: constant, without air or tissue, bone everywhere; raises Unfit.

    Example: stored values without their rescale intercept have air at 24 and tissue at 1064: nearly all is as dense as bone.
    """
    low, high = float(hu.min()), float(hu.max())
    if high - low < 10:
        raise Unfit(f"The images are empty: all values lie between {low:.0f} and {high:.0f}.")
    if float((hu > BONE_HU).float().mean()) > MOST_BONE:
        raise Unfit(
            f"Much of these images is as dense as bone (values from {low:.0f} to {high:.0f}): they are inverted, "
            "or no Hounsfield units (rescale slope and intercept)."
        )
    if float((hu < AIR_HU).float().mean()) < LEAST_AIR:
        raise Unfit(
            f"Hardly anything in these images has the density of air (values from {low:.0f} to {high:.0f}): "
            "no lung is shown, or the values are no Hounsfield units (rescale slope and intercept)."
        )
    if float(((hu > TISSUE_HU[0]) & (hu < TISSUE_HU[1])).float().mean()) < LEAST_TISSUE:
        raise Unfit(
            f"Hardly anything in these images has the density of tissue (values from {low:.0f} to {high:.0f}): "
            "no patient is shown, or the values are no Hounsfield units (rescale slope and intercept)."
        )


def order(hu: NDArray[Any], spacing_mm: Triple) -> None:
    """Refuse slices (the first axis of the images' own grid) whose positions are not the patient's; raises Unfit.

    Neighbouring slices are alike, distant ones are not; where both differ by as much, they were put in a wrong order. Nothing is said of
    images that are alike everywhere.
    """
    far = len(hu) // 3
    if far < 2:
        return
    places = np.unique(np.linspace(0, len(hu) - 1 - far, PLANES).astype(np.int64))
    here, there, beyond = (np.stack([_blocks(hu[k + step], spacing_mm) for k in places]) for step in (0, 1, far))
    near_hu, far_hu = (float(np.median(np.abs(other - here).mean(axis=(1, 2)))) for other in (there, beyond))
    if near_hu > max(DISORDER_HU, DISORDER * far_hu):
        raise Unfit(
            f"Neighbouring images differ by {near_hu:.0f} HU in the mean, those a third of the scan apart by {far_hu:.0f} HU: "
            "the images are not in the order their positions say."
        )


def _blocks(plane: NDArray[Any], spacing_mm: Triple) -> Floats:
    """Give the means of a plane's blocks of BLOCK_MM, in which noise is little; contrast and bone count as ORDERED_HU's upper end."""
    rows, columns = (max(1, round(BLOCK_MM / step)) for step in spacing_mm[1:])
    high, wide = plane.shape[0] // rows, plane.shape[1] // columns
    whole = np.clip(plane[: high * rows, : wide * columns].astype(np.float32), *ORDERED_HU)
    return np.asarray(whole.reshape(high, rows, wide, columns).mean(axis=(1, 3)))


def lungs(field: LungField, hu: Floats, spacing_mm: float, guard: Guard) -> None:
    """Refuse what does not show a lung with air in it that is surely the left or the right one; raises Unfit with what was seen."""
    sides = _sides(field)
    ml = {name: _ml(mask, spacing_mm) for name, mask in sides.items()}
    if all(found < guard.least_ml for found in ml.values()):
        raise Unfit(
            f"No lungs were found ({ml['left']:.0f} ml left, {ml['right']:.0f} ml right; {guard.least_ml:.0f} ml each are needed): "
            "the series shows no chest, too little of it, or lungs without air in them."
        )
    lacking = {name: words for name, mask in sides.items() if (words := _lacking(mask, spacing_mm, guard))}
    if len(lacking) == len(sides):
        raise Unfit(" ".join(f"{name.capitalize()} lung: {words}." for name, words in lacking.items()))
    if not lacking:
        _touching(sides)
    for name, words in lacking.items():
        _alone(field, hu, spacing_mm, guard, f"{name.capitalize()} lung: {words}")
    if field.aerated < guard.least_aerated:
        raise Unfit(f"Only {100 * field.aerated:.0f} % of what looks like lungs is air: this is not a chest this model can judge.")
    if field.sure < guard.least_sure:
        raise Unfit("The lungs could not be told from what surrounds them with enough certainty.")
    median = float(np.median(hu[field.mask]))
    if not guard.lightest_hu <= median <= guard.densest_hu:
        raise Unfit(
            f"The lungs' median is {median:.0f} HU, which is not between {guard.lightest_hu:.0f} and {guard.densest_hu:.0f}: "
            "the values or the lungs are not as expected."
        )


def airless(field: LungField, spacing_mm: float, guard: Guard) -> tuple[str, ...]:
    """Say of a lung that lacks, or is much smaller than the other, that what of it is without air was not judged.

    Example: "The right lung was not judged: only 0 ml of air were found where 300 ml are needed. It is collapsed, ..."
    """
    sides = _sides(field)
    ml = {name: _ml(mask, spacing_mm) for name, mask in sides.items()}
    for name, other in (("left", "right"), ("right", "left")):
        if words := _lacking(sides[name], spacing_mm, guard):
            return (f"The {name} lung was not judged: {words}. {ABSENT}.",)
        if ml[name] < SMALLER * ml[other]:
            shown = f"The {name} lung shows {ml[name]:.0f} ml of air, the {other} one {ml[other]:.0f} ml"
            return (f"{shown}: what of it is without air (collapse, fluid, a mass) or not in the images was not judged.",)
    return ()


def unseen(field: LungField, hu: Floats, spacing_mm: float) -> tuple[str, ...]:
    """Say for each lung at which ends of the images it is cut off, so that a part of it is not shown.

    Example: "The left lung is cut off below and on the left; what lies beyond was not seen."
    """
    around = _around(field, hu)
    said = []
    for name, mask in _sides(field).items():
        ends = [side for axis, pair in enumerate(SIDES) for side, cut in zip(pair, _ends(mask, axis, spacing_mm), strict=True) if cut]
        if not ends and float((mask[::2, ::2, ::2] & around).sum()) * (2 * spacing_mm) ** 2 > _least(mask, 2, spacing_mm):
            ends = ["at the edge of the round field of view"]
        if ends:
            words = " and ".join(filter(None, (", ".join(ends[:-1]), ends[-1])))
            said.append(f"The {name} lung is cut off {words}; what lies beyond was not seen.")
    return tuple(said)


def noisy(lungs: Mask, hu: NDArray[Any], voxel_mm3: float, spacing_mm: float) -> tuple[str, ...]:
    """Say of images with more noise than the model was tried with that small and faint nodules may be missed.

    Measured on the images' own grid, for interpolated values are smooth whatever the noise. What voxels smaller than the model's
    lose when they are averaged to one of its own does not count.
    """
    step = max(1, len(hu) // PLANES)
    sigma = noise_hu(lungs[::step], hu[::step]) * min(1.0, math.sqrt(voxel_mm3 / spacing_mm**3))
    if sigma <= NOISY_HU:
        return ()
    seen = f"{sigma:.0f} HU in the lungs; the model was tried with {TRIED_HU:.0f} HU"
    return (f"The images are noisy ({seen}): small and faint nodules may be missed.",)


def noise_hu(lungs: Mask, hu: NDArray[Any]) -> float:
    """Give the standard deviation of the noise under a mask, in HU, from what a voxel differs by from its neighbours' mean; 0 for no mask.

    The median of these differences leaves vessels and borders out. For white noise of standard deviation s they are normal with
    sqrt(3/2) s, and half of a normal's values lie within 0.6745 of its own. Ref: Rousseeuw, Croux 1993, doi 10.2307/2291267
    """
    off = []
    for within, plane in zip(lungs, hu, strict=True):
        across = within[:, 1:-1] & within[:, :-2] & within[:, 2:]
        values = plane.astype(np.float32)
        off.append(np.abs(values[:, 1:-1] - (values[:, :-2] + values[:, 2:]) / 2)[across])
    differences = np.concatenate(off)
    return float(np.median(differences)) / 0.6745 / 1.5**0.5 if differences.size else 0.0


def _ml(mask: Mask, spacing_mm: float) -> float:
    return float(mask.sum()) * spacing_mm**3 / 1000


def _height_mm(mask: Mask, spacing_mm: float) -> float:
    return float(((mask.sum(axis=(1, 2)) * spacing_mm**2) > 100).sum()) * spacing_mm


def _lacking(mask: Mask, spacing_mm: float, guard: Guard) -> str:
    """Say what a lung lacks to be judged; nothing where it is all there."""
    ml, height = _ml(mask, spacing_mm), _height_mm(mask, spacing_mm)
    if ml < guard.least_ml:
        return f"only {ml:.0f} ml of air were found where {guard.least_ml:.0f} ml are needed"
    if height < guard.least_height_mm:
        return f"only {height:.0f} mm of its height are shown where {guard.least_height_mm:.0f} mm are needed"
    return ""


def _touching(sides: Mapping[str, Mask]) -> None:
    """Refuse one lung that was taken for two: no mediastinum lies between what is called left and right; raises Unfit.

    The largest piece of either counts, on every second voxel: a core of a lung that is called the other one's is no second lung.
    """
    left, right = (largest(sides[name][::2, ::2, ::2]) for name in ("left", "right"))
    faces = 0
    for axis in range(3):
        here, there = np.moveaxis(left, axis, 0), np.moveaxis(right, axis, 0)
        faces += int((here[1:] & there[:-1]).sum()) + int((there[1:] & here[:-1]).sum())
    if faces > TOUCHING * float(min(left.sum(), right.sum())) ** (2 / 3):
        raise Unfit(
            "Left and right lung could not be told apart, for nothing lies between them: the images show one lung only, "
            "no chest, or the patient lies otherwise than they say."
        )


def _alone(field: LungField, hu: Floats, spacing_mm: float, guard: Guard, words: str) -> None:
    """Refuse one lung alone that is small, or in images cut to it, where it may be either; raises Unfit.

    They are cut to it where they end in the body on a side, or it lies in the middle of what they show of the body.
    """
    sides = _sides(field)
    name, mask = max(sides.items(), key=lambda entry: int(entry[1].sum()))
    why = ""
    if _ml(mask, spacing_mm) < ALONE * guard.least_ml or _height_mm(mask, spacing_mm) < ALONE * guard.least_height_mm:
        why = f"the {name} one is too small to be judged alone"
    levels = mask.any(axis=(1, 2))
    lung, body = mask[levels].sum(axis=(0, 1)), ((hu[levels] > AIR_HU) | mask[levels]).sum(axis=(0, 1))
    middle = float((body * np.arange(len(body))).sum()) / max(1.0, float(body.sum()))
    side = np.arange(len(lung)) > middle if name == "left" else np.arange(len(lung)) < middle
    if not why and (lung[side].sum() < ONE_SIDE * lung.sum() or max(body[0], body[-1]) > ENDS * body.max(initial=1)):
        why = "which lung is shown is not certain, for the images end in the body at its sides"
    if why:
        raise Unfit(f"{words}. {ABSENT}, and {why}.")


def _sides(field: LungField) -> Mapping[str, Mask]:
    return {"left": field.mask & (field.leftness > 0), "right": field.mask & (field.leftness <= 0)}


def _least(mask: Mask, axis: int, spacing_mm: float) -> float:
    """Give the area in mm2 from which on a lung is cut off across an axis."""
    sections = mask.sum(axis=tuple(other for other in range(3) if other != axis))
    return max(CUT_MM2, CUT * float(sections.max(initial=0)) * spacing_mm**2)


def _ends(mask: Mask, axis: int, spacing_mm: float) -> tuple[bool, bool]:
    """Tell whether a lung is cut off by the first plane and by the last one along an axis."""
    least = _least(mask, axis, spacing_mm)
    first, last = (float(mask.take(at, axis).sum()) * spacing_mm**2 for at in (0, -1))
    return first > least, last > least


def _around(field: LungField, hu: Floats) -> Mask:
    """Give, on every second voxel, where lungs would be next to the air outside the patient, which reaches the images' sides.

    A chest wall lies between the two, unless a round field of view ends in the lung and air is written around it.
    """
    coarse = (slice(None, None, 2),) * 3
    pieces, count = ndimage.label((hu[coarse] < AIR_HU) & ~field.mask[coarse])
    outside = np.zeros(count + 1, bool)
    for side in (pieces[:, 0], pieces[:, -1], pieces[:, :, 0], pieces[:, :, -1]):
        outside[np.unique(side)] = True
    outside[0] = False
    return np.asarray(ndimage.binary_dilation(outside[pieces]))
