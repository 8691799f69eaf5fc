"""DCMTK's clients, as a modality or an administrator would use them. TCP_NODELAY is set: without it 40 ms a response."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

from tests.servers import require

ENVIRONMENT = {"TCP_NODELAY": "1"}


def dcmsend(port: int, folder: Path, *, called: str = "OVERREAD") -> None:
    """Send a folder, each file in its own transfer syntax; raises where one is refused."""
    command = [require("dcmsend"), "--no-uid-checks", "-aet", "DCMSEND", "-aec", called, "--scan-directories", "--recurse"]
    _run([*command, "--decompress-never", "127.0.0.1", str(port), str(folder)])


def storescu(port: int, files: list[Path], *, called: str = "OVERREAD") -> None:
    """Send files in the transfer syntaxes that they have."""
    _run([require("storescu"), "-R", "-aet", "STORESCU", "-aec", called, "127.0.0.1", str(port), *map(str, files)])


def echoscu(port: int, *, called: str = "OVERREAD") -> None:
    """Ask whether somebody speaks DICOM there."""
    _run([require("echoscu"), "-aec", called, "127.0.0.1", str(port)])


def findscu(port: int, study_uid: str, *, called: str = "ORTHANC") -> list[str]:
    """Give the modalities of a study's series, as a viewer's query sees them."""
    keys = ["QueryRetrieveLevel=SERIES", f"StudyInstanceUID={study_uid}", "SeriesInstanceUID", "Modality"]
    command = [require("findscu"), "-S", "-aet", "FINDSCU", "-aec", called, "127.0.0.1", str(port)]
    said = _run([*command, *(word for key in keys for word in ("-k", key))])
    return sorted(match.strip() for match in re.findall(r"\(0008,0060\) CS \[([A-Z ]+)\]", said))


def _run(command: list[str]) -> str:
    ran = subprocess.run(
        command, capture_output=True, text=True, errors="replace", timeout=300, check=False, env={**os.environ, **ENVIRONMENT}
    )
    assert ran.returncode == 0, (command[0], ran.stdout[-1500:], ran.stderr[-1500:])
    return ran.stdout + ran.stderr
