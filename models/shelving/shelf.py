"""A site's models on its disk: what is brought becomes a folder with pinned files and a draft; a checked draft becomes a card.

NAME/card.draft.toml   to be filled in; no node reads it
NAME/card.toml         on the shelf: the node routes studies to it
NAME/origin.json       which files it was made of, by hash, and what the draft asked for
"""

from __future__ import annotations

import copy
import hashlib
import json
import re
import shutil
import tempfile
import tomllib
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from models import card as cards
from models import drafts, faults
from models.card import BadCard, Card, ShelvedCard
from models.drafts import Draft, Missing, Source
from models.shelving import conversion, keys, writing

CARD, DRAFT, ORIGIN = "card.toml", "card.draft.toml", "origin.json"
HEAD = "# A draft: no node reads it. Fill in what is missing, then: overread models check"
COLOURS = (
    (69, -24, -21),
    (78, -18, 48),
    (58, 66, 50),
    (60, 45, -40),
    (72, 35, 60),
    (55, -45, 25),
    (50, 20, -60),
    (80, 10, 20),
    (45, 55, 10),
)
"""CIELAB of labels that have none: told apart beside each other, and meaning nothing."""
ORDER = tuple(Card.model_fields)
Propose = Callable[[Mapping[str, Any]], Mapping[str, str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What to bring, and how.

    values    what a human says, by dotted key; it goes over what was read
    complete  a card's tables -> more of that, for tables that only reading shows
    propose   a card's tables -> TOML by dotted key, for the human to confirm
    taken     names of models that lie elsewhere
    force     write a draft's folder again where the files are others; the draft that was there is kept as card.draft.old.toml
    """

    path: Path
    name: str | None = None
    values: Mapping[str, Any] = field(default_factory=dict)
    complete: Callable[[Mapping[str, Any]], Mapping[str, Any]] = lambda _card: {}
    propose: Propose = lambda _card: {}
    taken: Collection[str] = ()
    force: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Brought:
    """What came of it: the card as it is now, what a human must still say, and whether anything on the disk was changed."""

    folder: Path
    draft: Draft
    card: Mapping[str, Any]
    missing: tuple[Missing, ...]
    changed: bool


def bring(wish: Wish, directory: Path) -> Brought:
    """Make a folder of the model below the directory, all of it or nothing; the same files again change nothing.

    Raises BadCard where the path is no model, a value is none of a card's, or the folder holds another model.
    """
    draft = drafts.inspect(wish.path)
    folder = directory / _name(wish, draft)
    origin = {
        "format": draft.format,
        "files": {name: {"place": source.place, "sha256": _sha256(source.path)} for name, source in draft.files.items()},
        "missing": [asdict(entry) for entry in draft.missing],
    }
    if folder.exists() and _is_known(folder, origin, wish):
        card = _tables(folder)
        filled = _with(card, _said(card, wish))
        if filled != card:
            _replace(folder / DRAFT, _text(filled, draft.missing, wish.propose))
        return Brought(folder=folder, draft=draft, card=filled, missing=drafts.wanting(filled, draft.missing), changed=filled != card)
    card = _write(folder, draft, wish, origin)
    return Brought(folder=folder, draft=draft, card=card, missing=drafts.wanting(card, draft.missing), changed=True)


def drafts_in(directory: Path | None) -> dict[str, Path]:
    """Find the folders below a directory that hold a draft, by name."""
    found = [] if directory is None else [path.parent for path in sorted(directory.glob(f"[!.]*/{DRAFT}"))]
    return {folder.name: folder for folder in found}


def lacking(folder: Path) -> tuple[Missing, ...]:
    """List what a human must still say in a folder's draft; raises BadCard where it is no TOML."""
    asked = [Missing(**{**entry, "instead": tuple(entry["instead"])}) for entry in _origin(folder).get("missing", [])]
    return drafts.wanting(_tables(folder), asked)


def as_card(folder: Path) -> ShelvedCard:
    """Read a complete draft as a card; raises BadCard with what is missing in words, or the key at fault."""
    missing = lacking(folder)
    if missing:
        lines = "".join(f"\n  {entry.key}: {entry.what.splitlines()[0]}" for entry in missing)
        raise BadCard(f"{folder / DRAFT}: not filled in:{lines}")
    return cards.read(folder / DRAFT)


def shelve(folder: Path) -> ShelvedCard:
    """Put a complete draft on the shelf, where the node finds it at its next start; raises BadCard."""
    as_card(folder)
    if (folder / CARD).exists():
        raise BadCard(f"{folder / CARD}: there is a card already; move it away first")
    text = (folder / DRAFT).read_text(encoding="utf-8")
    _replace(folder / CARD, "".join(line for line in text.splitlines(keepends=True) if not line.startswith(HEAD)))
    (folder / DRAFT).unlink()
    return cards.read(folder / CARD)


def _name(wish: Wish, draft: Draft) -> str:
    """Give the model's name: as wished, as read, or made of the path's. Example: Dataset001_Liver becomes dataset001-liver."""
    told = wish.values.get("model.name", wish.name)
    name = str(told or keys.value(draft.card, "model.name") or re.sub(r"[^a-z0-9]+", "-", wish.path.resolve().stem.lower()).strip("-")[:32])
    if not re.fullmatch(r"[a-z0-9][a-z0-9-]{0,31}", name):
        raise BadCard(f"{name!r} is no name of a model: a-z, 0-9 and hyphens, at most 32; give another with --name")
    if name in wish.taken:
        raise BadCard(f"another model is called {name!r}; give this one another name with --name")
    return name


def _is_known(folder: Path, origin: Mapping[str, Any], wish: Wish) -> bool:
    """Tell whether a folder was made of the same files; raises BadCard where it was not and may not be written again."""
    if not (folder / ORIGIN).is_file():
        raise BadCard(f"{folder}: is there already, and not by `models add`; give another name with --name")
    known = _origin(folder)
    shelved = (folder / CARD).is_file()
    changed = _differences(known, origin)
    if not changed:
        if shelved and _said(_tables(folder), wish):
            raise BadCard(f"{folder / CARD}: is on the shelf; what it says is changed there, by hand")
        return True
    if shelved:
        raise BadCard(f"{folder}: is on the shelf, made of other files ({changed}); bring the new ones under another --name")
    if not wish.force:
        raise BadCard(f"{folder}: was made of other files ({changed}); --force writes it again, --name makes another")
    return False


def _differences(known: Mapping[str, Any], origin: Mapping[str, Any]) -> str:
    """Say in which files two origins differ; empty where in none."""
    if known.get("format") != origin["format"]:
        return f"format {known.get('format')}, now {origin['format']}"
    before, now = known.get("files", {}), origin["files"]
    words = [f"{name} changed" for name in now if name in before and before[name] != now[name]]
    words += [f"{name} is new" for name in now if name not in before]
    return ", ".join([*words, *(f"{name} is gone" for name in before if name not in now)])


def _write(folder: Path, draft: Draft, wish: Wish, origin: Mapping[str, Any]) -> dict[str, Any]:
    """Write files, draft and origin beside their place, then move them there at once."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    making = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        files = {name: {"path": source.place, "sha256": _place(source, making)} for name, source in draft.files.items()}
        card = _begun(draft, folder.name, files)
        card = _with(card, _said(card, wish))
        (making / DRAFT).write_text(_text(card, draft.missing, wish.propose), encoding="utf-8")
        (making / ORIGIN).write_text(json.dumps(origin, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        making.chmod(0o755)
        before = making.with_name(making.name + "-before")
        if folder.exists():
            if (folder / DRAFT).exists():
                shutil.copyfile(folder / DRAFT, making / "card.draft.old.toml")
            folder.replace(before)
        making.replace(folder)
        shutil.rmtree(before, ignore_errors=True)
    except BaseException:
        shutil.rmtree(making, ignore_errors=True)
        raise
    return card


def _begun(draft: Draft, name: str, files: Mapping[str, Any]) -> dict[str, Any]:
    """Give the draft's tables in a card's order, with the name and the pinned files."""
    read = copy.deepcopy(dict(draft.card))
    runtime = dict(read.pop("runtime", {}))
    return {
        "schema_version": cards.SCHEMA_VERSION,
        "model": {"name": name, **{key: part for key, part in read.pop("model", {}).items() if key != "name"}},
        "runtime": {"format": runtime.pop("format", draft.format), "files": dict(files), **runtime},
        **read,
    }


def _with(card: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Put a human's values into a card's tables, and colours where labels have none.

    Raises BadCard where a value is none of a card's, or is wrong there.
    """
    filled = copy.deepcopy(dict(card))
    for key, new in values.items():
        keys.put(filled, key, new)
    for number, label in enumerate(keys.value(filled, "output.labels") or ()):
        if isinstance(label, dict):
            label.setdefault("cielab", list(COLOURS[number % len(COLOURS)]))
    filled = {key: filled[key] for key in sorted(filled, key=lambda key: ORDER.index(key) if key in ORDER else len(ORDER))}
    try:
        Card.model_validate(filled)
    except ValidationError as error:
        wrong = [
            f"{at}: {faults.said(fault, Card)}"
            for fault in error.errors()
            if _is_told(at := keys.named(filled, fault["loc"]), fault, values)
        ]
        if wrong:
            raise BadCard("; ".join(wrong)) from None
    return filled


def _is_told(at: str, fault: ErrorDetails, values: Mapping[str, Any]) -> bool:
    """Tell a fault of a human's own words from what is only not there yet."""
    absent = fault["type"] == "missing" and not isinstance(fault["loc"][-1], int)  # the third of three numbers is not absent, but wrong
    if absent or (fault["type"] == "too_short" and fault["input"] != []):  # entries that lack a key do not count as entries
        return False
    contradicts = fault["type"] == "value_error" and any(key.startswith(f"{at}.") for key in values)
    return contradicts or any(at == key or at.startswith(f"{key}.") for key in values)


def _said(card: Mapping[str, Any], wish: Wish) -> dict[str, Any]:
    """Give all that the wish says of a card, in the order in which it is put there; the human's own words stand."""
    said = wish.complete(_with(card, wish.values))
    return {**wish.values, **{key: new for key, new in said.items() if key not in wish.values}}


def _place(source: Source, folder: Path) -> str:
    """Write one file to its place below the folder, and give its hash; raises BadCard."""
    path = (folder / source.place).resolve()
    if not path.is_relative_to(folder.resolve()):
        raise BadCard(f"{source.path}: its place {source.place!r} leaves the model's folder")
    path.parent.mkdir(parents=True, exist_ok=True)
    if source.pickled:
        path.write_bytes(conversion.convert(source.path).safetensors(once=source.tied))
    else:
        shutil.copyfile(source.path, path)
    return _sha256(path)


def _text(card: Mapping[str, Any], special: tuple[Missing, ...], propose: Propose) -> str:
    return f"{HEAD} {keys.value(card, 'model.name')}\n" + writing.toml(card, drafts.wanting(card, special), propose(card))


def _tables(folder: Path) -> dict[str, Any]:
    path = folder / (CARD if (folder / CARD).is_file() else DRAFT)
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise BadCard(f"{path}: {error}") from error


def _origin(folder: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads((folder / ORIGIN).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found


def _replace(path: Path, text: str) -> None:
    beside = path.with_suffix(".new")
    beside.write_text(text, encoding="utf-8")
    beside.replace(path)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
