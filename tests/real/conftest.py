"""Real servers for tests: each on free ports, its files and log below tmp_path."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.real.orthanc import Orthanc, orthanc
from tests.real.processes import free_port


@pytest.fixture
def archive(tmp_path: Path) -> Iterator[Orthanc]:
    """Run an Orthanc of the test's own, without a node."""
    with orthanc(tmp_path / "orthanc", node_port=free_port()) as place:
        yield place
