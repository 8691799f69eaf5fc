"""Cards on disk to loaded models: every file of weights is read once, checked against its hash, and only then run."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from pydantic import ValidationError

from models import faults
from models.card import BadCard, ShelvedCard, WeightsFile, runtime_of
from models.vocabulary import Model


def load(shelved: ShelvedCard, device: str) -> Model:
    """Load a card's model onto a device ("cpu", "cuda:0"); raises BadCard.

    The runtime is the module of models/runtimes named after the format; it imports torch, so it is imported here and
    never at this module's import (a worker's parent process forks).
    """
    runtime = importlib.import_module(runtime_of(shelved))
    _in_full_precision()
    model: Model = runtime.load(shelved, device)
    return model


def _in_full_precision() -> None:
    """Keep float32 what it says: on newer GPUs torch lets cuDNN round it to TF32, 10 bits, unless told. For the whole process."""
    import torch  # noqa: PLC0415 -- a runtime has imported it by now

    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False


def weights(shelved: ShelvedCard, names: tuple[str, ...]) -> Mapping[str, bytes]:
    """Read the card's files and give their bytes by name; what was hashed is what is run.

    Raises BadCard where the card has not exactly these files, one is missing, or its sha256 is another.
    """
    card = shelved.path
    files = shelved.card.runtime.files
    if set(files) != set(names):
        raise BadCard(f"{card}: runtime.files must be {', '.join(sorted(names))}, not {', '.join(sorted(files)) or 'empty'}")
    return {name: read(shelved, name) for name in names}


def read(shelved: ShelvedCard, name: str) -> bytes:
    """Read one file of the card; raises BadCard where it cannot be, or its sha256 is another."""
    where, pinned = f"{shelved.path}: runtime.files.{name}", shelved.card.runtime.files[name]
    path = _place(shelved, name, pinned)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise BadCard(f"{where}: {path} cannot be read ({error.strerror})") from None
    found = hashlib.sha256(content).hexdigest()
    if found != pinned.sha256:
        raise BadCard(f"{where}: {path} has sha256 {found}, the card says {pinned.sha256}")
    return content


@contextmanager
def options_at_fault(shelved: ShelvedCard) -> Iterator[None]:
    """Turn what a runtime finds wrong with its options into BadCard, naming card and key.

    The cause stays with it: memory that ran out, or a lost device, is no fault of the card, and whoever runs models looks for it.
    """
    where = shelved.path
    try:
        yield
    except ValidationError as error:
        raise BadCard(f"{where}: runtime.options: {faults.listed(error)}") from None
    except ValueError as error:
        raise BadCard(f"{where}: runtime.options: {error}") from error


def _place(shelved: ShelvedCard, name: str, file: WeightsFile) -> Path:
    """Find a file in the card's folder, or beside an installed package, which is not imported for it.

    Example: package "deepbet" and path "data/models/model.pt": <site-packages>/data/models/model.pt.
    """
    if file.package is None:
        folder = shelved.folder
    else:
        spec = importlib.util.find_spec(file.package) if file.package.isidentifier() else None
        if spec is None or spec.origin is None:
            raise BadCard(
                f"{shelved.path}: runtime.files.{name}: the package {file.package!r} is not installed; "
                f"install overread[{shelved.card.model.name}]"
            )
        folder = Path(spec.origin).parent.parent
    path = (folder / file.path).resolve()
    if not path.is_relative_to(folder.resolve()):
        raise BadCard(f"{shelved.path}: runtime.files.{name}: {file.path!r} leaves its folder")
    return path
