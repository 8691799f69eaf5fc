"""What the new model may be called and where it may go, refused before hours of work rather than after."""

from __future__ import annotations

import tempfile
from collections.abc import Collection
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from models.card import Name
from models.shelving import shelf
from node.errors import Misconfigured

WORK = "work"
KEPT = "What is done is kept: the same command goes on from there."


def name(wanted: str, taken: Collection[str]) -> str:
    """Give the name if a card may have it and no model on the shelf has it; raises Misconfigured."""
    try:
        TypeAdapter(Name).validate_python(wanted)
    except ValidationError:
        raise Misconfigured(
            f"--name: {wanted!r} is no name for a model: small letters, digits and hyphens, 32 at most, such as chest-ct-oak"
        ) from None
    if wanted in taken:
        raise Misconfigured(f"--name: there is a model named {wanted!r} on the shelf; give another name")
    return wanted


def prepare(out: Path, model: str) -> None:
    """Make the folders and write to them; raises Misconfigured where that cannot be, or another model's draft lies there."""
    try:
        for folder in (out / WORK, out / model):
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder) as file:
                file.write(b"0")
    except OSError as error:
        raise Misconfigured(f"--out {out}: nothing can be written there ({error.strerror}); give another folder") from None
    if (out / model / shelf.ORIGIN).exists():
        raise Misconfigured(f"--out: {out / model} holds a model that was brought with `models add`; give another folder or --name")
