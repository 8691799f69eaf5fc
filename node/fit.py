"""Does a series fit a model's input? From indexed headers alone; pixels and gaps are judged in prepare.

Every answer "no" is a sentence for a technologist, without patient data.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from statistics import median
from typing import Any

from models.card import Accept
from node import conditions, traits
from node.study import Instance, Series
from node.traits import Traits

OWN_MANUFACTURER = "Overread"
# What a series holds when it holds no images. Ref: PS3.3 C.7.3.1.1.1
NOT_IMAGES: Mapping[str, str] = {
    "SEG": "segmentations",
    "SR": "structured reports",
    "PR": "presentation states",
    "KO": "key object selections",
    "DOC": "documents",
    "PLAN": "plans",
    "RTSTRUCT": "radiotherapy structures",
    "RTPLAN": "radiotherapy plans",
    "RTDOSE": "radiotherapy doses",
    "RTRECORD": "radiotherapy records",
    "REG": "registrations",
    "FID": "fiducials",
    "RWV": "real world value maps",
    "AU": "sound",
    "ECG": "waveforms",
    "HD": "waveforms",
    "EPS": "waveforms",
}
# Storage classes by the beginning of their UIDs, where the modality says nothing. Ref: PS3.4 B.5
_CLASSES: Mapping[str, str] = {
    "1.2.840.10008.5.1.4.1.1.66": "segmentations, registrations or other derived objects",
    "1.2.840.10008.5.1.4.1.1.88": "structured reports",
    "1.2.840.10008.5.1.4.1.1.11": "presentation states",
    "1.2.840.10008.5.1.4.1.1.104": "documents",
    "1.2.840.10008.5.1.4.1.1.9": "waveforms",
    "1.2.840.10008.5.1.4.1.1.481": "radiotherapy objects",
}
# How traits read in a sentence: where the header tells, and where it does not.
TRAITS: Mapping[str, tuple[str, str]] = {
    "orientation": ("its slices are {}", "its header does not tell the slices' orientation"),
    "sequence": ("its MR sequence is {}", "neither its description nor its times tell the MR sequence"),
    "contrast": ("it was made {}", "its header does not tell whether contrast medium was given"),
    "phase": ("its contrast phase is {}", "its description does not tell the contrast phase"),
    "kernel": ("its kernel is {}", "its header does not tell a known kernel"),
    "view": ("its view is {}", "its header does not tell the view"),
    "laterality": ("it shows the {} side", "its header does not tell the side"),
}
NAMES: Mapping[str, str] = {
    "with": "with contrast medium",
    "without": "without contrast medium",
    "unknown": "not told",
    "L": "left",
    "R": "right",
    "B": "both",
} | {word: word.upper() for word in ("t1", "t2", "flair", "pd", "dwi", "adc", "swi")}
VOLUMES = frozenset({"CT", "MR", "PT", "NM", ""})
# Enhanced and legacy converted CT, MR and PET: their frames' places are in functional groups, which prepare reads. Ref: PS3.4 B.5
ENHANCED = frozenset(f"1.2.840.10008.5.1.4.1.1.{ending}" for ending in ("2.1", "2.2", "4.1", "4.4", "130", "128.1"))
# Digital X-ray, mammography and intraoral X-ray for processing: what the detector saw, not what a reader sees. Ref: PS3.4 B.5
RAW = frozenset(f"1.2.840.10008.5.1.4.1.1.{ending}" for ending in ("1.1.1", "1.2.1", "1.3.1"))
FOR_PROCESSING = "FOR PROCESSING"
# Two slices nearer than this lie at the same place.
SAME_PLACE_MM = 0.01


@dataclass(frozen=True, slots=True, kw_only=True)
class Stack:
    """Where a series' slices lie.

    slices            different positions along the normal (images, where positions are missing)
    pixel_mm          the smaller and the larger in-plane spacing
    slice_spacing_mm  median distance between neighbours along the normal
    extent_mm         from the first slice's far side to the last one's: distance of centres plus one spacing
    framed            the slices are frames of enhanced images: the headers at hand do not place them, prepare does
    """

    slices: int
    pixel_mm: tuple[float, float] | None
    slice_spacing_mm: float | None
    extent_mm: float | None
    framed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """A series, or the part of it, that a model's input takes."""

    series: Series
    instances: tuple[Instance, ...]
    stack: Stack
    traits: Traits


@dataclass(frozen=True, slots=True, kw_only=True)
class Misfit:
    """Why a series is not taken: what it is, and what would be taken instead; `far` is how many checks it passed before."""

    what: str
    takes: tuple[str, ...] = ()
    far: int = 0

    @property
    def sentence(self) -> str:
        """Give it for a technologist."""
        return f"{self.what}, the model takes {either(self.takes)}" if self.takes else self.what


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What a look at a series showed: the images whose type and view are wanted, and what they are. Without any: no more."""

    members: tuple[Instance, ...]
    stack: Stack | None = None
    traits: Traits | None = None


# Looks at series by UID and by what was left out: several models and roles of one study look for the same.
Looks = dict[tuple[object, ...], Look]


def judge(series: Series, accept: Accept, looks: Looks | None = None) -> Fit | Misfit:
    """Give what of the series the input takes, or why it takes nothing; `looks` keeps what was seen, within one study.

    Images whose type the card excludes (a localizer within the series) are left out, the others judged.
    """
    reason = no_images(series)
    misfit = Misfit(what=reason) if reason else _kind(series.instances[0], accept)
    if misfit:
        return misfit
    looks = {} if looks is None else looks
    key = (series.series_instance_uid, accept.image_type_none, accept.view, accept.laterality, _takes_raw(accept))
    look = looks[key] if key in looks else looks.setdefault(key, _look(series, accept))
    if look.stack is None or look.traits is None:
        if not _takes_raw(accept) and all(is_raw(entry) for entry in series.instances):
            return Misfit(what="its images are raw, for processing", takes=("images for presentation",), far=1)
        found = sorted({word.upper() for word in accept.image_type_none} & image_types(series.instances[0]))
        return Misfit(what=f"its images are of type {', '.join(found)}", far=1)
    misfit = _check(look.members[0], look.stack, look.traits, accept)
    return misfit or Fit(series=series, instances=look.members, stack=look.stack, traits=look.traits)


def _look(series: Series, accept: Accept) -> Look:
    excluded = {word.upper() for word in accept.image_type_none}
    shown = [entry for entry in series.instances if _takes_raw(accept) or not is_raw(entry)]
    members = _of_view(tuple(entry for entry in shown if not excluded & image_types(entry)), accept)
    return Look(members=members, stack=measure(members), traits=traits.read(members)) if members else Look(members=())


def _check(first: Instance, stack: Stack, found: Traits, accept: Accept) -> Misfit | None:
    """Give the first thing that does not fit, and how many checks came before it."""
    unit = "slice" if str(first.header.get("Modality", "")) in VOLUMES else "image"
    checks: tuple[Callable[[], Misfit | None], ...] = (
        lambda: _purpose(first, accept),
        lambda: _text(first, accept),
        lambda: _region(found, accept),
        *(partial(_trait, found, accept, key, framed=stack.framed) for key in TRAITS),
        lambda: _conditions(first, accept),
        lambda: _counts(stack, accept, unit),
    )
    for far, check in enumerate(checks, start=2):
        misfit = check()
        if misfit is not None:
            return replace(misfit, far=far)
    return None


def is_raw(entry: Instance) -> bool:
    """Tell a radiograph that no reader is meant to see. Ref: PS3.3 C.8.11.1.1.1."""
    return entry.sop_class_uid in RAW or str(entry.header.get("PresentationIntentType") or "").strip() == FOR_PROCESSING


def _takes_raw(accept: Accept) -> bool:
    """Tell whether a card asks for raw images in so many words; without them it gets what readers see."""
    named = (value.strip().upper() for entry in accept.conditions if entry.tag == "PresentationIntentType" for value in entry.value)
    return bool(RAW & set(accept.sop_classes)) or FOR_PROCESSING in named


def _of_view(images: tuple[Instance, ...], accept: Accept) -> tuple[Instance, ...]:
    """Take the images of the wanted view and side out of a series that holds several: some devices file all four so."""
    if not (accept.view or accept.laterality):
        return images
    views, sides = {word.upper() for word in accept.view}, set(accept.laterality)
    found = [(entry, traits.read((entry,))) for entry in images]
    wanted = tuple(entry for entry, each in found if (not views or each.view in views) and (not sides or each.laterality in sides))
    return wanted or images


def loaded(stack: Stack, accept: Accept) -> Misfit | None:
    """Judge a volume that was loaded from frames by the limits that their headers could not be judged by."""
    return _counts(stack, accept, "slice")


def no_images(series: Series) -> str | None:
    """Tell why no model at all takes this series, or None."""
    first = series.instances[0]
    modality = str(first.header.get("Modality", ""))
    if str(first.header.get("Manufacturer", "")) == OWN_MANUFACTURER:
        return "it is a result of Overread itself"
    if modality in NOT_IMAGES:
        return f"it holds {NOT_IMAGES[modality]}, not images"
    for beginning, what in _CLASSES.items():
        if first.sop_class_uid == beginning or first.sop_class_uid.startswith(beginning + "."):
            return f"it holds {what}, not images"
    return None


def measure(instances: Sequence[Instance]) -> Stack:
    """Project the slices' positions on the normal of the first one's plane.

    Example: orientation (1,0,0, 0,1,0) has the normal (0,0,1); positions (0,0,10), (0,0,12), (0,0,14) lie at
    10, 12, 14 mm: 3 slices, 2 mm apart, 6 mm in all. Ref: PS3.3 C.7.6.2.1.1
    """
    header = instances[0].header
    if instances[0].sop_class_uid in ENHANCED:
        frames = sum(int(_number(entry.header.get("NumberOfFrames")) or 1) for entry in instances)
        return Stack(slices=frames, pixel_mm=None, slice_spacing_mm=None, extent_mm=None, framed=True)
    spacing = _numbers(header.get("PixelSpacing"), 2)
    pixel_mm = None if spacing is None else (min(spacing), max(spacing))
    plane = _numbers(header.get("ImageOrientationPatient"), 6)
    positions = [_numbers(entry.header.get("ImagePositionPatient"), 3) for entry in instances]
    if plane is None or None in positions:
        return Stack(slices=len(instances), pixel_mm=pixel_mm, slice_spacing_mm=None, extent_mm=None)
    row, column = plane[:3], plane[3:]
    normal = (
        row[1] * column[2] - row[2] * column[1],
        row[2] * column[0] - row[0] * column[2],
        row[0] * column[1] - row[1] * column[0],
    )
    along = sorted(sum(a * b for a, b in zip(position, normal, strict=True)) for position in positions if position is not None)
    gaps = [after - before for before, after in pairwise(along) if after - before > SAME_PLACE_MM]
    if not gaps:
        return Stack(slices=1, pixel_mm=pixel_mm, slice_spacing_mm=None, extent_mm=None)
    step = median(gaps)
    return Stack(slices=len(gaps) + 1, pixel_mm=pixel_mm, slice_spacing_mm=step, extent_mm=along[-1] - along[0] + step)


def _kind(first: Instance, accept: Accept) -> Misfit | None:
    modality = str(first.header.get("Modality", ""))
    if modality not in accept.modality:
        return Misfit(what=f"its modality is {modality or 'not given'}", takes=accept.modality)
    if accept.sop_classes and first.sop_class_uid not in accept.sop_classes:
        return Misfit(what=f"its objects are of storage class {first.sop_class_uid}, which the model does not take")
    if first.sop_class_uid not in ENHANCED and _number(first.header.get("NumberOfFrames")) not in {None, 1.0}:
        return Misfit(what="its images have several frames each and are no enhanced CT, MR or PET")
    return None


def _purpose(first: Instance, accept: Accept) -> Misfit | None:
    """Refuse by description what devices often do not tell in the image type."""
    if "LOCALIZER" in accept.image_type_none and traits.is_localizer(first.header):
        return Misfit(what="its description calls it a localizer, a scout or a bolus monitor")
    if "MIP" in accept.image_type_none and traits.is_projection(first.header):
        return Misfit(what="its description calls it a projection (MIP, volume rendering)")
    return None


def _text(first: Instance, accept: Accept) -> Misfit | None:
    if accept.image_type_any and not {word.upper() for word in accept.image_type_any} & image_types(first):
        return Misfit(what="its image type is another", takes=accept.image_type_any)
    part = str(first.header.get("BodyPartExamined", "")).strip()[:16]
    if accept.body_part and part and part.casefold() not in {word.casefold() for word in accept.body_part}:
        return Misfit(what=f"its body part is {part}", takes=accept.body_part)
    description = str(first.header.get("SeriesDescription") or first.header.get("ProtocolName") or "").casefold()
    unwanted = next((word for word in accept.description_none if word.casefold() in description), None)
    if unwanted is not None:
        return Misfit(what=f"its description contains {unwanted!r}")
    if accept.description_any and not any(word.casefold() in description for word in accept.description_any):
        return Misfit(what=f"its description contains none of {either(accept.description_any)}")
    return None


def _region(found: Traits, accept: Accept) -> Misfit | None:
    """Compare the body regions; one that both name is enough."""
    if not accept.region or (found.regions or {traits.UNKNOWN}) & set(accept.region):
        return None
    shown = either([f"the {region}" for region in sorted(found.regions)], "and")
    what = f"it shows {shown}" if shown else "its header names no body region"
    return Misfit(what=what, takes=tuple(f"the {region}" for region in accept.region if region != traits.UNKNOWN))


def _trait(found: Traits, accept: Accept, key: str, *, framed: bool) -> Misfit | None:
    """Compare what the series is with what the card takes; "unknown" only where the card lists it."""
    value, wanted = str(getattr(found, key)), tuple(map(str, getattr(accept, key)))
    if not wanted or value.upper() in {word.upper() for word in wanted}:
        return None
    if framed and key == "orientation" and value == traits.UNKNOWN:
        return None
    known, unknown = TRAITS[key]
    what = unknown if value == traits.UNKNOWN else known.format(NAMES.get(value, value))
    return Misfit(what=what, takes=tuple(NAMES.get(word, word) for word in wanted if word != traits.UNKNOWN))


def _conditions(first: Instance, accept: Accept) -> Misfit | None:
    """Name the card's condition that does not hold, never the header's value."""
    for condition in accept.conditions:
        if not conditions.holds(condition, first):
            wanted = " ".join((condition.op.replace("-", " "), either(condition.value))).strip()
            return Misfit(what=f"the model asks that {condition.tag} {wanted}, which does not hold here")
    return None


def _counts(stack: Stack, accept: Accept, unit: str) -> Misfit | None:
    low, high = accept.slices or (0, math.inf)
    held = f"it has {stack.slices} {unit}{'' if stack.slices == 1 else 's'}"
    if stack.slices < low:
        return Misfit(what=f"{held}, the model needs at least {low}")
    if stack.slices > high and not stack.framed:  # frames may hold several volumes; prepare counts the one that is analysed
        return Misfit(what=f"{held}, the model takes at most {high}")
    if stack.framed:
        return None
    return (
        _within("pixel spacing", stack.pixel_mm, accept.spacing_mm)
        or _within("slice spacing", stack.slice_spacing_mm, accept.slice_spacing_mm)
        or _within("extent along the slices", stack.extent_mm, accept.extent_mm)
    )


def _within(what: str, value: float | tuple[float, float] | None, wanted: tuple[float, float] | None) -> Misfit | None:
    if wanted is None:
        return None
    if value is None:
        return Misfit(what=f"its {what} is not given")
    values = value if isinstance(value, tuple) else (value,)
    # Headers carry rounded decimals: a thousandth more is the same spacing.
    for each in values:
        if not wanted[0] - 1e-3 <= each <= wanted[1] + 1e-3:
            return Misfit(what=f"its {what} is {each:.4g} mm", takes=(f"{wanted[0]:g} to {wanted[1]:g} mm",))
    return None


def either(words: Sequence[str], last: str = "or") -> str:
    """Join words: a, b or c."""
    return f"{', '.join(words[:-1])} {last} {words[-1]}" if len(words) > 1 else "".join(words)


def image_types(entry: Instance) -> set[str]:
    """Give the parts of Image Type, in capitals."""
    value = entry.header.get("ImageType")
    return {str(word).upper() for word in (value if isinstance(value, list | tuple) else [value] if value else [])}


def _number(value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def _numbers(value: Any, count: int) -> tuple[float, ...] | None:
    """Give exactly that many finite numbers, or None: a header is whatever a device wrote."""
    if not isinstance(value, list | tuple) or len(value) != count:
        return None
    numbers = [_number(each) for each in value]
    return None if None in numbers else tuple(each for each in numbers if each is not None)
