"""A MONAI bundle in the model-zoo's layout: what its metadata tells, and what of its configuration could not be honoured."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from models.card import ROLES_MAX, BadCard, ascii_only
from models.drafts import Draft, Missing, Source
from models.shelving import conversion, keys

INFERENCE = ("configs/inference.json", "configs/inference.yaml", "configs/inference.yml")
WEIGHTS = ("models/model.safetensors", "models/model.pt", "models/model.ts")
MODALITIES = {"CT": "CT", "MR": "MR", "MRI": "MR", "PET": "PT", "PT": "PT", "XR": "DX", "DX": "DX", "CR": "CR", "MG": "MG", "US": "US"}
ORIENTATION = Missing(
    key="runtime.options.orientation",
    what='where z, y and x of its training images grew: "SAR" for NIfTI in canonical order; "as-stored" for as the series comes',
    why="its preprocessing has no Orientationd, so it sees the images as they are given to it",
)
INVERSE = Missing(
    key="output.inverse",
    what='"scores-linear" (scores are interpolated, then cut to classes) or "labels-nearest"',
    why="the bundle has no Invertd, so its result is returned to the voxels of the images here",
)
SCRIPTS = Missing(
    key="runtime.options.allow_scripts",
    what="true, once you have read the bundle's own code in scripts/; it runs as any Python does",
    why="the bundle builds parts of itself from code of its own, which is pinned here and not held back by anything",
)
THRESHOLD = Missing(
    key="output.labels.1.threshold",
    what="the least score of a box that is reported, not below the bundle's score_thresh: 0.5",
    why="a detector gives boxes of every score",
)
LICENCE = "of network and weights: "


def recognise(path: Path) -> bool:
    """Tell a bundle's folder by its two configurations."""
    return (path / "configs/metadata.json").is_file() and _first(path, INFERENCE) is not None


def _first(path: Path, names: tuple[str, ...]) -> str | None:
    return next((name for name in names if (path / name).is_file()), None)


def draft(path: Path) -> Draft:
    """Read metadata, inference configuration and weights; raises BadCard where one is missing or cannot be read."""
    # These import MONAI, which takes seconds; a file of another format shall not wait for it.
    from models.runtimes.monai_bundle import detectors, reading, sections  # noqa: PLC0415

    inference, weights = _first(path, INFERENCE), _first(path, WEIGHTS)
    if inference is None or weights is None:
        raise BadCard(f"{path}: a bundle needs one of {', '.join(WEIGHTS)}")
    try:
        metadata = reading.parse((path / "configs/metadata.json").read_bytes(), "configs/metadata.json")
        config = {"_meta_": metadata, **reading.parse((path / inference).read_bytes(), inference)}
        detects = detectors.is_one(config)
        facts = reading.facts(metadata, detectors.classes(config) if detects else None)
    except ValueError as error:
        raise BadCard(f"{path}: {error}") from None
    made, faults = detectors.prepared(config) if detects else (config, [])
    faults += sections.needed({**made, "device": "cpu"}, network=not weights.endswith(".ts"))[1]
    steps = [str(step.get("_target_", "")) for name in ("preprocessing", "postprocessing") for step in _steps(config.get(name))]
    card: dict[str, Any] = {
        "model": _model(path, metadata),
        "runtime": {"format": "monai-bundle", "options": _options({} if detects else facts.channel_def, metadata)},
        "inputs": _inputs(metadata),
        "output": _boxes(facts.channel_def) if detects else _output(metadata, config, facts.channel_def, steps),
    }
    missing = [Missing(key="model.licence", what=_licence(path, metadata), why="whether a hospital may use it")]
    missing += [] if any("Orientation" in step for step in steps) or len(facts.shape) == 2 else [ORIENTATION]
    missing += [] if keys.value(card, "output.inverse") else [INVERSE]
    missing += _thresholds(facts.channel_def) if detects else []
    missing += [SCRIPTS] if (own := _scripts(path, faults)) else []
    return Draft(
        format="monai-bundle",
        card=card,
        files={**_files(path, inference, weights), **own},
        missing=tuple(entry for entry in missing if keys.value(card, entry.key) is None),
        notes=(
            _told(facts.inputs, facts.channel_def, detects=detects),
            *(f"cannot be honoured: {fault}" for fault in [*sections.loop_faults(config), *faults]),
        ),
    )


def _files(path: Path, inference: str, weights: str) -> dict[str, Source]:
    pickled = conversion.is_pickled(path / weights)
    return {
        "metadata": Source(path=path / "configs/metadata.json", place="configs/metadata.json"),
        "inference": Source(path=path / inference, place=inference),
        "weights": Source(path=path / weights, place="models/model.safetensors" if pickled else weights, pickled=pickled),
    }


def _scripts(path: Path, faults: list[str]) -> dict[str, Source]:
    """Pin all of a bundle's own code where a needed part of it names some."""
    if not any(" scripts." in fault for fault in faults):
        return {}
    found = sorted((path / "scripts").rglob("*.py"))
    return {f"script_{number}": Source(path=file, place=file.relative_to(path).as_posix()) for number, file in enumerate(found)}


def _steps(section: Any) -> Iterator[Mapping[str, Any]]:
    """Give what a section builds, all levels of it."""
    if isinstance(section, Mapping):
        if "_target_" in section:
            yield section
        for part in section.values():
            yield from _steps(part)
    elif isinstance(section, list):
        for part in section:
            yield from _steps(part)


def _model(path: Path, metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Give what a bundle says of itself; its own words are kept, cut to a card's length."""
    title = ascii_only(str(metadata.get("name") or path.resolve().name))
    name = re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")[:32].strip("-")
    model = {"name": name, "version": ascii_only(str(metadata["version"]))[:16], "title": title[:32].strip()}
    if metadata.get("license"):
        model["licence"] = ascii_only(str(metadata["license"]))
    if metadata.get("intended_use"):
        model["intended_use"] = ascii_only(" ".join(str(metadata["intended_use"]).split()))
    return model


def _licence(path: Path, metadata: Mapping[str, Any]) -> str:
    """Ask for the licence, with what the bundle says of it: its copyright and the first line of its LICENSE."""
    told = [str(metadata["copyright"])] if metadata.get("copyright") else []
    file = path / "LICENSE"
    if file.is_file():
        lines = file.read_text(encoding="utf-8", errors="replace").split("\n")
        told += [next((f"LICENSE begins: {line.strip()}" for line in lines if line.strip()), "")]
    return LICENCE + (ascii_only("; ".join(told)) if told else '"Apache-2.0"')


def _image(metadata: Mapping[str, Any]) -> Mapping[str, Any]:
    found: Mapping[str, Any] = metadata["network_data_format"]["inputs"]["image"]
    return found


def _roles(metadata: Mapping[str, Any]) -> list[str]:
    """Name a role for each channel, by what the metadata calls it."""
    image = _image(metadata)
    count = int(image["num_channels"])
    modality = MODALITIES.get(str(image.get("modality", "")).upper(), "image").lower()
    if count == 1:
        return [modality]
    told: Mapping[str, Any] = image["channel_def"] if isinstance(image.get("channel_def"), Mapping) else {}
    names = [re.sub(r"[^a-z0-9]+", "-", str(told.get(str(channel), "")).lower()).strip("-")[:32] for channel in range(count)]
    if count > ROLES_MAX or len(set(names)) != count or not all(names):
        return []
    return names


def _inputs(metadata: Mapping[str, Any]) -> list[dict[str, Any]]:
    modality = MODALITIES.get(str(_image(metadata).get("modality", "")).upper())
    accept = {"modality": [modality]} if modality else {}
    return [
        {"role": role, "reference": number == 0, **({"same_frame": True} if number else {}), "accept": dict(accept)}
        for number, role in enumerate(_roles(metadata))
    ]


def _options(channel_def: Mapping[int, str], metadata: Mapping[str, Any]) -> dict[str, Any]:
    options: dict[str, Any] = {}
    indices = _indices(channel_def)
    if any(index != channel for index, channel in indices.items()):
        options["channels"] = {str(index): channel for index, channel in indices.items()}
    roles = _roles(metadata)
    return {**options, **({"keys": {"image": roles}} if len(roles) > 1 else {})}


def _indices(channel_def: Mapping[int, str]) -> dict[int, int]:
    """Give a label index for each channel but background: the channel itself, or one more where channel 0 is a class.

    Example: background and spleen give 1 -> 1; core and whole give 1 -> 0 and 2 -> 1.
    """
    background = channel_def.get(0, "").lower() == "background"
    return {channel + (0 if background else 1): channel for channel in channel_def if not (background and channel == 0)}


def _told(inputs: int, channel_def: Mapping[int, str], *, detects: bool) -> str:
    if detects:
        return f"{inputs} channels in; a detector of {len(channel_def)} classes, whose boxes become findings"
    return f"{inputs} channels in, {len(channel_def)} out: " + ", ".join(f"{key} {name}" for key, name in channel_def.items())


def _thresholds(channel_def: Mapping[int, str]) -> list[Missing]:
    return [replace(THRESHOLD, key=f"output.labels.{number + 1}.threshold") for number in channel_def]


def _boxes(channel_def: Mapping[int, str]) -> dict[str, Any]:
    """Give a detector's output: a label of kind finding for each class, with the name that the bundle has for it, if any."""
    named = {number + 1: {"label": ascii_only(name)[:48]} if name else {} for number, name in channel_def.items()}
    return {"kind": "boxes", "inverse": "runtime", "labels": [{"index": index, **name, "kind": "finding"} for index, name in named.items()]}


def _output(metadata: Mapping[str, Any], config: Mapping[str, Any], channel_def: Mapping[int, str], steps: list[str]) -> dict[str, Any]:
    pred = metadata["network_data_format"]["outputs"]["pred"]
    output: dict[str, Any] = {}
    cuts = [step for step in _steps(config.get("postprocessing")) if "AsDiscrete" in str(step.get("_target_"))]
    if "classification" in str(pred.get("format", "")).lower():
        output = {"kind": "scores", "inverse": "runtime"}
    elif any(step.get("argmax") for step in cuts):
        output = {"kind": "labels"}
    elif any(step.get("threshold") is not None for step in cuts):
        output = {"kind": "masks"}
    if any("Invert" in step for step in steps):
        output["inverse"] = "runtime"
    labels = [{"index": index, "label": ascii_only(channel_def[channel])[:48]} for index, channel in _indices(channel_def).items()]
    return {**output, "labels": labels}
