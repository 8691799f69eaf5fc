"""Every gate has a planted fault that proves it can fail; each gets a small copy, never the checkout itself."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests import house

ROOT = Path(__file__).resolve().parents[1]
BIN = Path(sys.executable).parent
BLOCKED = ("torch", "monai", "highdicom", "safetensors", "nibabel", "deepbet")


def _run(command: list[str], cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(BIN / command[0]), *command[1:]], cwd=cwd, capture_output=True, text=True, timeout=240, check=False)


def _copy(tmp_path: Path, *rooms: str) -> Path:
    """Copy pyproject.toml and some rooms."""
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    for room in rooms:
        shutil.copytree(ROOT / room, tmp_path / room, ignore=shutil.ignore_patterns("__pycache__", "*.safetensors"))
    return tmp_path


@pytest.mark.parametrize(
    ("fault", "rule"),
    [
        ("import os\n", "F401"),
        ("def f(a, b=[]):\n    return a, b\n", "B006"),
        ("import pickle\n\n\ndef f(b):\n    return pickle.loads(b)\n", "S301"),
        ("def f(x):\n    return eval(x)\n", "S307"),
        ("def f():\n    try:\n        g()\n    except Exception:\n        pass\n", "BLE001"),
        ("def f(a, b, c, d, e, g):\n    return a\n", "PLR0913"),
    ],
)
def test_ruff_sees_a_planted_fault(tmp_path: Path, fault: str, rule: str) -> None:
    """An unused import, a mutable default, pickle, eval, a silent except and a sixth parameter each turn the linter red."""
    root = _copy(tmp_path)
    (root / "node").mkdir()
    (root / "node" / "planted.py").write_text(fault)
    ran = _run(["ruff", "check", "--no-cache", "--output-format", "concise", "node"], root)
    assert ran.returncode == 1
    assert rule in ran.stdout


def test_ruff_sees_unformatted_code(tmp_path: Path) -> None:
    """Code laid out by hand turns the formatter's check red."""
    root = _copy(tmp_path)
    (root / "planted.py").write_text("x = {'a':1}\n")
    assert _run(["ruff", "format", "--no-cache", "--check", "."], root).returncode == 1


def test_mypy_sees_a_planted_fault(tmp_path: Path) -> None:
    """A wrong type and a missing annotation are errors under the project's own settings."""
    root = _copy(tmp_path)
    (root / "planted.py").write_text("def f(x: int) -> str:\n    return x\n\n\ndef g(x):\n    return x\n")
    ran = _run(["mypy", "--config-file", "pyproject.toml", "--cache-dir", str(tmp_path / "cache"), "-m", "planted"], root)
    assert ran.returncode == 1
    assert "return-value" in ran.stdout
    assert "no-untyped-def" in ran.stdout


@pytest.mark.parametrize(
    ("room", "fault"),
    [
        ("models/vocabulary.py", "import node.study\n"),
        ("node/study.py", "import workers.load\n"),
        ("workers/load.py", "import overread\n"),
        ("node/study.py", "import torch\n"),
        ("node/routing.py", "import models.registry\n"),
        ("models/card.py", "import pydicom\n"),
        ("workers/load.py", "import pynetdicom\n"),
        ("workers/load.py", "import celery\n"),
        ("workers/load.py", "import highdicom\n"),
    ],
)
def test_import_contracts_see_a_planted_fault(tmp_path: Path, room: str, fault: str) -> None:
    """An import against the direction of the rooms breaks a contract."""
    root = _copy(tmp_path, "overread", "node", "workers", "models")
    module = root / room
    module.write_text(
        module.read_text().replace("from __future__ import annotations\n", f"from __future__ import annotations\n\n{fault}", 1)
    )
    ran = _run(["lint-imports", "--no-cache"], root)
    assert ran.returncode == 1, ran.stdout + ran.stderr
    assert "BROKEN" in ran.stdout


def test_import_contracts_hold_in_the_same_copy_without_the_fault(tmp_path: Path) -> None:
    """What turns red above is green before."""
    root = _copy(tmp_path, "overread", "node", "workers", "models")
    ran = _run(["lint-imports", "--no-cache"], root)
    assert ran.returncode == 0, ran.stdout


@pytest.mark.parametrize(
    ("path", "text", "said"),
    [
        ("node/long.py", "x = 1\n" * 400, "split it by meaning"),
        ("node/deep.py", "def f():\n" + "    x = 1\n" * 40, "has 41 lines"),
        ("node/wide.py", "def f(a, b, c, d, e, *, g):\n    return a\n", "6 parameters"),
        ("workers/utils.py", "x = 1\n", "says nothing"),
        ("models/later.py", "x = 1  # " + "TO" + "DO\n", "unfinished mark"),
        ("models/where.py", 'x = "/' + 'home/me/data"\n', "somebody's machine"),
        ("tests/test_mute.py", "def test_it():\n    assert True\n", "no sentence"),
    ],
)
def test_house_rules_see_a_planted_fault(tmp_path: Path, path: str, text: str, said: str) -> None:
    """Each rule names its breach; a clean file beside it is left alone."""
    planted = tmp_path / path
    planted.parent.mkdir(parents=True)
    (planted.parent / "clean.py").write_text("x = 1\n")
    planted.write_text(text)
    (fault,) = house.faults(tmp_path)
    assert fault.startswith(path)
    assert said in fault


def _import_without_torch(statement: str) -> subprocess.CompletedProcess[str]:
    """Run an import where what only workers need cannot be imported."""
    hook = (
        "import sys\n"
        "class Wall:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name.partition('.')[0] in {BLOCKED!r}:\n"
        "            raise ImportError(f'{name} is behind the wall')\n"
        "sys.meta_path.insert(0, Wall())\n"
    )
    return subprocess.run([sys.executable, "-c", hook + statement], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)


def test_the_node_runs_without_torch() -> None:
    """Every module of the node imports with torch, monai and highdicom out of reach."""
    walk = (
        "import importlib, pkgutil, node\n"
        "names = [m.name for m in pkgutil.walk_packages(node.__path__, 'node.') if not m.name.endswith('__main__')]\n"
        "[importlib.import_module(name) for name in names]\n"
        "print(len(names))\n"
    )
    ran = _import_without_torch(walk)
    assert ran.returncode == 0, ran.stderr
    assert int(ran.stdout) >= 10


@pytest.mark.parametrize("module", ["torch", "highdicom", "workers.results"])
def test_the_wall_before_torch_stands(module: str) -> None:
    """The same hook does stop what needs torch or highdicom."""
    ran = _import_without_torch(f"import {module}\n")
    assert ran.returncode == 1
    assert "behind the wall" in ran.stderr
