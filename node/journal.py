"""Structured events without PHI: names and keys, never sentences, never a patient's name, ID or accession number.

UIDs, job ids, AE titles, counts and reasons may be logged; whatever came out of a patient module may not.
"""

from __future__ import annotations

import io
import logging
import sys
import traceback
from collections.abc import Mapping, MutableMapping
from pathlib import Path
from typing import Any, TextIO, cast

import structlog

# Keys that would carry PHI if someone logged a header by mistake: dropped before rendering.
FORBIDDEN_KEYS = frozenset(
    {"patient_name", "patient_id", "patient_birth_date", "accession_number", "header", "dataset", "institution_name"}
)


def _drop_phi(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> Mapping[str, Any]:
    return {key: value for key, value in event.items() if key not in FORBIDDEN_KEYS}


def places(error: BaseException) -> list[str]:
    """Give an error's type and where it came through, without its words: they may quote a data set."""
    frames = traceback.extract_tb(error.__traceback__)[-12:]
    return [type(error).__name__, *(f"{Path(frame.filename).name}:{frame.lineno} {frame.name}" for frame in frames)]


def _places_only(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    given = event.pop("exc_info", None)
    error = given if isinstance(given, BaseException) else sys.exc_info()[1] if given else None
    if error is not None:
        event["exception"] = places(error)
    return event


def _name_process(process: str) -> Any:
    """Give a processor that names the process in every thread's events."""

    def name(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        return {"process": process, **event}

    return name


class _Stderr(io.TextIOBase):
    """Whatever stderr is when an event is written: a logger outlives a stream that somebody replaced and closed."""

    def write(self, text: str) -> int:
        """Write to today's stderr."""
        return sys.stderr.write(text)

    def flush(self) -> None:
        """Flush today's stderr."""
        sys.stderr.flush()


def configure(*, process: str, json_lines: bool = True, level: str = "INFO") -> None:
    """Set up logging of one process: JSON lines on stderr, or a readable form for a terminal."""
    renderer: Any = structlog.processors.JSONRenderer() if json_lines else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            _name_process(process),
            _places_only,
            _drop_phi,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level]),
        logger_factory=structlog.PrintLoggerFactory(cast("TextIO", _Stderr())),
        cache_logger_on_first_use=True,
    )
    # Libraries may print data set contents at DEBUG and names at INFO: only their warnings pass.
    line = '{"logger":"%(name)s","level":"%(levelname)s","event":"%(message)s"}'
    logging.basicConfig(stream=_Stderr(), level=logging.WARNING, format=line)
    logging.getLogger("pynetdicom").setLevel(logging.CRITICAL)
    logging.getLogger("pydicom").setLevel(logging.ERROR)


def get(name: str) -> structlog.stdlib.BoundLogger:
    """Give a logger; `log.info("instance.stored", sop=uid)`."""
    logger: structlog.stdlib.BoundLogger = structlog.get_logger(room=name)
    return logger
