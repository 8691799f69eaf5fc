"""The classes of TotalSegmentator 2, task "total", with their codes: models/nnunet/total.toml as nouns of a card."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

ANATOMY = ("91723000", "Anatomical Structure")
SIDES = {"left": ("7771000", "Left"), "right": ("24028007", "Right")}


@cache
def numbers() -> Mapping[str, int]:
    """Give each class's number, 1 to 117, by the word that the model's own dataset.json has for it."""
    return {entry["name"]: number for number, entry in enumerate(_entries(), start=1)}


def label(number: int) -> dict[str, Any]:
    """Give a class as a card's [[output.labels]] has it."""
    entry = _entries()[number - 1]
    part: dict[str, Any] = {"index": number, "label": entry["label"], "kind": "organ"}
    part |= {"category": _code(entry.get("category", ANATOMY)), "type": _code(entry["type"])}
    part |= {"region": _code(entry["region"])} if "region" in entry else {}
    part |= {"laterality": _code(SIDES[entry["side"]])} if "side" in entry else {}
    return part | {"cielab": list(entry["cielab"])}


def _code(given: tuple[str, str] | list[str]) -> dict[str, str]:
    return {"scheme": "SCT", "value": given[0], "meaning": given[1]}


@cache
def _entries() -> tuple[dict[str, Any], ...]:
    return tuple(tomllib.loads((Path(__file__).parent / "total.toml").read_text(encoding="utf-8"))["classes"])
