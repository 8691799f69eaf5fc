"""The sliding window engine: MONAI's scores to rounding, and pieces that make up the whole."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

import numpy as np
import pytest
import torch
from monai.inferers.utils import sliding_window_inference

from models.execution import PLAIN, Execution
from models.grids import windows
from models.vocabulary import Broken

SHAPES = [(9, 21, 17), (8, 12, 10), (30, 30, 30), (5, 40, 11), (3, 4, 5), (25, 8, 31)]
WINDOW = (8, 12, 10)


def network(seed: int = 0, channels: int = 1, classes: int = 3) -> torch.nn.Module:
    """Give a network whose answer depends on where in a window a voxel lies, as a padded convolution's does."""
    torch.manual_seed(seed)
    return torch.nn.Sequential(
        torch.nn.Conv3d(channels, 4, 3, padding=1), torch.nn.ReLU(), torch.nn.Conv3d(4, classes, 5, padding=2)
    ).eval()


def picture(shape: tuple[int, ...], channels: int = 1) -> torch.Tensor:
    """Give noise (channels, *shape)."""
    return torch.randn(channels, *shape, generator=torch.Generator().manual_seed(3))


def monai(forward: Any, tensor: torch.Tensor, **options: Any) -> torch.Tensor:
    """Give what MONAI's own function makes of it."""
    with torch.inference_mode():
        result: Any = sliding_window_inference(tensor[None], WINDOW, 1, forward, **options)
    return torch.as_tensor(result)[0]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.5, 0.8, (0.1, 0.6, 0.3)])
@pytest.mark.parametrize("blend", ["gaussian", "constant"])
def test_scores_are_those_of_monai(shape: tuple[int, int, int], overlap: Any, blend: Literal["gaussian", "constant"]) -> None:
    """The same windows, weights and padding as MONAI's function, on volumes larger and smaller than the window."""
    forward, tensor = network(), picture(shape)
    layout = windows.regular(shape, WINDOW, overlap, blend)
    theirs = monai(forward, tensor, overlap=overlap, mode=blend)
    ours = windows.scores(forward, tensor, layout, PLAIN, lambda _: None)
    assert ours.shape == (3, *shape)
    assert torch.allclose(ours, theirs, atol=1e-5)


@pytest.mark.parametrize(("padding", "fill"), [("constant", -2.5), ("reflect", 0.0), ("replicate", 0.0)])
def test_a_small_volume_is_padded_as_asked(padding: str, fill: float) -> None:
    """Half of what lacks goes before, and its values are those that MONAI takes."""
    shape = (6, 9, 30)
    forward, tensor = network(channels=2), picture(shape, channels=2)
    layout = replace(windows.regular(shape, WINDOW, 0.25, "gaussian"), padding=padding, fill=fill)
    theirs = monai(forward, tensor, overlap=0.25, mode="gaussian", padding_mode=padding, cval=fill)
    assert torch.allclose(windows.scores(forward, tensor, layout, PLAIN, lambda _: None), theirs, atol=1e-5)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.8])
@pytest.mark.parametrize("batch", [1, 3])
def test_pieces_make_the_whole(shape: tuple[int, int, int], overlap: float, batch: int) -> None:
    """A piece's scores are the whole's at its place, its first plane and line too, and every cell of eight is in one piece."""
    forward, tensor = network(), picture(shape)
    layout = windows.regular(shape, WINDOW, overlap, "gaussian")
    execution = Execution(batch=batch)
    whole = windows.scores(forward, tensor, layout, execution, lambda _: None)
    cells = torch.zeros([max(1, size - 1) for size in shape], dtype=torch.int64)
    for piece in windows.pieces(forward, tensor, layout, execution, lambda _: None):
        assert torch.equal(piece.within(whole), piece.scores)
        z, y, x = (
            slice(low, low + (size - 1 if most > 1 else 1))
            for low, size, most in zip(piece.low, piece.scores.shape[1:], shape, strict=True)
        )
        cells[z, y, x] += 1
    assert bool((cells == 1).all())


def test_uneven_windows_and_given_weights_are_obeyed() -> None:
    """A runtime's own starts, steps that differ, and its own weights: the mean is the one worked out voxel by voxel."""
    shape, starts = (20, 15, 10), ((0, 3, 11, 12), (0, 1, 3), (0,))
    importance = torch.rand(WINDOW, generator=torch.Generator().manual_seed(1)) + 0.1
    layout = windows.Layout(shape=shape, window=WINDOW, starts=starts, importance=importance)
    forward, tensor = network(), picture(shape)
    total, weight = torch.zeros(3, *shape), torch.zeros(shape)
    for z in starts[0]:
        for y in starts[1]:
            with torch.inference_mode():
                total[:, z : z + 8, y : y + 12] += forward(tensor[None, :, z : z + 8, y : y + 12])[0] * importance
            weight[z : z + 8, y : y + 12] += importance
    assert torch.allclose(windows.scores(forward, tensor, layout, PLAIN, lambda _: None), total / weight, atol=1e-5)


@pytest.mark.parametrize(
    "starts",
    [
        ((0, 9), (0, 3), (0,)),
        ((0, 12), (0, 2), (0,)),
        ((1, 12), (0, 3), (0,)),
        ((0, 6, 6, 12), (0, 3), (0,)),
        ((0, 8, 13), (0, 3), (0,)),
        ((), (), ()),
    ],
)
def test_windows_that_do_not_cover_are_refused(starts: Any) -> None:
    """A gap, an early end, a late begin, a window twice or over the end is an error when the layout is made."""
    with pytest.raises(ValueError, match="do not cover an axis"):
        windows.Layout(shape=(20, 15, 10), window=WINDOW, starts=starts, importance=torch.ones(WINDOW))


def test_weights_that_divide_by_nothing_are_refused() -> None:
    """An importance of 0, or of another shape than the window's, is an error."""
    for importance in (torch.zeros(WINDOW), torch.ones(3, 3, 3)):
        with pytest.raises(ValueError, match="importance map"):
            replace(windows.regular((9, 9, 9), WINDOW, 0.5, "constant"), importance=importance)


def test_a_flat_network_sees_slice_after_slice() -> None:
    """A 2-D network's scores of each slice are those of MONAI's function over that slice."""
    torch.manual_seed(0)
    flat = torch.nn.Conv2d(1, 2, 3, padding=1).eval()
    tensor = picture((4, 20, 17))
    layout = windows.regular((4, 20, 17), (1, 12, 10), (0.0, 0.25, 0.25), "gaussian")
    ours = windows.scores(windows.planar(flat), tensor, layout, Execution(batch=5), lambda _: None)
    with torch.inference_mode():
        theirs: Any = sliding_window_inference(tensor.movedim(1, 0), WINDOW[1:], 1, flat, overlap=0.25, mode="gaussian")
    assert torch.allclose(ours.movedim(1, 0), theirs, atol=1e-5)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_scores_that_are_no_numbers_are_broken(value: float) -> None:
    """One NaN or infinity anywhere, in the last window too, is an error and not a volume without findings."""

    def forward(seen: torch.Tensor) -> torch.Tensor:
        made = seen.clone()
        made[..., -1, -1, -1] += torch.where(seen[..., -1, -1, -1] == 7, value, 0.0)
        return made

    tensor = torch.zeros(1, 20, 20, 20)
    tensor[0, -1, -1, -1] = 7
    layout = windows.regular((20, 20, 20), WINDOW, 0.25, "gaussian")
    with pytest.raises(Broken, match="no finite numbers"):
        list(windows.pieces(forward, tensor, layout, PLAIN, lambda _: None))


def test_the_execution_is_obeyed_and_told() -> None:
    """So many windows at once, progress that rises to 1, scores in the host's memory as float32."""
    seen, told = list[int](), list[float]()

    def forward(some: torch.Tensor) -> torch.Tensor:
        seen.append(len(some))
        assert torch.is_inference_mode_enabled()
        return some.half()

    layout = windows.regular((20, 20, 20), WINDOW, 0.25, "gaussian")
    result = windows.scores(forward, picture((20, 20, 20)), layout, Execution(batch=5, stitch="host"), told.append)
    assert result.dtype == torch.float32
    assert not result.is_inference()
    assert layout.count == 18
    assert seen == [5, 5, 5, 3]
    assert told == sorted(told)
    assert told[-1] == 1.0


def test_a_precision_the_processor_lacks_is_refused() -> None:
    """Half precision on a processor is an error before the network runs; bfloat16 runs only where it has it."""
    layout = windows.regular((8, 12, 10), WINDOW, 0, "constant")
    with pytest.raises(ValueError, match="float16 is not to be had"):
        windows.scores(network(), picture(WINDOW), layout, Execution(precision="float16"), lambda _: None)
    if windows.has("bfloat16", "cpu"):
        half = windows.scores(network(), picture(WINDOW), layout, Execution(precision="bfloat16"), lambda _: None)
        full = windows.scores(network(), picture(WINDOW), layout, PLAIN, lambda _: None)
        assert 0 < float((half - full).abs().max()) < 0.1
    else:
        with pytest.raises(ValueError, match="bfloat16 is not to be had"):
            windows.scores(network(), picture(WINDOW), layout, Execution(precision="bfloat16"), lambda _: None)


def test_a_network_of_another_size_is_refused() -> None:
    """Scores that are not of the window's size have no place in the volume."""
    layout = windows.regular((20, 20, 20), WINDOW, 0.25, "gaussian")
    with pytest.raises(ValueError, match="not of their size"):
        windows.scores(lambda some: some[..., ::2], picture((20, 20, 20)), layout, PLAIN, lambda _: None)


def test_the_worked_layouts_hold() -> None:
    """The docstrings' examples."""
    layout = windows.regular((200, 7, 96), (96, 12, 96), 0.25, "constant")
    assert layout.starts == ((0, 72, 104), (0,), (0,))
    assert layout.before == (0, 2, 0)
    assert np.prod(layout.padded) == 200 * 12 * 96
