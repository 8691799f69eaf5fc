"""The words of a bundle: its configuration and its metadata, from the bytes that were checked against the card's hashes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from monai.utils.misc import CheckKeyDuplicatesYamlLoader

REQUIRED = ("version", "monai_version", "pytorch_version", "numpy_version", "network_data_format")


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What metadata.json says of the network.

    inputs        channels of the input
    shape         its voxels along each axis; None where any number will do
    outputs       channels of the output
    channel_def   output channel -> its name
    """

    name: str
    version: str
    inputs: int
    shape: tuple[int | None, ...]
    outputs: int
    channel_def: Mapping[int, str]


def parse(content: bytes, path: str) -> dict[str, Any]:
    """Read JSON or YAML, as the file's name ends; raises ValueError, also where a key stands twice."""
    suffix = PurePosixPath(path).suffix.lower()
    if suffix not in {".json", ".yaml", ".yml"}:
        raise ValueError(f"{path}: must end in .json, .yaml or .yml")
    try:
        found = json.loads(content, object_pairs_hook=_once) if suffix == ".json" else _yaml(content)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: {str(error).splitlines()[0]}") from None
    if not isinstance(found, dict):
        raise ValueError(f"{path}: holds no table")  # noqa: TRY004 -- what the file says is wrong
    return found


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table: dict[str, Any] = {}
    for key, value in pairs:
        if key in table:
            raise ValueError(f"the key {key!r} stands twice")
        table[key] = value
    return table


def _yaml(content: bytes) -> Any:
    try:
        import yaml  # noqa: PLC0415 -- an extra: bundles in JSON do without
    except ImportError:
        raise ValueError("a bundle in YAML needs PyYAML; install overread[monai-bundle]") from None
    try:
        return yaml.load(content, CheckKeyDuplicatesYamlLoader)  # noqa: S506 -- a SafeLoader that also refuses keys that stand twice
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from None


def facts(metadata: Mapping[str, Any], classes: int | None = None) -> Facts:
    """Read what is needed of metadata.json; raises ValueError that names what is missing or wrong.

    classes  how many a detector has: the model zoo's metadata names none of them, so that channel_def may have empty names
    """
    if missing := [key for key in REQUIRED if not metadata.get(key)]:
        raise ValueError(f"metadata: {', '.join(missing)} is missing")
    image = _table(metadata, "network_data_format", "inputs", "image")
    pred = _table(metadata, "network_data_format", "outputs", "pred")
    names = pred.get("channel_def", {str(number): "" for number in range(classes)} if classes else None)
    if not isinstance(names, Mapping) or not all(str(key).isdecimal() for key in names):
        raise ValueError('metadata: network_data_format.outputs.pred.channel_def must say what each channel is: {"0": "background", ...}')
    channel_def = {int(key): str(value) for key, value in names.items()}
    outputs = classes or _count(pred, "outputs.pred.num_channels")
    if sorted(channel_def) != list(range(outputs)):
        raise ValueError(f"metadata: outputs.pred has {outputs} channels, channel_def names {sorted(channel_def)}")
    shape = image.get("spatial_shape")
    if not isinstance(shape, list) or not 2 <= len(shape) <= 3:
        raise ValueError("metadata: network_data_format.inputs.image.spatial_shape must have two or three entries")
    return Facts(
        name=str(metadata.get("name", "")),
        version=str(metadata["version"]),
        inputs=_count(image, "inputs.image.num_channels"),
        shape=tuple(size if isinstance(size, int) and size > 0 else None for size in shape),
        outputs=outputs,
        channel_def=channel_def,
    )


def _table(metadata: Mapping[str, Any], *keys: str) -> Mapping[str, Any]:
    found: Any = metadata
    for depth, key in enumerate(keys, start=1):
        found = found.get(key)
        if not isinstance(found, Mapping):
            raise ValueError(f"metadata: {'.'.join(keys[:depth])} is missing")  # noqa: TRY004 -- what the file says is wrong
    return found  # type: ignore[no-any-return]


def _count(part: Mapping[str, Any], where: str) -> int:
    value = part.get("num_channels")
    if not isinstance(value, int) or value < 1:
        raise ValueError(f"metadata: network_data_format.{where} must be a number from 1")
    return value
