"""Several stacks in one series to the one that is analysed, by a rule, or to a reason why none is.

Some series hold a volume more than once: over time, over the heart's cycle, at several echoes or diffusion weightings. Which
one is analysed must not depend on the order of files:

    localizers                   are left out
    time points                  the first
    phases of the heart          the one nearest to 75 % of the cycle; where only trigger times tell, the shortest
    echoes                       the shortest echo time
    diffusion weightings         the lowest b-value
    components of a complex MR   the magnitude
    stacks of a multi-frame MR   the one with the most positions, if no other has as many

Where anything else tells two images of one place apart (acquisitions, image types, kernels, inversion times ...), it is not
clear which one counts, and the series is refused. The chosen stack must cover every position that the series has.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from node.errors import Refused
from workers.frames import Frame
from workers.pixels import UNREADABLE
from workers.planes import Plane, Vector, alike, along_normal, parallel, text

SAME_PLACE = 0.1  # of a step: closer planes lie on one another
SAME_PLACE_MM = 0.01
Value = float | str

# What may tell two images of one place apart without a rule that chooses, and how a technologist calls it.
KINDS = (
    ("AcquisitionNumber", "acquisitions"),
    ("TemporalPositionIdentifier", "time points"),
    ("EchoNumbers", "echoes"),
    ("EchoTime", "echoes"),
    ("DiffusionBValue", "diffusion weightings"),
    ("ImageType", "image types"),
    ("ConvolutionKernel", "reconstruction kernels"),
    ("KVP", "tube voltages"),
    ("InversionTime", "inversion times"),
    ("DimensionIndexValues", "images of each place, as its dimension indices say"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen:
    """One plane a position, and in words what was chosen and left out; empty where there was no choice."""

    planes: tuple[Plane, ...]
    words: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Dimension:
    """Something a volume may be repeated over, with the rule that chooses."""

    kind: str
    value: Callable[[Dataset], Value | None]
    best: Callable[[Sequence[Value]], Value]
    words: str


def without_localizers(frames: Sequence[Frame]) -> tuple[list[Frame], str]:
    """Leave out what calls itself a localizer, unless nothing else is there. Ref: PS3.3 C.8.2.1.1.1, C.8.3.1.1.1."""
    kept = [frame for frame in frames if "LOCALIZER" not in text(frame.header, "ImageType").upper()]
    left = len(frames) - len(kept)
    if not left or not kept:
        return list(frames), ""
    return kept, f"{left} localizer{'' if left == 1 else 's'} left out"


def choose(planes: Sequence[Plane]) -> Chosen:
    """Choose one plane for each position; raises Refused where no rule does."""
    kept, said = _one_direction(planes)
    alike(kept)
    while True:
        kept, places_mm = along_normal(kept)
        at = _positions(places_mm)
        if at[-1] == len(kept) - 1:
            return Chosen(planes=tuple(kept), words=said)
        dimension = next((entry for entry in DIMENSIONS if _repeats(kept, at, entry)), None)
        if dimension is None:
            raise Refused(_why_twice(kept, int(np.flatnonzero(np.diff(at) == 0)[0])))
        kept, words = _picked(kept, at, dimension)
        said = ", ".join(filter(None, (said, words)))


def _positions(places_mm: Vector) -> NDArray[np.int64]:
    """Give each of the sorted places the number of its position.

    Example: 0, 0.001, 2, 2, 4 mm: 0, 0, 1, 1, 2.
    """
    gaps = np.diff(places_mm)
    apart = np.sort(gaps[gaps > SAME_PLACE_MM])
    step = float(apart[(len(apart) - 1) // 2]) if len(apart) else 0.0
    return np.concatenate([[0], np.cumsum(gaps > max(SAME_PLACE * step, SAME_PLACE_MM))])


def _one_direction(planes: Sequence[Plane]) -> tuple[list[Plane], str]:
    """Take the largest stack where stack ids tell several apart that are not one column of slices. Ref: PS3.3 C.7.6.16.2.2."""
    names = sorted({text(plane.header, "StackID") for plane in planes})
    stacks = [[plane for plane in planes if text(plane.header, "StackID") == name] for name in names]
    if len(stacks) == 1 or _follow_each_other(stacks):
        return list(planes), ""
    sizes = [_count(stack) for stack in stacks]
    if sizes.count(max(sizes)) > 1 or "" in names:
        raise Refused(f"The series holds {len(stacks)} stacks of planes, none larger than all others; it is not clear which one counts.")
    best = sizes.index(max(sizes))
    return stacks[best], f"stack {names[best][:16]}, the largest of {len(stacks)}"


def _count(stack: Sequence[Plane]) -> int:
    """Count the different positions of a stack; planes that are not parallel count as none, for they are no stack."""
    if not all(parallel(stack[0], plane) for plane in stack):
        return 0
    return int(_positions(along_normal(stack)[1])[-1]) + 1


def _follow_each_other(stacks: Sequence[Sequence[Plane]]) -> bool:
    """Tell stacks that lie one behind the other along one normal: together they are one stack."""
    first = stacks[0][0]
    if not all(parallel(first, plane) for stack in stacks for plane in stack):
        return False
    normal = np.cross(first.row, first.column)
    spans = sorted((min(places), max(places)) for stack in stacks if (places := [float(plane.origin_mm @ normal) for plane in stack]))
    return all(earlier[1] < later[0] for earlier, later in pairwise(spans))


def _repeats(planes: Sequence[Plane], at: NDArray[np.int64], dimension: Dimension) -> bool:
    """Tell whether the planes of one position differ in this dimension, and every plane has a value."""
    values = [dimension.value(plane.header) for plane in planes]
    if any(value is None for value in values):
        return False
    return any(values[index] != values[index + 1] for index in np.flatnonzero(np.diff(at) == 0).tolist())


def _picked(planes: Sequence[Plane], at: NDArray[np.int64], dimension: Dimension) -> tuple[list[Plane], str]:
    """Keep the planes of the best value; raises Refused where they leave a position out."""
    values = [dimension.value(plane.header) for plane in planes]
    different = sorted({value for value in values if value is not None}, key=lambda value: (isinstance(value, str), value))
    best = dimension.best(different)
    here = np.array([value == best for value in values])
    shown = f"{best:g}" if isinstance(best, float) else best
    covered, total = len(set(at[here].tolist())), int(at[-1]) + 1
    if covered < total:
        raise Refused(
            f"The series mixes several {dimension.kind}, and those of {shown} lie at {covered} of {total} positions only. "
            "Send the whole series again."
        )
    kept = [plane for plane, keep in zip(planes, here, strict=True) if keep]
    return kept, dimension.words.format(value=shown, count=len(different))


def _why_twice(planes: Sequence[Plane], at: int) -> str:
    """Say why two images share one place, as far as their headers tell."""
    one, other = planes[at], planes[at + 1]
    for keyword, kind in KINDS:
        if text(one.header, keyword) != text(other.header, keyword):
            return f"The series mixes several {kind}: {one.name} and {other.name} lie at the same position."
    return f"Two images lie at the same position: {one.name} and {other.name}. It is not clear which one counts."


def _number(*keywords: str, digits: int = 6, absent: float | None = None) -> Callable[[Dataset], Value | None]:
    """Read the first of these elements that is there, as a number."""

    def value(header: Dataset) -> Value | None:
        for keyword in keywords:
            try:
                found = header.get(keyword)
                if found is not None and str(found):
                    return round(float(found), digits)
            except UNREADABLE:
                return None
        return absent

    return value


def _component(header: Dataset) -> Value | None:
    """Give the component of an MR: its own attribute, else the letter some makers put third in Image Type."""
    if own := text(header, "ComplexImageComponent"):
        return own
    found = header.get("ImageType") or ""
    words = [found] if isinstance(found, str) else [str(word) for word in found]
    letter = words[2] if len(words) > 2 else ""
    return {"M": "MAGNITUDE", "P": "PHASE", "R": "REAL", "I": "IMAGINARY"}.get(letter)


def _lowest(values: Sequence[Value]) -> Value:
    return min(value for value in values if isinstance(value, float))


def _nearest_to_75(values: Sequence[Value]) -> Value:
    return min((value for value in values if isinstance(value, float)), key=lambda value: (abs(value - 75), value))


def _magnitude(values: Sequence[Value]) -> Value:
    if "MAGNITUDE" not in values:
        raise Refused("The series mixes several components of a complex image, none of which is the magnitude.")
    return "MAGNITUDE"


DIMENSIONS = (
    Dimension(
        kind="time points",
        value=_number("TemporalPositionIndex", "TemporalPositionIdentifier"),
        best=_lowest,
        words="time point {value}, the first of {count}",
    ),
    Dimension(
        kind="phases of the heart",
        value=_number("NominalPercentageOfCardiacPhase"),
        best=_nearest_to_75,
        words="heart phase {value} %, the nearest to 75 % of {count}",
    ),
    Dimension(
        kind="trigger times",
        value=_number("NominalCardiacTriggerDelayTime", "TriggerTime", digits=1),
        best=_lowest,
        words="trigger time {value} ms, the shortest of {count}",
    ),
    Dimension(
        kind="echoes",
        value=_number("EffectiveEchoTime", "EchoTime", "EchoNumbers", digits=2),
        best=_lowest,
        words="echo {value}, the shortest of {count}",
    ),
    Dimension(
        kind="diffusion weightings",
        value=_number("DiffusionBValue", digits=1, absent=0.0),
        best=_lowest,
        words="b-value {value}, the lowest of {count}",
    ),
    Dimension(kind="complex components", value=_component, best=_magnitude, words="magnitude of {count} complex components"),
)
