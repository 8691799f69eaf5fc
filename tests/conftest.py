"""What every test may ask for. Servers and viewers are in tests/real/conftest.py."""

from __future__ import annotations

import os

import pytest

from tests.verifying import Verification

# One thread a process: the suite runs two processes on two cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Each test's worker would try engines anew on every model, which takes seconds: tests/workers/test_engine.py runs the default one.
os.environ.setdefault("OVERREAD_WORKERS__ENGINE", "torch")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add --verify: also run the long tests."""
    parser.addoption("--verify", action="store_true", help="also run the tests marked verify; what passed on this code is not run again")


def pytest_configure(config: pytest.Config) -> None:
    """Let a long run go on where it was broken off."""
    if config.getoption("--verify"):
        config.pluginmanager.register(Verification(config), "verification")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave the long tests out unless they are asked for."""
    if config.getoption("--verify"):
        return
    long = [item for item in items if item.get_closest_marker("verify")]
    if long:
        config.hook.pytest_deselected(items=long)
        items[:] = [item for item in items if item not in long]
