"""Dotted keys into a card's tables: an input is named by its role, a label by its index, a measurement by its label.

    model.licence   inputs.ct.accept.modality   output.labels.3.type   measurements.3.what

A part that holds a dot stands in quotes: evaluation.figures."froc_0.5".
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from models.card import BadCard

NAMED_BY = {"inputs": "role", "output.labels": "index", "measurements": "label"}
_PART = re.compile(r'"([^"]+)"|([^."]+)')


def parts(key: str) -> tuple[str, ...]:
    """Split a dotted key; raises BadCard where it is none."""
    found = tuple(quoted or plain for quoted, plain in _PART.findall(key))
    if not found or _PART.sub("", key).strip(".") or _PART.sub("", key).count(".") != len(found) - 1:
        raise BadCard(f"{key!r} is no key of a card; write it as model.licence or output.labels.3.type")
    return found


def value(card: Mapping[str, Any], key: str) -> Any:
    """Give what stands at a key, None where nothing does."""
    here: Any = card
    walked: list[str] = []
    for part in parts(key):
        here = _entry(here, ".".join(walked), part) if isinstance(here, list | tuple) else _member(here, part)
        walked.append(part)
        if here is None:
            return None
    return here


def put(card: dict[str, Any], key: str, new: Any) -> None:
    """Write a value at a key, making the tables on the way; raises BadCard where the way is none."""
    here: Any = card
    *way, last = parts(key)
    for depth, part in enumerate(way):
        where = ".".join(way[:depth])
        if isinstance(here, list):
            found = _entry(here, where, part)
            here = _append(here, where, part) if found is None else found
        else:
            here = here.setdefault(part, [] if ".".join(way[: depth + 1]) in NAMED_BY else {})
        if not isinstance(here, dict | list):
            raise BadCard(f"{key}: {'.'.join(way[: depth + 1])} is no table")
    if not isinstance(here, dict):
        raise BadCard(f"{key}: name a key of that entry, as in {key}.{'accept' if way == [] else 'type'}")
    here[last] = new


def _member(table: Any, part: str) -> Any:
    return table.get(part) if isinstance(table, Mapping) else None


def _entry(entries: Sequence[Any], where: str, part: str) -> Any:
    name = NAMED_BY.get(where)
    return next((entry for entry in entries if name and str(entry.get(name)) == part), None)


def _append(entries: list[Any], where: str, part: str) -> dict[str, Any]:
    name = NAMED_BY.get(where)
    if name is None:
        raise BadCard(f"{where}.{part}: {where} is a list; write it whole")
    if name != "role" and not part.isdecimal():
        raise BadCard(f"{where}.{part}: entries of {where} are named by a number")
    entry: dict[str, Any] = {name: part if name == "role" else int(part)}
    entries.append(entry)
    return entry


def named(card: Mapping[str, Any], places: Sequence[int | str]) -> str:
    """Say where a validator found a fault as a dotted key. Example: ("inputs", 0, "accept") is inputs.ct.accept."""
    here: Any = card
    words: list[str] = []
    for place in places:
        name = NAMED_BY.get(".".join(words))
        here = _at(here, place)
        known = isinstance(here, Mapping) and name is not None and isinstance(place, int)
        words.append(str(here.get(name, place)) if known else str(place))
    return ".".join(words)


def _at(here: Any, place: int | str) -> Any:
    if isinstance(here, Mapping):
        return here.get(place)
    return here[place] if isinstance(here, list | tuple) and isinstance(place, int) and place < len(here) else None
