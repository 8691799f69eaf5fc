"""Ask a peer what it has, by C-FIND; what it says of another study than the one asked about is no answer.

Ref: PS3.4 C.4.1, C.6.2 (Study Root)
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from pydicom import Dataset
from pydicom.multival import MultiValue
from pynetdicom.presentation import build_context

from node.errors import Refused
from node.fetch.bounds import bound, within
from node.fetch.plan import Deadline, FoundImage, FoundSeries, Patient, Prior, PriorQuery
from node.peers import association
from node.query import STUDY_ROOT_FIND, find
from node.settings import Peer, Settings
from node.storage_classes import is_uid

SERIES_MAX = 5_000


class Search(Protocol):
    """What can be asked of a peer, over whichever protocol."""

    def study(self, study_uid: str) -> Prior | None:
        """Give what the peer says of a study; None when it does not have it."""

    def series(self, study_uid: str) -> list[FoundSeries]:
        """Give the study's series."""

    def images(self, study_uid: str, series_uid: str) -> list[FoundImage]:
        """Give the instances of one series."""

    def studies(self, query: PriorQuery) -> list[Prior]:
        """Give the patient's studies up to that date, as the peer understands the query."""


class Query:
    """Questions on one association."""

    def __init__(self, link: Any) -> None:
        self._link = link

    def study(self, study_uid: str) -> Prior | None:
        """Give what the peer says of a study; None when it does not have it."""
        keys = dict.fromkeys(("PatientID", "IssuerOfPatientID", "StudyDate", "StudyTime", "ModalitiesInStudy"), "")
        found = list(find(self._link, "STUDY", StudyInstanceUID=study_uid, **keys))
        return _prior(_about(found[0], StudyInstanceUID=study_uid)) if found else None

    def series(self, study_uid: str) -> list[FoundSeries]:
        """Give the study's series."""
        keys: dict[str, str | None] = {"SeriesInstanceUID": "", "Modality": "", "NumberOfSeriesRelatedInstances": None}
        answers = (
            FoundSeries(series_instance_uid=_uid(answer, "SeriesInstanceUID"), modality=_text(answer, "Modality"), count=_count(answer))
            for answer in find(self._link, "SERIES", StudyInstanceUID=study_uid, **keys)
            if _about(answer, StudyInstanceUID=study_uid)
        )
        return few_series(answers)

    def images(self, study_uid: str, series_uid: str) -> list[FoundImage]:
        """Give the instances of one series."""
        # Some archives answer only the keys they are asked for.
        keys = {"SOPInstanceUID": "", "SOPClassUID": "", "InstanceNumber": ""}
        answers = find(self._link, "IMAGE", StudyInstanceUID=study_uid, SeriesInstanceUID=series_uid, **keys)
        return [
            FoundImage(sop_instance_uid=_uid(answer, "SOPInstanceUID"), sop_class_uid=_text(answer, "SOPClassUID"))
            for answer in answers
            if _about(answer, StudyInstanceUID=study_uid, SeriesInstanceUID=series_uid)
        ]

    def studies(self, query: PriorQuery) -> list[Prior]:
        """Give the patient's studies up to that date, as the peer understands the query."""
        keys = {
            "PatientID": query.patient.patient_id,
            "IssuerOfPatientID": query.patient.issuer,
            "ModalitiesInStudy": query.modality,
            "StudyDate": f"-{query.before_date}",
            "StudyTime": "",
            "StudyInstanceUID": "",
        }
        return [_prior(answer) for answer in find(self._link, "STUDY", **keys)]


@contextmanager
def asking(settings: Settings, peer: Peer, deadline: Deadline) -> Iterator[Search]:
    """Open an association for questions. Raises Retryable, Refused."""
    with association(within(settings, deadline), peer, [build_context(STUDY_ROOT_FIND)]) as link:
        bound(link, deadline, settings.node.network_timeout_s)
        yield Query(link)


def few_series(answers: Iterable[FoundSeries]) -> list[FoundSeries]:
    """Collect the series of one study; one of thousands is no study."""
    found = {}
    for answer in answers:
        found[answer.series_instance_uid] = answer
        if len(found) > SERIES_MAX:
            raise Refused(f"the archive lists more than {SERIES_MAX} series for one study")
    return list(found.values())


def checked_uid(value: object, keyword: str) -> str:
    """Give a UID of an answer; raises Refused when it is none."""
    if not isinstance(value, str) or not is_uid(value):
        raise Refused(f"the archive answers a query with something that is no {keyword}")
    return value


def _uid(answer: Dataset, keyword: str) -> str:
    return checked_uid(_text(answer, keyword), keyword)


def _about(answer: Dataset, **uids: str) -> Dataset:
    """Check that an answer is about what was asked; raises Refused, for nothing else it says can be believed."""
    for keyword, uid in uids.items():
        if _text(answer, keyword) not in {"", uid}:
            raise Refused(f"the archive answers about another {keyword} than the one it was asked about")
    return answer


def _text(answer: Dataset, keyword: str) -> str:
    value = answer.get(keyword)
    return "" if value is None else str(value).strip(" \0")


def _count(answer: Dataset) -> int | None:
    try:
        return int(_text(answer, "NumberOfSeriesRelatedInstances"))
    except ValueError:
        return None


def _prior(answer: Dataset) -> Prior:
    modalities = answer.get("ModalitiesInStudy") or ()
    several = modalities if isinstance(modalities, MultiValue | list) else [modalities]
    return Prior(
        study_instance_uid=_uid(answer, "StudyInstanceUID"),
        modalities=tuple(str(entry) for entry in several if entry),
        study_date=_text(answer, "StudyDate"),
        study_time=_text(answer, "StudyTime"),
        patient=Patient(patient_id=_text(answer, "PatientID"), issuer=_text(answer, "IssuerOfPatientID")),
    )
