"""A loaded bundle: proved on noise before the first patient, then run on volumes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from monai.inferers.inferer import SliceInferer

from models.card import Card, InputPart
from models.execution import PLAIN, Execution, Need
from models.grids import transforms
from models.networks import network
from models.runtimes.monai_bundle import chain, images, inferring, outputs
from models.runtimes.monai_bundle.chain import Chain
from models.runtimes.monai_bundle.reading import Facts
from models.vocabulary import Grid, Prediction, Progress, Unfit, Volume

TRIAL = Grid(shape=(20, 28, 24), origin_mm=(-11.0, 23.0, 5.0), axes=((-1, 0, 0), (0, 0, -1), (0, 1, 0)), spacing_mm=(2.2, 1.7, 1.9))
"""A sagittal series, so that a bundle that loses its way back is found."""
TRIAL_PICTURE = Grid(
    shape=(1, 56, 48), origin_mm=(0, 0, 0), axes=((0, 0, 1), (0, 1, 0), (1, 0, 0)), spacing_mm=(1, 0.2, 0.2), space="image"
)
VALUES = (
    "the bundle changes its label map by steps of its own after the cut, so its values need not be channels: "
    "say values (label index -> value), or take those steps out by overrides (_disabled_ = true)"
)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Setup:
    """A card, its bundle's chain and metadata, and where it runs; `orientation` as in the options."""

    card: Card
    chain: Chain
    facts: Facts
    device: str
    orientation: str | None

    @property
    def flat(self) -> bool:
        """Tell a bundle that reads radiographs: its network has two axes, and no inferer cuts slices for it."""
        return len(self.facts.shape) == 2 and not isinstance(self.chain.inferer, SliceInferer)

    def turning(self, grid: Grid) -> transforms.Turning | None:
        """Give how images are turned before the bundle sees them."""
        if grid.is_projection or self.orientation in {None, "as-stored"}:
            return None
        assert self.orientation is not None
        return transforms.turning(grid, self.orientation)


def prove(setup: Setup, shape: tuple[int, ...]) -> torch.Tensor:
    """Run preprocessing, inferer and postprocessing on noise; give the result. Raises ValueError for all that is wrong.

    shape  what the network makes of one window
    """
    made, facts = setup.chain, setup.facts
    if setup.orientation is None and not setup.flat and not made.orients:
        raise ValueError(
            "the bundle's preprocessing has no Orientationd: say in orientation how its training images were stored "
            '("SAR" for NIfTI in canonical order), or "as-stored"'
        )
    if len(shape) < 2 or shape[1] != facts.outputs:
        raise ValueError(f"the network gives {shape[1:]}, metadata says {facts.outputs} channels")
    window = inferring.window(made.inferer, facts.shape)
    spatial = len(shape) > 2
    if spatial and shape[2:] != window:
        raise ValueError(f"the network makes {shape[2:]} of {window}; a result must have its input's size")
    grid = TRIAL_PICTURE if setup.flat else TRIAL
    try:
        found = _tried(setup, grid, spatial=spatial)
    except Exception as error:
        if isinstance(error, ValueError):
            raise
        raise ValueError(f"the bundle fails on an image of noise: {chain.innermost(error)}") from error
    if spatial and (wrong := chain.on_grid(found, _turned(setup, grid))):
        raise ValueError(f"the bundle does not return to the source grid: {wrong}")
    return found


def _tried(setup: Setup, grid: Grid, *, spatial: bool) -> torch.Tensor:
    """Run the chain on noise, with noise for the network's scores; raises whatever a bundle's transforms raise."""
    made, facts = setup.chain, setup.facts
    data = made.prepare(noise(setup, grid))
    image = data[chain.IMAGE]
    if image.shape[0] != facts.inputs:
        raise ValueError(f"preprocessing gives {image.shape[0]} channels, metadata says the network takes {facts.inputs}")
    sizes = tuple(image.shape[1:]) if spatial else ()
    if spatial:
        seen = tuple(inferring.run(made.inferer, image.as_tensor().float(), _one_channel, PLAIN, lambda _part: None).shape[1:])
        if seen != sizes:
            raise ValueError(f"the inferer makes {seen} of {sizes}")
    return made.finish(data, torch.randn((facts.outputs, *sizes), generator=torch.Generator().manual_seed(0)))


def _turned(setup: Setup, grid: Grid) -> Grid:
    turning = setup.turning(grid)
    return turning.turned(grid) if turning else grid


def noise(setup: Setup, grid: Grid) -> dict[str, Volume]:
    """Make a volume of noise on a grid for each role, turned as the training's images were."""
    random = np.random.default_rng(0)
    made = {}
    for entry in setup.card.inputs:
        ct = entry.accept.modality == ("CT",)
        array = (
            random.random(grid.shape, dtype=np.float32) if grid.is_projection else random.integers(-500, 500, grid.shape, dtype=np.int16)
        )
        made[entry.role] = Volume(array=array, grid=grid, unit="HU" if ct else "1", modality=entry.accept.modality[0])
    return oriented(setup, made)


def oriented(setup: Setup, volumes: Mapping[str, Volume]) -> dict[str, Volume]:
    """Turn volumes as the bundle's training images were stored."""
    made = {}
    for role, volume in volumes.items():
        turning = setup.turning(volume.grid)
        made[role] = (
            replace(volume, array=np.ascontiguousarray(turning.turn(volume.array)), grid=turning.turned(volume.grid)) if turning else volume
        )
    return made


def _moved(volume: Volume, grid: Grid, entry: InputPart) -> Volume:
    """Resample a role's volume to the reference's grid; raises Unfit where the card does not say that they lie in one frame."""
    if not entry.same_frame or grid.is_projection:
        raise Unfit(f"The series for {entry.role} does not lie on the voxels of the reference; this model needs them to match.")
    values, seen = transforms.onto(volume.array, volume.grid, grid, "cpu")
    if not bool(seen.any()):
        raise Unfit(f"The images for {entry.role} show no part of what those of the reference show.")
    values[~seen] = float(volume.array.min())
    return replace(volume, array=values.numpy(), grid=grid)


def laid(setup: Setup, volumes: Mapping[str, Volume]) -> dict[str, Volume]:
    """Give the volumes on the reference's grid; raises Unfit.

    A role of the same frame of reference on another grid is resampled to it, and has its least value where it does not reach.
    """
    card = setup.card
    grid = volumes[card.reference_role].grid
    if grid.is_projection != setup.flat:
        raise Unfit("This model reads single radiographs." if setup.flat else "This model reads volumes, not single radiographs.")
    made = {}
    for entry in card.inputs:
        volume = volumes[entry.role]
        if volume.modality == "CT" and volume.unit != "HU":
            raise Unfit("The CT's values are not Hounsfield units.")
        if not transforms.coincide(volume.grid, grid):
            volume = _moved(volume, grid, entry)
        made[entry.role] = replace(volume, grid=grid)
    return made


def _one_channel(seen: torch.Tensor) -> torch.Tensor:
    """Stand in for the network where only shapes count."""
    return seen[:, :1] * 0


class Bundle:
    """A bundle, warm on its device."""

    def __init__(self, setup: Setup, built: torch.nn.Module, read: outputs.Reading) -> None:
        self._setup = setup
        self._network = built
        self._read = read
        self._by_monai = inferring.layout(setup.chain.inferer, [inferring.ANY_SIZE] * len(setup.facts.shape)) is None

    @cached_property
    def _window_bytes(self) -> int:
        """Tell what one window takes in the network; where that cannot be told without running it, a hundred channels of it."""
        window = inferring.window(self._setup.chain.inferer, self._setup.facts.shape)
        with suppress(Exception):  # whatever a network cannot do without content
            return network.forward_bytes(self._network, window, self._setup.facts.inputs)
        return 400 * math.prod(window)

    def need(self, grids: Mapping[str, Grid], execution: Execution) -> Need:
        """Estimate the scores on the model's grid three times, the channels that return to the source grid, and the windows.

        MONAI's return along lines works in float64: three coordinates a voxel, and each channel in double beside its float32.
        Where channels return a few at a time the best class so far stands beside them, twice. Measured by bench/need.py.
        """
        grid, made, facts = grids[self._setup.card.reference_role], self._setup.chain, self._setup.facts
        source = math.prod(grid.shape)
        spacing = made.spacing_mm
        factors = [old / new for old, new in zip(reversed(grid.spacing_mm), spacing, strict=True) if new > 0] if spacing else []
        model = source * math.prod(factors)
        window = math.prod(inferring.window(made.inferer, facts.shape))
        returned = made.returned(facts.outputs)
        a_voxel = (24 + 12 * returned if spacing else 8 * returned) + (24 if 1 < returned < facts.outputs else 0)
        scores = 0 if self._setup.card.output.kind == "scores" else int(a_voxel * source + 12 * facts.outputs * model)
        run = execution.batch * int(execution.activations * self._window_bytes + 4 * window * (facts.inputs + facts.outputs))
        images_bytes = int(4 * facts.inputs * (source + 2 * model))
        if execution.stitch == "host":
            return Need(device=run, host=scores + images_bytes)
        return Need(device=run + scores, host=images_bytes)

    def predict(self, volumes: Mapping[str, Volume], progress: Progress, execution: Execution = PLAIN) -> Prediction:
        """Run the bundle; raises Unfit for volumes that it cannot take together."""
        together = laid(self._setup, volumes)
        grid, made = together[self._setup.card.reference_role].grid, self._setup.chain
        with torch.no_grad():
            data = made.prepare(oriented(self._setup, together))
            progress(0.05)
            image = data[chain.IMAGE].as_tensor().float().to(self._setup.device)
            pred = inferring.run(made.inferer, image, self._network, execution, lambda part: progress(0.05 + 0.8 * part))
            found = made.finish(data, pred)
        progress(0.95)
        found = self._returned(found, grid)
        prediction = outputs.prediction(self._setup.card, self._read, found, grid, self._variant(execution))
        progress(1.0)
        return prediction

    def _returned(self, found: torch.Tensor, grid: Grid) -> torch.Tensor:
        """Check that a result lies on the source grid, and turn it back to it; raises ValueError."""
        if self._setup.card.output.kind == "scores":
            return found
        turning = self._setup.turning(grid)
        if wrong := chain.on_grid(found, _turned(self._setup, grid)):
            raise ValueError(wrong)
        if turning is None:
            return found
        parts = [turning.turn_back(images.back(channel.cpu().numpy())) for channel in torch.as_tensor(found)]
        return torch.from_numpy(np.stack([np.ascontiguousarray(part.T) for part in parts]))

    def _variant(self, execution: Execution) -> dict[str, str]:
        facts = self._setup.facts
        return {
            **network.facts("monai-bundle"),
            "device": torch.device(self._setup.device).type,
            **execution.facts(),
            "scores": "whole",
            "bundle": f"{facts.name} {facts.version}".strip(),
            "windows": "MONAI's" if self._by_monai else "ours",
            "inverse": "ours" if self._setup.chain.own else "the bundle's",
        }
