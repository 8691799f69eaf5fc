"""A network's weights alone, in safetensors or as a checkpoint of torch.save: names and shapes of its tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from safetensors import SafetensorError, safe_open

from models.card import BadCard
from models.drafts import WINDOWED, Draft, Missing, Source
from models.shelving import archives, conversion

NETWORK = (
    Missing(key="runtime.options.network", what='a class of monai.networks.nets: "UNet"', why="weights alone are no network"),
    Missing(
        key="runtime.options.arguments",
        what="its keyword arguments: { spatial_dims = 3, in_channels = 1, out_channels = 2, channels = [16, 32], strides = [2] }",
        why="the network is built with them, and every weight must fit",
    ),
)


def _is_one(path: Path) -> bool:
    return path.suffix == ".safetensors" or conversion.is_pickled(path)


def recognise(path: Path) -> bool:
    """Tell a file of weights, or a folder with one."""
    return archives.only_file(path, _is_one) is not None


def draft(path: Path) -> Draft:
    """Read the tensors' names and shapes; raises BadCard, also for a pickle with code in it."""
    file = archives.only_file(path, _is_one)
    assert file is not None
    pickled = file.suffix != ".safetensors"
    notes = []
    if pickled:
        read = conversion.convert(file)
        shapes: Mapping[str, Sequence[int]] = {name: tuple(tensor.shape) for name, tensor in read.tensors.items()}
        notes += [f"tensors from {read.found_at!r} of the checkpoint"] if read.found_at else []
        notes += [f"left out, neither weights nor plain values: {', '.join(read.left_out)}"] if read.left_out else []
    else:
        shapes = _shapes(file)
    kernels = [(name, shape) for name, shape in shapes.items() if len(shape) in {4, 5}]
    notes.append(f"{len(shapes)} tensors, the first kernels " + ", ".join(f"{name} {tuple(shape)}" for name, shape in kernels[:2]))
    return Draft(
        format="state-dict",
        card={"runtime": {"format": "state-dict"}},
        files={"weights": Source(path=file, place="weights.safetensors", pickled=pickled)},
        missing=(*NETWORK, *WINDOWED),
        notes=tuple(notes),
    )


def _shapes(file: Path) -> dict[str, Sequence[int]]:
    try:
        with safe_open(str(file), framework="numpy") as content:
            return {name: tuple(content.get_slice(name).get_shape()) for name in content.keys()}  # noqa: SIM118 -- it is no dict
    except (SafetensorError, OSError) as error:
        raise BadCard(f"{file}: is no safetensors file that can be read ({error})") from None
