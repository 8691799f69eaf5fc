"""A pickled checkpoint becomes safetensors: tensors and plain values come out, and nothing in it is ever run.

torch's restricted unpickler (weights_only) builds tensors and Python's plain types. Beyond these it may build what ALLOWED
names, numpy's scalars and their types, which nnU-Net's checkpoints hold; a pickle that asks for anything else is refused with
the name of what it asked for.
"""

from __future__ import annotations

import io
import math
import pickle
import re
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import torch as safetensors

from models.card import BadCard

WEIGHTS = ("state_dict", "network_weights", "model_state_dict", "model_state", "model", "network", "net", "weights")
"""Where checkpoints keep a network's tensors, among optimisers' and others."""
SCALAR = np.float64(0).__reduce__()[0]
ALLOWED: tuple[tuple[Any, str], ...] = (
    (SCALAR, "numpy.core.multiarray.scalar"),  # numpy 1
    (SCALAR, "numpy._core.multiarray.scalar"),  # numpy 2
    (np.dtype, "numpy.dtype"),
    *((type(kind), f"numpy.dtypes.{type(kind).__name__}") for kind in map(np.dtype, ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "?"))),
)
_ASKED = re.compile(r"(?:GLOBAL |[Ii]nstantiate |class |function |load module )([A-Za-z_]\w*(?:\.\w+)+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Converted:
    """What a checkpoint held.

    tensors   the network's, by name, types kept; names of one tensor share its memory
    found_at  the key of the checkpoint that held them; "" where they were all of it
    rest      everything else that JSON can hold: numbers, words, lists and tables of these; a number that is none becomes None
    left_out  what was neither, by key: an optimiser's tensors, dates
    """

    tensors: Mapping[str, torch.Tensor]
    found_at: str
    rest: Mapping[str, Any]
    left_out: tuple[str, ...]

    def safetensors(self, *, once: bool = False) -> bytes:
        """Give the tensors as the bytes of a safetensors file, the same for the same tensors.

        once  of several names of one tensor only the first is written, for runtimes whose networks have them tied
        """
        written: dict[str, torch.Tensor] = {}
        places: set[int] = set()
        for name, tensor in sorted(self.tensors.items()):
            if id(tensor) not in places:
                written[name] = tensor
            elif not once:
                written[name] = tensor.clone()
            places.add(id(tensor))
        return bytes(safetensors.save(written))


def is_pickled(path: Path) -> bool:
    """Tell a checkpoint of torch.save, by its first bytes: a zip with data.pkl and no code, or a bare pickle."""
    if not path.is_file():
        return False
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
        return any(name.endswith("/data.pkl") for name in names) and not any("/code/" in name for name in names)
    with path.open("rb") as file:
        first = file.read(2)
    return path.suffix in {".pt", ".pth", ".ckpt", ".bin"} and first[:1] == b"\x80" and first[1:] in {b"\x02", b"\x03", b"\x04", b"\x05"}


def convert(path: Path, key: str | None = None) -> Converted:
    """Read a checkpoint; `key` says which of its tables is the network's where it has several.

    Raises BadCard where it is no checkpoint, holds code or no tensors, or where a key is needed.
    """
    return _converted(path, _read(path, path), key)


def convert_bytes(content: bytes, name: Path) -> Converted:
    """Read a checkpoint whose bytes were checked; `name` is what a fault is told of. Raises BadCard as `convert` does."""
    return _converted(name, _read(name, io.BytesIO(content)), None)


def _converted(path: Path, content: Any, key: str | None) -> Converted:
    if not isinstance(content, Mapping):
        raise BadCard(f"{path}: holds {type(content).__name__}, not a table of tensors; save the network's state_dict()")
    found_at = _place(path, content, key)
    table = content[found_at] if found_at else content
    bare = all(name.startswith("module.") for name in table)  # torch's DataParallel puts it before every name
    copies: dict[tuple[Any, ...], torch.Tensor] = {}
    tensors = {}
    for name, tensor in table.items():
        if isinstance(tensor, torch.Tensor):
            place = (tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype)
            if place not in copies:
                copies[place] = tensor.detach().cpu().contiguous().clone()
            tensors[name.removeprefix("module.") if bare else name] = copies[place]
    left_out: list[str] = []
    other = {name: value for name, value in content.items() if name != found_at} if found_at else {}
    rest = {str(name): _plain(value, str(name), left_out) for name, value in other.items()}
    return Converted(
        tensors=tensors,
        found_at=found_at,
        rest={name: value for name, value in rest.items() if name not in left_out},
        left_out=tuple(left_out),
    )


def _read(path: Path, source: Path | io.BytesIO) -> Any:
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals(list(ALLOWED)):
            warnings.filterwarnings("ignore", "Detected pickle protocol")  # what it cannot read it refuses
            return torch.load(source, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        asked = _ASKED.search(str(error))
        if asked is None:
            raise BadCard(f"{path}: cannot be read as a checkpoint of tensors and plain values") from None
        raise BadCard(
            f"{path}: a pickle with code in it: it asks for {asked[1]}, which is not run here; "
            "load it where you trust it and save the network's state_dict()"
        ) from None
    except (RuntimeError, OSError, EOFError, ValueError, KeyError, IndexError, AttributeError, TypeError) as error:
        why = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise BadCard(f"{path}: cannot be read as a checkpoint: {why}") from None


def _place(path: Path, content: Mapping[str, Any], key: str | None) -> str:
    """Find which table of the checkpoint holds the network's tensors; "" for the whole of it."""
    if key is not None:
        if not _tensors(content.get(key)):
            raise BadCard(f"{path}: {key!r} is no table of tensors there; there are {', '.join(map(str, content))}")
        return key
    if _tensors(content):
        return ""
    fits = [name for name in WEIGHTS if _tensors(content.get(name))]
    if len(fits) != 1:
        other = [str(name) for name, value in content.items() if _tensors(value)]
        raise BadCard(f"{path}: which table is the network's? It has tensors in {', '.join(fits or other) or 'none of its tables'}")
    return fits[0]


def _tensors(table: Any) -> bool:
    """Tell a table whose names are words and whose values are tensors, all of them (torch keeps some counters as None)."""
    if not isinstance(table, Mapping) or not table:
        return False
    return all(isinstance(name, str) and (isinstance(value, torch.Tensor) or value is None) for name, value in table.items())


def _plain(value: Any, name: str, left_out: list[str]) -> Any:
    """Give a value as JSON has it, noting under its name what JSON has not."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, torch.device):
        return str(value)
    if value is None or isinstance(value, bool | str | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(entry, name, left_out) for entry in value]
    if isinstance(value, Mapping) and all(isinstance(key, str | int | float) for key in value):
        return {str(key): _plain(entry, name, left_out) for key, entry in value.items()}
    if name not in left_out:
        left_out.append(name)
    return None
