"""A loaded bundle: proved on noise before the first patient, then run on volumes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from monai.inferers.inferer import SliceInferer

from models import network, transforms
from models.card import Card
from models.execution import PLAIN, Execution, Need
from models.runtimes.monai_bundle import chain, images, outputs
from models.runtimes.monai_bundle.chain import Chain
from models.runtimes.monai_bundle.reading import Facts
from models.vocabulary import Broken, Grid, Prediction, Progress, Unfit, Volume

TRIAL = Grid(shape=(20, 28, 24), origin_mm=(-11.0, 23.0, 5.0), axes=((-1, 0, 0), (0, 0, -1), (0, 1, 0)), spacing_mm=(2.2, 1.7, 1.9))
"""A sagittal series, so that a bundle that loses its way back is found."""
TRIAL_PICTURE = Grid(
    shape=(1, 56, 48), origin_mm=(0, 0, 0), axes=((0, 0, 1), (0, 1, 0), (1, 0, 0)), spacing_mm=(1, 0.2, 0.2), space="image"
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


def prove(setup: Setup, shape: tuple[int, ...], labelled: dict[int, int]) -> outputs.Reading:
    """Run preprocessing, inferer and postprocessing on noise; give how the result is read. Raises ValueError for all that is wrong.

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
    window = made.window(facts.shape)
    spatial = len(shape) > 2
    if spatial and shape[2:] != window:
        raise ValueError(f"the network makes {shape[2:]} of {window}; a result must have its input's size")
    grid = TRIAL_PICTURE if setup.flat else TRIAL
    try:
        found = _tried(setup, grid, spatial=spatial)
    except Exception as error:
        if isinstance(error, ValueError):
            raise
        raise ValueError(f"the bundle fails on an image of noise: {chain.innermost(error)}") from None
    if spatial and (wrong := chain.on_grid(found, _turned(setup, grid))):
        raise ValueError(f"the bundle does not return to the source grid: {wrong}")
    return outputs.reading(setup.card, found, facts.outputs, labelled)


def _tried(setup: Setup, grid: Grid, *, spatial: bool) -> torch.Tensor:
    """Run the chain on noise, with noise for the network's scores; raises whatever a bundle's transforms raise."""
    made, facts = setup.chain, setup.facts
    data = made.prepare(_noise(setup, grid))
    image = data[chain.IMAGE]
    if image.shape[0] != facts.inputs:
        raise ValueError(f"preprocessing gives {image.shape[0]} channels, metadata says the network takes {facts.inputs}")
    sizes = tuple(image.shape[1:]) if spatial else ()
    if spatial:
        seen = tuple(made.infer(data, lambda windows: windows[:, :1] * 0, PLAIN, "cpu").shape[1:])
        if seen != sizes:
            raise ValueError(f"the inferer makes {seen} of {sizes}")
    return made.finish(data, torch.randn((facts.outputs, *sizes), generator=torch.Generator().manual_seed(0)))


def _turned(setup: Setup, grid: Grid) -> Grid:
    turning = setup.turning(grid)
    return turning.turned(grid) if turning else grid


def _noise(setup: Setup, grid: Grid) -> dict[str, Volume]:
    random = np.random.default_rng(0)
    made = {}
    for entry in setup.card.inputs:
        ct = entry.accept.modality == ("CT",)
        array = (
            random.random(grid.shape, dtype=np.float32) if grid.is_projection else random.integers(-500, 500, grid.shape, dtype=np.int16)
        )
        made[entry.role] = Volume(array=array, grid=grid, unit="HU" if ct else "1", modality=entry.accept.modality[0])
    return _oriented(setup, made)


def _oriented(setup: Setup, volumes: Mapping[str, Volume]) -> dict[str, Volume]:
    """Turn volumes as the bundle's training images were stored."""
    made = {}
    for role, volume in volumes.items():
        turning = setup.turning(volume.grid)
        made[role] = (
            replace(volume, array=np.ascontiguousarray(turning.turn(volume.array)), grid=turning.turned(volume.grid)) if turning else volume
        )
    return made


class Bundle:
    """A bundle, warm on its device."""

    def __init__(self, setup: Setup, built: torch.nn.Module, read: outputs.Reading) -> None:
        self._setup = setup
        self._network = built
        self._read = read

    def need(self, grids: Mapping[str, Grid], execution: Execution) -> Need:
        """Estimate the scores on the model's grid and on the source's, each twice, and thirty channels of a batch of windows."""
        grid, made, facts = grids[self._setup.card.reference_role], self._setup.chain, self._setup.facts
        source = math.prod(grid.shape)
        spacing = made.spacing_mm
        factors = [old / new for old, new in zip(reversed(grid.spacing_mm), spacing, strict=True) if new > 0] if spacing else []
        model = source * math.prod(factors)
        window = math.prod(made.window(facts.shape))
        scores = 0 if self._setup.card.output.kind == "scores" else int(8 * facts.outputs * (source + model))
        run = 4 * execution.batch * window * max(30, 2 * facts.outputs)
        images_bytes = int(4 * facts.inputs * (source + 2 * model))
        if execution.stitch == "host":
            return Need(device=run, host=scores + images_bytes)
        return Need(device=run + scores, host=images_bytes)

    def predict(self, volumes: Mapping[str, Volume], progress: Progress, execution: Execution = PLAIN) -> Prediction:
        """Run the bundle; raises Unfit for volumes that it cannot take together."""
        grid = self._check(volumes)
        made = self._setup.chain
        with torch.no_grad(), torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
            data = made.prepare(_oriented(self._setup, volumes))
            progress(0.05)
            total = made.windows(data[chain.IMAGE].shape[1:])
            forward = chain.counted(self._forward(execution), total, lambda part: progress(0.05 + 0.8 * part))
            pred = made.infer(data, forward, execution, self._setup.device)
            if not bool(torch.isfinite(pred).all()):
                raise Broken("The network gave scores that are no finite numbers.")
            found = made.finish(data, pred)
        progress(0.95)
        found = self._returned(found, grid)
        prediction = outputs.prediction(self._setup.card, self._read, found, grid, self._variant(execution))
        progress(1.0)
        return prediction

    def _check(self, volumes: Mapping[str, Volume]) -> Grid:
        grid = volumes[self._setup.card.reference_role].grid
        if grid.is_projection != self._setup.flat:
            raise Unfit("This model reads single radiographs." if self._setup.flat else "This model reads volumes, not single radiographs.")
        for role, volume in volumes.items():
            if volume.modality == "CT" and volume.unit != "HU":
                raise Unfit("The CT's values are not Hounsfield units.")
            if volume.grid.shape != grid.shape or not np.allclose(volume.grid.affine, grid.affine, atol=chain.DEVIATION_MM):
                raise Unfit(f"The series for {role} does not lie on the voxels of the reference; this model needs them to match.")
        return grid

    def _forward(self, execution: Execution) -> chain.Forward:
        """Give the network in the precision asked for; what it gives is float32."""
        kind = torch.device(self._setup.device).type
        half = {"float16": torch.float16, "bfloat16": torch.bfloat16}.get(execution.precision)

        def run(windows: torch.Tensor) -> torch.Tensor:
            with torch.autocast(kind, dtype=half, enabled=half is not None):
                found: torch.Tensor = self._network(windows)
            return found.float()

        return run

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
            **network.variant("monai-bundle", self._network, replace(execution, tile=False)),
            "bundle": f"{facts.name} {facts.version}".strip(),
            "inverse": "ours" if self._setup.chain.own else "the bundle's",
        }
