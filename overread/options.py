"""What several commands take: the settings file, JSON instead of words."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from node.settings import Settings

Config = Annotated[
    Path | None,
    typer.Option("--config", "-c", help="The settings file; without it ./overread.toml where there is one.", envvar="OVERREAD_CONFIG"),
]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object instead of words.")]


def file(path: Path | None) -> Path | None:
    """Give the settings file that is meant."""
    default = Path("overread.toml")
    return path if path is not None or not default.is_file() else default


def settings(path: Path | None) -> Settings:
    """Load the settings; raises Misconfigured."""
    from node import settings as node

    return node.load(file(path))
