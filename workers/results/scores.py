"""What a model says of the input as a whole: a probability for each label, and on which side of its threshold that lies.

Ref: PS3.16 TID 1500 (Qualitative Evaluations are open to further items)
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from highdicom import sr
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code as PydicomCode

from models.card import LabelPart
from node.errors import Refused
from workers.results.request import ComposeRequest

POSITIVE = PydicomCode("10828004", "SCT", "Positive")
NEGATIVE = PydicomCode("260385009", "SCT", "Negative")
DECIMALS_MAX = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """One label's probability, and whether it reaches the label's operating threshold; None: the card names none."""

    part: LabelPart
    probability: float
    positive: bool | None


def verdicts(request: ComposeRequest) -> tuple[Verdict, ...]:
    """Give a verdict for each score, in the card's order.

    Raises Refused where a score is no probability, a label has none or two, or the card does not know it.
    """
    card, scores = request.card.card, request.prediction.scores
    given = {entry.label: entry.score for entry in scores}
    if len(given) != len(scores):
        raise Refused("the prediction gives two scores for one label")
    known = {part.index for part in card.output.labels}
    if strange := set(given) - known:
        raise Refused(f"the prediction scores label {min(strange)}, which the model's card does not name")
    if card.output.kind == "scores" and (missing := known - set(given)):
        raise Refused(f"the prediction gives no score for label {min(missing)}")
    for label, score in given.items():
        if not (math.isfinite(score) and 0 <= score <= 1):
            raise Refused(f"the score of label {label} is not a probability between 0 and 1")
    return tuple(_verdict(part, given[part.index]) for part in card.output.labels if part.index in given)


def _verdict(part: LabelPart, probability: float) -> Verdict:
    return Verdict(part=part, probability=probability, positive=None if part.threshold is None else probability >= part.threshold)


def percent(verdict: Verdict) -> str:
    """Round to whole percents, or as finely as it takes to stand on the right side of the threshold.

    Example: 0.874 gives "87"; 0.496 against a threshold of 0.5 gives "49.6", because "50" would read as reached.
    """
    threshold = verdict.part.threshold
    for decimals in range(DECIMALS_MAX + 1):
        text = f"{100 * verdict.probability:.{decimals}f}"
        if threshold is None or (float(text) >= float(f"{100 * threshold:.{DECIMALS_MAX}f}")) == verdict.positive:
            return text
    return text


def sentence(verdict: Verdict) -> str:
    """Say "Pneumothorax: probability 87 %, above the operating threshold of 50 %."; a score at the threshold counts as above."""
    said = f"{verdict.part.label}: probability {percent(verdict)} %"
    if verdict.positive is None or verdict.part.threshold is None:
        return f"{said}."
    side = "above" if verdict.positive else "below"
    return f"{said}, {side} the operating threshold of {100 * verdict.part.threshold:.10g} %."


def message(found: tuple[Verdict, ...]) -> str:
    """Give the result in a few words for a list of series."""
    if all(verdict.positive is None for verdict in found):
        return ", ".join(f"{verdict.part.label} {percent(verdict)} %" for verdict in found)
    above = [f"{verdict.part.label} {percent(verdict)} %" for verdict in found if verdict.positive]
    return f"Above threshold: {', '.join(above)}" if above else "Nothing above threshold"


def items(found: tuple[Verdict, ...]) -> list[sr.ContentItem]:
    """Give each label's verdict as a code with its probability and threshold below, or the number alone without a threshold.

    Positive and negative are of the model's test, not of the patient: neither says that something is there.
    """
    return [item for verdict in found for item in _items(verdict)]


def _items(verdict: Verdict) -> list[sr.ContentItem]:
    label = PydicomCode(verdict.part.type.value, verdict.part.type.scheme, verdict.part.type.meaning)
    sites = _sites(verdict.part)
    if verdict.positive is None or verdict.part.threshold is None:
        number = _percent_item(codes.DCM.Probability, percent(verdict), "CONTAINS")
        finding = sr.CodeContentItem(name=codes.SCT.AssociatedFinding, value=label, relationship_type="HAS CONCEPT MOD")
        number.ContentSequence = sr.ContentSequence([finding, *sites])
        return [number]
    value = POSITIVE if verdict.positive else NEGATIVE
    item = sr.CodeContentItem(name=label, value=value, relationship_type="CONTAINS")
    numbers = [
        _percent_item(codes.DCM.Probability, percent(verdict), "HAS PROPERTIES"),
        _percent_item(codes.DCM.ThresholdValue, f"{100 * verdict.part.threshold:.10g}", "HAS PROPERTIES"),
    ]
    item.ContentSequence = sr.ContentSequence([*sites, *numbers])
    return [item]


def _sites(part: LabelPart) -> list[sr.ContentItem]:
    if part.region is None:
        return []
    side = PydicomCode(part.laterality.value, part.laterality.scheme, part.laterality.meaning) if part.laterality else None
    return [sr.FindingSite(PydicomCode(part.region.value, part.region.scheme, part.region.meaning), laterality=side)]


def _percent_item(name: PydicomCode, text: str, relationship: str) -> sr.NumContentItem:
    item = sr.NumContentItem(name=name, value=float(text), unit=codes.UCUM.Percent, relationship_type=relationship)
    item.MeasuredValueSequence[0].NumericValue = text
    return item
