"""What a series is, in the terms of the reading room: orientation, region, contrast, phase, sequence, kernel, view.

Read from the indexed headers alone. Where the attribute proper is absent or says nothing, the descriptions are read, in four
languages. What nothing tells is "unknown"; nothing is guessed.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from node import wording
from node.study import Instance

UNKNOWN = "unknown"
NEAR = 0.85  # cosine with a body axis above which slices count as parallel to its plane: up to 31.8 degrees off
SPOILED_MAX_MS = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Traits:
    """One series; `regions` is empty where nothing names one. `text` is its own description, normal (node.wording)."""

    orientation: str
    regions: frozenset[str]
    contrast: str
    phase: str
    sequence: str
    kernel: str
    view: str
    laterality: str
    text: str


def read(images: Sequence[Instance]) -> Traits:
    """Give the traits of images of one series; all but the orientation are the first image's."""
    header = images[0].header
    own = _description(header)
    contrast = _contrast(header, own)
    return Traits(
        orientation=orientation(images),
        regions=_regions(header, own),
        contrast=contrast,
        phase=_phase(own, contrast),
        sequence=_sequence(header, own),
        kernel=_kernel(header, own),
        view=_view(header, own),
        laterality=_laterality(header, own),
        text=own,
    )


def is_localizer(header: Mapping[str, Any]) -> bool:
    """Tell whether the description calls the series a localizer, a bolus monitor or the like."""
    return wording.says(_description(header), wording.LOCALIZER)


def is_projection(header: Mapping[str, Any]) -> bool:
    """Tell whether the description calls the series a projection through the volume (MIP and the like)."""
    return wording.says(_description(header), wording.PROJECTION)


def orientation(images: Sequence[Instance]) -> str:
    """Give the plane of most images: axial, coronal, sagittal or oblique.

    Example: row (1,0,0), column (0,0,-1): the normal is (0,1,0), front to back, so the slices are coronal. Ref: PS3.3 C.7.6.2.1.1
    """
    found = Counter(_plane(image) for image in images)
    plane, count = min(found.items(), key=lambda entry: (-entry[1], entry[0]))
    return plane if 2 * count > len(images) else "oblique"


def _plane(image: Instance) -> str:
    cosines = image.header.get("ImageOrientationPatient")
    if not isinstance(cosines, list | tuple) or len(cosines) != 6:
        return UNKNOWN
    try:
        a, b, c, d, e, f = (float(each) for each in cosines)
    except (TypeError, ValueError):
        return UNKNOWN
    normal = (abs(b * f - c * e), abs(c * d - a * f), abs(a * e - b * d))
    length = sum(each * each for each in normal) ** 0.5
    if not length > 0:
        return UNKNOWN
    largest = max(range(3), key=normal.__getitem__)
    return ("sagittal", "coronal", "axial")[largest] if normal[largest] / length >= NEAR else "oblique"


def _description(header: Mapping[str, Any]) -> str:
    """Give the series' own words; without a description, its protocol's."""
    return wording.normal(_text(header, "SeriesDescription") or _text(header, "ProtocolName"))


def _regions(header: Mapping[str, Any], own: str) -> frozenset[str]:
    """Give the body regions, from the most particular attribute that names any: devices preset the body part, often wrongly."""
    for text in (own, *(wording.normal(_text(header, key)) for key in ("BodyPartExamined", "ProtocolName", "StudyDescription"))):
        if found := wording.every(text, wording.REGION):
            return found
    return frozenset()


def _contrast(header: Mapping[str, Any], own: str) -> str:
    """Tell whether contrast medium was given; the description before the agent, which devices keep for native series too."""
    if wording.says(own, wording.CONTRAST_WITHOUT):
        return "without"
    if wording.says(own, wording.CONTRAST_WITH):
        return "with"
    agent = _text(header, "ContrastBolusAgent").casefold()
    if agent:
        return "without" if agent in wording.NO_AGENT else "with"
    return UNKNOWN


def _phase(own: str, contrast: str) -> str:
    named = wording.first(own, wording.PHASE)
    if named is not None:
        return named
    return "native" if contrast == "without" else UNKNOWN


def _sequence(header: Mapping[str, Any], own: str) -> str:
    """Give the MR sequence: an apparent-diffusion image type, the description, the sequence's name, at last its times."""
    if str(header.get("Modality")) != "MR":
        return UNKNOWN
    types = {str(each).upper() for each in _list(header.get("ImageType"))}
    if "ADC" in types or "ADC_UNSPECIFIED" in types:
        return "adc"
    for text in (own, wording.normal(_text(header, "ProtocolName")), wording.normal(_text(header, "SequenceName"))):
        if wording.says(text, wording.T1_FLAIR):
            return "t1"
        if named := wording.first(text, wording.SEQUENCE):
            return named
    if "DIFFUSION" in types or _number(header, "DiffusionBValue"):
        return "dwi"
    return _by_times(header)


def _by_times(header: Mapping[str, Any]) -> str:
    """Judge by echo, repetition and inversion time in ms, where they leave no doubt.

    Example: spin echo with TE 10, TR 550 is T1; TE 100, TR 4500 is T2; with TI 2500, TR 9000 it is FLAIR.
    """
    echo, repetition, inversion = (_number(header, key) for key in ("EchoTime", "RepetitionTime", "InversionTime"))
    kinds = {str(each).upper() for each in _list(header.get("ScanningSequence"))}
    if echo is None or repetition is None or "EP" in kinds:
        return UNKNOWN
    if inversion and 1500 <= inversion <= 3200 and repetition >= 4000 and echo >= 60:
        return "flair"
    if "GR" in kinds:
        prepared = inversion is not None and 500 <= inversion <= 1400
        return "t1" if echo <= 10 and (prepared or repetition <= SPOILED_MAX_MS) else UNKNOWN
    if kinds & {"SE", "IR"}:
        if echo <= 30 and repetition <= 1000:
            return "t1"
        if repetition >= 2000:
            return "t2" if echo >= 70 else "pd" if echo <= 40 else UNKNOWN
    return UNKNOWN


def _kernel(header: Mapping[str, Any], own: str) -> str:
    for name in _list(header.get("ConvolutionKernel")):
        if (named := _kernel_named(str(name).strip().upper())) != UNKNOWN:
            return named
    return wording.first(own, wording.KERNEL) or UNKNOWN


def _kernel_named(name: str) -> str:
    """Class a vendor's kernel: soft (organs, vessels, brain) or sharp (lung, bone).

    Example: Siemens B30f and Br40d soft, B70f and Bl57d sharp; GE STANDARD and LUNG; Philips B and YC; Canon FC08 and FC52.
    """
    siemens = re.match(r"(?:B|I|H|J|T|U|BR|BF|BV|BL|HR|HC|HV|QR|UR|R)(\d{2})", name)
    if siemens:
        return "sharp" if int(siemens[1]) >= 50 else "soft"
    canon = re.match(r"FC(\d{2})", name)
    if canon:
        return "sharp" if 30 <= int(canon[1]) <= 39 or int(canon[1]) >= 50 else "soft"
    if name in {"A", "B", "C", "SB", "UA", "UB", "UC", "XCA", "XCB"}:
        return "soft"
    if name in {"D", "E", "F", "L", "Y", "YA", "YB", "YC", "YD", "YE"}:
        return "sharp"
    return "soft" if name == "DETAIL" else wording.first(wording.normal(name), wording.KERNEL) or UNKNOWN


def _view(header: Mapping[str, Any], own: str) -> str:
    """Give the projection's name as the device wrote it, or as the description says. Ref: PS3.3 C.8.11.7.1.3."""
    position = _text(header, "ViewPosition").upper()
    if position:
        return position
    return wording.first(own, wording.VIEW) or UNKNOWN


def _laterality(header: Mapping[str, Any], own: str) -> str:
    for key in ("ImageLaterality", "Laterality"):
        if _text(header, key).upper() in {"L", "R", "B"}:
            return _text(header, key).upper()
    found = wording.every(own, wording.SIDE)
    return next(iter(found)) if len(found) == 1 else UNKNOWN


def _text(header: Mapping[str, Any], key: str) -> str:
    value = header.get(key)
    return " ".join(str(each) for each in _list(value)).strip()


def _list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [] if value is None else [value]


def _number(header: Mapping[str, Any], key: str) -> float | None:
    try:
        return float(next(iter(_list(header.get(key)))))
    except (StopIteration, TypeError, ValueError):
        return None
