"""What every content item of an SR must keep by itself, whatever the form: numbers that are numbers, units, words, references.

Ref: PS3.3 C.18.1, C.18.3
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from pydicom.dataset import Dataset

from node.errors import Refused
from workers.results.request import ComposeRequest

PROBABILITY_OF_CANCER = "111047"
# What may be measured, in which units. Ref: PS3.16 CID 7469; UCUM
UNITS: Mapping[str, frozenset[str]] = {
    "118565006": frozenset({"mm3", "mL"}),  # volume
    "112031": frozenset({"[hnsf'U]"}),  # attenuation
    "103339001": frozenset({"mm"}),  # long axis
    "103340004": frozenset({"mm"}),  # short axis
    "42798000": frozenset({"mm2", "{pixels}"}),  # area
    "103355008": frozenset({"mm"}),  # width
    "121207": frozenset({"mm"}),  # height
    "111012": frozenset({"%"}),  # certainty of finding
    "122157": frozenset({"%"}),  # probability
    "122411": frozenset({"%"}),  # operating threshold
}
LIBRARY = "111028"


@dataclass(frozen=True, slots=True)
class Item:
    """A content item below the root: its value type, the code of its name, and those of the items that it lies in, outermost first."""

    dataset: Dataset
    kind: str
    name: str
    inside: tuple[str, ...]


def read(item: Dataset, inside: tuple[str, ...] = ()) -> Iterator[Item]:
    """Give every content item below one, each before those that lie in it."""
    for child in item.get("ContentSequence", ()):
        found = Item(child, child.ValueType, name(child), inside)
        yield found
        yield from read(child, (*inside, found.name))


def verify(request: ComposeRequest, items: Sequence[Item], segs: Sequence[Dataset]) -> None:
    """Look at each content item; raises Refused."""
    known = {(dataset.SOPClassUID, dataset.SOPInstanceUID) for dataset in (*request.sources, *segs)}
    tools = request.profile.sr_form == "editable"
    for item in items:
        if item.kind == "NUM" and LIBRARY not in item.inside:
            _check_number(item.dataset)
    for item in items:
        if item.name == PROBABILITY_OF_CANCER:
            raise Refused("a number of the SR is called probability of cancer, which no model here gives")
        if item.kind == "TEXT":
            _check_text(request, item.dataset, tools=tools)
        for reference in item.dataset.get("ReferencedSOPSequence", ()):
            if (reference.ReferencedSOPClassUID, reference.ReferencedSOPInstanceUID) not in known:
                raise Refused("the SR refers to an object that is neither an image of its series nor another SEG of this result")


def _check_number(item: Dataset) -> None:
    measured = item.MeasuredValueSequence[0]
    value = float(measured.NumericValue)
    exact = float(measured.get("FloatingPointValue", value))
    if not math.isfinite(exact) or not math.isclose(value, exact, rel_tol=1e-6, abs_tol=1e-6):
        raise Refused("a number of the SR is not a number")
    if name(item) == PROBABILITY_OF_CANCER:
        raise Refused("a number of the SR is called probability of cancer, which no model here gives")
    unit = measured.MeasurementUnitsCodeSequence[0]
    if name(item) not in UNITS or unit.CodingSchemeDesignator != "UCUM" or unit.CodeValue not in UNITS[name(item)]:
        raise Refused("a number of the SR has a name or a unit that no measurement has")
    if unit.CodeValue == "%" and not 0 <= value <= 100:
        raise Refused("a percentage of the SR is none")


def _check_text(request: ComposeRequest, item: Dataset, *, tools: bool) -> None:
    """Look at the words; the card's own on its intended use may name what ours never do."""
    text = str(item.TextValue)
    forbidden = ("diagnos",) if tools and name(item) == "112039" else ("diagnos", "cornerstone")
    own = "" if text == f"Intended use: {request.card.card.model.intended_use}" else text.lower()
    if not text.isascii() or any(word in own for word in forbidden):
        raise Refused("a text of the SR holds a word or character it must not")


def name(item: Dataset) -> str:
    """Give the code of an item's concept name; an item by reference has none."""
    names = item.get("ConceptNameCodeSequence")
    return str(names[0].get("CodeValue", "")) if names else ""


def children(item: Dataset, value_type: str) -> list[Dataset]:
    """Give the items right below, of one value type."""
    return [child for child in item.get("ContentSequence", ()) if child.ValueType == value_type]


def number(item: Dataset) -> float:
    """Give the value of a NUM."""
    return float(item.MeasuredValueSequence[0].NumericValue)


def unit(item: Dataset) -> str:
    """Give the unit of a NUM."""
    return str(item.MeasuredValueSequence[0].MeasurementUnitsCodeSequence[0].CodeValue)
