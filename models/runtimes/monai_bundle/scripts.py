"""A bundle's own Python: only files that the card pins, and only where an administrator has said that they may run.

Nothing holds such code back once it runs; the pins make sure that it is the code that was read.
"""

from __future__ import annotations

import importlib
import inspect
import sys
import threading
from collections.abc import Mapping, Sequence
from importlib.abc import InspectLoader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_loader
from pathlib import PurePosixPath
from types import ModuleType
from typing import Any

from models.runtimes.monai_bundle.rules import Forbidden

ROOT = "scripts"
_TURN = threading.Lock()


def modules(files: Mapping[str, bytes]) -> dict[str, ModuleType]:
    """Run the files of a bundle's scripts folder, path -> content, and give them by module name; raises ValueError.

    They see each other as `scripts.` while they are run, and nothing else does, then or later: another bundle has scripts too.
    """
    sources = {_name(path): content for path, content in files.items()}
    with _TURN:
        finder = _Pinned(sources)
        before = {name: sys.modules.pop(name) for name in list(sys.modules) if name.partition(".")[0] == ROOT}
        sys.meta_path.insert(0, finder)
        try:
            return {name: importlib.import_module(name) for name in sorted(sources)}
        except Exception as error:  # noqa: BLE001 -- a bundle's code may raise anything
            raise ValueError(f"the bundle's scripts cannot be loaded: {type(error).__name__}: {error}") from None
        finally:
            sys.meta_path.remove(finder)
            for name in [name for name in sys.modules if name.partition(".")[0] == ROOT]:
                del sys.modules[name]
            sys.modules.update(before)


def member(name: str, own: Mapping[str, ModuleType]) -> Any:
    """Give a class or function that a bundle's own module defines; raises Forbidden."""
    module, _, last = name.rpartition(".")
    if module not in own:
        raise Forbidden("is the bundle's own code: pin its file in runtime.files and set allow_scripts = true, once you have read it")
    found = getattr(own[module], last, None)
    if not (inspect.isclass(found) or inspect.isfunction(found)) or found.__module__ != module:
        raise Forbidden("is no class or function of that file")
    return found


def _name(path: str) -> str:
    """Give a file's module name. Example: scripts/networks/own.py is scripts.networks.own, scripts/__init__.py is scripts."""
    parts = PurePosixPath(path).with_suffix("").parts
    if parts[0] != ROOT or not all(part.isidentifier() for part in parts):
        raise ValueError(f"{path}: a bundle's own code lies in its folder {ROOT}, under names of Python")
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


class _Pinned(MetaPathFinder, InspectLoader):
    """Finds and runs what is pinned, and refuses every other module of the bundle's own."""

    def __init__(self, sources: Mapping[str, bytes]) -> None:
        self._sources = sources

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:  # noqa: ARG002 -- importlib's own signature
        """Give the module's place, None for what is none of the bundle's; raises ModuleNotFoundError for what is not pinned."""
        if fullname.partition(".")[0] != ROOT:
            return None
        if fullname not in self._sources and not self.is_package(fullname):
            raise ModuleNotFoundError(f"{fullname} is not pinned in the card")
        return spec_from_loader(fullname, self, is_package=self.is_package(fullname))

    def is_package(self, fullname: str) -> bool:
        """Tell a folder: something that is pinned lies in it."""
        return fullname == ROOT or any(name.startswith(f"{fullname}.") for name in self._sources)

    def get_source(self, fullname: str) -> str:
        """Give the text; of a folder without a pinned __init__ none."""
        return self._sources.get(fullname, b"").decode("utf-8")
