"""An image to what the network sees: transposed, cropped to what is not 0, normalised, resampled; in that order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from models.nnunet import resampling
from models.nnunet.plans import Channel, Plans
from models.vocabulary import Unfit

Floats = NDArray[np.float32]
Labels = NDArray[np.uint8]
LEAST = 1e-8  # a deviation or range below it is taken for it


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """What the network sees, and the way back.

    array     (channels, *model shape) float32: the image's channels, then one for each foreground label of the previous stage
    whole     shape of the transposed image
    crop      the box of it that is analysed
    way       how scores are brought to the crop's shape
    """

    array: Floats
    whole: resampling.Shape
    crop: tuple[slice, slice, slice]
    way: resampling.Way


def prepare(image: Floats, spacing_mm: Sequence[float], plans: Plans, previous: tuple[Labels, Sequence[int]] | None) -> Prepared:
    """Prepare an image (channels, z, y, x) whose voxels are spacing_mm (z, y, x) apart; it is changed.

    previous  the previous stage's labels on the image's voxels, and all that may occur
    Raises Unfit where a channel does not hold what its normalisation needs.
    """
    turned = image.transpose(0, *(axis + 1 for axis in plans.forward))
    source_mm = [spacing_mm[axis] for axis in plans.forward]
    inside = _inside(turned)
    crop = _box(inside)
    data, inside = turned[:, *crop], inside[crop]
    seen: NDArray[Any] | None = None
    if previous is not None:
        seen = previous[0].transpose(plans.forward)[crop].astype(np.float32)
        seen[(seen == 0) & ~inside] = -1
        inside = seen >= 0
    for channel, values in zip(plans.channels, data, strict=True):
        _normalise(values, channel, inside)
    shape = (data.shape[1], data.shape[2], data.shape[3])
    target_mm = plans.target_mm(source_mm)
    wanted = resampling.new_shape(shape, source_mm, target_mm)
    to_model = resampling.Way(resampler=plans.data, shape=wanted, axis=resampling.apart(plans.data, source_mm, target_mm))
    parts = [resampling.image(values, to_model) for values in data]
    if previous is not None and seen is not None:
        way = resampling.Way(resampler=plans.seg, shape=wanted, axis=resampling.apart(plans.seg, source_mm, target_mm))
        resampled = resampling.labels(seen, way)
        parts += [(resampled == label).astype(np.float32) for label in previous[1]]
    back = resampling.Way(resampler=plans.scores, shape=shape, axis=resampling.apart(plans.scores, target_mm, source_mm))
    whole = (turned.shape[1], turned.shape[2], turned.shape[3])
    return Prepared(array=np.stack(parts), whole=whole, crop=crop, way=back)


def _inside(image: Floats) -> NDArray[np.bool_]:
    """Tell where any channel is not 0; holes are filled."""
    mask = image[0] != 0
    for channel in image[1:]:
        mask |= channel != 0
    return np.asarray(ndimage.binary_fill_holes(mask))


def _box(mask: NDArray[np.bool_]) -> tuple[slice, slice, slice]:
    """Give the box of what is set; everything where nothing is."""
    box = []
    for axis in range(3):
        hits = np.flatnonzero(mask.any(axis=tuple(other for other in range(3) if other != axis)))
        box.append(slice(int(hits[0]), int(hits[-1]) + 1) if len(hits) else slice(0, mask.shape[axis]))
    return box[0], box[1], box[2]


def _normalise(values: Floats, channel: Channel, inside: NDArray[np.bool_]) -> None:
    """Normalise one channel in place, in float32; raises Unfit for colours that are none.

    Ref: nnunetv2.preprocessing.normalization.default_normalization_schemes
    """
    known = channel.properties
    if channel.scheme == "CTNormalization":
        np.clip(values, known.percentile_00_5, known.percentile_99_5, out=values)
        values -= known.mean
        values /= max(known.std, LEAST)
    elif channel.scheme == "ZScoreNormalization" and channel.masked:
        chosen = values[inside]
        values[inside] = (chosen - chosen.mean()) / max(chosen.std(), LEAST)
    elif channel.scheme == "ZScoreNormalization":
        mean, deviation = values.mean(), values.std()
        values -= mean
        values /= max(deviation, LEAST)
    elif channel.scheme == "RescaleTo01Normalization":
        values -= values.min()
        values /= np.clip(values.max(), a_min=LEAST, a_max=None)
    elif channel.scheme == "RGBTo01Normalization":
        if values.min() < 0 or values.max() > 255:
            raise Unfit(f"The channel {channel.name} is a colour from 0 to 255 for this model, and the images hold other values.")
        values /= 255.0
