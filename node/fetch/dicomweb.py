"""Search by QIDO-RS and retrieve by WADO-RS.

Ref: PS3.18 10.4, 10.6
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from typing import Any

from pydicom.datadict import tag_for_keyword

from node.element_walk import Unreadable
from node.errors import Refused, Retryable
from node.fetch.dimse import Errand
from node.fetch.entrance import Entrance, Sender
from node.fetch.plan import FoundImage, FoundSeries, Patient, Prior, PriorQuery, SeriesPlan
from node.fetch.search import checked_uid, few_series
from node.fetch.web import Gone, Web
from node.part10 import read_meta
from node.query import ANSWERS_MAX
from node.spool import CANNOT_UNDERSTAND, OUT_OF_RESOURCES, SpoolRefusal, StoreCommand

PAGE = 1000
META_MAX_BYTES = 65536  # preamble and file meta information
PARTS_SPARE = 16  # more parts in an answer than the series has images


class Qido:
    """Questions over DICOMweb."""

    def __init__(self, web: Web) -> None:
        self._web = web

    def study(self, study_uid: str) -> Prior | None:
        """Give what the peer says of a study; None when it does not have it."""
        rows = self._rows("/studies", {"StudyInstanceUID": study_uid, "includefield": _tag("IssuerOfPatientID")}, "StudyInstanceUID")
        priors = [_prior(row) for row in rows]
        if any(prior.study_instance_uid != study_uid for prior in priors):
            raise Refused("the archive answers about another study than the one it was asked about")
        return priors[0] if priors else None

    def series(self, study_uid: str) -> list[FoundSeries]:
        """Give the study's series."""
        rows = self._rows(f"/studies/{study_uid}/series", {}, "SeriesInstanceUID")
        return few_series(
            FoundSeries(
                series_instance_uid=_uid(row, "SeriesInstanceUID"),
                modality=_text(row, "Modality"),
                count=_number(row, "NumberOfSeriesRelatedInstances"),
            )
            for row in rows
            if _about(row, StudyInstanceUID=study_uid)
        )

    def images(self, study_uid: str, series_uid: str) -> list[FoundImage]:
        """Give the instances of one series."""
        rows = self._rows(f"/studies/{study_uid}/series/{series_uid}/instances", {}, "SOPInstanceUID")
        return [
            FoundImage(sop_instance_uid=_uid(row, "SOPInstanceUID"), sop_class_uid=_text(row, "SOPClassUID"))
            for row in rows
            if _about(row, StudyInstanceUID=study_uid, SeriesInstanceUID=series_uid)
        ]

    def studies(self, query: PriorQuery) -> list[Prior]:
        """Give the patient's studies up to that date, as the peer understands the query."""
        keys = {"PatientID": query.patient.patient_id, "ModalitiesInStudy": query.modality, "StudyDate": f"-{query.before_date}"}
        if query.patient.issuer:
            keys["IssuerOfPatientID"] = query.patient.issuer
        return [_prior(row) for row in self._rows("/studies", {**keys, "includefield": _tag("IssuerOfPatientID")}, "StudyInstanceUID")]

    def _rows(self, path: str, keys: dict[str, str], unique: str) -> Iterator[dict[str, Any]]:
        """Yield rows page by page until a page brings nothing new: a server may cap pages below what we ask, or know none."""
        seen: set[str] = set()
        while len(seen) <= ANSWERS_MAX:
            try:
                page = self._web.rows(path, {**keys, "limit": str(PAGE), "offset": str(len(seen))})
            except Gone:
                return
            fresh = [row for row in page if _text(row, unique) not in seen]
            seen.update(_text(row, unique) for row in fresh)
            yield from fresh
            if not fresh or (unique == "StudyInstanceUID" and unique in keys):
                return
        raise Refused(f"the archive gives more than {ANSWERS_MAX} answers to one query")


def get(errand: Errand) -> list[str]:
    """Get what is missing: a series at once where none of it is here, then image by image. Raises Retryable, Refused."""
    with Web(errand.settings, errand.peer, errand.deadline) as web:
        return [warning for series in errand.plan.series for warning in _series(errand, web, series)]


def _series(errand: Errand, web: Web, series: SeriesPlan) -> Iterator[str]:
    base = f"/studies/{errand.plan.study_instance_uid}/series/{series.series_instance_uid}"
    if len(series.missing) == len(series.listed) > 1:
        try:
            _receive(errand, web, base)
        except Gone as gone:
            yield gone.reason
    gone_count = 0
    for uid in series.missing:
        if uid not in errand.entrance.settled:
            try:
                _receive(errand, web, base, uid)
            except Gone:
                gone_count += 1
    if gone_count:
        yield f"{errand.peer.name} lists {gone_count} images that it does not have (HTTP 404)"


def _receive(errand: Errand, web: Web, base: str, uid: str = "") -> None:
    """Take in one answer's files, of a series or of one image; one that is refused does not stop the others."""
    entrance = errand.entrance
    path, parts_max = (f"{base}/instances/{uid}", 1) if uid else (base, len(errand.plan.missing) + PARTS_SPARE)
    with closing(web.files(path)) as files:
        for number, pieces in enumerate(files, start=1):
            if number > parts_max:
                raise Refused(f"{errand.peer.name} sends more files than it was asked for")
            try:
                _enter(entrance, errand.sender, pieces, uid)
            except SpoolRefusal as refusal:
                if entrance.full is not None:
                    raise Retryable(f"this node takes no more images: {entrance.full}") from refusal
                if refusal.status == OUT_OF_RESOURCES:
                    return  # larger than we take: its end may never come
            entrance.index(whole=False)


def _enter(entrance: Entrance, sender: Sender, pieces: Iterator[bytes], asked_uid: str) -> None:
    """Store one Part-10 file: its data set's bytes as they are, behind meta information of our own."""
    head, meta, start = b"", None, 0
    for piece in pieces:
        head += piece
        if len(head) >= META_MAX_BYTES:
            break
    try:
        meta, start = read_meta(head)
    except Unreadable as error:
        refusal = SpoolRefusal(CANNOT_UNDERSTAND, f"what came is no DICOM file: {error.reason}")
        entrance.refuse(asked_uid, refusal, 0)
        raise refusal from error
    command = StoreCommand(
        sop_class_uid=meta.sop_class_uid,
        sop_instance_uid=meta.sop_instance_uid,
        transfer_syntax_uid=meta.transfer_syntax_uid,
        calling_ae=sender.calling_ae,
        called_ae=sender.called_ae,
        peer_host=sender.host,
    )
    with closing(entrance.begin(command)) as part:
        part.write(memoryview(head)[start:])
        for piece in pieces:
            part.write(piece)
        stored = part.finish()
    entrance.stored(stored)


def _tag(keyword: str) -> str:
    tag = tag_for_keyword(keyword)
    assert tag is not None, keyword
    return f"{tag:08X}"


def _values(row: dict[str, Any], keyword: str) -> list[Any]:
    """Give an attribute's values; a server that writes something else than DICOM JSON has said nothing. Ref: PS3.18 F.2.2."""
    attribute = row.get(_tag(keyword))
    values = attribute.get("Value") if isinstance(attribute, dict) else None
    return values if isinstance(values, list) else []


def _text(row: dict[str, Any], keyword: str) -> str:
    values = _values(row, keyword)
    return values[0].strip() if values and isinstance(values[0], str) else ""


def _number(row: dict[str, Any], keyword: str) -> int | None:
    try:
        return int(_values(row, keyword)[0])
    except (IndexError, TypeError, ValueError):
        return None


def _uid(row: dict[str, Any], keyword: str) -> str:
    return checked_uid(_text(row, keyword), keyword)


def _about(row: dict[str, Any], **uids: str) -> bool:
    for keyword, uid in uids.items():
        if _text(row, keyword) not in {"", uid}:
            raise Refused(f"the archive answers about another {keyword} than the one it was asked about")
    return True


def _prior(row: dict[str, Any]) -> Prior:
    return Prior(
        study_instance_uid=_uid(row, "StudyInstanceUID"),
        modalities=tuple(value for value in _values(row, "ModalitiesInStudy") if isinstance(value, str)),
        study_date=_text(row, "StudyDate"),
        study_time=_text(row, "StudyTime"),
        patient=Patient(patient_id=_text(row, "PatientID"), issuer=_text(row, "IssuerOfPatientID")),
    )
