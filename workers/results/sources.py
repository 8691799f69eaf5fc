"""What of the images' headers a result builds on: readable, whole, and of the grid that was analysed.

Images hold what they hold: dates of three parts, numbers that are none. What cannot be read is as if it were not there;
where a result needs it, the result is refused with the attribute's name, never with its value.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from copy import deepcopy
from typing import Any

import numpy as np
from pydicom.datadict import dictionary_has_tag, dictionary_VM
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset

from models.vocabulary import Grid
from node.errors import Refused
from node.storage_classes import is_uid
from workers.pixels import UNREADABLE
from workers.results.request import ComposeRequest

UIDS = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID")
PLACE = {"PixelSpacing": 2, "ImageOrientationPatient": 6, "ImagePositionPatient": 3}
PARTS = frozenset({"SQ", "DS", "IS"})
"""Of these a value that was read may still hold parts that cannot be."""
ROUNDED_MM, UNEVEN = 0.15, 0.03  # mm, and of a step


def readable(sources: Sequence[Dataset]) -> tuple[Dataset, ...]:
    """Give the headers without what cannot be read; one that is whole is given as it is.

    A value whose bytes were read on the first image is not tried again on the others: most are the same on all.
    """
    first = sources[0]
    # As they lie there: iterating a data set reads its values. By plain numbers, for pydicom's tags are slow to compare.
    raw = {int(tag): (element.VR, element.value) for tag, element in first.items() if not isinstance(element, DataElement)}
    lost = {int(tag) for tag in list(first.keys()) if not _reads(first, tag)}
    made = []
    for source in sources:
        gone = []
        for tag, element in source.items():
            number = int(tag)
            if isinstance(element, DataElement):
                whole = element.VR not in PARTS or _reads(source, tag)
            elif raw.get(number) == (element.VR, element.value):
                whole = number not in lost
            else:
                whole = _reads(source, tag)
            if not whole:
                gone.append(tag)
        made.append(_without(source, gone) if gone else source)
    return tuple(made)


def _reads(source: Dataset, tag: Any) -> bool:
    try:
        return _whole(source[tag])
    except UNREADABLE:
        return False


def _whole(element: DataElement) -> bool:
    """Read a value, of a sequence every one below it; a number must be one, and one alone where there is to be one."""
    if element.VR == "SQ":
        return all(_whole(inner) for item in element.value for inner in item)
    if element.value is None or element.VR not in {"DS", "IS"}:
        return True
    if element.VM > 1 and dictionary_has_tag(element.tag) and dictionary_VM(element.tag) == "1":
        return False
    return bool(np.isfinite(_floats(element.value if element.VM > 1 else [element.value])).all())


def _without(source: Dataset, tags: Iterable[Any]) -> Dataset:
    copy = deepcopy(source)
    for tag in tags:
        del copy[tag]
    return copy


def usable(request: ComposeRequest) -> None:
    """Refuse headers by which a result cannot be named, or that do not lie on the prediction's grid."""
    grid = request.prediction.grid
    places = grid.to_world_mm(np.arange(len(request.sources))[:, None] * [1.0, 0.0, 0.0])
    for source, place in zip(request.sources, places, strict=True):
        for keyword in (*UIDS, *(("FrameOfReferenceUID",) if source.get("FrameOfReferenceUID") else ())):
            if not is_uid(str(source.get(keyword) or "")):
                raise Refused(f"the images' {keyword} is missing or is no UID, so a result cannot refer to them")
        if not re.fullmatch(r"[A-Z0-9_ ]{1,16}", str(source.get("Modality") or "")):
            raise Refused("the images do not say their modality, or name several")
        if (source.get("Rows"), source.get("Columns")) != grid.shape[1:]:
            raise Refused("the images' rows and columns are not those of the picture that was analysed")
        if grid.is_projection:
            continue
        for keyword, count in PLACE.items():
            values = source.get(keyword)
            if (
                not isinstance(values, Sequence)
                or isinstance(values, str)
                or len(values) != count
                or not np.isfinite(_floats(values)).all()
            ):
                raise Refused(f"the images have no {keyword} that can be read, so marks cannot be placed on them")
        if np.abs(place - _floats(source.ImagePositionPatient)).max() > astray_mm(grid):
            raise Refused("the images do not lie where the picture that was analysed lay")


def astray_mm(grid: Grid) -> float:
    """Give how far a slice may lie from its even place: as far as loading allows, and less than half way to the next one.

    Writers that round positions to 0.1 mm put them up to 0.05 mm off, in each of three directions.
    Example: slices 5 mm apart: 0.15 mm; 10 mm apart: 0.3 mm; 0.2 mm apart: 0.08 mm.
    """
    return min(max(ROUNDED_MM, UNEVEN * grid.spacing_mm[0]), 0.4 * grid.spacing_mm[0])


def _floats(values: Iterable[Any]) -> Any:
    return np.array([float(value) for value in values])
