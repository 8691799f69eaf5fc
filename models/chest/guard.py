"""What is no chest CT that can be judged, with a reason for a technologist; and what of the lungs the images do not show.

Arrays are (z, y, x) on an isotropic grid in the orientation SPL: z grows to the head, y to the back, x to the left.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from scipy import ndimage

from models.chest.lungfield import Field as LungField
from models.vocabulary import Unfit

AIR_HU, TISSUE_HU, BONE_HU = -500.0, (-200.0, 300.0), 600.0
LEAST_AIR, LEAST_TISSUE, MOST_BONE = 0.005, 0.05, 0.2
"""Shares of the voxels: 600 ml of lung in 48 l of images are 0.0125."""
CUT, CUT_MM2 = 0.05, 200.0
"""A lung is cut where it meets the end of the images with that share of its largest section there, and that area."""
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


def lungs(field: LungField, hu: Floats, spacing_mm: float, guard: Guard) -> None:
    """Refuse what does not show two lungs with air in them; raises Unfit with what was seen."""
    sides = _sides(field)
    ml = {name: float(mask.sum()) * spacing_mm**3 / 1000 for name, mask in sides.items()}
    if all(found < guard.least_ml for found in ml.values()):
        raise Unfit(
            f"No lungs were found ({ml['left']:.0f} ml left, {ml['right']:.0f} ml right; {guard.least_ml:.0f} ml each are needed): "
            "the series shows no chest, or too little of it."
        )
    for name, found in ml.items():
        if found < guard.least_ml:
            raise Unfit(
                f"{name.capitalize()} lung: only {found:.0f} ml of air were found where {guard.least_ml:.0f} ml are needed. It is missing, "
                "without air (collapse, fluid, removed) or not in the images; the model was not made for that."
            )
    for name, mask in sides.items():
        height = float(((mask.sum(axis=(1, 2)) * spacing_mm**2) > 100).sum()) * spacing_mm
        if height < guard.least_height_mm:
            raise Unfit(
                f"{name.capitalize()} lung: only {height:.0f} mm of its height are shown; {guard.least_height_mm:.0f} mm are needed."
            )
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
