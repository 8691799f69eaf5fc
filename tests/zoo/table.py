"""Reads the hand-written table: study -> model -> the series a role takes, or what the reason must say."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

TABLE = Path(__file__).parent / "expected.txt"
CARDS = Path(__file__).parent / "cards"
GROUPS: Mapping[str, tuple[str, ...]] = {"CT": ("chest-ct", "liver-ct", "pet-ct"), "MR": ("brain-mr", "mr-four")}


@dataclass(slots=True, kw_only=True)
class Expected:
    """One study: model -> role -> series number, and (series number, model or "*") -> key part of the reason."""

    takes: dict[str, dict[str, int]] = field(default_factory=dict)
    why: dict[tuple[int, str], str] = field(default_factory=dict)


def read(path: Path = TABLE) -> dict[str, Expected]:
    """Give the table by study."""
    found: dict[str, Expected] = {}
    name = ""
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        if not line.startswith(" "):
            name = line.strip()
            assert name not in found, f"{path}:{number}: {name} stands twice"
            found[name] = Expected()
            continue
        first, model, rest = re.split(r"\s+", line.strip(), maxsplit=2)
        if first == "take":
            found[name].takes[model] = {role: int(series) for role, series in (pair.split("=") for pair in rest.split())}
            continue
        for series in first.split(","):
            for each in GROUPS.get(model, (model,)):
                found[name].why[int(series), each] = rest
    return found
