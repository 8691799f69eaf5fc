"""The registry: what a card names is found, checked and only then run."""

from __future__ import annotations

import hashlib
import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from models import registry
from models.card import BadCard, read
from tests.models.cards import CARD, lines, weights, write


def test_the_checked_bytes_are_given(tmp_path: Path) -> None:
    """The bytes that were hashed are the ones handed to the runtime."""
    given = registry.weights(lines(tmp_path), ("weights",))
    assert given == {"weights": (tmp_path / "weights.safetensors").read_bytes()}


def test_a_missing_file_is_bad(tmp_path: Path) -> None:
    """Weights that are not there are named with their card's key."""
    shelved = lines(tmp_path)
    (tmp_path / "weights.safetensors").unlink()
    with pytest.raises(BadCard, match=r"runtime\.files\.weights: .*cannot be read"):
        registry.load(shelved, "cpu")


def test_an_unknown_format_is_bad(tmp_path: Path) -> None:
    """A format without a runtime is named."""
    with pytest.raises(BadCard, match="'wishful' is not one this node has"):
        registry.load(lines(tmp_path, 'format = "state-dict"', 'format = "wishful"'), "cpu")


def test_other_files_than_the_format_reads_are_bad(tmp_path: Path) -> None:
    """A card whose files have other names than its format asks for is refused."""
    with pytest.raises(BadCard, match="must be weights, not model"):
        registry.load(lines(tmp_path, "[runtime.files.weights]", "[runtime.files.model]"), "cpu")


def test_a_path_does_not_leave_its_folder(tmp_path: Path) -> None:
    """A card cannot name a file outside of its own folder, though its hash be right."""
    (tmp_path / "outside").write_bytes(weights())
    text = CARD.replace('path = "weights.safetensors"', 'path = "../outside"')
    with pytest.raises(BadCard, match="leaves its folder"):
        registry.load(read(write(tmp_path / "card", weights(), text)), "cpu")


def test_a_missing_package_says_what_to_install(tmp_path: Path) -> None:
    """Where weights lie in a package that is not installed, the reason says how to install it."""
    with pytest.raises(BadCard, match=r"'nosuchpackage' is not installed; install overread\[lines\]"):
        registry.load(lines(tmp_path, 'path = "weights', 'package = "nosuchpackage"\npath = "weights'), "cpu")


def test_weights_beside_a_package_are_found_without_importing_it(tmp_path: Path) -> None:
    """A file beside an installed package is read by its place; the package is not run for it."""
    spec = importlib.util.find_spec("pluggy")
    assert spec is not None
    assert spec.origin is not None
    text = CARD.replace('path = "weights.safetensors"', 'package = "pluggy"\npath = "pluggy/__init__.py"')
    content = Path(spec.origin).read_bytes()
    path = tmp_path / "card.toml"
    path.write_text(text.replace("SHA256", hashlib.sha256(content).hexdigest()))
    assert registry.weights(read(path), ("weights",)) == {"weights": content}


def test_the_registry_imports_no_torch() -> None:
    """Importing the registry, as a worker's parent process may before it forks, loads no torch."""
    code = "import sys, models.registry; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, cwd=Path(__file__).parents[2]).returncode == 0
