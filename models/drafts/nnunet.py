"""An nnU-Net v2 results folder, as training leaves it: TRAINER__PLANS__CONFIGURATION with plans, labels and folds."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from models.card import BadCard
from models.drafts import Draft, Missing, totalsegmentator
from models.nnunet import plans as planning
from models.nnunet import results

MODALITIES = {
    "CT": {"ct"},
    "MR": {"mr", "mri", "t1", "t1w", "t1c", "t1ce", "t1gd", "t1n", "t2", "t2w", "t2f", "flair", "adc", "dwi"},
    "PT": {"pt", "pet"},
}
ORIENTATION = Missing(
    key="runtime.options.orientation",
    what='where z, y and x of the training images grow: "SAR" (NIfTI in canonical order), "SPL" (as DICOM slices lie) or "as-stored"',
    why="plans do not tell how the training's files lay, and a network that was not taught to mirror takes left for right",
)


def recognise(path: Path) -> bool:
    """Tell a results folder by its plans and labels, also by the folder of its dataset; one of TotalSegmentator's tasks is not of it.

    A folder of nnU-Net v1 is recognised too, to say what to do with it.
    """
    return bool(_folders(path) or _is_first_version(path)) and not totalsegmentator.recognise(path)


def _folders(path: Path) -> list[Path]:
    if results.is_one(path):
        return [path]
    return sorted(folder for folder in path.iterdir() if results.is_one(folder)) if path.is_dir() else []


def _is_first_version(path: Path) -> bool:
    return path.is_dir() and (path / "plans.pkl").is_file() and any(path.glob("fold_*"))


def draft(path: Path) -> Draft:
    """Read plans, labels and what the checkpoints say of themselves; raises BadCard."""
    folders = _folders(path)
    if not folders:
        raise BadCard(f"{path}: a model of nnU-Net v1 (plans.pkl); it must be trained anew, or converted, with nnU-Net v2")
    if len(folders) > 1:
        raise BadCard(f"{path}: holds several results folders; give one of {', '.join(folder.name for folder in folders)}")
    path = folders[0]
    options, files, notes = results.read(path)
    plans, dataset = results.tables(path)
    try:
        plan = planning.configuration(plans, dataset, options["configuration"])
        heads = planning.heads(dataset)
    except ValueError as error:
        raise BadCard(f"{path}: {error}") from None
    if plan.orientation is not None:
        options["orientation"] = plan.orientation
    labels = [{"index": value, "label": words(name)} for value, name in sorted(heads.names.items()) if value]
    if heads.regions:
        notes.append("labels are regions: each voxel has the last of them, in regions_class_order, that it lies in")
    return Draft(
        format="nnunet",
        card={
            "runtime": {"format": "nnunet", "options": options},
            "inputs": inputs(plan),
            "output": {"kind": "labels", "inverse": "runtime", "labels": labels},
            "measurements": [{"label": label["index"], "what": ["volume"]} for label in labels],
        },
        files=files,
        missing=() if plan.orientation else (ORIENTATION,),
        notes=(f"trained at {' x '.join(f'{step:g}' for step in plan.spacing_mm)} mm, {options['configuration']}", *notes),
    )


def inputs(plan: planning.Plans) -> list[dict[str, Any]]:
    """Give one input a channel, in the network's order, the first being the reference."""
    parts: list[dict[str, Any]] = []
    for number, channel in enumerate(plan.channels):
        role = re.sub(r"[^a-z0-9]+", "-", channel.name.lower()).strip("-")[:28] or "image"
        role = f"{role}-{number}" if role in {part["role"] for part in parts} else role
        known = [name for name, terms in MODALITIES.items() if set(re.split(r"[^a-z0-9]+", channel.name.lower())) & terms]
        if channel.scheme == "CTNormalization":
            known = ["CT"]
        part: dict[str, Any] = {"role": role, "reference": number == 0}
        part |= {"same_frame": True} if number else {}
        parts.append({**part, "accept": {"modality": known} if len(known) == 1 else {}})
    return parts


def words(name: str) -> str:
    """Make of a label's name in dataset.json one for people. Example: "liver_tumor" becomes "Liver tumor"."""
    text = re.sub(r"[^\x20-\x7e]", "?", name.replace("_", " ")).strip()[:48] or "?"
    return text[0].upper() + text[1:]
