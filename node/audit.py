"""The audit trail: who did what to which study, one JSON line an event, only ever appended, no patient data.

    data_dir/audit/<year>-<month>.jsonl

Fields carry the names of the DICOM audit message, so that a site's collector can take them over. Several processes append
under a file lock; a line is on the disk when `require` returns. We never remove these files.
Ref: PS3.15 A.5.1, A.5.3.6 (instances accessed), A.5.3.7 (transferred), A.5.3.8 (study deleted)
"""

from __future__ import annotations

import datetime as dt
import fcntl
import json
import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from node import journal

log = journal.get("audit")

FOLDER = "audit"
SUCCESS, MINOR_FAILURE = 0, 4
ACCESSED = {"csd-code": "110103", "codeSystemName": "DCM", "originalText": "DICOM Instances Accessed"}
TRANSFERRED = {"csd-code": "110104", "codeSystemName": "DCM", "originalText": "DICOM Instances Transferred"}
DELETED = {"csd-code": "110105", "codeSystemName": "DCM", "originalText": "DICOM Study Deleted"}
APPLICATION = {"csd-code": "110150", "codeSystemName": "DCM", "originalText": "Application"}
SOURCE = {"csd-code": "110153", "codeSystemName": "DCM", "originalText": "Source Role ID"}
DESTINATION = {"csd-code": "110152", "codeSystemName": "DCM", "originalText": "Destination Role ID"}
STUDY_UID = {"csd-code": "110180", "codeSystemName": "DCM", "originalText": "Study Instance UID"}
# What happened, and how the standard files it: event, action (create, read, update, delete).
ACTIONS: Mapping[str, tuple[Mapping[str, str], str]] = {
    "study received": (TRANSFERRED, "C"),
    "study held": (ACCESSED, "U"),
    "hold released": (ACCESSED, "U"),
    "study dropped": (ACCESSED, "U"),
    "results sent": (TRANSFERRED, "C"),
    "results refused": (TRANSFERRED, "C"),
    "images purged": (DELETED, "D"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One thing done to one study.

    action   a key of ACTIONS
    by       the person who asked for it; empty: the node itself
    reason   why, in words without patient data
    peers    who sent the images, or where results went: "AE title host"
    objects  how many images or results
    details  more facts: counts, states, ids of ours
    """

    action: str
    study_instance_uid: str
    by: str = ""
    reason: str = ""
    peers: tuple[str, ...] = ()
    objects: int | None = None
    details: Mapping[str, str | int] | None = None


def by(event: Event, person: str) -> Event:
    """Give the event as asked for by a person."""
    return replace(event, by=person)


def require(data_dir: Path, event: Event, now: float) -> None:
    """Append the event, durably; raises OSError: what must not happen without a trace does not happen then."""
    moment = dt.datetime.fromtimestamp(now, dt.UTC)
    line = json.dumps(_message(event, moment), ensure_ascii=True, separators=(",", ":")).encode() + b"\n"
    folder = data_dir / FOLDER
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = folder / f"{moment:%Y-%m}.jsonl"
    fresh = not path.exists()
    handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        _append(handle, path, line)
        os.fsync(handle)
    finally:
        os.close(handle)
    if fresh:
        _sync(folder)
        _sync(data_dir)


def note(data_dir: Path, event: Event, now: float) -> None:
    """Append an event of the node's own work, which a full disk must not stop: there the journal tells."""
    try:
        require(data_dir, event, now)
    except OSError as error:
        log.error("audit.unwritable", alert=True, action=event.action, study=event.study_instance_uid, error=error.errno)  # noqa: TRY400


def read(data_dir: Path) -> list[dict[str, Any]]:
    """Give every message, oldest first; a line that a power cut broke off is left out."""
    found = []
    for path in sorted((data_dir / FOLDER).glob("*.jsonl")):
        for line in path.read_bytes().splitlines():
            try:
                found.append(json.loads(line))
            except ValueError:
                log.warning("audit.broken_line", file=path.name)
    return found


def _append(handle: int, path: Path, line: bytes) -> None:
    """Write the line whole; what a power cut left unfinished stays a line of its own."""
    size = os.fstat(handle).st_size
    if size:
        with path.open("rb") as file:
            file.seek(size - 1)
            if file.read(1) != b"\n":
                line = b"\n" + line
    try:
        while line:
            line = line[os.write(handle, line) :]
    except OSError:
        os.ftruncate(handle, size)
        raise


def _message(event: Event, moment: dt.datetime) -> dict[str, Any]:
    identifier, code = ACTIONS[event.action]
    own = {"UserID": "overread", "UserIsRequestor": not event.by, "RoleIDCode": APPLICATION, "NetworkAccessPointID": socket.gethostname()}
    participants: list[dict[str, Any]] = [own]
    if event.by:
        participants.append({"UserID": event.by, "UserIsRequestor": True})
    role = SOURCE if event.action == "study received" else DESTINATION
    for peer in event.peers:
        title, _, host = peer.partition(" ")
        participants.append({"UserID": title, "UserIsRequestor": False, "RoleIDCode": role, "NetworkAccessPointID": host})
    study: dict[str, Any] = {
        "ParticipantObjectTypeCode": 2,
        "ParticipantObjectTypeCodeRole": 3,
        "ParticipantObjectIDTypeCode": STUDY_UID,
        "ParticipantObjectID": event.study_instance_uid,
    }
    details = dict(event.details or {}) | ({} if event.objects is None else {"objects": event.objects})
    if event.reason:
        details["reason"] = event.reason
    if details:
        study["ParticipantObjectDetail"] = [{"type": key, "value": str(value)} for key, value in details.items()]
    return {
        "EventIdentification": {
            "EventID": identifier,
            "EventActionCode": code,
            "EventDateTime": moment.isoformat(timespec="milliseconds"),
            "EventOutcomeIndicator": MINOR_FAILURE if event.action == "results refused" else SUCCESS,
            "EventTypeCode": {"csd-code": event.action, "codeSystemName": "99OVERREAD", "originalText": event.action},
        },
        "ActiveParticipant": participants,
        "AuditSourceIdentification": {"AuditSourceID": f"overread@{socket.gethostname()}", "AuditSourceTypeCode": "4"},
        "ParticipantObjectIdentification": [study],
    }


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
