"""The network that plans name, from an allow-list: a word in a file never decides what is imported."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors import torch as safetensors
from torch import nn

from models.nnunet.plans import Architecture

HOME = "dynamic_network_architectures.architectures."
NETWORKS = ("PlainConvUNet", "ResidualEncoderUNet", "ResidualUNet")
OPERATIONS = re.compile(r"torch\.nn\.(?:modules\.[a-z]+\.)?((?:Conv|InstanceNorm|BatchNorm|Dropout)[23]d|LeakyReLU|ReLU|GELU|SiLU|ELU)")
BLOCKS = re.compile(r"dynamic_network_architectures\.building_blocks\.residual\.(BasicBlockD|BottleneckD)")
_WORDS = (
    r"\d+ep(?:och)?s?|NoMirroring|onlyMirror01|noDummy2DDA|DA5|DASegOrd0|Segord0|ord0|NoDA|CELoss|Dice(?:CE)?Loss|noSmooth|(?:Dice)?Top[kK]10Loss"
    r"|LS01|(?:Vanilla)?Adam|Adan|\d+en\d|CosAnneal|NoDeepSupervision|probabilisticOversampling|0\d\d|warmup|Benchmark|noDataLoading|BN"
)
TRAINERS = re.compile(rf"nnUNetTrainer(?:_?(?:{_WORDS}))*")
"""Of nnU-Net's own trainers those that build the network of the plans; BN puts batch norm in it."""


def build(architecture: Architecture, trainer: str, channels: tuple[int, int], patch: Sequence[int]) -> nn.Module:
    """Build the network untrained, of input and output channels.

    Raises ValueError for a class outside of the list, for arguments that do not fit it, and where it does not keep a patch's size.
    """
    try:
        from dynamic_network_architectures.architectures import unet  # noqa: PLC0415 -- only this format needs it
    except ImportError:
        # No extra: pip would bring the package's own requirements, of which torchvision does not import beside a CPU torch.
        raise ValueError("nnU-Net's networks are not installed: pip install --no-deps dynamic-network-architectures==0.4.4") from None
    name = architecture.path.rsplit(".", 1)[-1]
    if not architecture.path.startswith(HOME) or name not in NETWORKS:
        raise ValueError(f"the architecture {architecture.path!r} is not one of {', '.join(HOME + 'unet.' + known for known in NETWORKS)}")
    arguments = _arguments(architecture, trainer) | {"input_channels": channels[0], "num_classes": channels[1], "deep_supervision": False}
    try:
        with torch.device("meta"):
            shape = tuple(getattr(unet, name)(**arguments).eval()(torch.zeros(1, channels[0], *patch)).shape)
        network: nn.Module = getattr(unet, name)(**arguments)
    except (TypeError, ValueError, RuntimeError, AssertionError, IndexError, KeyError, AttributeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"the network {name} cannot be built of the plans' arguments, or does not take its patch: {reason}") from None
    if shape != (1, channels[1], *patch):
        raise ValueError(f"the network {name} makes {shape[1:]} of a patch {tuple(patch)}, not {channels[1]} channels of its size")
    return network


def _arguments(architecture: Architecture, trainer: str) -> dict[str, Any]:
    arguments = dict(architecture.arguments)
    for key in architecture.operations:
        if arguments.get(key) is not None:
            arguments[key] = _operation(arguments[key], key)
    if trainer.endswith("BN"):
        arguments["norm_op"] = nn.BatchNorm2d if arguments.get("conv_op") is nn.Conv2d else nn.BatchNorm3d
        arguments["norm_op_kwargs"] = {"eps": 1e-5, "affine": True}
    words = [key for key, value in arguments.items() if isinstance(value, str)]
    if words:
        raise ValueError(f"the architecture's {words[0]} is {arguments[words[0]]!r}, which is no number")
    return arguments


def _operation(path: Any, key: str) -> type[nn.Module]:
    """Give a torch operation by its path; raises ValueError for any other."""
    if isinstance(path, str):
        if found := OPERATIONS.fullmatch(path):
            operation: type[nn.Module] = getattr(nn, found[1])
            return operation
        if found := BLOCKS.fullmatch(path):
            from dynamic_network_architectures.building_blocks import residual  # noqa: PLC0415 -- see build

            block: type[nn.Module] = getattr(residual, found[1])
            return block
    raise ValueError(f"the architecture's {key} is {path!r}, which is no operation that nnU-Net's networks are made of")


def _tied(network: nn.Module, state: Mapping[str, torch.Tensor]) -> Mapping[str, torch.Tensor]:
    """Give a tensor every name that the network has for it: nnU-Net's networks name each up to four times."""
    own = network.state_dict(keep_vars=True)
    known = {id(own[name]): tensor for name, tensor in state.items() if name in own}
    return {**{name: known[id(tensor)] for name, tensor in own.items() if id(tensor) in known}, **state}


def fill(network: nn.Module, content: bytes, channels: tuple[int, int]) -> nn.Module:
    """Load one fold's weights, every one of them; raises ValueError where they do not fit the plans and the labels."""
    try:
        state = _tied(network, safetensors.load(content))
        network.load_state_dict(state, strict=True)
    except (RuntimeError, SafetensorError) as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise ValueError(
            f"the weights do not fit the network of the plans with {channels[0]} input and {channels[1]} output channels: "
            f"{lines[min(1, len(lines) - 1)][:200]}"
        ) from None
    faulty = [name for name, tensor in state.items() if not bool(torch.isfinite(tensor).all())]
    if faulty:
        raise ValueError(f"the weights of {faulty[0]} are no finite numbers")
    return network.eval().requires_grad_(requires_grad=False)
