"""C-FIND of the Study Root model over an archive's holdings: pure functions. Ref: PS3.4 C.2.2.2, C.6.2."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from pydicom import DataElement, Dataset
from pydicom.multival import MultiValue

from node.archive.holdings import Held
from node.errors import Refused

LEVELS = ("STUDY", "SERIES", "IMAGE")
_UNIQUE_KEYS = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")
_COMPUTED = frozenset(
    {
        "QueryRetrieveLevel",
        "SpecificCharacterSet",
        "ModalitiesInStudy",
        "NumberOfStudyRelatedSeries",
        "NumberOfStudyRelatedInstances",
        "NumberOfSeriesRelatedInstances",
        "InstanceAvailability",
        "RetrieveAETitle",
    }
)


def answers(held: Sequence[Held], identifier: Dataset, ae_title: str) -> Iterator[Dataset]:
    """Yield one data set a match at the level asked; raises Refused for an identifier that breaks the hierarchy."""
    depth = _depth(identifier)
    for group in _groups(held, depth):
        first = group[0]
        if _matches(group, identifier):
            answer = _answer(group, identifier, held)
            answer.QueryRetrieveLevel = LEVELS[depth]
            answer.RetrieveAETitle = ae_title
            if "SpecificCharacterSet" in first.header:
                answer.SpecificCharacterSet = first.header.SpecificCharacterSet
            yield answer


def selected(held: Sequence[Held], identifier: Dataset) -> list[Held]:
    """Give the instances that a C-MOVE or C-GET identifier names by its unique keys. Ref: PS3.4 C.4.2.2.1."""
    wanted = [uids_of(identifier, key) for key in _UNIQUE_KEYS[: _depth(identifier) + 1]]
    if not all(wanted):
        raise Refused("a retrieval names the unique key of its own level and of each level above")
    return [item for item in held if all(uid in uids for uid, uids in zip(_keys(item), wanted, strict=False))]


def uids_of(identifier: Dataset, keyword: str) -> frozenset[str]:
    """Give the UIDs of a UID list key; none for universal matching."""
    value = identifier.get(keyword)
    if value is None or value == "":
        return frozenset()
    return frozenset(str(uid) for uid in (value if isinstance(value, MultiValue | list) else [value]))


def _depth(identifier: Dataset) -> int:
    level = identifier.get("QueryRetrieveLevel")
    if level not in LEVELS:
        raise Refused("QueryRetrieveLevel is STUDY, SERIES or IMAGE")
    depth = LEVELS.index(level)
    # Without relational queries each level above is named by one UID. Ref: PS3.4 C.4.1.2.2.1
    for key in _UNIQUE_KEYS[:depth]:
        if len(uids_of(identifier, key)) != 1:
            raise Refused(f"a {level} level identifier names one {key}")
    return depth


def _keys(item: Held) -> tuple[str, str, str]:
    return item.study_instance_uid, item.series_instance_uid, item.sop_instance_uid


def _groups(held: Iterable[Held], depth: int) -> list[list[Held]]:
    groups: dict[tuple[str, ...], list[Held]] = {}
    for item in held:
        groups.setdefault(_keys(item)[: depth + 1], []).append(item)
    return list(groups.values())


def _matches(group: Sequence[Held], identifier: Dataset) -> bool:
    modalities = identifier.get("ModalitiesInStudy")
    if modalities and not any(_matches_value(identifier["ModalitiesInStudy"], item.header.get("Modality")) for item in group):
        return False
    return all(
        _matches_value(element, group[0].header.get(element.keyword))
        for element in identifier
        if element.keyword not in _COMPUTED and element.VR != "SQ" and not element.is_empty
    )


def _matches_value(element: DataElement, ours: Any) -> bool:
    values = [str(value) for value in (element.value if element.VM > 1 else [element.value])]
    if ours is None:
        return False
    own = [str(value) for value in (ours if isinstance(ours, MultiValue) else [ours])]
    if element.VR in {"DA", "TM"} and "-" in values[0]:
        low, _, high = values[0].partition("-")
        return any((not low or low <= value) and (not high or value <= high) for value in own)
    if element.VR == "UI":
        return any(value in values for value in own)
    return any(_wildcard(pattern).fullmatch(value) for pattern in values for value in own)


def _wildcard(pattern: str) -> re.Pattern[str]:
    """`*` stands for any characters, `?` for one; a PN compares without case. Ref: PS3.4 C.2.2.2.4."""
    return re.compile("".join({"*": ".*", "?": "."}.get(char, re.escape(char)) for char in pattern), re.IGNORECASE | re.DOTALL)


def _answer(group: Sequence[Held], identifier: Dataset, held: Sequence[Held]) -> Dataset:
    first = group[0]
    study = [item for item in held if item.study_instance_uid == first.study_instance_uid]
    computed: dict[str, Any] = {
        "ModalitiesInStudy": sorted({str(item.header.get("Modality", "")) for item in study} - {""}),
        "NumberOfStudyRelatedSeries": len({item.series_instance_uid for item in study}),
        "NumberOfStudyRelatedInstances": len(study),
        "NumberOfSeriesRelatedInstances": sum(item.series_instance_uid == first.series_instance_uid for item in study),
        "InstanceAvailability": "ONLINE",
    }
    answer = Dataset()
    for element in identifier:
        if element.keyword in computed:
            setattr(answer, element.keyword, computed[element.keyword])
        elif element.keyword not in _COMPUTED and element.VR != "SQ":
            answer.add(first.header[element.tag] if element.tag in first.header else DataElement(element.tag, element.VR, None))
    return answer
