"""The house rules a linter does not know, as one function: folder in, sentences out."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOMS = ("overread", "node", "workers", "models", "tests", "bench")
LINES_PER_MODULE, LINES_PER_FUNCTION, PARAMETERS = 400, 40, 5
NOBODYS_NAMES = frozenset({"utils", "util", "helper", "helpers", "common", "manager", "managers", "base", "misc"})
# Split, so that this file does not accuse itself.
MARKS = re.compile("|".join(("TO" + "DO", "FIX" + "ME", "XX" + "X", "HA" + "CK", r"raise NotImplemented" + "Error")))
MACHINE_PATHS = re.compile(r"/(?:work|home|root)/[a-z]")
Function = ast.FunctionDef | ast.AsyncFunctionDef


def faults(root: Path) -> list[str]:
    """Give every breach below the rooms of a checkout, as path:line: sentence."""
    found: list[str] = []
    for path in modules(root):
        name = path.relative_to(root)
        text = path.read_text(encoding="utf-8")
        lines = text.splitlines()
        if len(lines) >= LINES_PER_MODULE:
            found.append(f"{name}:1: {len(lines)} lines; split it by meaning below {LINES_PER_MODULE}")
        if path.stem in NOBODYS_NAMES:
            found.append(f"{name}:1: the file's name says nothing; name the stage or the noun")
        for number, line in enumerate(lines, start=1):
            if MARKS.search(line):
                found.append(f"{name}:{number}: an unfinished mark")
            if MACHINE_PATHS.search(line):
                found.append(f"{name}:{number}: a path of somebody's machine")
        found += [f"{name}:{line}: {sentence}" for line, sentence in _functions(ast.parse(text), tests=name.parts[0] == "tests")]
    return found


def modules(root: Path) -> list[Path]:
    """List the Python files of the rooms."""
    return [path for room in ROOMS for path in sorted((root / room).rglob("*.py")) if "__pycache__" not in path.parts]


def _functions(tree: ast.Module, *, tests: bool) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree):
        if not isinstance(node, Function):
            continue
        length = (node.end_lineno or node.lineno) - node.lineno + 1
        if length >= LINES_PER_FUNCTION and not _is_one_statement(node):
            yield node.lineno, f"{node.name} has {length} lines; below {LINES_PER_FUNCTION}, please"
        arguments = node.args.posonlyargs + node.args.args + node.args.kwonlyargs
        count = sum(argument.arg not in {"self", "cls"} for argument in arguments)
        # Fixtures are parameters, and a test has as many as it needs; a command has as many as it has options.
        if count > PARAMETERS and not tests and not _is_command(node):
            yield node.lineno, f"{node.name} has {count} parameters; more than {PARAMETERS} are a dataclass"
        if tests and node.name.startswith("test_") and not ast.get_docstring(node):
            yield node.lineno, f"{node.name} has no sentence that says the behaviour"


def _is_command(node: Function) -> bool:
    """Tell whether typer makes a command of it: @app.command(...)."""
    made_by = [entry.func for entry in node.decorator_list if isinstance(entry, ast.Call)]
    return any(isinstance(maker, ast.Attribute) and maker.attr == "command" for maker in made_by)


def _is_one_statement(node: Function) -> bool:
    """Tell whether the body is a single literal or call after the docstring: a table, not a procedure."""
    body = node.body[1:] if ast.get_docstring(node) else node.body
    return len(body) == 1 and isinstance(body[0], ast.Return)
