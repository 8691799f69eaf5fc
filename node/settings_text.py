"""Where a setting was written: values of the environment over the file's, and the place of a fault for its message."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

ENVIRONMENT_PREFIX = "OVERREAD_"


def overlay(values: dict[str, Any], environ: Mapping[str, str]) -> set[tuple[str, str]]:
    """Lay OVERREAD_SECTION__KEY over the file's values; a value that parses as JSON is taken as JSON."""
    touched = set()
    for name, raw in environ.items():
        if not name.startswith(ENVIRONMENT_PREFIX) or name == ENVIRONMENT_PREFIX + "CONFIG":
            continue
        section, _, key = name.removeprefix(ENVIRONMENT_PREFIX).lower().partition("__")
        try:
            value = json.loads(raw)
        except ValueError:
            value = raw
        if key:
            values.setdefault(section, {})[key] = value
        else:
            values[section] = value
        touched.add((section, key))
    return touched


def explain(error: ValidationError, path: Path | None, text: str, from_environment: set[tuple[str, str]]) -> str:
    """Name each fault with the file's line or the environment variable that holds it."""
    lines = []
    for fault in error.errors(include_url=False, include_input=False):
        location = tuple(str(part) for part in fault["loc"])
        name = ".".join(location) or "settings"
        if location[:2] in from_environment or (*location[:1], "") in from_environment:
            where = "environment " + ENVIRONMENT_PREFIX + "__".join(location[:2]).upper()
        else:
            where = f"{path or 'settings'}{_line_of(text, fault['loc'])}"
        lines.append(f"{where}: {name}: {fault['msg']}")
    return "\n".join(lines)


def _line_of(text: str, location: tuple[int | str, ...]) -> str:
    """Find ":line" of a key: its section's header first (the n-th of an array of tables), then the key."""
    if not location:
        return ""
    number = location[1] if len(location) > 1 and isinstance(location[1], int) else 0
    key = next((part for part in location[1:] if isinstance(part, str)), None)
    headers = [i for i, line in enumerate(text.splitlines()) if re.match(rf"\s*\[\[?\s*{re.escape(str(location[0]))}\s*[\].]", line)]
    if number >= len(headers):
        return ""
    for i, line in enumerate(text.splitlines()[headers[number] + 1 :], start=headers[number] + 2):
        if re.match(r"\s*\[", line):
            break
        if key is not None and re.match(rf'\s*"?{re.escape(key)}"?\s*=', line):
            return f":{i}"
    return f":{headers[number] + 1}"
