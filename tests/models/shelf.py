"""Cards written for a test: any format, files, options, roles and labels."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from models.card import ShelvedCard, read

HEAD = """
schema_version = 1
[model]
name = "tried"
version = "1"
title = "Tried"
licence = "Apache-2.0"
intended_use = "tests"
limits = ["tests only"]
"""

LABEL = """
[[output.labels]]
index = {index}
label = "Label {index}"
kind = "{kind}"
category = {{ scheme = "SCT", value = "123037004", meaning = "Anatomical Structure" }}
type = {{ scheme = "SCT", value = "39607008", meaning = "Lung" }}
cielab = [1, 1, 1]
{more}
"""


def labels(*kinds: str, threshold: float | None = None) -> str:
    """Give one label a kind ("organ", "finding"), numbered from 1."""
    more = "" if threshold is None else f"threshold = {threshold}"
    return "".join(LABEL.format(index=index, kind=kind, more=more) for index, kind in enumerate(kinds, start=1))


def shelve(  # noqa: PLR0917 -- a card has that many parts
    folder: Path, format_name: str, files: Mapping[str, tuple[str, bytes]], options: str, output: str, roles: Sequence[str] = ("ct",)
) -> ShelvedCard:
    """Write a card and its files (name -> file name, content); the first role is the reference. `output` starts with the kind."""
    folder.mkdir(parents=True, exist_ok=True)
    kind, _, described = output.partition("\n")
    text = HEAD + f'[runtime]\nformat = "{format_name}"\n'
    for name, (path, content) in files.items():
        (folder / path).write_bytes(content)
        text += f'[runtime.files.{name}]\npath = "{path}"\nsha256 = "{hashlib.sha256(content).hexdigest()}"\n'
    text += f"[runtime.options]\n{options}\n"
    for number, role in enumerate(roles):
        text += f'[[inputs]]\nrole = "{role}"\nreference = {str(number == 0).lower()}\nsame_frame = {str(number > 0).lower()}\n'
        text += 'accept = { modality = ["MR"] }\n'
    text += f'[output]\nkind = "{kind}"\ninverse = "scores-linear"\n{described}'
    (folder / "card.toml").write_text(text)
    return read(folder / "card.toml")
