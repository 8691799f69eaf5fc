"""Instance Availability Notification: a PACS says which images of a study it has. Ref: PS3.4 R.

A notification names what can be retrieved, not that this is all. So it can hold an analysis up, as an archive's higher
count does, and it is shown; it proves nothing by itself.
"""

from __future__ import annotations

from pydicom.dataset import Dataset
from pydicom.uid import generate_uid

from node import journal
from node.ledger import Ledger, looks
from node.storage_classes import is_uid

log = journal.get("listener")

SOP_CLASS = "1.2.840.10008.5.1.4.33"
AT_HAND = frozenset({"ONLINE", "NEARLINE"})
# Statuses of an N-CREATE response. Ref: PS3.7 10.1.5.1.6, Annex C
SUCCESS = 0x0000
INVALID_VALUE = 0x0106
MISSING_ATTRIBUTE = 0x0120


def on_notice(ledger: Ledger, sop_uid: str, notice: Dataset | None, calling_ae: str) -> tuple[int, Dataset | None]:
    """Keep a notification; gives the status to answer, and the UID where the sender left it to us. Told twice it is kept once."""
    answer = Dataset()
    if not sop_uid:
        sop_uid = str(generate_uid(prefix=None))
        answer.AffectedSOPInstanceUID = sop_uid
    study_uid = str(notice.get("StudyInstanceUID", "")) if notice is not None else ""
    if notice is None or not study_uid or "ReferencedSeriesSequence" not in notice:
        return MISSING_ATTRIBUTE, None
    series = named(notice)
    if not all(map(is_uid, (sop_uid, study_uid, *series))):
        return INVALID_VALUE, None
    facts = {"sop_instance_uid": sop_uid, "calling_ae": calling_ae, "received_at": ledger.clock(), "series": series}
    looks.told(ledger, study_uid, facts)
    log.info("notice.kept", study=study_uid, calling_ae=calling_ae, series=len(series), images=sum(series.values()))
    return SUCCESS, answer


def named(notice: Dataset) -> dict[str, int]:
    """Count the images of each series that the notification says can be had."""
    found: dict[str, set[str]] = {}
    for item in notice.ReferencedSeriesSequence:
        images = found.setdefault(str(item.get("SeriesInstanceUID", "")), set())
        for image in item.get("ReferencedSOPSequence") or ():
            if str(image.get("InstanceAvailability", "ONLINE")) in AT_HAND:
                images.add(str(image.get("ReferencedSOPInstanceUID", "")))
    return {uid: len(images) for uid, images in found.items()}
