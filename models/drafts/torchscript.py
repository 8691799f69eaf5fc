"""A TorchScript file: how many inputs its forward takes, and what its exporter left in it."""

from __future__ import annotations

import pickletools
import re
from pathlib import Path

from models.card import BadCard
from models.drafts import WINDOWED, Draft, Source
from models.shelving import archives

_FORWARD = re.compile(r"def forward\((?P<parameters>.*?)\) -> (?P<gives>[^\n]+):\n", re.DOTALL)


def _is_one(path: Path) -> bool:
    names = archives.members(path)
    return "constants.pkl" in names and any(name.startswith("code/") for name in names)


def recognise(path: Path) -> bool:
    """Tell a TorchScript file, or a folder with one."""
    return archives.only_file(path, _is_one) is not None


def draft(path: Path) -> Draft:
    """Read the network's name, its forward's inputs and the names of what was packed with it; raises BadCard."""
    file = archives.only_file(path, _is_one)
    assert file is not None
    names = archives.members(file)
    kind, source = _network(file, names)
    forward = _FORWARD.search(source)
    if forward is None:
        raise BadCard(f"{file}: its network {kind} has no forward")
    inputs = [part.strip() for part in forward["parameters"].split(",\n")[1:]]
    if len(inputs) != 1:
        raise BadCard(f"{file}: its forward takes {len(inputs)} inputs ({', '.join(inputs)}); a network of one tensor is taken")
    packed = sorted(name.removeprefix("extra/") for name in names if name.startswith("extra/"))
    notes = [f"network {kind}: forward({inputs[0]}) -> {forward['gives']}; a TorchScript file tells no shapes"]
    notes += [f"packed with it: {', '.join(packed)}"] if packed else []
    return Draft(
        format="torchscript",
        card={"runtime": {"format": "torchscript"}},
        files={"weights": Source(path=file, place="network.ts")},
        missing=WINDOWED,
        notes=tuple(notes),
    )


def _network(file: Path, names: dict[str, str]) -> tuple[str, str]:
    """Give the network's class and the source of its module: the first class that the pickled root names."""
    for operation, argument, _ in pickletools.genops(archives.read(file, names["data.pkl"])):
        if operation.name == "GLOBAL" and str(argument).startswith("__torch__"):
            module, _, kind = str(argument).rpartition(" ")
            member = f"code/{module.replace('.', '/')}.py"
            source = archives.read(file, names[member]).decode() if member in names else ""
            return kind, source.partition(f"class {kind}(")[2]
    raise BadCard(f"{file}: holds no network")
