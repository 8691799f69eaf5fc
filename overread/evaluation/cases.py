"""The layout of a data folder: one folder a case.

DATA/CASE/image.nii.gz          or image/, a folder of DICOM files; a model of several inputs: image-ROLE.nii.gz each
DATA/CASE/labels.nii.gz         values are the card's label indices; or labels.dcm, a DICOM SEG, by its segments' labels
DATA/CASE/findings.nii.gz       each lesion with a number of its own; or findings.csv, points or boxes in LPS mm
DATA/labels.toml                optional: "13" = 1 says that value 13 of the labels is the card's label 1; 0 leaves it out
"""

from __future__ import annotations

import hashlib
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from models.card import Card
from node.errors import Misconfigured, Refused
from overread.nifti import SUFFIXES


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One case's files. `images` is one file a role, or one folder of DICOM files under "" for all roles."""

    name: str
    images: Mapping[str, Path]
    labels: Path | None
    findings: Path | None

    @property
    def fingerprint(self) -> str:
        """Name the images by path, size and time, so that a kept prediction is not taken for other images."""
        lines = []
        for role, path in sorted(self.images.items()):
            for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
                if file.is_file():
                    facts = file.stat()
                    lines.append(f"{role} {file.name} {facts.st_size} {facts.st_mtime_ns}")
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def find(data: Path) -> list[Path]:
    """List the folders of the cases by name; raises Misconfigured where there is none."""
    if not data.is_dir():
        raise Misconfigured(f"--data {data}: there is no such folder")
    found = sorted(path for path in data.iterdir() if path.is_dir() and not path.name.startswith("."))
    if not found:
        raise Misconfigured(f"--data {data}: holds no folder; each case is a folder with an image and a truth (docs/bring-your-model.md)")
    return found


def read(folder: Path, card: Card) -> Case:
    """Look at one case's folder; raises Refused where image or truth lacks."""
    images: dict[str, Path] = {}
    if (folder / "image").is_dir():
        images[""] = folder / "image"
    else:
        for entry in card.inputs:
            stems = [f"image-{entry.role}", *(["image"] if len(card.inputs) == 1 else [])]
            path = _one(folder, [f"{stem}{suffix}" for stem in stems for suffix in SUFFIXES])
            if path is None:
                raise Refused(f"has no {stems[-1]}.nii.gz, nor a folder image with DICOM files")
            images[entry.role] = path
    labels = _one(folder, [*(f"labels{suffix}" for suffix in SUFFIXES), "labels.dcm"])
    findings = _one(folder, [*(f"findings{suffix}" for suffix in SUFFIXES), "findings.csv"])
    if labels is None and findings is None:
        raise Refused("has no truth: neither labels.nii.gz or labels.dcm, nor findings.nii.gz or findings.csv")
    return Case(name=folder.name, images=images, labels=labels, findings=findings)


def values(data: Path, card: Card) -> dict[int, int]:
    """Read which value of the truth's labels is which label of the card; raises Misconfigured."""
    known = {label.index: label.index for label in card.output.labels}
    path = data / "labels.toml"
    if not path.is_file():
        return known
    try:
        told = {int(value): int(index) for value, index in tomllib.loads(path.read_text(encoding="utf-8")).items()}
    except (OSError, ValueError, TypeError) as error:
        raise Misconfigured(f'{path}: {error}; write "13" = 1 for each value') from None
    strange = sorted(set(told.values()) - set(known) - {0})
    if strange:
        raise Misconfigured(f"{path}: {strange[0]} is no label of the card, which has {', '.join(map(str, known))}")
    return told


def _one(folder: Path, names: list[str]) -> Path | None:
    found = [folder / name for name in names if (folder / name).is_file()]
    if len(found) > 1:
        raise Refused(f"has both {found[0].name} and {found[1].name}; which is it?")
    return found[0] if found else None
