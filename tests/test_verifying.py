"""A long run goes on where it was broken off, and never takes old code's word for new code."""

from __future__ import annotations

import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.verifying import Verification, digest, report_lines


def _git(folder: Path, *words: str) -> None:
    subprocess.run(["git", "-c", "user.name=t", "-c", "user.email=t@localhost", *words], cwd=folder, capture_output=True, check=True)


def test_the_digest_changes_with_any_file_of_code_and_only_then(tmp_path: Path) -> None:
    """A changed, a new and a removed file each count, committed or not; words for readers and ignored files do not."""
    _git(tmp_path, "init", "-q")
    (tmp_path / ".gitignore").write_text("out/\n")
    (tmp_path / "a.py").write_text("x = 1\n")
    first = digest(tmp_path)
    _git(tmp_path, "add", "-A")
    _git(tmp_path, "commit", "-qm", "first")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "b").write_text("made")
    (tmp_path / "README.md").write_text("words")
    assert digest(tmp_path) == first
    (tmp_path / "a.py").write_text("x = 2\n")
    changed = digest(tmp_path)
    (tmp_path / "new.mjs").write_text("1")
    assert len({first, changed, digest(tmp_path)}) == 3
    (tmp_path / "new.mjs").unlink()
    assert digest(tmp_path) == changed


def test_without_a_checkout_nothing_is_remembered(tmp_path: Path) -> None:
    """Where code has no identity every test runs."""
    assert digest(tmp_path / "..") is None or digest(tmp_path) != digest(Path(__file__).parent)


def _report(name: str, when: str, outcome: str, **more: Any) -> Any:
    return SimpleNamespace(nodeid=name, when=when, duration=1.0, failed=outcome == "failed", skipped=outcome == "skipped", **more)


def test_only_what_passed_from_end_to_end_is_left_out_next_time(tmp_path: Path) -> None:
    """A failure in the call, in the beginning or at the end, and a skip, are run again; a pinned defect is as good as a pass."""
    config: Any = SimpleNamespace(hook=SimpleNamespace(pytest_deselected=dict))
    run = Verification(config, tmp_path)
    told = {
        "t.py::good": ("passed", "passed", "passed"),
        "t.py::bad": ("passed", "failed", "passed"),
        "t.py::bad_end": ("passed", "passed", "failed"),
        "t.py::bad_begin": ("failed", None, "passed"),
        "t.py::absent": ("skipped", None, "passed"),
    }
    for name, outcomes in told.items():
        for when, outcome in zip(("setup", "call", "teardown"), outcomes, strict=True):
            if outcome:
                run.pytest_runtest_logreport(_report(name, when, outcome))
    for when, outcome in (("setup", "passed"), ("call", "skipped"), ("teardown", "passed")):
        more = {"wasxfail": "a cause"} if when == "call" else {}
        run.pytest_runtest_logreport(_report("t.py::pinned", when, outcome, **more))
    again = Verification(config, tmp_path)
    assert again.before == {"t.py::good", "t.py::pinned"}
    items: list[Any] = [SimpleNamespace(nodeid=name) for name in told]
    again.pytest_collection_modifyitems(config, items)
    assert "t.py::good" not in [item.nodeid for item in items]
    assert len(items) == 4


def test_the_report_says_what_is_not_proved() -> None:
    """A file's line counts what holds and names what does not; a skipped test proves nothing."""
    lines = report_lines({"tests/test_house.py::a": "passed", "tests/test_house.py::b": "skipped"}, {}, "code")
    (head,) = [line for line in lines if line.startswith("## ")]
    assert head.startswith("## 1 of 2 hold, 1 NOT PROVED: ")
    assert "(tests/test_house.py)" in head


@pytest.mark.parametrize("given", [["t.py::a"], []])
def test_a_worker_process_leaves_out_what_it_is_told(given: list[str]) -> None:
    """Every process of a run collects the same tests, whatever passes while it starts."""
    config: Any = SimpleNamespace(workerinput={"verified": given}, hook=SimpleNamespace(pytest_deselected=dict))
    assert Verification(config).before == set(given)
