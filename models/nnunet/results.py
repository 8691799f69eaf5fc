"""An nnU-Net v2 results folder on the disk, as training leaves it: plans, labels, and a checkpoint a fold."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from models.card import BadCard
from models.drafts import Source
from models.nnunet import plans as planning
from models.shelving import conversion

CHECKPOINTS = ("checkpoint_final.pth", "checkpoint_best.pth")


def is_one(path: Path) -> bool:
    """Tell a results folder."""
    return path.is_dir() and (path / "plans.json").is_file() and (path / "dataset.json").is_file()


def read(path: Path, prefix: str = "") -> tuple[dict[str, Any], dict[str, Source], list[str]]:
    """Give a results folder's options, its files by the names they get in runtime.files, and notes; raises BadCard."""
    files = {f"{prefix}{what}": Source(path=path / f"{what}.json", place=f"{prefix}{what}.json") for what in ("plans", "dataset")}
    options, folds, notes = _trained(path, prefix)
    plans, dataset = tables(path)
    try:
        before = planning.configuration(plans, dataset, options["configuration"]).previous
    except ValueError as error:
        raise BadCard(f"{path}: {error}") from None
    if before is not None:
        sibling = path.with_name("__".join([*path.name.split("__")[:-1], before]))
        if not is_one(sibling):
            raise BadCard(f"{path}: {options['configuration']} sees the labels of {before}, whose folder {sibling.name} must lie beside it")
        options["previous"], more, said = _trained(sibling, f"{prefix}previous_")
        folds |= more
        notes += said
    return {**options, "mirroring": bool(options["mirroring_axes"]), "step": 0.5}, files | folds, notes


def _trained(path: Path, prefix: str) -> tuple[dict[str, Any], dict[str, Source], list[str]]:
    """Read what every fold's checkpoint says of itself; they must agree."""
    found = {entry.name.removeprefix("fold_"): file for entry in sorted(path.glob("fold_*")) if (file := checkpoint(entry))}
    folds = {fold: file for fold, file in found.items() if fold.isdigit()} or {fold: file for fold, file in found.items() if fold == "all"}
    if not folds:
        raise BadCard(f"{path}: no fold_0 ... fold_4 or fold_all with {' or '.join(CHECKPOINTS)}; copy the trained folds too")
    said = []
    for file in folds.values():
        rest = conversion.convert(file, "network_weights").rest
        arguments = rest.get("init_args")
        if not isinstance(arguments, Mapping) or "configuration" not in arguments or "trainer_name" not in rest:
            raise BadCard(f"{file}: is no checkpoint of nnU-Net v2: it names no trainer and configuration")
        axes = [int(axis) for axis in rest.get("inference_allowed_mirroring_axes") or ()]
        said.append({"configuration": arguments["configuration"], "trainer": rest["trainer_name"], "mirroring_axes": axes})
    if any(entry != said[0] for entry in said):
        raise BadCard(f"{path}: the folds' checkpoints are of different trainings")
    files = {
        f"{prefix}fold_{fold}": Source(path=file, place=f"{prefix}fold_{fold}.safetensors", pickled=True, tied=True)
        for fold, file in folds.items()
        if file
    }
    notes = [f"fold {', '.join(folds)} of {path.name}"]
    notes += (
        ["no checkpoint_final.pth: the best checkpoint was taken"] if any(file.name == CHECKPOINTS[1] for file in folds.values()) else []
    )
    return {**said[0], "folds": list(folds)}, files, notes


def checkpoint(fold: Path) -> Path | None:
    """Find a fold's checkpoint: the last one, else the best."""
    return next((fold / name for name in CHECKPOINTS if (fold / name).is_file()), None)


def tables(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Read plans.json and dataset.json; raises BadCard."""
    try:
        return planning.read((path / "plans.json").read_bytes(), "plans.json"), planning.read(
            (path / "dataset.json").read_bytes(), "dataset.json"
        )
    except (OSError, ValueError) as error:
        raise BadCard(f"{path}: {error}") from None
