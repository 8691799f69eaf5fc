"""What can be read from the files of a model that a site brings: a card's draft, and what a human must still say.

Each module here reads one format: `recognise(path) -> bool` tells whether a file or folder is of it, cheaply and without an
error; `draft(path) -> Draft` reads it, raising BadCard. Nothing that is read is ever run.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from models.card import BadCard
from models.shelving import archives, keys


@dataclass(frozen=True, slots=True, kw_only=True)
class Missing:
    """One key of the card that no file can tell.

    key      dotted as models.shelving.keys reads it: "model.licence", "inputs.ct.accept.modality", "output.labels.3.type"
    what     what to write there, with an example
    why      what it is for
    instead  keys of which one that is there does as well
    """

    key: str
    what: str
    why: str
    instead: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """One file that goes into the model's folder and is pinned in the card by its hash.

    path     where it lies now
    place    where it will lie, relative to the model's folder, with slashes
    pickled  a checkpoint whose tensors are written as safetensors instead (models.shelving.conversion), so `place` ends in .safetensors
    tied     of such a checkpoint: names of one tensor are written once, because the runtime's network has them tied
    """

    path: Path
    place: str
    pickled: bool = False
    tied: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """What a format's module could read.

    card     the card's tables as plain data, as TOML would give them, with what was read and nothing that was guessed;
             without runtime.files, which is made of `files`
    missing  what this format needs beyond the keys that every card needs (`wanting`)
    files    by the name they get in runtime.files
    notes    sentences for the human: what was read from where, what could not be honoured
    """

    format: str
    card: Mapping[str, Any]
    files: Mapping[str, Source]
    missing: tuple[Missing, ...] = ()
    notes: tuple[str, ...] = field(default=())


def formats() -> tuple[str, ...]:
    """Name the formats that can be read, as modules of this folder."""
    return tuple(sorted(entry.name for entry in pkgutil.iter_modules(__path__)))


def inspect(path: Path) -> Draft:
    """Read a file or folder that a site brings; raises BadCard where it is of no format, or of several.

    The draft's `missing` is all that a human must say, the keys of every card first.
    """
    if not path.exists():
        raise BadCard(f"{path}: there is no such file or folder")
    readers = {name: importlib.import_module(f"{__name__}.{name}") for name in formats()}
    fits = [name for name, reader in readers.items() if reader.recognise(path)]
    if not fits and archives.is_cut(path):
        raise BadCard(f"{path}: the file ends early, as a copy that was broken off does; copy it again and compare its size")
    if not fits:
        raise BadCard(
            f"{path}: of no format this node reads ({', '.join(formats()).replace('_', '-')}); give the model's own folder or file"
        )
    if len(fits) > 1:
        raise BadCard(f"{path}: may be {' or '.join(fits)}; give the one file or folder that is the model")
    draft: Draft = readers[fits[0]].draft(path)
    return replace(draft, missing=wanting(draft.card, draft.missing))


INPUT = """one of these for each series it reads:
[[inputs]]
role = "ct"
reference = true
accept = { modality = ["CT"], region = ["abdomen", "unknown"] }"""
LABELS = """one of these for each class:
[[output.labels]]
index = 1
label = "Liver"
kind = "organ"
category = { scheme = "SCT", value = "91723000", meaning = "Anatomical Structure" }
type = { scheme = "SCT", value = "10200004", meaning = "Liver" }
cielab = [50, 20, 20]"""
EVERY = (
    Missing(key="model.name", what='a-z, 0-9 and hyphens, at most 32: "liver-ct"', why="rules and results name the model by it"),
    Missing(key="model.version", what='at most 16 characters: "1.0"', why="results carry it"),
    Missing(key="model.title", what='at most 32 characters: "Liver on CT"', why="a radiologist reads it beside every result"),
    Missing(key="model.licence", what='of network and weights: "Apache-2.0"', why="whether a hospital may use it"),
    Missing(key="model.intended_use", what="one sentence: what it marks, on which images, for whom", why="every report carries it"),
    Missing(key="model.limits", what='sentences: ["Not for children."]', why="nobody may take a result for more than it is"),
    Missing(
        key="output.kind",
        what='"labels" (classes exclude each other), "masks" (they may overlap), "boxes" or "scores"',
        why="how results are written",
    ),
    Missing(
        key="output.inverse",
        what='"scores-linear", "labels-nearest" or "runtime"',
        why="how classes return to the voxels of the images",
    ),
)
ACCEPT = (
    Missing(key="modality", what='["CT"]', why="which series it is given"),
    Missing(
        key="region",
        what='["abdomen", "unknown"]; "unknown" also takes series whose header does not tell',
        why="else it is run on every part of the body",
    ),
)
LABEL = (
    Missing(key="label", what='at most 48 characters: "Liver"', why="the segment's name in the viewer"),
    Missing(key="kind", what='"organ" or "finding"', why='of findings "nothing found" is reported, and each is numbered'),
    Missing(
        key="category",
        what='{ scheme = "SCT", value = "91723000", meaning = "Anatomical Structure" }',
        why="viewers and archives sort segments by it",
    ),
    Missing(
        key="type",
        what='{ scheme = "SCT", value = "10200004", meaning = "Liver" }',
        why="what it is, for machines: a wrong code is a wrong result",
    ),
)


_OPTIONS = "runtime.options"
_BOTH = f"{_OPTIONS}.first"  # of two networks, each has all these keys for itself
WINDOWED = (
    Missing(
        key=f"{_OPTIONS}.spacing_mm",
        what="[z, y, x], 0 where the images' own is kept: [1.5, 1.5, 1.5]",
        why="the network has learnt at this spacing",
        instead=(f"{_OPTIONS}.size", _BOTH),
    ),
    Missing(
        key=f"{_OPTIONS}.orientation",
        what='where z, y and x indices grow, as three of L R P A S I: "SPL"',
        why="the network has learnt in this orientation",
        instead=(_BOTH,),
    ),
    Missing(
        key=f"{_OPTIONS}.intensity",
        what='the input values that become 0 and 1: { low = -1000.0, high = 400.0 }; or { form = "z-score" } and others',
        why="the network has learnt on such values",
        instead=(_BOTH,),
    ),
    Missing(
        key=f"{_OPTIONS}.window",
        what="[z, y, x] voxels: [96, 96, 96]; or size, or multiple_of",
        why="how much it sees at once",
        instead=(f"{_OPTIONS}.size", f"{_OPTIONS}.multiple_of", _BOTH),
    ),
    Missing(
        key=f"{_OPTIONS}.organ_channels",
        what="of one softmax, none first, then the organ labels in order: [0, 1]; or mask_channels, findings, centres, rows, scores",
        why="which channel means which label",
        instead=(*(f"{_OPTIONS}.{key}" for key in ("mask_channels", "findings", "centres", "rows", "scores")), _BOTH),
    ),
)
"""What a network alone does not tell: how its input is made, and what its channels mean."""


def wanting(card: Mapping[str, Any], special: Sequence[Missing] = ()) -> tuple[Missing, ...]:
    """List the keys that every card needs, and the special ones of its format, that this one has not; a special entry goes first."""
    wanted = list(EVERY)
    inputs, labels = keys.value(card, "inputs"), keys.value(card, "output.labels")
    if not inputs:
        wanted.append(Missing(key="inputs", what=INPUT, why="which series it is given"))
    for part in inputs or ():
        wanted += [replace(entry, key=f"inputs.{part['role']}.accept.{entry.key}") for entry in ACCEPT]
    if not labels:
        wanted.append(Missing(key="output.labels", what=LABELS, why="what the classes are"))
    for part in labels or ():
        wanted += [replace(entry, key=f"output.labels.{part['index']}.{entry.key}") for entry in LABEL]
    by_key = {entry.key: entry for entry in (*wanted, *special)}
    return tuple(entry for entry in by_key.values() if all(keys.value(card, key) is None for key in (entry.key, *entry.instead)))
