"""Structured events without PHI: names and keys, never sentences, never a patient's name, ID or accession number.

UIDs, job ids, AE titles, counts and reasons may be logged; whatever came out of a patient module may not.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping, MutableMapping
from typing import Any

import structlog

# Keys that would carry PHI if someone logged a header by mistake: dropped before rendering.
FORBIDDEN_KEYS = frozenset(
    {"patient_name", "patient_id", "patient_birth_date", "accession_number", "header", "dataset", "institution_name"}
)


def _drop_phi(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> Mapping[str, Any]:
    return {key: value for key, value in event.items() if key not in FORBIDDEN_KEYS}


def configure(*, process: str, json_lines: bool = True, level: str = "INFO") -> None:
    """Set up logging of one process: JSON lines on stderr, or a readable form for a terminal."""
    renderer: Any = structlog.processors.JSONRenderer() if json_lines else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            _drop_phi,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level]),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    structlog.contextvars.bind_contextvars(process=process)
    # Libraries may print data set contents at DEBUG and names at INFO: only their warnings pass.
    line = '{"logger":"%(name)s","level":"%(levelname)s","event":"%(message)s"}'
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format=line)
    logging.getLogger("pynetdicom").setLevel(logging.CRITICAL)
    logging.getLogger("pydicom").setLevel(logging.ERROR)


def get(name: str) -> structlog.stdlib.BoundLogger:
    """Give a logger; `log.info("instance.stored", sop=uid)`."""
    logger: structlog.stdlib.BoundLogger = structlog.get_logger(room=name)
    return logger
