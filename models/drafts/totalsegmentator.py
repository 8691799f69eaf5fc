"""TotalSegmentator's task "total": the folder of its nnU-Net results, several parts or one, becomes a whole card."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from models.card import BadCard
from models.drafts import Draft, Source
from models.nnunet import classes, plans, results

ANYWHERE = [
    "head",
    "neck",
    "chest",
    "heart",
    "breast",
    "abdomen",
    "pelvis",
    "spine",
    "shoulder",
    "arm",
    "hip",
    "knee",
    "leg",
    "foot",
    "unknown",
]
LIMITS = [
    "Research and integration only: not a medical device.",
    "Every contour must be checked by a physician.",
    "Trained on CT of adults; lesions, implants and operations may displace what is marked.",
]


def recognise(path: Path) -> bool:
    """Tell results folders whose plans name TotalSegmentator's datasets and whose labels are all among its 117 classes."""
    found = parts(path)
    try:
        return bool(found) and all(_is_part(part) for part in found)
    except BadCard:
        return False


def parts(path: Path) -> list[Path]:
    """Find the results folders: the path itself, else those one or two folders below, by their datasets' names."""
    if results.is_one(path):
        return [path]
    return sorted(folder for pattern in ("*", "*/*") for folder in path.glob(pattern) if results.is_one(folder)) if path.is_dir() else []


def _is_part(path: Path) -> bool:
    given, dataset = results.tables(path)
    labels = dataset.get("labels")
    if "TotalSegmentator" not in str(given.get("dataset_name", "")) or not isinstance(labels, dict):
        return False
    return set(labels) - {"background"} <= set(classes.numbers())


def draft(path: Path) -> Draft:
    """Read every part; the card lacks nothing, because the classes and their codes are known. Raises BadCard."""
    options: list[dict[str, Any]] = []
    files: dict[str, Source] = {}
    notes: list[str] = []
    numbers: set[int] = set()
    spacings: set[tuple[float, ...]] = set()
    for folder in parts(path):
        given, dataset = results.tables(folder)
        name = _name(str(given["dataset_name"]))
        if name in {part["name"] for part in options}:
            raise BadCard(f"{path}: two results folders of {given['dataset_name']}; leave one of each part there")
        part, more, said = results.read(folder, f"{name}_")
        try:
            heads = plans.heads(dataset)
            spacings.add(plans.configuration(given, dataset, part["configuration"]).spacing_mm)
        except ValueError as error:
            raise BadCard(f"{folder}: {error}") from None
        options.append({"name": name, **part})
        files |= more
        notes += said
        numbers |= {classes.numbers()[label] for value, label in heads.names.items() if value}
    lacking = [entry for entry, number in classes.numbers().items() if number not in numbers]
    notes += [f"of the task's 117 classes {len(lacking)} are in no part here: {', '.join(lacking)}"] if lacking else []
    words = {" x ".join(f"{step:g}" for step in spacing) for spacing in spacings}
    return Draft(
        format="totalsegmentator",
        card=_card(options, sorted(numbers), _resampling(spacings)),
        files=files,
        notes=(f"{len(numbers)} classes in {len(options)} parts, trained at {', '.join(sorted(words))} mm", *notes),
    )


def _name(dataset: str) -> str:
    """Name a part. Example: Dataset291_TotalSegmentator_part1_organs_1559subj becomes part1organs."""
    words = re.sub(r"^Dataset\d+_|_\d+subj.*$|TotalSegmentator", "", dataset)
    return re.sub(r"[^a-z0-9]", "", words.lower()) or "all"


def _resampling(spacings: set[tuple[float, ...]]) -> dict[str, Any]:
    """Say how TotalSegmentator itself brings images to its parts' spacing, where they have one and the same along all axes."""
    if len({step for spacing in spacings for step in spacing}) != 1:
        return {}
    return {"resample_mm": next(iter(spacings))[0], "resample_order": 1}


def _card(options: list[dict[str, Any]], numbers: list[int], resampling: dict[str, Any]) -> dict[str, Any]:
    labels = [classes.label(number) for number in numbers]
    return {
        "model": {
            "version": "2",
            "title": f"TotalSegmentator {len(labels)} structures",
            "licence": "Apache-2.0",
            "intended_use": "Marks organs, bones, muscles and vessels on CT, with their volumes, for research and integration.",
            "limits": LIMITS,
        },
        "runtime": {"format": "totalsegmentator", "options": {"orientation": "SAR", **resampling, "parts": options}},
        "inputs": [{"role": "ct", "reference": True, "accept": {"modality": ["CT"], "region": ANYWHERE, "slice_spacing_mm": [0.3, 7.5]}}],
        "output": {"kind": "labels", "inverse": "runtime", "labels": labels},
        "measurements": [{"label": number, "what": ["volume"]} for number in numbers],
    }
