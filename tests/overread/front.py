"""The `overread` command in this process: the same entry, without a new interpreter for each call."""

from __future__ import annotations

import io
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass

from overread import cli


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """What a command left: exit code and both outputs."""

    code: int
    out: str
    error: str


def overread(*arguments: str) -> Said:
    """Run one command; a traceback is an error of the test."""
    out, error = io.StringIO(), io.StringIO()
    before = sys.argv
    sys.argv = ["overread", *arguments]
    code: object = 0
    try:
        with redirect_stdout(out), redirect_stderr(error):
            cli.main()
    except SystemExit as left:
        code = left.code
    finally:
        sys.argv = before
    return Said(code=int(str(code or 0)), out=out.getvalue(), error=error.getvalue())
