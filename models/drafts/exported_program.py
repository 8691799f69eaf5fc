"""A program of torch.export (.pt2): its input's and output's shapes from the graph's own description."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from models.card import BadCard
from models.drafts import WINDOWED, Draft, Source
from models.shelving import archives

PROGRAMS = ("models/model.json", "serialized_exported_program.json")
"""Where torch keeps the graph, in 2.8 and later and before."""


def _is_one(path: Path) -> bool:
    return any(name in archives.members(path) for name in PROGRAMS)


def recognise(path: Path) -> bool:
    """Tell an exported program, or a folder with one."""
    return archives.only_file(path, _is_one) is not None


def draft(path: Path) -> Draft:
    """Read input and output shapes and the torch that wrote it; raises BadCard."""
    file = archives.only_file(path, _is_one)
    assert file is not None
    names = archives.members(file)
    program = archives.table(archives.read(file, names[next(name for name in PROGRAMS if name in names)]))
    try:
        module = program["graph_module"]
        tensors = module["graph"]["tensor_values"]
        takes = [_name(entry["user_input"]) for entry in module["signature"]["input_specs"] if "user_input" in entry]
        gives = [_name(entry["user_output"]) for entry in module["signature"]["output_specs"] if "user_output" in entry]
        shapes = {name: [_size(size) for size in tensors[name]["sizes"]] for name in (*takes, *gives)}
    except (KeyError, TypeError) as error:
        raise BadCard(f"{file}: a program whose description this node does not know ({error})") from None
    if len(takes) != 1 or len(gives) != 1:
        raise BadCard(f"{file}: takes {len(takes)} tensors and gives {len(gives)}; a program of one and one is taken")
    window = [size for size in shapes[takes[0]][2:] if isinstance(size, int)]
    fixed = len(window) == len(shapes[takes[0]]) - 2
    shown = f"{takes[0]} {shapes[takes[0]]} -> {gives[0]} {shapes[gives[0]]}"
    return Draft(
        format="exported-program",
        card={"runtime": {"format": "exported-program", "options": {"window": window} if fixed else {}}},
        files={"weights": Source(path=file, place="network.pt2")},
        missing=tuple(entry for entry in WINDOWED if not (fixed and entry.key.endswith(".window"))),
        notes=(f"{shown}, written by torch {program.get('torch_version', 'unknown')}",),
    )


def _name(entry: Mapping[str, Any]) -> str:
    return str(entry["arg"]["as_tensor"]["name"])


def _size(size: Mapping[str, Any]) -> int | str:
    return int(size["as_int"]) if "as_int" in size else "any"
