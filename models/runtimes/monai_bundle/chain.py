"""A bundle's own loop, run by hand: preprocessing, the network through the inferer, postprocessing; no engine, no files."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from monai.bundle.config_parser import ConfigParser
from monai.data.meta_tensor import MetaTensor
from monai.inferers.inferer import SimpleInferer
from monai.transforms.compose import Compose
from monai.transforms.post.dictionary import (
    Activationsd,
    AsDiscreted,
    FillHolesd,
    Invertd,
    KeepLargestConnectedComponentd,
    RemoveSmallObjectsd,
)
from monai.transforms.spatial.array import Orientation, Spacing
from monai.transforms.spatial.dictionary import Orientationd, Spacingd
from monai.transforms.transform import Randomizable
from monai.transforms.utility.dictionary import CastToTyped, EnsureTyped, ToDeviced

from models.runtimes.monai_bundle import expressions, images, returning
from models.vocabulary import Grid, Volume

IMAGE, PRED = "image", "pred"
"""The keys under which MONAI's evaluators look for a network's input and put its output."""
SMOOTH = (Activationsd, EnsureTyped, CastToTyped, ToDeviced)
"""What may come before a return to the source grid by linear interpolation: it leaves scores as graded as they were."""
KEEPING = (*SMOOTH, AsDiscreted, Invertd, KeepLargestConnectedComponentd, FillHolesd, RemoveSmallObjectsd)
SPATIAL = ("monai.transforms.spatial.", "monai.transforms.croppad.")
"""These and KEEPING leave a label its number."""
DEVIATION_MM = 0.01


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Chain:
    """What a bundle does with an image, built.

    keys  image key -> roles whose volumes are its channels
    own   whether the way back to the source grid was added here, because the bundle has none
    """

    keys: Mapping[str, tuple[str, ...]]
    preprocessing: Compose
    inferer: Any
    postprocessing: Compose
    own: bool

    def prepare(self, volumes: Mapping[str, Volume]) -> dict[str, Any]:
        """Preprocess one volume a role."""
        item = {key: [volumes[role] for role in roles] for key, roles in self.keys.items()}
        data: dict[str, Any] = self.preprocessing(item)
        if not isinstance(data.get(IMAGE), MetaTensor):
            raise ValueError(f"preprocessing gives no {IMAGE!r}, which is what a network is given")  # noqa: TRY004 -- of the bundle
        return data

    def finish(self, data: dict[str, Any], pred: torch.Tensor) -> torch.Tensor:
        """Postprocess what the network made of prepared data: (channels, *), on the source grid unless it is of the image as a whole."""
        image = data[IMAGE]
        tracked = MetaTensor(pred, meta=copy.deepcopy(image.meta), applied_operations=copy.deepcopy(image.applied_operations))
        found = returning.run(self.postprocessing, _steps(self.postprocessing), {**data, PRED: tracked}, PRED)
        return found if isinstance(found, torch.Tensor) else torch.as_tensor(np.asarray(found))

    def returned(self, classes: int) -> int:
        """Tell how many channels of the result lie on the source grid at the same time."""
        return returning.at_once(_steps(self.postprocessing), classes, PRED)

    @property
    def renumbers(self) -> bool:
        """Tell whether a step after the cut to the best class may give a label another number, or no such cut is known."""
        steps = _steps(self.postprocessing)
        cuts = [index for index, step in enumerate(steps) if isinstance(step, AsDiscreted) and any(step.argmax)]
        after = steps[cuts[-1] + 1 :] if cuts else steps
        return not cuts or any(not isinstance(step, KEEPING) and not type(step).__module__.startswith(SPATIAL) for step in after)

    @property
    def spacing_mm(self) -> tuple[float, ...] | None:
        """Give the spacing that preprocessing resamples to along (x, y, z), None where it keeps the source's."""
        for step in _steps(self.preprocessing):
            if isinstance(step, Spacing | Spacingd):
                spacing: Any = getattr(step, "spacing_transform", step)
                pixdim = np.atleast_1d(spacing.pixdim)
                return tuple(float(value) for value in np.resize(pixdim, 3))
        return None

    @property
    def orients(self) -> bool:
        """Tell whether preprocessing turns every image the same way."""
        return any(isinstance(step, Orientation | Orientationd) for step in _steps(self.preprocessing))


def build(config: Mapping[str, Any], bound: Mapping[str, str], keys: Mapping[str, tuple[str, ...]], inverse: str) -> Chain:
    """Build a checked configuration's chain; raises ValueError that names what cannot be honoured."""
    parser = parsed(config, bound)
    preprocessing = _compose("preprocessing", part(parser, "preprocessing"))
    postprocessing = _compose("postprocessing", part(parser, "postprocessing"))
    flat = [*_steps(preprocessing), *_steps(postprocessing)]
    if chance := sorted({type(step).__name__ for step in flat if isinstance(step, Randomizable) and not isinstance(step, Compose)}):
        raise ValueError(f"{', '.join(chance)}: works by chance, and the same images must give the same result")
    own = not any(isinstance(step, Invertd) for step in flat)
    if inverse != "none" and own == (inverse == "runtime"):
        has = "has no Invertd, so" if own else "returns to the source grid by its own Invertd, so"
        wanted = '"scores-linear" or "labels-nearest"' if own else '"runtime"'
        raise ValueError(f"the bundle {has} output.inverse must be {wanted}")
    if own and inverse != "none":
        postprocessing = Compose(_with_inverse(preprocessing, _steps(postprocessing), inverse))
    inferer = part(parser, "inferer") if "inferer" in config else SimpleInferer()
    if not callable(inferer):
        raise ValueError("inferer: cannot be called")  # noqa: TRY004 -- of the bundle
    return Chain(keys=keys, preprocessing=preprocessing, inferer=inferer, postprocessing=postprocessing, own=own)


def parsed(config: Mapping[str, Any], bound: Mapping[str, str]) -> ConfigParser:
    """Give MONAI's parser of a checked configuration; its expressions see the allowed names only."""
    parser = ConfigParser(dict(copy.copy(config)), globals=False)
    parser.globals.update(expressions.scope(bound))
    return parser


def part(parser: ConfigParser, name: str) -> Any:
    """Build one section; raises ValueError with the innermost reason."""
    try:
        with warnings.catch_warnings():
            # Of a default that Orientationd changed: for whoever wrote the bundle, not for whoever runs it.
            warnings.filterwarnings("ignore", category=FutureWarning, module=r"monai\.")
            return parser.get_parsed_content(name) if name in parser else None
    except Exception as error:
        raise ValueError(f"{name}: cannot be built: {innermost(error)}") from error


def innermost(error: BaseException) -> str:
    """Say what lies at the bottom of an error that MONAI has wrapped."""
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


def _compose(name: str, made: Any) -> Compose:
    """Give a section as one Compose without the entries that were left out."""
    if made is None:
        return Compose([])
    steps = made.transforms if isinstance(made, Compose) else made
    if not isinstance(steps, list | tuple):
        steps = [steps]
    if wrong := [type(step).__name__ for step in steps if step is not None and not callable(step)]:
        raise ValueError(f"{name}: {', '.join(wrong)}: cannot be called")
    kept = [step for step in steps if step is not None]
    if isinstance(made, Compose):
        # Kept itself, with its settings: an Invertd of the bundle refers to this very object.
        made.transforms = tuple(kept)
        return made
    return Compose(kept)


def _steps(made: Compose) -> list[Any]:
    """List transforms, those of a Compose in a Compose too."""
    found: list[Any] = []
    for step in made.transforms:
        found += _steps(step) if isinstance(step, Compose) else [step]
    return found


def _with_inverse(preprocessing: Compose, steps: list[Any], inverse: str) -> list[Any]:
    """Add the way back: of scores before they are cut to classes, of labels at the end."""
    nearest = inverse == "labels-nearest"
    back = Invertd(keys=PRED, transform=preprocessing, orig_keys=IMAGE, nearest_interp=nearest, to_tensor=True)
    where = len(steps) if nearest else next((index for index, step in enumerate(steps) if not isinstance(step, SMOOTH)), len(steps))
    return [*steps[:where], back, *steps[where:]]


def on_grid(found: torch.Tensor, grid: Grid) -> str:
    """Say why a result (channels, x, y, z) does not lie on a grid, or ""."""
    shape = tuple(reversed(grid.shape)) if not grid.is_projection else tuple(reversed(grid.shape[1:]))
    if tuple(found.shape[1:]) != shape:
        return f"the result has {tuple(found.shape[1:])} voxels where the images have {shape}"
    if isinstance(found, MetaTensor) and not grid.is_projection:
        corners = np.array([[x, y, z, 1.0] for x in (0, shape[0]) for y in (0, shape[1]) for z in (0, shape[2])])
        off = corners @ (np.asarray(torch.as_tensor(found.affine).cpu(), dtype=float) - images.affine(grid)).T
        if float(np.abs(off).max()) > DEVIATION_MM:
            return f"the result lies {float(np.abs(off).max()):.2f} mm off the images"
    return ""
