"""What a test may need from outside: a server's binary, or the real data beside the checkout."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[2] / "shared"


def require(binary: str) -> str:
    """Give the binary's path; without it skip on a laptop and fail in CI.

    Programs beside the interpreter come last, whether or not PATH names their folder: dcmqi's are there, and so are those
    that pynetdicom names as DCMTK's (storescu, findscu ...).
    """
    own = Path(sys.executable).parent
    outside = os.pathsep.join(folder for folder in os.get_exec_path() if Path(folder).resolve() != own.resolve())
    found = shutil.which(binary, path=outside) or shutil.which(binary, path=str(own))
    if found:
        return found
    reason = f"{binary} is not installed; .ci/run lists the Debian packages"
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


def shared(relative: str) -> Path:
    """Give a folder of real data that lies beside the checkout; skip where it is absent."""
    path = SHARED / relative
    if not path.exists():
        pytest.skip(f"real data {relative} is not beside this checkout")
    return path
