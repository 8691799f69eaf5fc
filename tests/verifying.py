"""What `--verify` remembers and prints: a test that passed is not run again until the code changes.

verify-results/passed-<digest of every file of the checkout>.txt holds a line for each test that passed on exactly this code;
verify-results/report.md says in sentences what was proved and what was not. Removing the folder starts afresh.
"""

from __future__ import annotations

import ast
import hashlib
import subprocess
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "verify-results"
PROVED, PINNED = ("passed", "passed before"), "pinned"
WORDS = {"failed": "FAILED", "error": "FAILED", "skipped": "skipped"}


def digest(root: Path = ROOT) -> str | None:
    """Give a digest of every tracked or new file's name and content; None outside a git checkout."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=root, capture_output=True, check=False
    )
    if listed.returncode:
        return None
    found = hashlib.sha256()
    for name in sorted(set(listed.stdout.decode().split("\0")) - {""}):
        path = root / name
        if path.is_file() and not name.startswith(("docs/", "README", "CHANGELOG")):
            found.update(f"{name}\0{hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return found.hexdigest()[:16]


class Verification:
    """One run of `--verify`, in the process that reports; a worker process only gets what to leave out."""

    def __init__(self, config: pytest.Config, folder: Path = FOLDER) -> None:
        given = getattr(config, "workerinput", None)
        self._reports = given is None
        self._folder = folder
        self._digest = digest() if given is None else None
        self._path = folder / f"passed-{self._digest}.txt" if self._digest else None
        self.before: set[str] = set(given["verified"]) if given is not None else self._read()
        self._outcomes: dict[str, str] = {}
        self._seconds: defaultdict[str, float] = defaultdict(float)

    def _read(self) -> set[str]:
        return set(self._path.read_text().splitlines()) if self._path is not None and self._path.exists() else set()

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Any) -> None:
        """Tell a worker process what passed before: all must collect the same tests, whatever passes meanwhile."""
        node.workerinput["verified"] = sorted(self.before)

    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        """Leave out what passed on this very code."""
        passed = [item for item in items if item.nodeid in self.before]
        if passed:
            config.hook.pytest_deselected(items=passed)
            items[:] = [item for item in items if item.nodeid not in self.before]

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note an outcome; a test has passed when its call has, and neither its beginning nor its end failed."""
        if not self._reports:
            return
        name = report.nodeid
        self._seconds[name] += report.duration
        if report.failed:
            self._outcomes[name] = "failed"
        elif report.skipped:
            self._outcomes[name] = PINNED if hasattr(report, "wasxfail") else "skipped"
        elif report.when == "call":
            self._outcomes.setdefault(name, "passed")
        if report.when == "teardown" and self._outcomes.get(name) in {"passed", PINNED} and self._path is not None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("a") as file:
                file.write(f"{name}\n")

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Print what was proved, file by file, and write it down."""
        if not self._reports:
            return
        outcomes = dict.fromkeys(self.before, "passed before") | self._outcomes
        self._folder.mkdir(parents=True, exist_ok=True)
        lines = report_lines(outcomes, self._seconds, str(self._digest))
        (self._folder / "report.md").write_text("\n".join(lines) + "\n")
        terminalreporter.section("verified")
        for line in lines:
            if line.startswith(("## ", "**")):
                terminalreporter.write_line(line.strip("#* "))
        terminalreporter.write_line(f"every test by name: {self._folder.name}/report.md")


def report_lines(outcomes: dict[str, str], seconds: dict[str, float], code: str) -> list[str]:
    """Give the report: for each file what its first sentence claims, how many of its tests say so, and each test."""
    files: defaultdict[str, list[str]] = defaultdict(list)
    for name in outcomes:
        files[name.partition("::")[0]].append(name)
    lines = [f"# Verified on the code {code}", ""]
    for path, names in sorted(files.items()):
        told = [outcomes[name] for name in names]
        good, pinned = sum(one in PROVED for one in told), told.count(PINNED)
        bad = len(told) - good - pinned
        more = (f", {pinned} known defects of others still there" if pinned else "") + (f", {bad} NOT PROVED" if bad else "")
        lines += [f"## {good} of {len(told)} hold{more}: {_claim(path)} ({path})", ""]
        for name in sorted(names):
            state = WORDS.get(outcomes[name], outcomes[name])
            lines.append(f"* {state}, {seconds.get(name, 0):.1f} s: {name.partition('::')[2]}")
        lines.append("")
    return lines


def _claim(path: str) -> str:
    """Give a file's first sentence."""
    source = ROOT / path
    said = ast.get_docstring(ast.parse(source.read_text(encoding="utf-8"))) if source.exists() else None
    return (said or path).partition("\n")[0]
