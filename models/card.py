"""The model card: one TOML file that says what a model is, takes and gives. Unknown keys are errors."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import re
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from models import faults
from models.vocabulary import Code

SCHEMA_VERSION = 1
STARTERS = Path(__file__).parent / "starter"
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9-]{0,31}$")]
Ascii = Annotated[str, StringConstraints(pattern=r"^[\x20-\x7e]+$")]
Range = tuple[float, float]
# What a series may be told to be; "unknown": its header does not tell (node.traits reads it).
Orientation = Literal["axial", "coronal", "sagittal", "oblique", "unknown"]
Region = Literal[
    "head", "neck", "chest", "heart", "breast", "abdomen", "pelvis", "spine", "shoulder", "arm", "hip", "knee", "leg", "foot", "unknown"
]
Contrast = Literal["with", "without", "unknown"]
Phase = Literal["native", "arterial", "portal", "delayed", "unknown"]
Sequence = Literal["t1", "t2", "flair", "pd", "dwi", "adc", "swi", "angio", "perfusion", "functional", "map", "unknown"]
Kernel = Literal["soft", "sharp", "unknown"]
ROLES_MAX = 8
# Formats whose network takes one picture alone: a card of several roles would analyse a part of what it was given.
ONE_ROLE = frozenset({"deepbet", "lung-nodules"})


class BadCard(Exception):  # noqa: N818 -- reads as a verdict: raise BadCard
    """A card or the weights it names are wrong; the message names the file and the key."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class CodedConcept(_Part):
    """A code as the card writes it."""

    scheme: Ascii
    value: Ascii
    meaning: Annotated[Ascii, StringConstraints(max_length=64)]

    @property
    def code(self) -> Code:
        """Give the noun."""
        return Code(scheme=self.scheme, value=self.value, meaning=self.meaning)


class ModelPart(_Part):
    """Who the model is. `title` (at most 32 characters) is what a radiologist reads."""

    name: Name
    version: Annotated[Ascii, StringConstraints(max_length=16)]
    title: Annotated[Ascii, StringConstraints(max_length=32)]
    licence: Ascii
    intended_use: Ascii
    limits: tuple[Ascii, ...] = Field(min_length=1)


class WeightsFile(_Part):
    """One file of weights: relative to the card's folder, or inside an installed package's files."""

    path: str
    sha256: Sha256
    package: str | None = None


class RuntimePart(_Part):
    """What runs the model: a module of models/runtimes and what that format needs."""

    format: Name
    files: dict[str, WeightsFile] = Field(default_factory=dict)
    options: dict[str, Any] = Field(default_factory=dict)


Operator = Literal[
    "is", "is-not", "contains", "contains-not", "starts-with", "matches", "present", "absent", "above", "at-least", "below", "at-most"
]
NUMERIC = frozenset({"above", "at-least", "below", "at-most"})


def _texts(value: object) -> object:
    """Take one value or a list of them, words or numbers, as words."""
    parts = value if isinstance(value, list | tuple) else [value]
    if any(isinstance(part, bool) or not isinstance(part, str | int | float) for part in parts):
        return value
    return tuple(str(part) for part in parts)


class Condition(_Part):
    """One test on a header attribute by keyword; `node.conditions` judges it.

    Words compare without case, several values mean any of them. The four that compare sizes need a number.
    """

    tag: Annotated[str, StringConstraints(pattern=r"^[A-Za-z][A-Za-z0-9_]+$")]
    op: Operator = "is"
    value: Annotated[tuple[str, ...], BeforeValidator(_texts)] = ()

    @model_validator(mode="after")
    def _value_fits_operator(self) -> Condition:
        given = [part for part in self.value if part.strip()]
        if self.op in {"present", "absent"}:
            if given:
                raise ValueError(f"{self.op!r} takes no value")
        elif not given:
            raise ValueError(f"{self.op!r} needs a value")
        if self.op in NUMERIC and not (len(given) == 1 and re.fullmatch(r"\s*[-+]?\d+(\.\d+)?\s*", given[0])):
            raise ValueError(f"{self.op!r} needs one number")
        return self


class Accept(_Part):
    """What a series must be; an absent key accepts anything. Ranges are inclusive (low, high)."""

    modality: tuple[str, ...] = Field(min_length=1)
    sop_classes: tuple[str, ...] = ()
    body_part: tuple[str, ...] = ()
    description_any: tuple[str, ...] = ()
    description_none: tuple[str, ...] = ()
    image_type_any: tuple[str, ...] = ()
    image_type_none: tuple[str, ...] = ("LOCALIZER", "SECONDARY", "PROJECTION IMAGE", "MIP", "MINIP")
    region: tuple[Region, ...] = ()
    orientation: tuple[Orientation, ...] = ()
    sequence: tuple[Sequence, ...] = ()
    contrast: tuple[Contrast, ...] = ()
    phase: tuple[Phase, ...] = ()
    kernel: tuple[Kernel, ...] = ()
    view: tuple[Ascii, ...] = ()
    laterality: tuple[Literal["L", "R", "B", "unknown"], ...] = ()
    conditions: tuple[Condition, ...] = ()
    spacing_mm: Range | None = None
    slice_spacing_mm: Range | None = None
    extent_mm: Range | None = None
    slices: tuple[int, int] | None = None

    @model_validator(mode="after")
    def _ranges_rise(self) -> Accept:
        for key in ("spacing_mm", "slice_spacing_mm", "extent_mm", "slices"):
            low_high = getattr(self, key)
            if low_high is not None and low_high[0] > low_high[1]:
                raise ValueError(f"{key} runs from {low_high[0]:g} to {low_high[1]:g}: the low end comes first")
        return self


class Nearness(_Part):
    """Points lost for each unit away from the best value."""

    best: float = Field(ge=0)
    loses: float = Field(gt=0)


class Score(_Part):
    """Points for what a series is; of several that fit, the one with most is taken, then most slices, then the thinnest.

    A value that is not named earns nothing. `description` maps a word (any case, no accents) to points.
    """

    orientation: dict[Orientation, float] = Field(default_factory=dict)
    sequence: dict[Sequence, float] = Field(default_factory=dict)
    contrast: dict[Contrast, float] = Field(default_factory=dict)
    phase: dict[Phase, float] = Field(default_factory=dict)
    kernel: dict[Kernel, float] = Field(default_factory=dict)
    view: dict[Ascii, float] = Field(default_factory=dict)
    image_type: dict[str, float] = Field(default_factory=dict)
    description: dict[str, float] = Field(default_factory=dict)
    slice_spacing_mm: Nearness | None = None


class InputPart(_Part):
    """One role of a model's input; exactly one is the reference, whose grid results are on.

    `same_frame`: its series must lie in the reference's frame of reference, so that both can be laid over each other.
    """

    role: Name
    reference: bool = False
    same_frame: bool = False
    accept: Accept
    score: Score = Score()


class LabelPart(_Part):
    """One class: an organ (exclusive, in Prediction.labels) or a finding (numbered instances)."""

    index: int = Field(ge=1, le=255)
    label: Annotated[Ascii, StringConstraints(max_length=48)]
    kind: Literal["organ", "finding"]
    category: CodedConcept
    type: CodedConcept
    region: CodedConcept | None = None
    laterality: CodedConcept | None = None
    cielab: tuple[int, int, int]
    threshold: float | None = Field(default=None, ge=0, le=1)
    min_volume_ml: float = Field(default=0, ge=0)


class OutputPart(_Part):
    """What comes out, and how it returns to the source grid.

    labels: exclusive organs and numbered findings; masks: organs that may overlap; boxes: findings without voxels;
    scores: probabilities of the input as a whole.
    """

    kind: Literal["labels", "masks", "boxes", "scores"]
    inverse: Literal["scores-linear", "labels-nearest", "runtime"]
    labels: tuple[LabelPart, ...] = Field(min_length=1)


class MeasurementPart(_Part):
    """What is measured on which label; what an image cannot give is left out.

    A radiograph has no volume and no HU, and millimetres only where it is calibrated; of a box, diameters are its width and height.
    """

    label: int
    what: tuple[Literal["volume", "area", "diameters", "hu", "probability"], ...] = Field(min_length=1)


class EvaluationPart(_Part):
    """Figures, on which data, when; what can be claimed and what not."""

    date: str
    data: Ascii
    figures: dict[str, float | str] = Field(default_factory=dict)


class Card(_Part):
    """A whole card, as read."""

    schema_version: Literal[1]
    model: ModelPart
    runtime: RuntimePart
    inputs: tuple[InputPart, ...] = Field(min_length=1, max_length=ROLES_MAX)
    output: OutputPart
    measurements: tuple[MeasurementPart, ...] = ()
    evaluation: EvaluationPart | None = None

    @model_validator(mode="after")
    def _parts_agree(self) -> Card:
        indices = [label.index for label in self.output.labels]
        if len(set(indices)) != len(indices):
            raise ValueError("two output labels share an index")
        if sum(entry.reference for entry in self.inputs) != 1:
            raise ValueError("exactly one input must have reference = true")
        if len({entry.role for entry in self.inputs}) != len(self.inputs):
            raise ValueError("two inputs share a role")
        if self.runtime.format in ONE_ROLE and len(self.inputs) != 1:
            raise ValueError(f"runtime.format {self.runtime.format!r} reads one input, and the card has {len(self.inputs)}")
        for measurement in self.measurements:
            if measurement.label not in indices:
                raise ValueError(f"a measurement names label {measurement.label}, which the output does not have")
        return self

    @property
    def reference_role(self) -> str:
        """Give the role whose grid the results are on."""
        return next(entry.role for entry in self.inputs if entry.reference)

    def label(self, index: int) -> LabelPart:
        """Give the output label of that index; raises KeyError."""
        for label in self.output.labels:
            if label.index == index:
                return label
        raise KeyError(index)

    @property
    def finds(self) -> bool:
        """Tell whether the model looks for findings, so that "nothing found" is an answer."""
        return any(label.kind == "finding" for label in self.output.labels)


@dataclass(frozen=True, slots=True, kw_only=True)
class ShelvedCard:
    """A card and where it lies; `digest` covers every key and, through their sha256, the weights."""

    card: Card
    folder: Path
    digest: str

    @property
    def path(self) -> Path:
        """The card's file; of a model that waits for its check the draft."""
        draft = self.folder / "card.draft.toml"
        card = self.folder / "card.toml"
        return draft if draft.is_file() and not card.is_file() else card


def read(path: Path) -> ShelvedCard:
    """Read one card.toml; raises BadCard with the key at fault."""
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
        card = Card.model_validate(raw)
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise BadCard(f"{path}: {error}") from error
    except ValidationError as error:
        raise BadCard(f"{path}: {faults.listed(error, Card)}") from None
    canonical = json.dumps(card.model_dump(mode="json", exclude={"evaluation"}), sort_keys=True, separators=(",", ":"))
    return ShelvedCard(card=card, folder=path.parent, digest=hashlib.sha256(canonical.encode()).hexdigest())


def discover(folders: Iterable[Path]) -> dict[str, ShelvedCard]:
    """Read every */card.toml below the folders, by model name; raises BadCard, also where two share a name."""
    found: dict[str, ShelvedCard] = {}
    for folder in folders:
        for path in sorted(folder.glob("*/card.toml")):
            shelved = read(path)
            name = shelved.card.model.name
            if name in found:
                raise BadCard(f"{path}: the name {name!r} is taken by {found[name].folder}")
            found[name] = shelved
    return found


def runtime_of(shelved: ShelvedCard) -> str:
    """Give the module that runs a card's format, without importing it; raises BadCard where this node has none."""
    module = "models.runtimes." + shelved.card.runtime.format.replace("-", "_")
    if importlib.util.find_spec(module) is None:
        raise BadCard(f"{shelved.path}: runtime.format {shelved.card.runtime.format!r} is not one this node has")
    return module


def folders(directory: Path | None, *, starters: bool) -> list[Path]:
    """Give the folders to look for cards in: the project's starters and the site's own."""
    return ([STARTERS] if starters else []) + ([directory] if directory else [])


def ascii_only(text: str) -> str:
    """Give text fit for an object's own words: printable ASCII."""
    return re.sub(r"[^\x20-\x7e]", "?", text)
