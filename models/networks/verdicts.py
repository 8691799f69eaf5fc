"""What was found out about a network's engines on this machine, kept on disk: the trial takes seconds, and is paid once.

A verdict holds for what it was asked of (the model with its weights, its threads, what runs it), one processor and one version of
each library; whatever changes, asks again.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

_folders: list[Path] = []


def keep_in(folder: Path | None) -> None:
    """Keep verdicts in a folder from now on; None: in no place."""
    _folders[:] = [] if folder is None else [folder]


def known(asked: Mapping[str, object]) -> str | None:
    """Give why the other engine is not taken, empty where it is; None where that is not known.

    asked  what the verdict is of, as JSON has it
    """
    try:
        found = json.loads(_place(asked).read_bytes())["why"] if _folders else None
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return found if isinstance(found, str) else None


def keep(asked: Mapping[str, object], why: str) -> None:
    """Keep a verdict; where the disk takes none the next start asks again."""
    if not _folders:
        return
    place = _place(asked)
    part = place.with_suffix(f".{os.getpid()}")
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(json.dumps({"why": why, "of": _facts(asked)}, indent=1))
        part.replace(place)
    except OSError:
        return


def _place(asked: Mapping[str, object]) -> Path:
    return _folders[0] / f"{hashlib.sha256(json.dumps(_facts(asked)).encode()).hexdigest()[:32]}.json"


def _facts(asked: Mapping[str, object]) -> dict[str, object]:
    libraries = {name: version(name) for name in ("torch", "openvino")}
    return {**asked, "processor": _processor(), "processors": os.cpu_count(), **libraries}


def _processor(told: Path = Path("/proc/cpuinfo")) -> str:
    """Name the processor and what it can do."""
    try:
        lines = told.read_text().splitlines()
    except OSError:
        return f"{platform.machine()} {platform.processor()}"
    named = {line.partition(":")[0].strip(): line.partition(":")[2].strip() for line in reversed(lines)}
    return f"{named.get('model name', platform.machine())} {named.get('flags', named.get('Features', ''))}"
