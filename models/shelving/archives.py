"""Files of a site's model, looked at and never run."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any


def only_file(path: Path, fits: Callable[[Path], bool]) -> Path | None:
    """Give the file itself, or the one file of a folder (not of folders in it) that fits; None where none or several do."""
    found = [entry for entry in ([path] if path.is_file() else sorted(path.glob("*"))) if entry.is_file() and fits(entry)]
    return found[0] if len(found) == 1 else None


def is_cut(path: Path) -> bool:
    """Tell a zip, as torch writes them, whose end with the list of members is missing."""
    if not path.is_file() or zipfile.is_zipfile(path):
        return False
    with path.open("rb") as file:
        return file.read(4) == b"PK\x03\x04"


def members(path: Path) -> dict[str, str]:
    """List a zip of torch's by the members' names below its one folder -> their whole names; empty for any other file.

    Example: a TorchScript file "lungs" has "lungs/code/__torch__/net.py": {"code/__torch__/net.py": "lungs/code/__torch__/net.py"}.
    """
    if not zipfile.is_zipfile(path):
        return {}
    with zipfile.ZipFile(path) as archive:
        return {name.partition("/")[2]: name for name in archive.namelist()}


def read(path: Path, member: str) -> bytes:
    """Read one member by its whole name."""
    with zipfile.ZipFile(path) as archive:
        return archive.read(member)


def table(content: bytes) -> dict[str, Any]:
    """Give a JSON object; empty where it is none."""
    try:
        found = json.loads(content)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
