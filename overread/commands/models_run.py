"""`overread models run`: one model on a folder of DICOM files, without PACS, broker and ledger."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from models.card import ShelvedCard
from models.vocabulary import Broken, Finding, Prediction, Unfit
from node.errors import Refused
from node.settings import Settings
from overread import nifti, pictures
from overread.commands import models
from workers import pipeline
from workers.pipeline import Routed, Wanted


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """Which model, on which images, where its objects go, and the viewer profile they are written in (None: the default)."""

    name: str
    source: Path
    out: Path
    profile: str | None
    directory: Path | None


def main(settings: Settings, wish: Wish, *, as_json: bool) -> int:
    """Run the model on each study that fits and give 1 where it declined one of several.

    Raises Refused with routing's reasons where no study fits, Unfit or Refused where the only one is declined, BadCard, Misconfigured.
    """
    shelved = models.find(settings, wish.name, wish.directory)
    settings.profile(wish.profile)
    studies = _routed(shelved, wish.source)
    console = Console(highlight=False, stderr=as_json)
    if len(studies) == 1:
        with _bar(console, wish.name) as progress:
            facts = _one(shelved, studies[0], Wanted(out=wish.out, profile=wish.profile, progress=progress), settings)
        if as_json:
            print(json.dumps(facts, indent=2))
        else:
            _print(facts, console)
        return 0
    found = []
    for number, study in enumerate(studies, start=1):
        place = wish.out / f"study-{number}"
        try:
            with _bar(console, f"{wish.name}, study {number} of {len(studies)}") as progress:
                found.append(_one(shelved, study, Wanted(out=place, profile=wish.profile, progress=progress), settings))
        except (Broken, Unfit, Refused) as declined:
            found.append({"out": str(place), "declined": declined.reason})
        if not as_json:
            console.print(f"Study {number} of {len(studies)}, {place}", soft_wrap=True)
            _print(found[-1], console)
    if as_json:
        print(json.dumps({"studies": found}, indent=2))
    return 1 if any("declined" in facts for facts in found) else 0


def _routed(shelved: ShelvedCard, source: Path) -> tuple[Routed, ...]:
    try:
        return pipeline.routed(shelved, source)
    except Refused as refused:
        if source.is_dir() and any(path.name.endswith(nifti.SUFFIXES) for path in source.iterdir()):
            raise Refused(
                f"{refused.reason}. There are NIfTI files: SEG and SR refer to DICOM images, so a run needs these; "
                "`overread models evaluate` takes NIfTI"
            ) from None
        raise


@contextmanager
def _bar(console: Console, words: str) -> Iterator[Callable[[float], None]]:
    """Show how far the model is, on a terminal; reading comes before its 0, writing after its 1."""
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(32),
        TimeElapsedColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    ) as bar:
        task = bar.add_task(words, total=1)
        yield lambda part: bar.update(task, completed=part)


def _one(shelved: ShelvedCard, study: Routed, wanted: Wanted, settings: Settings) -> dict[str, Any]:
    """Run one study and give what was made of it; `others` are files that lay there before and are not of this run."""
    ran = pipeline.run(shelved, study, wanted, settings)
    drawn, arrays = pictures.pages(ran.files, wanted.out), save(ran.prediction, wanted.out)
    ours = {path.name for path in (*ran.files, *drawn, *arrays)}
    return {
        "summary": ran.summary,
        "files": [str(path) for path in ran.files],
        "pictures": [str(path) for path in drawn],
        "nifti": [str(path) for path in arrays],
        "others": sorted(str(path) for path in wanted.out.iterdir() if path.is_file() and path.name not in ours),
        "findings": len(ran.prediction.findings),
        "marks": [mark(shelved, finding) for finding in ran.prediction.findings],
        "variant": dict(ran.prediction.variant),
    }


def mark(shelved: ShelvedCard, finding: Finding) -> dict[str, Any]:
    """Tell a finding in numbers: its number in findings.nii.gz, label, score, and the score's deviation where the model gives one."""
    told = {"number": finding.number, "label": shelved.card.label(finding.label).label, "score": round(finding.score, 4)}
    return told if finding.deviation is None else {**told, "deviation": round(finding.deviation, 4)}


def save(prediction: Prediction, out: Path) -> list[Path]:
    """Write what has voxels as NIfTI on the images' grid; nothing of a radiograph, which has no place in the patient.

    labels.nii.gz           the card's indices of organs
    findings.nii.gz         findings by their numbers
    mask-INDEX.nii.gz       an organ that may overlap others
    probability-INDEX.nii.gz  0 to 1
    """
    if prediction.grid.is_projection:
        return []
    arrays: dict[str, np.ndarray[Any, Any]] = {}
    if prediction.labels.any() or not (prediction.masks or prediction.scores or prediction.findings):
        arrays["labels"] = prediction.labels
    if prediction.instances is not None:
        arrays["findings"] = prediction.instances
    arrays |= {f"mask-{index}": mask for index, mask in prediction.masks.items()}
    arrays |= {f"probability-{index}": levels.astype(np.float32) / 255 for index, levels in prediction.probabilities.items()}
    return [nifti.write(out / f"{name}.nii.gz", array, prediction.grid) for name, array in arrays.items()]


def _print(facts: dict[str, Any], console: Console) -> None:
    if "declined" in facts:
        console.print(f"declined: {facts['declined']}", markup=False, soft_wrap=True)
        return
    console.print(facts["summary"], markup=False, soft_wrap=True)
    for told in facts["marks"]:
        spread = f", standard deviation {100 * told['deviation']:.0f} %" if "deviation" in told else ""
        console.print(
            f"  finding {told['number']}, {told['label']}: certainty {100 * told['score']:.0f} %{spread}", markup=False, soft_wrap=True
        )
    for path in (*facts["files"], *facts["pictures"], *facts["nifti"]):
        console.print(f"  {path}", markup=False, soft_wrap=True)
    for path in facts["others"]:
        console.print(f"not of this run: {path}", markup=False, soft_wrap=True)
