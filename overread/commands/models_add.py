"""`overread models add`: a site's model becomes a folder with pinned files and a card's draft."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydicom.sr.codedict import codes
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from models.card import BadCard
from models.shelving import keys, shelf
from models.shelving.shelf import Brought
from models.shelving.writing import value
from node.errors import Misconfigured
from node.settings import Settings
from overread.commands import models

ORGAN = {"scheme": "SCT", "value": "91723000", "meaning": "Anatomical Structure"}
LESION = {"scheme": "SCT", "value": "49755003", "meaning": "Morphologically Abnormal Structure"}
SIDES = {
    "left": {"scheme": "SCT", "value": "7771000", "meaning": "Left"},
    "right": {"scheme": "SCT", "value": "24028007", "meaning": "Right"},
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """The command's words. `values` are KEY=VALUE; `codes` is a file with what each label is; `confirm` takes what was proposed."""

    path: Path
    name: str | None
    directory: Path | None
    values: tuple[str, ...]
    codes: Path | None
    confirm: bool
    force: bool


def main(settings: Settings, wish: Wish, *, as_json: bool) -> None:
    """Bring the model and say what was read and what is missing; raises BadCard, Misconfigured."""
    directory = wish.directory or settings.models.dir
    if directory is None:
        raise Misconfigured("where do models lie? Set dir in [models] of the settings file, or give --dir")
    known = models.shelved(settings, directory)
    values = dict(_parsed(text) for text in wish.values)
    brought = shelf.bring(
        shelf.Wish(
            path=wish.path,
            name=wish.name,
            values=values,
            complete=lambda card: _completed(card, wish),
            propose=propose,
            taken={name for name, entry in known.items() if entry.folder.resolve().parent != directory.resolve()},
            force=wish.force,
        ),
        directory,
    )
    if as_json:
        print(json.dumps(_facts(brought), indent=2))
    else:
        _show(brought, wish)


def _parsed(text: str) -> tuple[str, Any]:
    """Split KEY=VALUE; a value that TOML does not know is a word. Raises BadCard without a key."""
    key, equals, given = text.partition("=")
    if not equals:
        raise BadCard(f"--set {text}: write KEY=VALUE, as in model.licence=MIT")
    try:
        found = tomllib.loads(f"value = {given}")["value"]
    except tomllib.TOMLDecodeError:
        if given.lstrip()[:1] in {"[", "{", '"', "'"}:
            raise BadCard(f"--set {key}: {given!r} is no TOML value") from None
        found = given
    keys.parts(key)
    is_word = key.startswith("model.") and not isinstance(found, str | list)  # a version may look like a number
    return key, given if is_word else found


def _completed(card: Mapping[str, Any], wish: Wish) -> dict[str, Any]:
    """Give what the code file says, and of the proposals, where they are confirmed, what the card lacks."""
    said = _coded(card, wish.codes)
    proposed = propose(card) if wish.confirm else {}
    lacked = {key: tomllib.loads(f"value = {text}")["value"] for key, text in proposed.items() if keys.value(card, key) is None}
    return {**lacked, **said}


def _coded(card: Mapping[str, Any], path: Path | None) -> dict[str, Any]:
    """Give what the site's code file says of the card's labels, by dotted key; raises BadCard where it names labels that are none."""
    if path is None:
        return {}
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise BadCard(f"{path}: {error}") from None
    labels = {str(part.get("label", "")).casefold(): part["index"] for part in keys.value(card, "output.labels") or ()}
    strange = [name for name, part in table.items() if name.casefold() not in labels or not isinstance(part, dict)]
    if strange:
        raise BadCard(f"{path}: {strange[0]!r} is no label of this model; it has {', '.join(labels) or 'none'}")
    return {f"output.labels.{labels[name.casefold()]}.{value(key)}": given for name, part in table.items() for key, given in part.items()}


def propose(card: Mapping[str, Any]) -> dict[str, str]:
    """Look the labels' names up among DICOM's property types; a human must confirm what is found. Ref: PS3.16 CID 7151, 7159.

    Example: "kidney_left" has the words of Kidney beside a side: type Kidney, laterality Left.
    """
    types = {_letters(code.meaning): code for code in codes.cid7151.concepts.values() if code.scheme_designator == "SCT"}
    lesions = {code.value for code in codes.cid7159.concepts.values()}
    found = {}
    for part in keys.value(card, "output.labels") or ():
        words = str(part.get("label", "")).replace("_", " ").replace("-", " ").casefold().split()
        side = next((SIDES[word] for word in words if word in SIDES), None)
        code = types.get(_letters("".join(word for word in words if word not in SIDES)))
        if code is None:
            continue
        lesion, here = code.value in lesions, f"output.labels.{part['index']}"
        found[f"{here}.kind"] = value("finding" if lesion else "organ")
        found[f"{here}.category"] = value(LESION if lesion else ORGAN)
        found[f"{here}.type"] = value({"scheme": "SCT", "value": code.value, "meaning": code.meaning})
        if side is not None:
            found[f"{here}.laterality"] = value(side)
    return found


def _letters(text: str) -> str:
    return "".join(letter for letter in text.casefold() if letter.isalnum())


def _facts(brought: Brought) -> dict[str, Any]:
    return {
        "name": brought.folder.name,
        "format": brought.draft.format,
        "folder": str(brought.folder),
        "changed": brought.changed,
        "files": [part["path"] for part in brought.card["runtime"]["files"].values()],
        "read": brought.draft.card,
        "notes": list(brought.draft.notes),
        "missing": {entry.key: {"what": entry.what, "why": entry.why} for entry in brought.missing},
        "proposals": propose(brought.card),
    }


def _show(brought: Brought, wish: Wish) -> None:
    console = Console(highlight=False)
    name, draft = brought.folder.name, brought.folder / shelf.DRAFT
    words = "brought" if brought.changed else "as it was: the same files, nothing changed"
    console.print(f"[bold]{name}[/] ({brought.draft.format}) {words}\n{escape(str(brought.folder))}", soft_wrap=True)
    # What comes next is said with the words this was called with: without them it would be another draft elsewhere.
    where = f" --dir {wish.directory}" if wish.directory else ""
    again = f"{wish.path}{f' --name {wish.name}' if wish.name else ''}{where}"
    for note in brought.draft.notes:
        console.print(f"  - {note}", markup=False)
    pinned = brought.card["runtime"]["files"]
    table = Table("file", "sha256", title="Pinned", title_justify="left")
    for part in pinned.values():
        table.add_row(part["path"], part["sha256"][:12])
    console.print(table)
    if (brought.folder / shelf.CARD).is_file():
        console.print(f"It is on the shelf: overread models show {name}{where}", markup=False, soft_wrap=True)
        return
    if brought.missing:
        proposed = propose(brought.card)
        console.print(models.asked_for(brought.missing, f"What no file tells, in {draft.name}", proposed))
        if proposed:
            console.print("Proposals are DICOM's property types of the labels' names. Read each; --confirm-codes takes them.")
        first = brought.missing[0].key
        console.print(f"Edit {draft}, or: overread models add {again} --set {first}=...", markup=False, soft_wrap=True)
    console.print(f"Then: overread models check {name}{where}", markup=False, soft_wrap=True)
