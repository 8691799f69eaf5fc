"""Our own words: ASCII, short, never more than the model said."""

from __future__ import annotations

from collections import Counter

from models.card import LabelPart, ascii_only
from workers.results.request import ComposeRequest
from workers.results.segments import Segment, mask

DESCRIPTION_CHARACTERS = 64  # LO. Ref: PS3.5 6.2
LABEL_CHARACTERS = 16  # CS


def model_words(request: ComposeRequest) -> str:
    """Give "Chest CT lungs and nodules 0.1.0"."""
    model = request.card.card.model
    return f"{model.title} {model.version}"


def seg_description(request: ComposeRequest) -> str:
    """Name the SEG series: "AI Lung nodules 1.2.0 - unverified"; one that replaces another says "rev 2"."""
    return _cut(f"AI {model_words(request)}", f" -{_revision(request)} unverified")


def sr_description(request: ComposeRequest, segments: tuple[Segment, ...]) -> str:
    """Name the SR series, message first, because a viewer's panel shows some 22 characters."""
    model = request.card.card.model
    if request.card.card.finds:
        head = ", ".join(f"{label}: {count} marked" for label, count in _counts(segments).items()) or f"No {_sought(request)} marked"
    else:
        head = ", ".join(f"{segment.name}{_size(request, segment)}" for segment in segments) or "Nothing segmented"
    tail = f" - AI {model.name}{_revision(request)} unverified"
    whole = f"{head} - AI {model.name} {model.version}{_revision(request)} unverified"
    return ascii_only(whole) if len(whole) <= DESCRIPTION_CHARACTERS else _cut(head, tail)


def content_label(request: ComposeRequest) -> str:
    """Give the model's name as a code string: "CHEST_CT"."""
    return request.card.card.model.name.upper().replace("-", "_")[:LABEL_CHARACTERS].rstrip("_")


def statement(request: ComposeRequest, segments: tuple[Segment, ...]) -> str:
    """Say in words what was analysed and marked; this is also the parcel's summary."""
    job, card = request.job, request.card.card
    given = request.given or len(job.inputs.get(card.reference_role, ())) or len(request.sources)
    sentences = [f"{model_words(request)}: {len(request.sources)} of {given} images analysed{_remark(request)}."]
    if card.finds:
        counts = _counts(segments)
        sentences += [f"{label}: {count} marked." for label, count in counts.items()] or [f"No {_sought(request)} marked."]
    organs = [f"{segment.name}{_size(request, segment)}" for segment in segments if segment.finding is None]
    if organs:
        sentences.append(f"{', '.join(organs)}.")
    elif not card.finds:
        sentences.append("Nothing was segmented.")
    if job.predecessor is not None:
        now, before = job.predecessor["revision"], job.predecessor["of_revision"]
        sentences.append(f"Revision {now} of this study's images: this result replaces that of revision {before}.")
    return ascii_only(" ".join([*sentences, "Not verified by a physician."]))


def _revision(request: ComposeRequest) -> str:
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
    pixels = float(mask(request, segment).sum())
    value, unit = pixels * grid.voxel_mm3 / 1000, "mL"
    if grid.is_projection:
        value, unit = pixels * grid.spacing_mm[1] * grid.spacing_mm[2] / 100, "cm2"
    return f" {value:.0f} {unit}" if value >= 10 else f" {value:.1f} {unit}"


def _cut(text: str, tail: str) -> str:
    """Shorten the text, never the tail, to fit together."""
    return ascii_only(text[: DESCRIPTION_CHARACTERS - len(tail)].rstrip() + tail)
