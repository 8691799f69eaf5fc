"""Read an SR back: its class, title and words, its references, and in each form its numbers and lines.

Ref: PS3.16 TID 1500; docs/results.md
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pydicom.dataset import Dataset

from node.errors import Refused
from workers.results import check_bytes, check_groups, check_items
from workers.results.check_items import Item, children, name
from workers.results.marks import Mark
from workers.results.request import ComposeRequest

REPORT, TEXT, GROUP, SUMMARY, FINDING = "126000", "18748-4", "125007", "111017", "121071"
WITH, WITHOUT = "111242", "111241"
PROBABILITY, THRESHOLD, POSITIVE, NEGATIVE = "122157", "122411", "10828004", "260385009"
CLASSES = {"comprehensive-3d": "1.2.840.10008.5.1.4.1.1.88.34", "comprehensive": "1.2.840.10008.5.1.4.1.1.88.33"}


def verify(request: ComposeRequest, report: Dataset, segs: Sequence[Dataset], found: Mapping[str, Mark]) -> None:
    """Raise Refused unless the SR says what the prediction says, in the profile's form, and keeps what viewers need."""
    if (report.VerificationFlag, report.CompletionFlag, report.PreliminaryFlag) != ("UNVERIFIED", "COMPLETE", "PRELIMINARY"):
        raise Refused("the SR does not say that it is complete, preliminary and unverified")
    if report.SOPClassUID != CLASSES[request.profile.sr_class]:
        raise Refused("the SR is not of the class that the profile asks for")
    _check_evidence(request, report, segs)
    _check_predecessor(request, report)
    items = list(check_items.read(report))
    check_items.verify(request, items, segs)
    _check_words(request, report, items)
    _check_scores(request, items)
    _check_summary(request, items, found)
    groups = [item.dataset for item in items if item.name == GROUP]
    lesions = any(mark.finding is not None for mark in found.values())
    outlined = request.profile.sr_form != "text" and (lesions or (bool(found) and not request.card.card.finds))
    if (name(report) == REPORT) != outlined or bool(groups) != outlined or (not outlined and name(report) != TEXT):
        raise Refused("the SR's title and its groups do not fit what was found")
    if outlined and request.profile.sr_form == "measurements":
        check_groups.verify_measurements(request, groups, found, segs)
    elif outlined:
        check_groups.verify_editable(request, groups, found)
    if not outlined or request.profile.sr_form == "editable":
        _check_sentences(request, items, found)


def _check_evidence(request: ComposeRequest, report: Dataset, segs: Sequence[Dataset]) -> None:
    wanted = {
        (dataset.StudyInstanceUID, dataset.SeriesInstanceUID, dataset.SOPClassUID, dataset.SOPInstanceUID)
        for dataset in (*request.sources, *segs)
    }
    if sorted(check_bytes.evidence(report)) != sorted(wanted):
        raise Refused("the SR's evidence is not the images and the SEG")


def _check_predecessor(request: ComposeRequest, report: Dataset) -> None:
    """Look that the report replaces the one the job's row names, and no other."""
    named = [
        (study.StudyInstanceUID, series.SeriesInstanceUID, instance.ReferencedSOPClassUID, instance.ReferencedSOPInstanceUID)
        for study in report.get("PredecessorDocumentsSequence", ())
        for series in study.ReferencedSeriesSequence
        for instance in series.ReferencedSOPSequence
    ]
    told = request.job.predecessor
    keys = ("series_instance_uid", "sop_class_uid", "sop_instance_uid")
    if named != ([] if told is None else [(request.job.study_instance_uid, *(told[key] for key in keys))]):
        raise Refused("the SR does not name the report that it replaces")


def _check_words(request: ComposeRequest, report: Dataset, items: Sequence[Item]) -> None:
    """Look for what a reader must be told in words."""
    texts = _texts(items)
    if not any("Not verified by a physician." in text for text in texts):
        raise Refused("the SR does not say that no physician verified it")
    if f"Intended use: {request.card.card.model.intended_use}" not in texts:
        raise Refused("the SR does not say what the model is intended for")
    if not str(report.SeriesDescription).endswith("unverified"):
        raise Refused("the SR's series is not called unverified")
    if any("AI FAILED" in text for text in texts):
        raise Refused("the SR of a result says that the analysis failed")


def _texts(items: Sequence[Item]) -> list[str]:
    return [str(item.dataset.TextValue) for item in items if item.kind == "TEXT"]


def _check_scores(request: ComposeRequest, items: Sequence[Item]) -> None:
    """Look for each label's probability, on its side of the threshold, in code and in words; no group may hold one."""
    card = request.card.card
    told = [item for item in items if item.name == PROBABILITY]
    if len(told) != len(request.prediction.scores):
        raise Refused("the SR has not one probability for each score")
    if any(GROUP in item.inside for item in told):
        raise Refused("a score of the SR stands in a group of measurements")
    words = " ".join(_texts(items))
    for score in request.prediction.scores:
        part = card.label(score.label)
        side = "" if part.threshold is None else "above" if score.score >= part.threshold else "below"
        said = f", {side} the operating threshold" if side else ". "
        start = words.find(f"{part.label}: probability ")
        if start < 0 or not words[start:].partition(" %")[2].startswith(said):
            raise Refused("the SR does not say in words on which side of its threshold a score lies")
        if side:
            _check_verdict(items, (part.type.value, POSITIVE if side == "above" else NEGATIVE), (score.score, part.threshold or 0.0))


def _check_verdict(items: Sequence[Item], wanted: tuple[str, str], values: tuple[float, float]) -> None:
    """Look for one code that says positive or negative, with probability and threshold below it."""
    for item in items:
        if item.kind == "CODE" and item.name == wanted[0] and item.dataset.ConceptCodeSequence[0].CodeValue == wanted[1]:
            told = {name(child): check_items.number(child) for child in children(item.dataset, "NUM")}
            probability, threshold = told.get(PROBABILITY, -1.0), told.get(THRESHOLD, -1.0)
            near = abs(probability - 100 * values[0]) <= 0.51 and abs(threshold - 100 * values[1]) <= 1e-4
            if near and (probability >= threshold) == (values[0] >= values[1]):
                return
    raise Refused("the SR does not tell a score as the model gave it")


def _check_summary(request: ComposeRequest, items: Sequence[Item], found: Mapping[str, Mark]) -> None:
    """Compare the code that says how the analysis ended with what was found."""
    said = [item.dataset.ConceptCodeSequence[0].CodeValue for item in items if item.name == SUMMARY]
    card = request.card.card
    judged = [(score.score, card.label(score.label).threshold) for score in request.prediction.scores]
    positives = [value >= threshold for value, threshold in judged if threshold is not None]
    lesions = any(mark.finding is not None for mark in found.values())
    answers = (card.finds and card.output.kind != "scores") or bool(positives)
    if said != ([WITH if lesions or any(positives) else WITHOUT] if answers else []):
        raise Refused("the SR's code for findings or none does not fit what was found")


def _check_sentences(request: ComposeRequest, items: Sequence[Item], found: Mapping[str, Mark]) -> None:
    """Look for one sentence with its numbers and its image for each mark, and for none besides."""
    told = [item.dataset for item in items if item.kind == "TEXT" and children(item.dataset, "IMAGE")]
    if len(told) != len(found):
        raise Refused("the SR does not tell each mark in words")
    for mark in found.values():
        item = next((one for one in told if str(one.TextValue).startswith((f"{mark.name}:", f"{mark.name} ("))), None)
        if item is None:
            raise Refused("the SR does not tell each mark in words")
        numbers = children(item, "NUM")
        check_groups.check_numbers(request, numbers, mark)
        asked = {what for entry in request.card.card.measurements if entry.label == mark.part.index for what in entry.what}
        volume = "volume" in asked and not (mark.boxed or request.prediction.grid.is_projection)
        if volume != any(name(number) == check_groups.VOLUME for number in numbers):
            raise Refused("the SR does not tell the volume of each mark that has one")
        _check_told(item, mark)
        place = check_groups.slice_of(request, children(item, "IMAGE")[0])
        if place is None or place not in mark.areas:
            raise Refused("a sentence of the SR names an image that its mark does not touch")


def _check_told(item: Dataset, mark: Mark) -> None:
    """Compare a sentence's words with the numbers and the code below it."""
    for number in children(item, "NUM"):
        if f" {check_items.number(number):.10g} " not in str(item.TextValue):
            raise Refused("a sentence of the SR tells another number than stands below it")
    said = [child.ConceptCodeSequence[0].CodeValue for child in children(item, "CODE") if name(child) == FINDING]
    if said != ([mark.part.type.value] if mark.finding is not None else []):
        raise Refused("a sentence of the SR names another finding than its mark")
