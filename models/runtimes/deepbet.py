"""The brain network of the deepbet package on our own path from volume to mask: two TorchScript files, no code of the package.

Two passes. The first sees the whole head at 128^3 and finds the brain's box; the second sees the box at 256^3 and draws the
mask. All steps are the published method's, in its order and precision, so that the mask is the one its own command writes.
Ref: Fisch et al. 2024, doi 10.1016/j.compbiomed.2024.108845
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError
from scipy import ndimage

from models import registry
from models.card import BadCard, ShelvedCard
from models.execution import PLAIN, Execution, Need
from models.grids import transforms
from models.runtimes import torchscript
from models.vocabulary import Grid, Prediction, Progress, Unfit, Volume

ORIENTATION = "RAS"
HEAD_SHAPE = (128, 128, 128)
BOX_SHAPE = (256, 256, 256)
DARKEST, BRIGHTEST = 0.005, 0.995  # quantiles that become 0 and 1
PRESENT = 0.02  # share of a plane that must be brain for the plane to count into the box
MARGIN = 0.1  # of the box's size, on either side
THRESHOLD = 0.5
MEAN, DEVIATION = 0.449, 0.226  # what the networks were trained to expect
BRAIN = 1  # the networks' output channel; 0 is the rest

Mask = NDArray[np.bool_]


class Options(BaseModel):
    """The card's [runtime.options]. A brain outside `plausible_ml` is taken for a wrong input, not for a result."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    plausible_ml: tuple[float, float]


def load(shelved: ShelvedCard, device: str) -> Deepbet:
    """Load both networks onto the device; raises BadCard."""
    content = registry.weights(shelved, ("box", "mask"))
    try:
        options = Options.model_validate(shelved.card.runtime.options)
    except ValidationError as error:
        raise BadCard(f"{shelved.folder / 'card.toml'}: runtime.options: {error.errors()[0]['msg']}") from None
    with registry.options_at_fault(shelved):
        networks = {name: torchscript.opened(data, device) for name, data in content.items()}
    if len(shelved.card.output.labels) != 1 or shelved.card.output.labels[0].kind != "organ" or len(shelved.card.inputs) != 1:
        raise BadCard(f"{shelved.folder / 'card.toml'}: deepbet takes one input and gives one organ label")
    return Deepbet(shelved, options, networks, device)


class Deepbet:
    """Both networks, warm on a device."""

    def __init__(self, shelved: ShelvedCard, options: Options, networks: Mapping[str, Any], device: str) -> None:
        self._card = shelved.card
        self._options = options
        self._networks = networks
        self._device = device

    def need(self, grids: Mapping[str, Grid], _execution: Execution) -> Need:
        """Estimate fourteen channels (of which it took ten, on a processor) of the larger network's box, and the head four times in all."""
        head = math.prod(grids[self._card.reference_role].shape)
        return Need(device=56 * math.prod(BOX_SHAPE) + 8 * head, host=8 * head)

    def predict(self, volumes: Mapping[str, Volume], progress: Progress, _execution: Execution = PLAIN) -> Prediction:
        """Mask the brain of a T1 head; raises Unfit where there is none of a plausible size."""
        volume = volumes[self._card.reference_role]
        turning = transforms.turning(volume.grid, ORIENTATION)
        head = torch.from_numpy(np.ascontiguousarray(turning.turn(volume.array), dtype=np.float32)).to(self._device)
        progress(0.02)
        with torch.inference_mode():
            mask = self._mask(torch.nan_to_num(head), progress)
        brain = np.ascontiguousarray(turning.turn_back(mask))
        self._check_size(np.count_nonzero(brain) * volume.grid.voxel_mm3 / 1000)
        progress(1.0)
        labels = np.where(brain, np.uint8(self._card.output.labels[0].index), np.uint8(0))
        return Prediction(grid=volume.grid, labels=labels, variant=self._variant())

    def _mask(self, head: torch.Tensor, progress: Progress) -> Mask:
        """Run both passes on an oriented head and give the mask on its voxels."""
        small = transforms.pick_nearest(head, HEAD_SHAPE)
        low, high = small.quantile(DARKEST), small.quantile(BRIGHTEST)
        if not bool(high > low):
            raise Unfit("The images have no contrast, so no brain can be marked in them.")
        coarse = self._run("box", _normalised(small, low, high)) > THRESHOLD
        progress(0.15)
        box = _box(_largest(coarse.cpu().numpy()), tuple(head.shape))
        inside = transforms.pick_nearest(head[box], BOX_SHAPE)
        fine = self._run("mask", _normalised(inside, low, high))
        progress(0.95)
        brain = transforms.pick_nearest(fine, head[box].shape) > THRESHOLD
        mask = np.zeros(tuple(head.shape), dtype=bool)
        mask[box] = ndimage.binary_fill_holes(_largest(brain.cpu().numpy()))
        return mask

    def _run(self, name: str, tensor: torch.Tensor) -> torch.Tensor:
        brain: torch.Tensor = self._networks[name](tensor[None, None])[0, BRAIN]
        return brain

    def _check_size(self, volume_ml: float) -> None:
        low, high = self._options.plausible_ml
        if not low <= volume_ml <= high:
            raise Unfit(
                f"What was marked measures {volume_ml:.0f} ml, which is no plausible brain ({low:.0f} to {high:.0f} ml). "
                "Is this a T1-weighted series of the whole head?"
            )

    def _variant(self) -> dict[str, str]:
        return {
            "runtime": "deepbet",
            "package": version("deepbet"),
            "device": torch.device(self._device).type,
            "precision": "float32",
            "torch": str(torch.__version__),
        }


def _normalised(tensor: torch.Tensor, low: torch.Tensor, high: torch.Tensor) -> torch.Tensor:
    """Stretch low..high to 0..1, cut what lies outside, and give it the mean and deviation the networks know."""
    stretched = ((tensor - low) / (high - low)).clamp(min=0, max=1)
    return DEVIATION * ((stretched - stretched.mean()) / stretched.std()) + MEAN


def _largest(mask: Mask) -> Mask:
    """Keep the largest part whose voxels touch at a face, an edge or a corner; raises Unfit where there is none."""
    parts, count = ndimage.label(mask, structure=np.ones((3, 3, 3)))
    if count == 0:
        raise Unfit("No brain was found. Is this a T1-weighted series of the head?")
    return np.asarray(parts == 1 + int(np.argmax(np.bincount(parts.ravel())[1:])))


def _box(coarse: Mask, shape: tuple[int, ...]) -> tuple[slice, ...]:
    """Give the brain's box with its margin on a head of that shape, from the mask at 128^3; raises Unfit.

    In single precision and with torch's rounding (halves to even), as the method has it.
    Example along one axis: planes 20..99 of 128 hold brain, the head has 256: centre 60 * 2 = 120, size 80 * 2 * 1.2 = 192,
    so 24..216.
    """
    brain = torch.from_numpy(coarse.astype(np.float32))
    box = []
    for axis, count in enumerate(shape):
        planes = torch.where(brain.mean([other for other in range(3) if other != axis]) > PRESENT)[0]
        if len(planes) == 0:
            raise Unfit("Too little brain was found. Is this a T1-weighted series of the whole head?")
        scale = torch.tensor(count) / torch.tensor(coarse.shape[axis])
        centre = (scale * ((planes.max() + 1 + planes.min()) / 2)).round()
        size = (scale * (planes.max() + 1 - planes.min()) * (1 + 2 * torch.tensor(MARGIN))).round()
        box.append(slice(max(0, int(centre - size / 2)), min(count, int(centre + size / 2))))
    return tuple(box)
