"""Ask an archive what it holds: C-FIND SCU of the Study Root model. Ref: PS3.4 C.4.1, C.6.2."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from pydicom import Dataset
from pydicom import config as pydicom_config
from pynetdicom.presentation import build_context

from node.errors import Refused, Retryable
from node.peers import association
from node.settings import Peer, Settings

STUDY_ROOT_FIND = "1.2.840.10008.5.1.4.1.2.2.1"
# pydicom warns of values that break their VR, and quotes them: here they may be a patient's.
pydicom_config.settings.reading_validation_mode = pydicom_config.IGNORE

ANSWERS_MAX = 100_000
_PENDING = frozenset({0xFF00, 0xFF01})


def instances_present(settings: Settings, peer: Peer, study_uid: str, series_of: Mapping[str, str]) -> set[str]:
    """Give those SOP Instance UIDs that the peer says it holds; `series_of` maps each one asked for to its series.

    One IMAGE level query a series: an archive without relational queries wants study and series named.
    Raises Retryable when the peer does not answer, Refused when it will not.
    """
    found: set[str] = set()
    with association(settings, peer, [build_context(STUDY_ROOT_FIND)]) as open_association:
        for series_uid in sorted(set(series_of.values())):
            answers = find(
                open_association, "IMAGE", StudyInstanceUID=study_uid, SeriesInstanceUID=series_uid, SOPInstanceUID="", InstanceNumber=""
            )
            found.update(_texts(answers, "SOPInstanceUID"))
    return found & set(series_of)


def series_counts(settings: Settings, peer: Peer, study_uid: str) -> dict[str, int | None]:
    """Give the peer's count of instances of each series of a study; None where it does not count.

    Raises Retryable when the peer does not answer, Refused when it will not. Ref: PS3.4 C.3.4, (0020,1209)
    """
    with association(settings, peer, [build_context(STUDY_ROOT_FIND)]) as open_association:
        answers = list(
            find(open_association, "SERIES", StudyInstanceUID=study_uid, SeriesInstanceUID="", NumberOfSeriesRelatedInstances=None)
        )
    counts: dict[str, int | None] = {}
    for answer in answers:
        count = answer.get("NumberOfSeriesRelatedInstances")
        if "SeriesInstanceUID" in answer:
            counts[str(answer.SeriesInstanceUID)] = None if count in (None, "") else int(count)
    return counts


def study_level(settings: Settings, peer: Peer, study_uid: str, keywords: Sequence[str]) -> list[Dataset]:
    """Give the peer's STUDY level answers on one study with these attributes; none when it does not know the study.

    Raises Retryable when the peer does not answer, Refused when it will not. Ref: PS3.4 C.6.2.1.2
    """
    keys: dict[str, Any] = dict.fromkeys(keywords, "")
    # A sequence is asked for with what is wanted of its items. Ref: PS3.4 C.2.2.2.6
    same_person = Dataset()
    same_person.PatientID = same_person.IssuerOfPatientID = ""
    keys["OtherPatientIDsSequence"] = [same_person]
    with association(settings, peer, [build_context(STUDY_ROOT_FIND)]) as open_association:
        return list(find(open_association, "STUDY", StudyInstanceUID=study_uid, **keys))


def find(open_association: Any, level: str, **keys: str | None) -> Iterator[Dataset]:
    """Yield the answers to one query on an open association; one that never ends is refused.

    Raises Retryable when the answer breaks off, Refused when the peer will not answer. Ref: PS3.4 C.4.1
    """
    identifier = Dataset()
    identifier.QueryRetrieveLevel = level
    for keyword, value in keys.items():
        setattr(identifier, keyword, value)
    given = 0
    try:
        for status, answer in open_association.send_c_find(identifier, STUDY_ROOT_FIND):
            if not _is_answer(status):
                continue
            given += 1
            if given > ANSWERS_MAX:
                raise Refused(f"the archive gives more than {ANSWERS_MAX} answers to one query")
            if answer is not None:
                yield answer
    except ValueError as error:  # no accepted context
        raise Refused("the archive does not offer Study Root queries (C-FIND)") from error
    except RuntimeError as error:
        raise Retryable("the association was lost before the query went out") from error


def _is_answer(status: Dataset) -> bool:
    """Tell whether a status comes with an answer; False for the last. Raises Retryable, Refused. Ref: PS3.4 Table C.4-1."""
    code = status.get("Status")
    if code is None:
        raise Retryable("the association was lost while the archive answered a query")
    if code in range(0xA700, 0xA800):
        raise Retryable(f"the archive is out of resources for a query (status {code:04X})")
    if code not in _PENDING and code != 0x0000:
        raise Refused(f"the archive refuses the query (status {code:04X})")
    return code in _PENDING


def _texts(answers: Iterable[Dataset], keyword: str) -> set[str]:
    return {str(answer[keyword].value) for answer in answers if keyword in answer}
