"""A bundle's inferer: this node's engine where it gives what MONAI's plain sliding window does, else the bundle's own object."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from monai.data.meta_tensor import MetaTensor
from monai.inferers.inferer import SliceInferer, SlidingWindowInferer

from models.execution import Execution
from models.grids import windows
from models.vocabulary import Broken, Progress

ANY_SIZE = 96
PADDINGS = frozenset({"constant", "replicate"})

Forward = Callable[[torch.Tensor], torch.Tensor]


def window(inferer: Any, shape: Sequence[int | None]) -> tuple[int, ...]:
    """Give what the network sees at once of an image of this shape, None being any size; raises ValueError for another rank."""
    sizes = [size or ANY_SIZE for size in shape]
    if not isinstance(inferer, SlidingWindowInferer):
        return tuple(sizes)
    given = getattr(inferer, "orig_roi_size", inferer.roi_size)
    wanted: list[Any] = list(given) if isinstance(given, list | tuple) else [given] * len(sizes)
    if isinstance(inferer, SliceInferer) and len(sizes) == 3:
        wanted.insert(inferer.spatial_dim, 1)
    if not all(want is None or isinstance(want, int) for want in wanted):
        raise ValueError(f"the inferer's window must have whole numbers, not {wanted}")
    if len(wanted) != len(sizes):
        raise ValueError(f"the inferer's window has {len(wanted)} axes, metadata's spatial_shape {len(sizes)}")
    return tuple(int(want) if want and want > 0 else size for want, size in zip(wanted, sizes, strict=True))


def layout(inferer: Any, shape: Sequence[int]) -> windows.Layout | None:
    """Give the engine's windows over an image where they are those of MONAI's sliding window, else None."""
    if type(inferer) is not SlidingWindowInferer or len(shape) != 3:
        return None
    special = (inferer.sw_device, inferer.buffer_steps, inferer.with_coord or None)
    if any(part is not None for part in special) or inferer.sigma_scale != windows.SIGMA or inferer.padding_mode not in PADDINGS:
        return None
    overlap = inferer.overlap if isinstance(inferer.overlap, float | int) else list(inferer.overlap)
    blend: windows.Blend = "gaussian" if inferer.mode == "gaussian" else "constant"
    planned = windows.regular(shape, window(inferer, shape), overlap, blend)
    return replace(planned, padding=str(inferer.padding_mode), fill=float(inferer.cval))


def run(inferer: Any, image: torch.Tensor, network: Forward, execution: Execution, progress: Progress) -> torch.Tensor:
    """Run the network over an image (channels, *): (classes, *) float32, or (classes,) of the image as a whole.

    Raises Broken where a score is no finite number, ValueError for a precision that the device does not have.
    """
    planned = layout(inferer, image.shape[1:])
    if planned is not None:
        return windows.scores(network, image, planned, execution, progress)
    if not windows.has(execution.precision, image.device.type):
        raise ValueError(f"{execution.precision} is not to be had on this machine's {image.device.type}")
    if isinstance(inferer, SlidingWindowInferer):
        inferer.sw_batch_size = execution.batch
        inferer.device = torch.device("cpu") if execution.stitch == "host" else None
    counted = _counted(_in_precision(network, image.device.type, execution), count(inferer, image.shape[1:]), progress)
    with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
        result = inferer(inputs=image[None], network=counted)
    if not isinstance(result, torch.Tensor):
        raise ValueError("the network gives several outputs; one is needed")  # noqa: TRY004 -- of the bundle
    found = (result.as_tensor() if isinstance(result, MetaTensor) else result)[0].float()
    if not bool(torch.isfinite(found).all()):
        raise Broken("The network gave scores that are no finite numbers.")
    return found


def count(inferer: Any, shape: Sequence[int]) -> int:
    """Count how many windows the inferer makes of an image, for the progress.

    Example: 200 voxels, window 96, overlap 0.25: a window every 72 voxels, ceil((200 - 96) / 72) + 1 = 3.
    """
    if not isinstance(inferer, SlidingWindowInferer):
        return 1
    overlaps = inferer.overlap if isinstance(inferer.overlap, Sequence) else [inferer.overlap] * len(shape)
    each = zip(shape, window(inferer, shape), overlaps, strict=True)
    return math.prod(math.ceil(max(0, size - seen) / max(1, int(seen * (1 - overlap)))) + 1 for size, seen, overlap in each)


def _in_precision(network: Forward, kind: str, execution: Execution) -> Forward:
    """Give a network that runs in the precision asked for; what it gives is float32."""
    half = {"float16": torch.float16, "bfloat16": torch.bfloat16}.get(execution.precision)

    def forward(seen: torch.Tensor) -> torch.Tensor:
        with torch.autocast(kind, dtype=half, enabled=half is not None):
            found = network(seen)
        return found.float() if isinstance(found, torch.Tensor) else found

    return forward


def _counted(network: Forward, total: int, progress: Progress) -> Forward:
    """Give a network that tells the progress as windows go through it."""
    done = 0

    def forward(seen: torch.Tensor) -> torch.Tensor:
        nonlocal done
        done += len(seen)
        result = network(seen)
        progress(min(1.0, done / total))
        return result

    return forward
