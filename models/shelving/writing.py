"""A card's draft as TOML, with a comment at each place that a human must fill in."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from models.drafts import Missing
from models.shelving import keys

Path = tuple[str, ...]
Wanted = Mapping[Path, Sequence[str]]
PROPOSED = "#   a proposal; check it, then take away the #:"
WIDE = 100
"""Letters from which a list is written with a line for each entry."""


def toml(card: Mapping[str, Any], missing: Sequence[Missing], proposals: Mapping[str, str]) -> str:
    """Write the card's tables; a missing key is a comment in its table, with the proposal for it where there is one.

    A proposal for a key that a card may lack is a comment too.
    `proposals` is TOML by dotted key. What is written reads back as the card, for comments are no values.
    """
    wanted: dict[Path, list[str]] = {}
    for entry in missing:
        *table, key = keys.parts(entry.key)
        asked = f"FILL IN {key}: {entry.what}\nwhy: {entry.why}"
        lines = wanted.setdefault(tuple(table), [])
        lines += [f"#   {line}" if number else f"# {line}" for number, line in enumerate(asked.splitlines())]
        if entry.key in proposals:
            lines += [PROPOSED, f"# {key} = {proposals[entry.key]}"]
    for at in proposals.keys() - {entry.key for entry in missing}:
        *table, key = keys.parts(at)
        if keys.value(card, at) is None:
            wanted.setdefault(tuple(table), []).extend([PROPOSED, f"# {key} = {proposals[at]}"])
    return "\n".join(_table((), card, wanted)).strip() + "\n"


def value(given: Any) -> str:
    """Write one value as TOML has it; a table inline."""
    if isinstance(given, bool):
        return "true" if given else "false"
    if isinstance(given, str):
        return json.dumps(given, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(given, Mapping):
        inside = ", ".join(f"{_key(name)} = {value(part)}" for name, part in given.items())
        return f"{{ {inside} }}" if inside else "{}"
    if isinstance(given, list | tuple):
        return "[" + ", ".join(value(part) for part in given) + "]"
    assert given is not None
    return repr(given)


def _table(path: Path, table: Mapping[str, Any], wanted: Wanted) -> list[str]:
    """Write a table's own keys, then the tables in it; `path` names entries of arrays as models.shelving.keys does."""
    own, inner = [], []
    for name, part in table.items():
        below = (*path, name)
        if by := _named_by(below):
            for entry in part:
                inner += ["", f"[[{_header(below)}]]", *_table((*below, str(entry[by])), entry, wanted)]
        elif isinstance(part, Mapping) and not _is_inline(part):
            header = [] if _holds_tables_alone(below, part, wanted) else ["", f"[{_header(below)}]"]
            inner += [*header, *_table(below, part, wanted)]
        elif part is not None:
            own += _line(_key(name), part)
    for name in _absent(path, table, wanted):
        inner += ["", f"[{_header((*path, name))}]", *_table((*path, name), {}, wanted)]
    return [*own, *wanted.get(path, ()), *inner]


def _line(name: str, part: Any) -> list[str]:
    line = f"{name} = {value(part)}"
    if len(line) <= WIDE or not isinstance(part, list | tuple):
        return [line]
    return [f"{name} = [", *(f"    {value(entry)}," for entry in part), "]"]


def _absent(path: Path, table: Mapping[str, Any], wanted: Wanted) -> list[str]:
    """Name the tables that are not there yet and in which something is wanted."""
    deeper = [other[len(path)] for other in wanted if len(other) > len(path) and other[: len(path)] == path]
    return [name for name in dict.fromkeys(deeper) if name not in table and not _named_by(path)]


def _named_by(path: Path) -> str | None:
    """Tell by which key entries are named, where an array of tables lies there."""
    return keys.NAMED_BY.get(".".join(path))


def _is_inline(part: Mapping[str, Any]) -> bool:
    """Tell a code, which is read best in one line."""
    return {"scheme", "value"} <= set(part)


def _holds_tables_alone(path: Path, part: Mapping[str, Any], wanted: Wanted) -> bool:
    below = [isinstance(entry, Mapping) and not _is_inline(entry) for entry in part.values()]
    return bool(below) and all(below) and path not in wanted


def _header(path: Path) -> str:
    """Give a table's name in TOML, where an entry of an array has no name of its own: inputs.ct.accept is [inputs.accept]."""
    return ".".join(_key(part) for depth, part in enumerate(path) if not _named_by(path[:depth]))


def _key(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else value(name)
