"""OHIF, served by nginx in front of Orthanc and looked at through a real Chromium."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import subprocess
from collections.abc import Iterator
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
VIEWERS = Path(__file__).resolve().parents[3] / ".cache" / "viewers"


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What the running viewer held.

    labelmap     uint8 (slices, rows, columns), by slice position: see `positions_mm`
    segments     index -> (label, centre in world mm)
    marks        one for each tracked mark of the report: label, values, coordinates
    errors       uncaught errors of the page
    """

    labelmap: NDArray[np.uint8]
    positions_mm: NDArray[np.float64]
    segments: dict[int, tuple[str, NDArray[np.float64]]]
    marks: list[dict[str, Any]]
    text: str
    errors: list[str]


@contextlib.contextmanager
def served(folder: Path, archive: Orthanc) -> Iterator[str]:
    """Serve OHIF in front of the archive; gives its address."""
    dist = VIEWERS / "package" / "dist"
    if not dist.is_dir():
        reason = "OHIF is not in .cache/viewers; `make viewers` fetches it"
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


def look(address: str, study_uid: str, folder: Path) -> Seen:
    """Open the study, load SEG and SR, and bring back what the viewer holds; screenshots stay in the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "PLAYWRIGHT_FROM": str(VIEWERS), "CHROMIUM": require("chromium")}
    command = [require("node"), str(HERE / "view.mjs"), address, study_uid, str(folder)]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=280, check=False)
    assert ran.returncode == 0, ran.stderr[-2000:]
    raw = json.loads((folder / "seen.json").read_text())
    assert "failure" not in raw, (raw["failure"], raw["errors"])
    return _seen(raw)


def _seen(raw: dict[str, Any]) -> Seen:
    labelmap, positions, segments = np.zeros((0, 0, 0), np.uint8), np.zeros((0, 3)), {}
    if raw["segmentations"]:
        (segmentation,) = raw["segmentations"]
        slices = segmentation["slices"]
        planes = [np.frombuffer(base64.b64decode(one["voxels"]), np.uint8).reshape(one["rows"], one["columns"]) for one in slices]
        labelmap, positions = np.stack(planes), np.asarray([one["position"] for one in slices], dtype=float)
        segments = {one["index"]: (one["label"], np.asarray(one["center"], dtype=float)) for one in segmentation["segments"]}
    report = raw["report"] or {"measurements": [], "text": ""}
    return Seen(
        labelmap=labelmap,
        positions_mm=positions,
        segments=segments,
        marks=report["measurements"],
        text=report["text"],
        errors=raw["errors"],
    )
