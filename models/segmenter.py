"""What a segmenting network wants to see of a volume, and what of its organs is kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from models import transforms, windows
from models.card import Card
from models.vocabulary import Grid, Unfit, Volume

Labels = NDArray[np.uint8]


@dataclass(frozen=True, slots=True, kw_only=True)
class Preparation:
    """What a network wants to see.

    orientation  where the z, y and x indices grow, "SPL" for instance (models.transforms)
    spacing_mm   (z, y, x)
    low, high    intensities that become 0 and 1; what lies outside is cut
    window       voxels (z, y, x) the network sees at once
    overlap      share of a window its neighbour sees again, 0..1
    """

    orientation: str
    spacing_mm: tuple[float, float, float]
    low: float
    high: float
    window: tuple[int, int, int]
    overlap: float


def plan(grid: Grid, preparation: Preparation) -> transforms.Resampling:
    """Plan the way from a volume's grid to the model's and back."""
    return transforms.resampling(grid, preparation.orientation, preparation.spacing_mm)


def layout(way: transforms.Resampling, preparation: Preparation) -> windows.Layout:
    """Lay the windows; where they overlap scores are averaged with Gaussian weights, and a small volume is padded with `low`."""
    return windows.regular(way.model.shape, preparation.window, preparation.overlap, "gaussian")


def seen(volume: Volume, way: transforms.Resampling, preparation: Preparation, device: str) -> torch.Tensor:
    """Give what the network sees: (1, *model shape), 0..1."""
    tensor = transforms.to_model(volume.array, way, device)
    return tensor.sub_(preparation.low).div_(preparation.high - preparation.low).clamp_(0, 1)[None]


def volumes_ml(labels: Labels, grid: Grid) -> NDArray[np.float64]:
    """Give the volume of each label value 0..255.

    Example: 2000 voxels of 0.5 mm3 hold 1 ml.
    """
    counts = np.zeros(256)
    for plane in labels:
        counts += np.bincount(plane.ravel(), minlength=256)
    return counts * grid.voxel_mm3 / 1000


def require(labels: Labels, grid: Grid, card: Card, required_ml: Mapping[int, float]) -> None:
    """Refuse a series that does not show enough of an organ the model needs; raises Unfit."""
    found_ml = volumes_ml(labels, grid)
    for index, least_ml in required_ml.items():
        if found_ml[index] < least_ml:
            raise Unfit(
                f"{card.label(index).label}: only {found_ml[index]:.0f} ml was found where {least_ml:.0f} ml is needed. "
                "The series does not show enough of it for this model."
            )


def drop_small(labels: Labels, grid: Grid, card: Card) -> None:
    """Remove, in place, organs below their card's min_volume_ml."""
    found_ml = volumes_ml(labels, grid)
    for label in card.output.labels:
        if label.kind == "organ" and 0 < found_ml[label.index] < label.min_volume_ml:
            labels[labels == label.index] = 0
