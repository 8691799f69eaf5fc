"""Files that are whole or not there: what a full disk or a stop leaves is the file from before."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path


def write(path: Path, content: bytes) -> None:
    """Write one file; raises OSError, and then what was there is as it was."""
    write_all(path.parent, {path.name: content})


def write_all(folder: Path, contents: Mapping[str, bytes], between: Callable[[], None] = lambda: None) -> None:
    """Write files of one folder by name, none of them before all are on the disk; `between` is called when they are.

    Raises OSError, and then what was there is as it was.
    """
    partials = {name: folder / f"{name}.partial" for name in contents}
    try:
        for name, content in contents.items():
            with partials[name].open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())  # some disks tell of being full only here
        between()
        for name, partial in partials.items():
            partial.replace(folder / name)
    finally:
        for partial in partials.values():
            partial.unlink(missing_ok=True)
