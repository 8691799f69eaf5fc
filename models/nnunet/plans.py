"""plans.json and dataset.json of an nnU-Net v2 results folder, read and checked; nothing that they name is imported here."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

SCHEMES = ("CTNormalization", "ZScoreNormalization", "RescaleTo01Normalization", "NoNormalization", "RGBTo01Normalization")
RESAMPLERS = ("resample_data_or_seg_to_shape", "no_resampling_hack")
READERS: Mapping[str, str | None] = {
    "SimpleITKIO": None,
    "NibabelIO": None,
    "Tiff3DIO": None,
    "NaturalImage2DIO": None,
    "SimpleITKIOWithReorient": "SAR",
    "NibabelIOWithReorient": "SAR",
}
"""nnU-Net's readers, and the orientation in which they give an image: None, as its file has it. "RAS" right index first."""


class _Json(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


_Part = TypeVar("_Part", bound=_Json)


class Resampler(_Json):
    """How an array is brought to another shape; the defaults are those of the function itself.

    force_separate_z  None: slices are resampled on their own where one spacing is above `threshold` times the least
    """

    order: int = Field(default=3, ge=0, le=5)
    order_z: int = Field(default=0, ge=0, le=5)
    force_separate_z: bool | None = False
    threshold: float = Field(default=3, alias="separate_z_anisotropy_threshold")
    none: bool = False


class Properties(_Json):
    """Intensities of the training's foreground, for CT."""

    mean: float = 0
    std: float = 1
    percentile_00_5: float = 0
    percentile_99_5: float = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Channel:
    """One input channel's normalisation; `masked`: only what is not 0 counts and changes."""

    name: str
    scheme: str
    masked: bool
    properties: Properties


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """The network's class and arguments as plain data, `operations` naming the arguments that are torch classes by path."""

    path: str
    arguments: Mapping[str, Any]
    operations: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plans:
    """One configuration, its inheritance resolved.

    patch       voxels the network sees at once; two numbers for a 2-D configuration
    spacing_mm  of the model's grid along the transposed axes; two numbers for 2-D, where the slices stay
    forward     transposed axis i is axis forward[i] of the image; `backward` is its inverse
    data, seg, scores  how images, the previous stage's labels, and the network's scores are resampled
    previous    the configuration whose labels this one sees too; None
    orientation in which its reader gives every image; None: as the file has it
    """

    configuration: str
    channels: tuple[Channel, ...]
    patch: tuple[int, ...]
    spacing_mm: tuple[float, ...]
    forward: tuple[int, int, int]
    backward: tuple[int, int, int]
    data: Resampler
    seg: Resampler
    scores: Resampler
    architecture: Architecture
    previous: str | None
    orientation: str | None

    def target_mm(self, source_mm: Sequence[float]) -> tuple[float, float, float]:
        """Give the model's spacing for an image of these transposed spacings."""
        target = self.spacing_mm if len(self.spacing_mm) == 3 else (source_mm[0], *self.spacing_mm)
        return target[0], target[1], target[2]


@dataclass(frozen=True, slots=True, kw_only=True)
class Heads:
    """What the network's output channels say.

    regions     whether each channel is a sigmoid of its own; else all are one softmax
    values      the label that each channel writes: of a softmax its own number, none first; of regions, a later one overwrites
    foreground  all labels but none, as a next stage sees them
    names       of each label a word of dataset.json
    """

    regions: bool
    values: tuple[int, ...]
    foreground: tuple[int, ...]
    names: Mapping[int, str]


def read(content: bytes, what: str) -> dict[str, Any]:
    """Read a JSON object; raises ValueError."""
    try:
        table = json.loads(content)
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{what} is no JSON, or only a part of it: {error}") from None
    if not isinstance(table, dict):
        raise ValueError(f"{what} holds no object")  # noqa: TRY004 -- a word in a file is wrong
    return table


def configuration(plans: Mapping[str, Any], dataset: Mapping[str, Any], name: str) -> Plans:
    """Give one configuration of plans.json; raises ValueError for what is missing, of nnU-Net v1, or not honoured here."""
    if "plans_per_stage" in plans or "configurations" not in plans:
        raise ValueError("plans.json is not nnU-Net v2's: it has no 'configurations'; a model of v1 must be trained or converted anew")
    table = _inherited(plans["configurations"], name)
    orders = tuple(tuple(int(axis) for axis in _need(plans, key, "plans.json")) for key in ("transpose_forward", "transpose_backward"))
    if any(sorted(order) != [0, 1, 2] for order in orders) or any(orders[0][orders[1][axis]] != axis for axis in range(3)):
        raise ValueError("plans.json: transpose_forward and transpose_backward are not inverse orders of three axes")
    patch = tuple(int(size) for size in _need(table, "patch_size", name))
    spacing = tuple(float(step) for step in _need(table, "spacing", name))
    if len(patch) not in {2, 3} or len(spacing) != len(patch) or min(patch) < 1 or min(spacing) <= 0:
        raise ValueError(f"plans.json: {name}: patch_size and spacing must both be two or three numbers above 0")
    reader = plans.get("image_reader_writer", "SimpleITKIO")
    if reader not in READERS:
        raise ValueError(f"plans.json: image_reader_writer {reader!r} is not one of {', '.join(READERS)}")
    if plans.get("label_manager", "LabelManager") != "LabelManager":
        raise ValueError(f"plans.json: label_manager {plans['label_manager']!r} is not nnU-Net's own")
    if table.get("preprocessor_name", "DefaultPreprocessor") != "DefaultPreprocessor":
        raise ValueError(f"plans.json: {name}: preprocessor_name {table['preprocessor_name']!r} is not honoured, only DefaultPreprocessor")
    return Plans(
        configuration=name,
        channels=_channels(plans, dataset, table),
        patch=patch,
        spacing_mm=spacing,
        forward=(orders[0][0], orders[0][1], orders[0][2]),
        backward=(orders[1][0], orders[1][1], orders[1][2]),
        data=_resampler(table, "data"),
        seg=_resampler(table, "seg"),
        scores=_resampler(table, "probabilities"),
        architecture=_architecture(table, name),
        previous=table.get("previous_stage"),
        orientation=READERS[reader],
    )


def heads(dataset: Mapping[str, Any]) -> Heads:
    """Read the labels of dataset.json; raises ValueError."""
    labels = dict(_need(dataset, "labels", "dataset.json"))
    if labels.get("background") != 0:
        raise ValueError("dataset.json: labels must have background = 0; a model of nnU-Net v1 has its labels the other way round")
    ignored = labels.pop("ignore", None)
    values = sorted({int(value) for entry in labels.values() for value in (entry if isinstance(entry, list) else [entry])})
    if values != list(range(len(values))) or len(values) < 2 or values[-1] > 255:
        raise ValueError(f"dataset.json: labels must be 0, 1, 2 ... without a gap and at most 255, not {values}")
    if ignored is not None and ignored != values[-1] + 1:
        raise ValueError("dataset.json: the ignore label must be the one after all others")
    if not any(isinstance(entry, list) and len(entry) > 1 for entry in labels.values()):
        names = {int(entry[0] if isinstance(entry, list) else entry): name for name, entry in labels.items()}
        return Heads(regions=False, values=tuple(values), foreground=tuple(values[1:]), names=names)
    regions = [name for name, entry in labels.items() if entry not in (0, [0])]
    order = dataset.get("regions_class_order")
    if not isinstance(order, list) or len(order) != len(regions) or not {int(value) for value in order} <= set(values[1:]):
        raise ValueError("dataset.json: labels are regions, so regions_class_order must name one label for each of them")
    names = {int(value): name for value, name in zip(order, regions, strict=True)}
    return Heads(regions=True, values=tuple(int(value) for value in order), foreground=tuple(values[1:]), names=names)


def channel_names(dataset: Mapping[str, Any]) -> list[str]:
    """Give the input channels' names in their order; raises ValueError."""
    names = dataset.get("channel_names") or dataset.get("modality")
    if not isinstance(names, dict) or sorted(names) != sorted(map(str, range(len(names)))):
        raise ValueError('dataset.json: channel_names must be { "0": ..., "1": ... }')
    return [str(names[str(index)]) for index in range(len(names))]


def _need(table: Mapping[str, Any], key: str, where: str) -> Any:
    if key not in table:
        raise ValueError(f"{where} lacks {key!r}")
    return table[key]


def _inherited(configurations: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Lay a configuration over the one it inherits from."""
    chain: list[str] = []
    below: str | None = name
    while below is not None:
        if below in chain or below not in configurations:
            raise ValueError(
                f"plans.json has no configuration {below!r}, or it inherits from itself; there are {', '.join(configurations)}"
            )
        chain.append(below)
        below = configurations[below].get("inherits_from")
    table: dict[str, Any] = {}
    for entry in reversed(chain):
        table |= configurations[entry]
    return table


def _channels(plans: Mapping[str, Any], dataset: Mapping[str, Any], table: Mapping[str, Any]) -> tuple[Channel, ...]:
    names = channel_names(dataset)
    schemes, masked = (list(_need(table, key, "plans.json")) for key in ("normalization_schemes", "use_mask_for_norm"))
    known = plans.get("foreground_intensity_properties_per_channel") or plans.get("foreground_intensity_properties_by_modality") or {}
    if not len(names) == len(schemes) == len(masked):
        raise ValueError(f"plans.json normalises {len(schemes)} channels, dataset.json has {len(names)}")
    for index, scheme in enumerate(schemes):
        if scheme not in SCHEMES:
            raise ValueError(f"plans.json: normalization_schemes: {scheme!r} is not one of {', '.join(SCHEMES)}")
        if scheme == "CTNormalization" and str(index) not in known:
            raise ValueError(f"plans.json: channel {index} has no foreground_intensity_properties_per_channel")
    return tuple(
        Channel(name=name, scheme=scheme, masked=bool(mask), properties=_checked(Properties, known.get(str(index), {}), "plans.json"))
        for index, (name, scheme, mask) in enumerate(zip(names, schemes, masked, strict=True))
    )


def _resampler(table: Mapping[str, Any], what: Literal["data", "seg", "probabilities"]) -> Resampler:
    function = table.get(f"resampling_fn_{what}", RESAMPLERS[0])
    if function not in RESAMPLERS:
        raise ValueError(f"plans.json: resampling_fn_{what}: {function!r} is not one of {', '.join(RESAMPLERS)}")
    arguments = dict(table.get(f"resampling_fn_{what}_kwargs") or {})
    if bool(arguments.pop("is_seg", False)) != (what == "seg") and function == RESAMPLERS[0]:
        raise ValueError(f"plans.json: resampling_fn_{what}_kwargs: is_seg is not what it should be")
    unknown = set(arguments) - {"order", "order_z", "force_separate_z", "separate_z_anisotropy_threshold"}
    if unknown:
        raise ValueError(f"plans.json: resampling_fn_{what}_kwargs: {', '.join(sorted(unknown))} is not honoured")
    return _checked(Resampler, arguments | {"none": function == RESAMPLERS[1]}, f"plans.json: resampling_fn_{what}_kwargs")


def _checked(kind: type[_Part], table: Any, where: str) -> _Part:
    try:
        return kind.model_validate(table)
    except ValidationError as error:
        fault = error.errors()[0]
        raise ValueError(f"{where}: {'.'.join(map(str, fault['loc']))}: {fault['msg']}") from None


def _architecture(table: Mapping[str, Any], name: str) -> Architecture:
    """Read the architecture, also of the first plans of v2, which say it in other words."""
    if "architecture" in table:
        given = table["architecture"]
        return Architecture(
            path=str(_need(given, "network_class_name", name)),
            arguments=dict(_need(given, "arch_kwargs", name)),
            operations=tuple(given.get("_kw_requires_import", ())),
        )
    kind = _need(table, "UNet_class_name", name)
    per_stage = {"PlainConvUNet": "n_conv_per_stage", "ResidualEncoderUNet": "n_blocks_per_stage"}
    if kind not in per_stage:
        raise ValueError(f"plans.json: UNet_class_name {kind!r} is not one of {', '.join(per_stage)}")
    stages = len(table["n_conv_per_stage_encoder"])
    dimension = len(table["patch_size"])
    arguments = {
        "n_stages": stages,
        "features_per_stage": [min(table["UNet_base_num_features"] * 2**i, table["unet_max_num_features"]) for i in range(stages)],
        "conv_op": f"torch.nn.modules.conv.Conv{dimension}d",
        "kernel_sizes": table["conv_kernel_sizes"],
        "strides": table["pool_op_kernel_sizes"],
        per_stage[kind]: table["n_conv_per_stage_encoder"],
        "n_conv_per_stage_decoder": table["n_conv_per_stage_decoder"],
        "conv_bias": True,
        "norm_op": f"torch.nn.modules.instancenorm.InstanceNorm{dimension}d",
        "norm_op_kwargs": {"eps": 1e-05, "affine": True},
        "dropout_op": None,
        "dropout_op_kwargs": None,
        "nonlin": "torch.nn.LeakyReLU",
        "nonlin_kwargs": {"inplace": True},
    }
    path = f"dynamic_network_architectures.architectures.unet.{kind}"
    return Architecture(path=path, arguments=arguments, operations=("conv_op", "norm_op", "dropout_op", "nonlin"))
