"""What a summary page says: headline, lines of facts, rows of findings and organs. ASCII, as short as they can be."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from models.card import LabelPart, ascii_only
from models.vocabulary import Measurement
from workers.drawing import Colour
from workers.measure import AREA, ATTENUATION, CERTAINTY, HEIGHT, LONG_AXIS, MEAN, PIXELS, SHORT_AXIS, VOLUME, WIDTH, SegmentMeasures
from workers.results import header, scores, wording
from workers.results.pictures import bounds, colour, place, plane
from workers.results.request import ComposeRequest, Draft
from workers.results.segments import Segment

BANNER = "AI RESULT - NOT VERIFIED BY A PHYSICIAN"
MANY = 4  # organs are not all named in the headline
LENGTHS = {LONG_AXIS.value: "long", SHORT_AXIS.value: "short", WIDTH.value: "wide", HEIGHT.value: "high"}
SIZES = {VOLUME.value: "size", AREA.value: "size", CERTAINTY.value: "certainty"}
UNITS = {PIXELS.value: "pixels"}
AGREE = 0.9  # of the labelled voxels around a finding must lie in one organ for the finding to be said to lie there


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of a table; a colour stands before it where outlines have that colour."""

    cells: tuple[str, ...]
    colour: Colour | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Rows under one heading; columns that hold nothing are left out."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[Row, ...]


def tables(draft: Draft) -> list[Table]:
    """Give classification, findings and organs, in this order, without empty tables."""
    request = draft.request
    findings = sorted((pair for pair in draft.measured if pair[0].finding), key=lambda pair: pair[0].key)
    organs = [pair for pair in draft.measured if pair[0].finding is None]
    size = "Area" if request.volume.grid.is_projection else "Volume"
    told = [
        Table(
            title="Classification of the images as a whole", columns=("Label", "Probability", "Operating threshold"), rows=_scores(request)
        ),
        Table(
            title="Findings",
            columns=("Finding", "Site", size, "Long x short axis", "Width x height", "Mean (SD)", "Certainty", "Key image"),
            rows=tuple(_finding(request, *pair) for pair in findings),
        ),
        Table(
            title="Structures",
            columns=("Structure", size, "Mean (SD)", "Key image"),
            rows=tuple(_organ(request, *pair) for pair in organs),
        ),
    ]
    return [_without_empty(table) for table in told if table.rows]


def _scores(request: ComposeRequest) -> tuple[Row, ...]:
    rows = []
    for verdict in scores.verdicts(request):
        side = "" if verdict.positive is None else ("above" if verdict.positive else "below")
        threshold = "" if verdict.part.threshold is None else f"{side} {100 * verdict.part.threshold:.10g} %"
        rows.append(Row(cells=(verdict.part.label, f"{scores.percent(verdict)} %", threshold)))
    return tuple(rows)


def _finding(request: ComposeRequest, segment: Segment, measures: SegmentMeasures) -> Row:
    told = _told(measures)
    cells = (
        *(segment.name, site(request, segment, measures), told.get("size", "")),
        *(_by(told, "long", "short"), _by(told, "wide", "high"), told.get("mean", "")),
        *(told.get("certainty", ""), place(request, measures.key_slice)),
    )
    return Row(cells=cells, colour=colour(segment))


def _organ(request: ComposeRequest, segment: Segment, measures: SegmentMeasures) -> Row:
    told = _told(measures)
    cells = (segment.name, told.get("size", ""), told.get("mean", ""), place(request, measures.key_slice))
    return Row(cells=cells, colour=colour(segment))


def _told(measures: SegmentMeasures) -> dict[str, str]:
    """Give a segment's numbers in words, with the digits that the report has."""
    told: dict[str, str] = {}
    deviation = apart = ""
    for entry in measures.measurements:
        if entry.concept == ATTENUATION and entry.derivation == MEAN:
            told["mean"] = f"{entry.value:.0f} HU"
        elif entry.concept == ATTENUATION:
            deviation = f" ({entry.value:.0f})"
        elif entry.concept == CERTAINTY and entry.derivation is not None:
            apart = f" (SD {entry.value:.0f})"
        elif entry.concept.value in LENGTHS:
            told[LENGTHS[entry.concept.value]] = f"{entry.value:.1f}"
        elif entry.concept.value in SIZES:
            told[SIZES[entry.concept.value]] = f"{_number(entry)} {UNITS.get(entry.unit.value, entry.unit.value)}"
    if "mean" in told:
        told["mean"] += deviation
    if "certainty" in told:
        told["certainty"] += apart
    return told


def _by(told: Mapping[str, str], first: str, second: str) -> str:
    return f"{told[first]} x {told[second]} mm" if first in told and second in told else ""


def _number(entry: Measurement) -> str:
    """Give 1860.1 mL as "1860", 3.2 mL as "3.2"."""
    return f"{entry.value:.0f}" if entry.value >= 10 or entry.value.is_integer() else f"{entry.value:.1f}"


def site(request: ComposeRequest, segment: Segment, measures: SegmentMeasures) -> str:
    """Name where a finding lies: the card's region, with a side only where the card or the organ around it has one."""
    part = segment.part
    region = part.region.meaning if part.region else ""
    if part.laterality is not None:
        return f"{region}, {part.laterality.meaning.lower()}".lstrip(", ")
    organ = _around(request, segment, measures) if part.region else None
    if organ is None or organ.laterality is None:
        return region
    return f"{region}, {organ.laterality.meaning.lower()}"


def _around(request: ComposeRequest, segment: Segment, measures: SegmentMeasures) -> LabelPart | None:
    """Give the organ of the finding's region that alone lies around it on its key slice; None where that is not plain."""
    index = measures.key_slice
    mask = plane(request, segment, index)
    top, left, bottom, right = (int(value) for value in bounds(mask))
    around = (slice(max(0, top - 2), bottom + 2), slice(max(0, left - 2), right + 2))
    labels = request.prediction.labels[index][around]
    counts = np.bincount(labels[~mask[around] | (request.prediction.instances is None)], minlength=256)
    counts[0] = 0
    best = int(counts.argmax())
    if not counts[best] or counts[best] < AGREE * counts.sum():
        return None
    organ = next((part for part in request.card.card.output.labels if part.index == best), None)
    region = segment.part.region
    return organ if organ is not None and region is not None and organ.type.value == region.value else None


def _without_empty(table: Table) -> Table:
    kept = [number for number in range(len(table.columns)) if any(row.cells[number] for row in table.rows)]
    rows = tuple(Row(cells=tuple(row.cells[number] for number in kept), colour=row.colour) for row in table.rows)
    return Table(title=table.title, columns=tuple(table.columns[number] for number in kept), rows=rows)


def headline(draft: Draft) -> str:
    """Say the result in a few words: "Nodule: 2 marked", "No nodule marked", "Brain 1423 mL"; of many organs how many."""
    request = draft.request
    if not wording.detects(request.card.card) and len(draft.segments) > MANY:
        return f"{len(draft.segments)} structures segmented"
    return wording.message(request, draft.segments)


def facts(draft: Draft) -> list[str]:
    """Say what was analysed by what, and what it replaces."""
    request = draft.request
    lines = [f"{wording.model_words(request)}: {wording.analysed(request)}."]
    lines += [ascii_only(remark) for remark in request.prediction.remarks]
    if replaced := wording.replacing(request):
        lines.append(replaced)
    return lines


def notes(draft: Draft) -> list[str]:
    """Say what the model is for, what it is not for, and when and by what the page was made."""
    request = draft.request
    model = request.card.card.model
    moment = header.moment_of(request)
    made = f"Made {moment:%Y-%m-%d %H:%M:%S} (UTC{moment:%z}) by Overread {importlib.metadata.version('overread')}"
    return [
        f"Intended use: {model.intended_use}",
        f"Limits: {' '.join(model.limits)}",
        ascii_only(f"{made}, installation {request.settings.installation_id}. Outlines are drawn on the images by software."),
    ]


def shown_line(shown: Sequence[Segment], draft: Draft) -> str:
    """Say which findings have pictures; empty where all have."""
    count = sum(segment.finding is not None for segment in draft.segments)
    if len(shown) >= count:
        return ""
    return f"Pictures show the {len(shown)} largest of {count} findings; the table has all of them."
