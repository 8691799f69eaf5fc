"""Ask the archive whose study it is now: before compose, and when images of one study disagree.

What is found is written into the job's row once; compose reads it from there, so that its bytes stay repeatable.
The first peer with `query = true` that knows the study is believed; one that is silent is left alone for a while.
Ref: PS3.4 C.6.2.1.2; PS3.3 C.2.2, C.7.1.4
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydicom import Dataset

from node import journal, patients, query
from node.deliver import Outages
from node.errors import Refused, Retryable
from node.ledger import Ledger, holds
from node.ledger.holds import Finding
from node.ledger.jobs import Claim
from node.patients import Identity, Known
from node.settings import Settings
from node.study import Job

log = journal.get("demographics")

PATIENCE_S = 10.0  # a worker waits for this answer
SILENCE_S = 30.0
SILENT = Outages()
ASKED = (*patients.IDENTITY, "OtherPatientIDs")


@dataclass(frozen=True, slots=True, kw_only=True)
class Word:
    """What the peers say of a study: the patients that the first who knows it lists it under; `away` says why others said nothing."""

    peer: str | None = None
    known: tuple[Known, ...] = ()
    away: Mapping[str, str] = field(default_factory=dict)

    @property
    def patient(self) -> Known | None:
        """Give the one patient, None where there is none or more than one."""
        return self.known[0] if len(self.known) == 1 else None

    @property
    def said(self) -> str:
        """Say who answered, in words without patient data."""
        if self.peer is not None:
            return f"{self.peer} lists the study" + ("" if len(self.known) == 1 else f" under {len(self.known)} patients")
        return "; ".join(self.away.values()) or "no peer with query = true to ask"


def ask(settings: Settings, study_uid: str) -> Word:
    """Ask the peers one after the other, in the order of the settings; never raises for a peer's sake."""
    away: dict[str, str] = {}
    bounds = {key: min(getattr(settings.node, key), PATIENCE_S) for key in ("association_timeout_s", "network_timeout_s")}
    impatient = settings.model_copy(update={"node": settings.node.model_copy(update=bounds)})
    for peer in settings.peers:
        if not peer.query:
            continue
        silent = SILENT.reason(peer)
        if silent is not None:
            away[peer.name] = silent
            continue
        try:
            answers = query.study_level(impatient, peer, study_uid, ASKED)
        except Retryable as error:
            away[peer.name] = error.reason
            SILENT.begin(peer, SILENCE_S, error.reason)
        except Refused as error:
            away[peer.name] = error.reason
        else:
            if found := _known(answers, study_uid):
                return Word(peer=peer.name, known=found, away=away)
            away[peer.name] = f"{peer.name} does not know the study"
    return Word(away=away)


def settle(settings: Settings, ledger: Ledger, claim: Claim) -> Mapping[str, Any] | Finding | None:
    """Give whose results the job's are, as written in its row, asked now if never before; a Finding when they may not be written.

    None: the claim was lost. The record: {"at", "peer", "said", "use": keyword -> value}; an empty value is to be left out.
    """
    if claim.job.patient is not None:
        return claim.job.patient
    told = look(settings, ledger, claim.job)
    return told if isinstance(told, Finding) else holds.note_patient(ledger, claim, told)


def look(settings: Settings, ledger: Ledger, job: Job) -> Mapping[str, Any] | Finding:
    """Ask whose images the job's are, and write nothing down."""
    uids = sorted({uid for some in job.inputs.values() for uid in some})
    received = [patients.identity_of(header) for header in holds.headers(ledger, uids)]
    word = ask(settings, job.study_instance_uid)
    released = holds.released_keys(ledger, job.study_instance_uid)
    findings = [finding for finding in against(received, word) if finding.key not in released]
    return findings[0] if findings else record(received, word, ledger.clock())


def against(received: Sequence[Identity], word: Word) -> list[Finding]:
    """Tell why the archive's word forbids results under what came: the study is another patient's there, or several patients'."""
    if len(word.known) > 1:
        reason = f"{word.peer} lists the study under {len(word.known)} patients; correct it there, or release it"
        return [Finding(kind="archive", key=key("archive", sorted(entry.key for entry in word.known)), reason=reason)]
    patient = word.patient
    if patient is None:
        return []
    strangers = sorted({ident for entry in received if not patients.belongs(ident := patients.key_of(entry), patient)})
    if not strangers:
        return []
    reason = (
        f"{word.peer} now lists the study under another patient ID than its images carry, and names no merge of the two; "
        "send the corrected study again, or release it to send the results under the archive's patient"
    )
    return [Finding(kind="patient-changed", key=key("patient-changed", [*strangers, patient.key]), reason=reason)]


def record(received: Sequence[Identity], word: Word, now: float) -> dict[str, Any]:
    """Write down whose results they are. What the archive does not tell stays as it came."""
    usual = patients.usual(received)
    facts: dict[str, Any] = {"at": now, "peer": word.peer, "said": word.said, "use": dict(usual)}
    if word.patient is not None:
        told = {keyword: value for keyword, value in word.patient.identity.items() if value}
        changed = patients.corrected(usual, word.patient)
        facts["use"] = dict(usual) | {keyword: told[keyword] for keyword in changed}
        if "PatientID" in changed and "IssuerOfPatientID" not in told:
            facts["use"]["IssuerOfPatientID"] = ""  # the old ID's issuer says nothing about the new one
        if any(patients.merged(patients.key_of(entry), word.patient) for entry in received):
            facts["said"] += ", after a merge of patients"
        if changed:
            facts["said"] += f"; put right: {', '.join(changed)}"
    return facts


def key(kind: str, facts: object) -> str:
    """Name what was found, so that a release covers the same again and nothing else."""
    return hashlib.sha256(json.dumps([kind, facts], sort_keys=True).encode()).hexdigest()[:32]


def _known(answers: Sequence[Dataset], study_uid: str) -> tuple[Known, ...]:
    """Read the answers on this one study; the same patient listed twice counts once."""
    found: dict[tuple[str, str], Known] = {}
    for answer in answers:
        if str(answer.get("StudyInstanceUID", study_uid)) != study_uid:
            continue
        identity = {name: text for name in patients.IDENTITY if (text := _text(answer, name))}
        known = Known(identity=identity, others=_others(answer))
        found.setdefault(known.key, known)
    return tuple(found.values())


def _others(answer: Dataset) -> frozenset[tuple[str, str]]:
    """Give the IDs that the archive says are the same patient's; the plain list names no issuers."""
    plain = answer.get("OtherPatientIDs") or ()
    values = [plain] if isinstance(plain, str) else list(plain)
    listed = {(str(value).strip(), "") for value in values}
    for item in answer.get("OtherPatientIDsSequence") or ():
        listed.add((_text(item, "PatientID"), _text(item, "IssuerOfPatientID")))
    return frozenset(entry for entry in listed if entry[0])


def _text(dataset: Dataset, keyword: str) -> str:
    value = dataset.get(keyword)
    text = "" if value is None else str(value).replace("\0", "").strip()
    return text.rstrip("=") if keyword == "PatientName" else text
