"""Conditions on an image: `SliceThickness <= 2 and (called_ae is STROKE or not StationName is CT3)`. Parsed, never evaluated as code.

expression  term ("or" term)*          term  factor ("and" factor)*          factor  "not" factor | "(" expression ")" | test
test        NAME ("=" | "!=" | "<" | "<=" | ">" | ">=") VALUE
          | NAME ["not"] ("is" | "contains" | "starts with" | "matches") VALUE      also: "is not VALUE"
          | NAME ["not"] "in" "(" VALUE ("," VALUE)* ")"
          | NAME "is" "present" | NAME "is" "absent"
NAME        an indexed attribute's keyword, called_ae, calling_ae or peer_host
VALUE       a word, a number, or text in single or double quotes
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import Any, Literal

from pydantic import ValidationError

from models.card import NUMERIC, Condition
from node.study import Instance

OWN_NAMES = ("called_ae", "calling_ae", "peer_host")
_TOKEN = re.compile(r"""\s*(?:(?P<text>"[^"]*"|'[^']*')|(?P<sign><=|>=|!=|[=<>(),])|(?P<word>[^\s"'=<>!(),]+))""")
_SIGNS: Mapping[str, str] = {"=": "is", "!=": "is-not", "<": "below", "<=": "at-most", ">": "above", ">=": "at-least"}
_YEARS: Mapping[str, float] = {"Y": 1.0, "M": 1 / 12, "W": 7 / 365.25, "D": 1 / 365.25}
_DEPTH_MAX = 32


class BadCondition(ValueError):  # noqa: N818 -- reads as a verdict: raise BadCondition
    """The text is no condition; the message says where."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Parts of which all, any or none must hold."""

    how: Literal["all", "any", "none"]
    parts: tuple[Expression, ...]


Expression = Condition | Group


@lru_cache(maxsize=256)
def parse(text: str) -> Expression:
    """Read a condition; raises BadCondition."""
    reader = _Reader(text)
    found = _expression(reader, 0)
    if reader.at is not None:
        raise BadCondition(f"after a whole condition comes {reader.at[1]!r}; join conditions with 'and' or 'or'")
    return found


def names(expression: Expression) -> Iterator[str]:
    """Give every name the expression looks at."""
    if isinstance(expression, Condition):
        yield expression.tag
        return
    for part in expression.parts:
        yield from names(part)


def holds(expression: Expression, image: Instance) -> bool:
    """Judge an expression on one image."""
    if isinstance(expression, Condition):
        name = expression.tag
        return met(expression, getattr(image, name) if name in OWN_NAMES else image.header.get(name))
    verdicts = (holds(part, image) for part in expression.parts)
    if expression.how == "none":
        return not any(verdicts)
    return all(verdicts) if expression.how == "all" else any(verdicts)


def met(condition: Condition, value: Any) -> bool:
    """Test one attribute; one of several parts `is` each of them and all of them joined by a backslash.

    An absent value meets only `absent`, `is-not` and `contains-not`: nothing can be said of its size.
    """
    parts = [str(part).strip().casefold() for part in (value if isinstance(value, list | tuple) else [value])]
    absent = value is None or not any(parts)
    if condition.op in {"present", "absent"}:
        return absent is (condition.op == "absent")
    if absent:
        return condition.op in {"is-not", "contains-not"}
    if condition.op in NUMERIC:
        return _compares(condition, parts)
    return _matches(condition, parts)


def number(text: str) -> float | None:
    """Give the number of an attribute's text; an age comes in years. Ref: PS3.5 6.2, VR AS.

    Example: "2.5" is 2.5, "045Y" is 45, "006M" is 0.5, "B40f" is none.
    """
    age = re.fullmatch(r"(\d{3})([DWMY])", text.strip().upper())
    if age:
        return int(age[1]) * _YEARS[age[2]]
    try:
        found = float(text)
    except ValueError:
        return None
    return found if math.isfinite(found) else None


def _compares(condition: Condition, parts: list[str]) -> bool:
    bound, values = float(condition.value[0]), [number(part) for part in parts]
    tests = {
        "above": lambda each: each > bound,
        "at-least": lambda each: each >= bound,
        "below": lambda each: each < bound,
        "at-most": lambda each: each <= bound,
    }
    return all(each is not None and tests[condition.op](each) for each in values)


def _matches(condition: Condition, parts: list[str]) -> bool:
    whole, wanted = "\\".join(parts), [each.strip().casefold() for each in condition.value]
    match condition.op:
        case "is" | "is-not":
            return any(_same(each, part) for each in wanted for part in (whole, *parts)) is (condition.op == "is")
        case "contains" | "contains-not":
            return any(each in whole for each in wanted) is (condition.op == "contains")
        case "starts-with":
            return any(part.startswith(each) for each in wanted for part in parts)
        case _:
            return any(fnmatchcase(part, each) for each in wanted for part in parts)


def _same(wanted: str, part: str) -> bool:
    """Compare as numbers where both are: 1.0 is 1."""
    if wanted == part:
        return True
    one, other = number(wanted), number(part)
    return one is not None and one == other


class _Reader:
    """Hands out tokens: (kind, text), quotes removed."""

    def __init__(self, text: str) -> None:
        self._tokens: list[tuple[str, str]] = []
        at, text = 0, text.rstrip()
        while at < len(text):
            found = _TOKEN.match(text, at)
            if found is None:
                raise BadCondition(f"cannot read {text[at:].strip()[:20]!r}; a quote may be open")
            kind = str(found.lastgroup)
            self._tokens.append((kind, found[kind][1:-1] if kind == "text" else found[kind]))
            at = found.end()

    @property
    def at(self) -> tuple[str, str] | None:
        """Give the next token without taking it."""
        return self._tokens[0] if self._tokens else None

    def next(self, what: str) -> tuple[str, str]:
        """Take the next token, which should be `what`."""
        if not self._tokens:
            raise BadCondition(f"it ends where {what} should come")
        return self._tokens.pop(0)

    def took(self, *wanted: str) -> str | None:
        """Take the next token if it is one of these words or signs."""
        if self._tokens and self._tokens[0][0] != "text" and self._tokens[0][1].casefold() in wanted:
            return self._tokens.pop(0)[1].casefold()
        return None


def _expression(reader: _Reader, depth: int) -> Expression:
    parts = [_term(reader, depth)]
    while reader.took("or"):
        parts.append(_term(reader, depth))
    return parts[0] if len(parts) == 1 else Group(how="any", parts=tuple(parts))


def _term(reader: _Reader, depth: int) -> Expression:
    parts = [_factor(reader, depth)]
    while reader.took("and"):
        parts.append(_factor(reader, depth))
    return parts[0] if len(parts) == 1 else Group(how="all", parts=tuple(parts))


def _factor(reader: _Reader, depth: int) -> Expression:
    if depth > _DEPTH_MAX:
        raise BadCondition("it is nested too deeply")
    if reader.took("not"):
        return Group(how="none", parts=(_factor(reader, depth + 1),))
    if reader.took("("):
        inner = _expression(reader, depth + 1)
        if not reader.took(")"):
            raise BadCondition("a bracket is not closed")
        return inner
    return _test(reader)


def _test(reader: _Reader) -> Expression:
    kind, name = reader.next("an attribute's name")
    if kind != "word" or not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]+", name):
        raise BadCondition(f"{name!r} stands where an attribute's name should, such as SliceThickness or called_ae")
    negated = reader.took("not") is not None
    sign = reader.took(*_SIGNS, "is", "contains", "starts", "matches", "in")
    if sign is None:
        raise BadCondition(f"after {name} should come =, !=, <, <=, >, >=, is, contains, starts with, matches or in")
    if sign == "is" and not negated:
        negated = reader.took("not") is not None
    if sign == "is" and (there := reader.took("present", "absent")):
        found: Expression = _condition(name, there, ())
    elif sign == "in":
        found = _condition(name, "is", _list(reader))
    else:
        if sign == "starts" and not reader.took("with"):
            raise BadCondition("after 'starts' should come 'with'")
        found = _condition(name, _SIGNS.get(sign, "starts-with" if sign == "starts" else sign), (_value(reader),))
    return Group(how="none", parts=(found,)) if negated else found


def _list(reader: _Reader) -> tuple[str, ...]:
    if not reader.took("("):
        raise BadCondition("after 'in' should come values in brackets")
    values = [_value(reader)]
    while reader.took(","):
        values.append(_value(reader))
    if not reader.took(")"):
        raise BadCondition("a bracket is not closed")
    return tuple(values)


def _value(reader: _Reader) -> str:
    kind, value = reader.next("a value")
    if kind == "sign" or (kind == "word" and value.casefold() in {"and", "or", "not", "in"}):
        raise BadCondition(f"{value!r} stands where a value should; put text that looks like this in quotes")
    return value


def _condition(name: str, op: str, values: tuple[str, ...]) -> Condition:
    try:
        return Condition.model_validate({"tag": name, "op": op, "value": values})
    except ValidationError as error:
        raise BadCondition(str(error.errors()[0]["msg"]).removeprefix("Value error, ")) from None
