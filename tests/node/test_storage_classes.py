"""Which transfer syntaxes are kept does not depend on who was imported first."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

SCRIPT = "import {first}\nfrom node.storage_classes import _TRANSFER_SYNTAXES\nprint(sorted(_TRANSFER_SYNTAXES))"


def kept(first: str) -> str:
    """Give the transfer syntaxes kept by a process that imported another package before."""
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run([sys.executable, "-c", SCRIPT.format(first=first)], cwd=root, capture_output=True, text=True, check=True)
    return done.stdout


def test_the_same_syntaxes_are_kept_before_and_after_pynetdicom_adds_to_the_dictionary() -> None:
    """JPEG XL is kept in every process, also where pynetdicom, which names it, comes later."""
    assert "1.2.840.10008.1.2.4.110" in kept("pydicom")
    assert kept("pydicom") == kept("pynetdicom")
