"""Our own words: ASCII, short, never more than the model said."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from models.card import Card, LabelPart, ascii_only
from models.vocabulary import Measurement
from node.profiles import Kind
from workers.results import scores
from workers.results.request import ComposeRequest, FailureRequest, Origin
from workers.results.segments import Segment

if TYPE_CHECKING:
    from workers.measure import SegmentMeasures

DESCRIPTION_CHARACTERS = 64  # LO. Ref: PS3.5 6.2
LABEL_CHARACTERS = 16  # CS
UNVERIFIED = "unverified"
NOT_VERIFIED = "Not verified by a physician."
FAILED = "AI FAILED"
UNITS = {"[hnsf'U]": "HU"}
KIND_WORDS: dict[Kind, str] = {
    "seg": "segmentation",
    "pm": "probability map",
    "rtstruct": "contours",
    "gsps": "outlines",
    "sc": "pictures",
    "kos": "key images",
    "sr": "report",
}


def model_words(request: Origin) -> str:
    """Give "Chest CT lungs and nodules 0.1.0"."""
    model = request.card.card.model
    return f"{model.title} {model.version}"


def detects(card: Card) -> bool:
    """Tell whether the model marks findings, so that none marked is an answer; a score is an answer of its own."""
    return card.finds and card.output.kind != "scores"


def series_description(request: Origin, kind: Kind, message: str = "") -> str:
    """Name a series of any kind, in at most 64 characters that always end with "unverified".

    By the profile's pattern where it has one. Else message first, because a viewer's panel shows some 22 characters:
    "Nodule: 2 marked - AI lung-test 1.2.0 unverified"; without a message "AI Lung nodules 1.2.0 outlines - unverified".
    A result that replaces another says "rev 2".
    """
    model, pattern = request.card.card.model, request.profile.description
    revision = _revision(request)
    if pattern:
        told = message or f"AI {KIND_WORDS[kind]}"
        text = pattern.format(message=told, model=model.title, version=model.version, kind=KIND_WORDS[kind])
        return _cut(text.rstrip().removesuffix(UNVERIFIED).rstrip(" -"), f" -{revision} {UNVERIFIED}")
    if not message:
        word = "" if kind == "seg" else f" {KIND_WORDS[kind]}"
        return _cut(f"AI {model_words(request)}{word}", f" -{revision} {UNVERIFIED}")
    whole = f"{message} - AI {model.name} {model.version}{revision} {UNVERIFIED}"
    return ascii_only(whole) if len(whole) <= DESCRIPTION_CHARACTERS else _cut(message, f" - AI {model.name}{revision} {UNVERIFIED}")


def failure_description(request: FailureRequest) -> str:
    """Name the series of a failed analysis; a site's pattern does not reach it, since its first words must be these."""
    return _cut(f"{FAILED} {model_words(request)}", f" -{_revision(request)} nothing analysed")


def seg_description(request: ComposeRequest, segments: tuple[Segment, ...] = ()) -> str:
    """Name the SEG series: "AI Lung nodules 1.2.0 - unverified", or by the profile's pattern."""
    return series_description(request, "seg", message(request, segments) if request.profile.description else "")


def part_of(request: Origin, description: str, part: str) -> str:
    """Say in a series' description which of several it is: "AI Organs 1.0.0 2/3 - unverified"."""
    tail = f" -{_revision(request)} {UNVERIFIED}"
    return _cut(description.removesuffix(tail), f" {part}{tail}")


def message(request: ComposeRequest, segments: tuple[Segment, ...]) -> str:
    """Give the result in a few words: "Nodule: 2 marked", "No nodule marked", "Left lung 1.6 mL", "Nothing above threshold"."""
    card = request.card.card
    if card.output.kind == "scores":
        return scores.message(scores.verdicts(request))
    if detects(card):
        return ", ".join(f"{label}: {count} marked" for label, count in _counts(segments).items()) or f"No {_sought(request)} marked"
    return ", ".join(f"{segment.name}{_size(request, segment)}" for segment in segments) or "Nothing segmented"


def content_label(request: Origin) -> str:
    """Give the model's name as a code string: "CHEST_CT"."""
    return request.card.card.model.name.upper().replace("-", "_")[:LABEL_CHARACTERS].rstrip("_")


def statement(request: ComposeRequest, segments: tuple[Segment, ...]) -> str:
    """Say in words what was analysed and marked; this is also the parcel's summary."""
    card = request.card.card
    sentences = [f"{model_words(request)}: {analysed(request)}."]
    if detects(card):
        counts = _counts(segments)
        sentences += [f"{label}: {count} marked." for label, count in counts.items()] or [f"No {_sought(request)} marked."]
    sentences += [scores.sentence(verdict) for verdict in scores.verdicts(request)]
    organs = [f"{segment.name}{_size(request, segment)}" for segment in segments if segment.finding is None]
    if organs:
        sentences.append(f"{', '.join(organs)}.")
    elif not card.finds:
        sentences.append("Nothing was segmented.")
    sentences += request.prediction.remarks
    if replaced := replacing(request):
        sentences.append(replaced)
    return ascii_only(" ".join([*sentences, NOT_VERIFIED]))


def analysed(request: ComposeRequest) -> str:
    """Say how many images were analysed, of how many, and what was odd about them."""
    given = request.given or len(request.job.inputs.get(request.card.card.reference_role, ())) or len(request.sources)
    return f"{len(request.sources)} of {given} images analysed{_remark(request)}"


def replacing(request: ComposeRequest) -> str:
    """Say which result this one replaces; empty where none."""
    told = request.job.predecessor
    if told is None:
        return ""
    return f"Revision {told['revision']} of this study's images: this result replaces that of revision {told['of_revision']}."


def segment_sentence(request: ComposeRequest, segment: Segment, measures: SegmentMeasures) -> str:
    """Say one segment in words: "Nodule 1 (Lung): Volume 38 mm3, Attenuation Coefficient (Mean) 30 HU; largest on image 3."."""
    region = f" ({segment.part.region.meaning})" if segment.part.region else ""
    numbers = ", ".join(_number(entry) for entry in measures.measurements)
    return ascii_only(f"{segment.name}{region}: {numbers or 'marked'}; largest on {_image(request, measures.key_slice)}.")


def _number(entry: Measurement) -> str:
    derivation = f" ({entry.derivation.meaning})" if entry.derivation else ""
    return f"{entry.concept.meaning}{derivation} {entry.value:.10g} {UNITS.get(entry.unit.value, entry.unit.value)}"


def _image(request: ComposeRequest, index: int) -> str:
    """Name an image as a reader sees it: by its frame, else by its Instance Number."""
    frame, number = request.frame(index), request.sources[index].get("InstanceNumber")
    if frame is not None:
        return f"frame {frame}"
    return f"image {number}" if number is not None else f"image {index + 1} of {len(request.sources)}"


def intended_use(request: Origin) -> str:
    """Give the card's intended use as a sentence of the report."""
    return f"Intended use: {request.card.card.model.intended_use}"


def _revision(request: Origin) -> str:
    """Tell two results of one study apart in a list of series."""
    told = request.job.predecessor
    return "" if told is None else f" rev {told['revision']}"


def _remark(request: ComposeRequest) -> str:
    """Say in brackets which of several stacks it was, and that the gantry leaned."""
    return f" ({ascii_only(request.remark)})" if request.remark else ""


def _counts(segments: tuple[Segment, ...]) -> Counter[str]:
    return Counter(segment.part.label for segment in segments if segment.finding is not None)


def _sought(request: ComposeRequest) -> str:
    return " or ".join(_inside(part) for part in request.card.card.output.labels if part.kind == "finding")


def _inside(part: LabelPart) -> str:
    """Give the label as it stands inside a sentence; an abbreviation keeps its capitals."""
    first, rest = part.label[:1], part.label[1:]
    return part.label if rest[:1].isupper() else first.lower() + rest


def _size(request: ComposeRequest, segment: Segment) -> str:
    """Give the volume of a segment in words: 3 voxels of 500 mm3 are " 1.5 mL", of 50 cm3 " 150 mL".

    On a radiograph it is the area, 1200 mm2 are " 12 cm2", and nothing where the image is not calibrated.
    """
    grid = request.prediction.grid
    if not grid.calibrated:
        return ""
    value, unit = segment.voxels * grid.voxel_mm3 / 1000, "mL"
    if grid.is_projection:
        value, unit = segment.voxels * grid.spacing_mm[1] * grid.spacing_mm[2] / 100, "cm2"
    return f" {value:.0f} {unit}" if value >= 10 else f" {value:.1f} {unit}"


def _cut(text: str, tail: str) -> str:
    """Shorten the text, never the tail, to fit together."""
    return ascii_only(text[: DESCRIPTION_CHARACTERS - len(tail)].rstrip() + tail)
