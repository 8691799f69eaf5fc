"""Tell when a revision is complete, on what evidence, and whether it may be analysed as it is."""

from __future__ import annotations

from collections.abc import Sequence

from node import journal
from node.ledger import Ledger, instances, revisions
from node.ledger.revisions import Revision
from node.settings import AssemblySection
from node.study import Instance, RevisionState, Study

log = journal.get("assembly")

# What may not differ between two objects of one SOP Instance UID, and what it is called in a reason.
_COMPARED = (
    ("PatientID", "patient"),
    ("ImagePositionPatient", "position"),
    ("ImageOrientationPatient", "orientation"),
    ("Rows", "size"),
    ("Columns", "size"),
    ("PixelSpacing", "pixel spacing"),
)


def freeze(ledger: Ledger, assembly: AssemblySection) -> int:
    """Complete every revision whose quiet time has passed; returns how many. Safe in several processes."""
    count = 0
    now = ledger.clock()
    for revision in revisions.due(ledger, now, assembly):
        evidence = {"said": f"no arrival for {now - revision.last_arrival_at:.0f} s"}
        if revisions.complete(ledger, revision, evidence):
            log.info("revision.complete", study=revision.study_instance_uid, revision=revision.number, evidence=evidence["said"])
            count += 1
    return count


def hold_reason(ledger: Ledger, revision: Revision, study: Study) -> str | None:
    """Tell why a human must look before this revision is analysed, or None. What was released before stays released."""
    if revision.released:
        return None
    released = [entry.number for entry in revisions.of_study(ledger, revision.study_instance_uid) if entry.released]
    fresh = instances.conflicts(ledger, revision.study_instance_uid, revision.number, max(released, default=0))
    return _patients(study) or _changed(fresh)


def release(ledger: Ledger, study_uid: str) -> bool:
    """Let a held study go on as it is: the first received images are analysed; False when none is held."""
    held = [entry for entry in revisions.of_study(ledger, study_uid) if entry.state is RevisionState.HELD]
    return bool(held) and revisions.release(ledger, held[-1])


def _patients(study: Study) -> str | None:
    """Refuse to guess whose results they would be. Ref: PS3.3 C.7.1.1."""
    found = {
        (str(entry.header.get("PatientID", "")).strip(), str(entry.header.get("IssuerOfPatientID", "")).strip())
        for series in study.series
        for entry in series.instances
    }
    # An image without an issuer says nothing against one with it.
    count = len({patient for patient, _ in found})
    issuers = {issuer for _, issuer in found if issuer}
    if count > 1 or len(issuers) > 1:
        return f"the study holds images of {max(count, len(issuers))} patient IDs; correct it in the PACS and send it again"
    return None


def _changed(conflicts: Sequence[tuple[Instance, Instance | None]]) -> str | None:
    if not conflicts:
        return None
    different: list[str] = []
    for other, first in conflicts:
        if first is None:
            continue
        if first.study_instance_uid != other.study_instance_uid:
            different.append("study")
        if first.series_instance_uid != other.series_instance_uid:
            different.append("series")
        different += [what for keyword, what in _COMPARED if first.header.get(keyword) != other.header.get(keyword)]
    what = ", ".join(dict.fromkeys(different)) or "content, perhaps pixels"
    count = len(conflicts)
    came = "1 image came a second time" if count == 1 else f"{count} images came a second time"
    return f"{came} under the same SOP Instance UID with another {what}; release the study to analyse the first, or send a corrected one"
