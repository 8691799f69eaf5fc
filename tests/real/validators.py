"""Other people's readers and validators, each a command."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.servers import require

# dciodvfy says it of a secondary capture wherever the images name no laterality; of an empty one, that the condition is not met.
LATERALITY = "Error - Missing attribute Type 2C Conditional Element=<Laterality> Module=<GeneralSeries>"


def iod_faults(path: Path) -> list[str]:
    """Give what dciodvfy calls an Error or a Warning."""
    ran = subprocess.run([require("dciodvfy"), str(path)], capture_output=True, text=True, errors="replace", check=False)
    return [line for line in (ran.stdout + ran.stderr).splitlines() if line.startswith(("Error", "Warning"))]


def report_text(path: Path) -> str:
    """Read a structured report with DCMTK's dsrdump; raises where it cannot."""
    ran = subprocess.run([require("dsrdump"), "+U8", str(path)], capture_output=True, text=True, errors="replace", check=False)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout
