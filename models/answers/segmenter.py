"""What of a segmenting network's organs is kept."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from models.card import Card
from models.vocabulary import Grid, Unfit

Labels = NDArray[np.uint8]
Masks = Mapping[int, NDArray[np.bool_]]
NONE: Masks = MappingProxyType({})


def volumes_ml(labels: Labels, grid: Grid) -> NDArray[np.float64]:
    """Give the volume of each label value 0..255.

    Example: 2000 voxels of 0.5 mm3 hold 1 ml.
    """
    counts = np.zeros(256)
    for plane in labels:
        counts += np.bincount(plane.ravel(), minlength=256)
    return counts * grid.voxel_mm3 / 1000


def require(labels: Labels, grid: Grid, card: Card, required_ml: Mapping[int, float], masks: Masks = NONE) -> None:
    """Refuse a series that does not show enough of an organ the model needs, as a label or a mask; raises Unfit."""
    if not required_ml:
        return
    found_ml = volumes_ml(labels, grid)
    for index, mask in masks.items():
        found_ml[index] = np.count_nonzero(mask) * grid.voxel_mm3 / 1000
    for index, least_ml in required_ml.items():
        if found_ml[index] < least_ml:
            raise Unfit(
                f"{card.label(index).label}: only {found_ml[index]:.0f} ml was found where {least_ml:.0f} ml is needed. "
                "The series does not show enough of it for this model."
            )


def drop_small(labels: Labels, grid: Grid, card: Card) -> None:
    """Remove, in place, organs below their card's min_volume_ml."""
    small = [label for label in card.output.labels if label.kind == "organ" and label.min_volume_ml]
    found_ml = volumes_ml(labels, grid) if small else np.zeros(0)
    for label in small:
        if 0 < found_ml[label.index] < label.min_volume_ml:
            labels[labels == label.index] = 0
