"""What a validator found wrong, in words for whoever wrote the file: the key, what may stand there, and what did."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

WORDS = {
    "missing": "is missing",
    "literal_error": "must be {expected}",
    "string_type": "must be text in quotes",
    "string_too_long": "may have at most {max_length} characters",
    "string_pattern_mismatch": "must match {pattern}",
    "too_short": "needs at least {min_length} of them",
    "too_long": "may have at most {max_length} of them",
    "greater_than": "must be above {gt:g}",
    "greater_than_equal": "must be at least {ge:g}",
    "less_than": "must be below {lt:g}",
    "less_than_equal": "must be at most {le:g}",
    "finite_number": "must be a number",
}
KINDS = {
    "int": "must be a whole number",
    "float": "must be a number",
    "bool": "must be true or false",
    "tuple": "must be a list, as [1, 2]",
    "list": "must be a list, as [1, 2]",
    "dict": "must be a table, as { key = 1 }",
    "model": "must be a table, as { key = 1 }",
}
"""By what a fault's type begins with: "int_parsing" and "int_from_float" are of a whole number."""
PATTERNS = {
    r"^[\x20-\x7e]+$": "may have plain letters, digits and signs only (ASCII), and not be empty",
    r"^[a-z0-9][a-z0-9-]{0,31}$": "may have a-z, 0-9 and hyphens, at most 32, and no hyphen first",
    r"^[0-9a-f]{64}$": "must be the 64 hexadecimal digits of sha256sum",
}


def listed(error: ValidationError, model: type[BaseModel] | None = None) -> str:
    """Give all faults with their keys, for a message; `model` is what was validated, where its keys are to be told."""
    return "; ".join(f"{'.'.join(map(str, fault['loc']))}: {said(fault, model)}" for fault in error.errors())


def said(fault: ErrorDetails, model: type[BaseModel] | None = None) -> str:
    """Say one fault without its key. Example: must be 'labels', 'masks', 'boxes' or 'scores', not 'pictures'."""
    kind, facts = fault["type"], fault.get("ctx", {})
    if kind == "value_error":
        return fault["msg"].removeprefix("Value error, ")
    if kind == "extra_forbidden":
        return _no_key(str(fault["loc"][-1]), _keys(model, fault["loc"][:-1]))
    words = PATTERNS.get(str(facts.get("pattern"))) or WORDS.get(kind, KINDS.get(kind.split("_")[0], ""))
    if not words:
        return fault["msg"]
    given = fault["input"]
    shown = f", not {given!r}" if kind != "missing" and isinstance(given, str | int | float) else ""
    return words.format(**facts) + shown


def _no_key(key: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(key, known, 1)
    if near:
        return f"there is no such key; is {near[0]} meant?"
    return f"there is no such key; there are {', '.join(known)}" if known else "there is no such key"


def _keys(model: type[BaseModel] | None, places: Sequence[int | str]) -> tuple[str, ...]:
    """Name the keys of the table that lies at these places of a validated model."""
    for place in places:
        if model is not None and isinstance(place, str) and place in model.model_fields:
            model = _table(model.model_fields[place].annotation)
        elif isinstance(place, str):
            return ()
    return () if model is None else tuple(model.model_fields)


def _table(annotation: Any) -> type[BaseModel] | None:
    """Find the table within an annotation. Example: tuple[InputPart, ...] is of InputPart."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    found = [_table(part) for part in get_args(annotation)]
    return next((part for part in found if part is not None), None)
