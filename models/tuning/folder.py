"""The tuned model as a folder: weights, a card that pins them, and how it came about; nothing in it tells of a patient."""

from __future__ import annotations

import copy
import hashlib
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import nn

from models import whole
from models.card import ShelvedCard
from models.shelving import shelf, writing

FILES = {"lungs": "lungs.safetensors", "nodules": "nodules.safetensors"}
TITLE = " tuned"


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuned:
    """What a training gave: the weights by part, the fitted (a, b) or None for the base's, and words for the card.

    history  what goes into the card's figures beside the measures: base, cases, seed, steps
    """

    name: str
    base: ShelvedCard
    weights: Mapping[str, bytes]
    calibration: tuple[float, float] | None
    limits: tuple[str, ...]
    history: Mapping[str, float | str]


def weights_of(network: nn.Module) -> bytes:
    """Give a network's weights as safetensors, kernels in half precision as the starter's are."""
    tensors = {name: value.detach().cpu().contiguous() for name, value in network.state_dict().items()}
    return safetensors.torch.save({name: value.half() if value.dim() > 1 else value for name, value in tensors.items()})


def card_of(tuned: Tuned) -> dict[str, Any]:
    """Give the card's tables: the base's, with the name, version, limits, weights and probability of the tuned model.

    The version is the base's and the start of the weights' hash, so that two trainings are never taken for each other.
    """
    raw: dict[str, Any] = copy.deepcopy(tomllib.loads(tuned.base.path.read_text(encoding="utf-8")))
    hashes = {part: hashlib.sha256(content).hexdigest() for part, content in tuned.weights.items()}
    whole = hashlib.sha256("".join(hashes[part] for part in sorted(hashes)).encode()).hexdigest()
    model = raw["model"]
    model["name"] = tuned.name
    model["version"] = f"{model['version'].split('-')[0][:7]}-{whole[:8]}"
    model["title"] = f"{model['title'].removesuffix(TITLE)[: 32 - len(TITLE)]}{TITLE}"
    model["limits"] = [*(words for words in model["limits"] if "generated thoraxes only" not in words), *tuned.limits]
    raw["runtime"]["files"] = {part: {"path": FILES[part], "sha256": hashes[part]} for part in FILES}
    if tuned.calibration is not None:
        raw["runtime"]["options"]["nodules"]["calibration"] = list(tuned.calibration)
    raw.pop("evaluation", None)
    return raw


def write(folder: Path, tuned: Tuned) -> Path:
    """Write weights and a draft of the card; give the draft's path. A card that was there goes: it is another model's.

    Raises OSError; until all of the new model is on the disk, what was there stays.
    """
    folder.mkdir(parents=True, exist_ok=True)
    contents = {FILES[part]: content for part, content in tuned.weights.items()} | {shelf.DRAFT: _text(card_of(tuned), "")}
    whole.write_all(folder, contents, lambda: (folder / shelf.CARD).unlink(missing_ok=True))
    return folder / shelf.DRAFT


def finish(folder: Path, evaluation: Mapping[str, Any], *, better: bool, limit: str = "") -> Path:
    """Enter what was measured; a model that is better becomes a card, another stays a draft that says so. Give the file's path."""
    draft = folder / shelf.DRAFT
    raw = tomllib.loads(draft.read_text(encoding="utf-8"))
    if limit:
        raw["model"]["limits"].append(limit)
    raw["evaluation"] = dict(evaluation)
    if not better:
        whole.write(draft, _text(raw, f"{shelf.HEAD}\n# It was not clearly better than its base on the cases held out.\n"))
        return draft
    whole.write(draft, _text(raw, ""))
    draft.replace(folder / shelf.CARD)
    return folder / shelf.CARD


def _text(raw: Mapping[str, Any], head: str) -> bytes:
    return (head + writing.toml(raw, (), {})).encode()
