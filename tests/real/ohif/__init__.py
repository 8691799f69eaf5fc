"""OHIF, served by nginx in front of Orthanc and looked at through a real Chromium."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.real.orthanc import Orthanc
from tests.real.processes import Server, free_port, running
from tests.servers import require

HERE = Path(__file__).parent
ROOT = HERE.parents[2]
VIEWERS = ROOT / ".cache" / "viewers"
KEPT = ROOT / "verify-results" / "ohif"
VERSIONS = ("3.13.2", "3.12.10")
DEFAULT = VERSIONS[0]
BLACK = 0.01  # a picture less of which is lit is a black viewport


@dataclass(frozen=True, slots=True, kw_only=True)
class Labelmap:
    """One segmentation of the viewer.

    voxels        uint8 (slices, rows, columns), by slice position: see `positions_mm`
    segments      index -> (label, centre in world mm, RGBA colour)
    """

    voxels: NDArray[np.uint8]
    positions_mm: NDArray[np.float64]
    segments: dict[int, tuple[str, NDArray[np.float64], tuple[int, ...]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Study:
    """A study to look at; `hydrate` says yes where the viewer asks whether a report's marks shall become its own."""

    name: str
    uid: str
    hydrate: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What the running viewer held of one study.

    opened   one for each of our objects: modality, how much of the picture is lit, words, errors, a report's marks
    sets     every series as the viewer lists it
    failure  why the visit ended early; empty where it did not
    """

    labelmaps: list[Labelmap]
    opened: list[dict[str, Any]]
    sets: list[dict[str, Any]]
    failure: str

    def of(self, modality: str) -> dict[str, Any]:
        """Give what was seen of our one object of a modality."""
        (one,) = [entry for entry in self.opened if entry["modality"] == modality]
        return one

    @property
    def marks(self) -> list[dict[str, Any]]:
        """Give the report's marks: label, values, coordinates."""
        return list(self.of("SR")["report"]["measurements"])

    def faults(self) -> list[str]:
        """Give all that a radiologist would call a crash: an error, an error page, a black viewport."""
        found = [self.failure] if self.failure else []
        for entry in self.opened:
            name = f"{entry['modality']} {entry['number']}"
            found += [f"{name}: {error}" for error in entry["errors"]]
            if "Something went wrong" in entry["body"]:
                found.append(f"{name}: the viewer shows its error page")
            if entry["lit"] < BLACK and "Not verified by a physician" not in entry["words"]:
                found.append(f"{name}: the viewport is black")
        return found


@contextlib.contextmanager
def served(folder: Path, archive: Orthanc, version: str = DEFAULT) -> Iterator[str]:
    """Serve OHIF in front of the archive; gives its address."""
    dist = VIEWERS / f"ohif-{version}" / "dist"
    if not dist.is_dir():
        reason = f"OHIF {version} is not in .cache/viewers; `make viewers-all` fetches it"
        pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    text = (HERE / "nginx.conf").read_text()
    values = {"FOLDER": folder, "PORT": port, "DIST": dist, "CONFIG": HERE / "app-config.js", "ARCHIVE": archive.http_port}
    for name, value in values.items():
        text = text.replace(f"@{name}@", str(value))
    path = folder / "nginx.conf"
    path.write_text(text)
    command = [require("nginx"), "-c", str(path), "-e", str(folder / "nginx-error.log")]
    with running(Server(command=command, log=folder / "nginx.log", port=port)):
        yield f"http://127.0.0.1:{port}"


def visit(address: str, studies: Sequence[Study], folder: Path) -> dict[str, Seen]:
    """Open each study and each of our objects in it, one browser for all, and bring back what the viewer holds.

    The screenshots stay in the folder, and below verify-results/ohif under its name.
    """
    folder.mkdir(parents=True, exist_ok=True)
    listed = [{"name": study.name, "uid": study.uid, "hydrate": study.hydrate} for study in studies]
    (folder / "plan.json").write_text(json.dumps({"address": address, "out": str(folder), "studies": listed}))
    environment = {**os.environ, "PLAYWRIGHT_FROM": str(VIEWERS), "CHROMIUM": require("chromium")}
    command = [require("node"), str(HERE / "view.mjs"), str(folder / "plan.json")]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240 * len(studies) + 60, check=False)
    _keep(folder)
    assert ran.returncode == 0, ran.stderr[-2000:]
    raw = json.loads((folder / "seen.json").read_text())
    return {name: _seen(entry) for name, entry in raw.items()}


def _keep(folder: Path) -> None:
    """Keep the pictures where a person looks for them after a run."""
    kept = KEPT / folder.name
    for path in sorted(folder.glob("*.png")):
        kept.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, kept / path.name)


def _seen(raw: dict[str, Any]) -> Seen:
    return Seen(
        labelmaps=[_labelmap(one) for one in raw["segmentations"]],
        opened=raw["opened"],
        sets=raw.get("sets", []),
        failure=raw.get("failure", ""),
    )


def _labelmap(raw: dict[str, Any]) -> Labelmap:
    slices = raw["slices"]
    planes = [np.frombuffer(base64.b64decode(one["voxels"]), np.uint8).reshape(one["rows"], one["columns"]) for one in slices]
    segments = {
        one["index"]: (
            one["label"],
            np.asarray(one["center"] if one["center"] is not None else [np.nan] * 3, dtype=float),
            tuple(one["colour"] or ()),
        )
        for one in raw["segments"]
    }
    return Labelmap(
        voxels=np.stack(planes) if planes else np.zeros((0, 0, 0), np.uint8),
        positions_mm=np.asarray([one["position"] for one in slices], dtype=float),
        segments=segments,
    )
