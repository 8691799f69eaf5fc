"""Holds in the ledger: a revision stops with its findings, a human lets it go or drops it; who and why stays for good."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from node.ledger import Ledger
from node.ledger.jobs import Claim
from node.ledger.planning import drop_ahead
from node.ledger.removal import patient_key
from node.ledger.revisions import Revision, of_row, step_in
from node.ledger.schema import HOLDS, INSTANCES, JOBS, PATIENTS, REVISIONS, STAGE_TIMES
from node.study import JobState, RevisionState

_LIVE = (JobState.QUEUED, JobState.RUNNING)


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One reason to hold; `key` names what was found, so that its release covers this and nothing else."""

    kind: str
    key: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """A human's word on a held revision: RELEASED or DROPPED, by whom, and why."""

    outcome: str
    by: str
    because: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """One image as it was received: who sent it, and who else sent the same bytes; "AE title host" each."""

    series_instance_uid: str
    sop_instance_uid: str
    senders: tuple[str, ...]


def hold(
    ledger: Ledger,
    revision: Revision,
    findings: Sequence[Finding],
    record: Callable[[], None],
    evidence: Mapping[str, Any] | None = None,
) -> bool:
    """Stop a COMPLETE revision, or freeze a RECEIVING one on `evidence` that it lacks images; False when it has moved on.

    `record` runs before the transaction ends: when it raises, nothing happened.
    """
    with ledger.writing() as connection:
        ledger.lock(connection, [revision.study_instance_uid])
        held: dict[str, Any] = {"state": RevisionState.HELD, "reason": reason_of(findings)}
        frozen = {} if evidence is None else {"completed_at": ledger.clock(), "evidence": dict(evidence)}
        if not step_in(connection, revision, revision.state, held | frozen):
            return False
        drop_ahead(connection, revision.study_instance_uid, ledger.clock())
        _open(connection, (revision.study_instance_uid, revision.number), findings, ledger.clock())
        record()
    return True


def stop(ledger: Ledger, claim: Claim, findings: Sequence[Finding], record: Callable[[], None]) -> bool:
    """Stop a planned revision at one of its jobs: that job and its revision's other live ones are CANCELLED until a release revives them.

    A revision that a newer one follows is not held, its jobs only end: the newer one will be looked at by itself.
    False when the claim was lost.
    """
    job, now, reason = claim.job, ledger.clock(), f"held: {reason_of(findings)}"
    ended = {"state": JobState.CANCELLED, "fence": JOBS.c.fence + 1, "updated_at": now, "lease_until": None, "reason": reason}
    mine = (JOBS.c.job_id == job.job_id, JOBS.c.state == JobState.RUNNING, JOBS.c.fence == claim.fence)
    with ledger.writing() as connection:
        ledger.lock(connection, [job.study_instance_uid])
        # A newer revision may have taken the job over while it ran: what counts is whose it is now.
        number = connection.execute(sa.update(JOBS).where(*mine).values(ended).returning(JOBS.c.revision)).scalar()
        if number is None:
            return False
        times = sa.update(STAGE_TIMES).where(STAGE_TIMES.c.job_id == job.job_id, STAGE_TIMES.c.fence == claim.fence)
        connection.execute(times.values(ended_at=now, outcome="held"))
        others = (JOBS.c.study_instance_uid == job.study_instance_uid, JOBS.c.revision == number, JOBS.c.state.in_(_LIVE))
        connection.execute(sa.update(JOBS).where(*others).values(ended))
        newest = sa.select(REVISIONS).where(REVISIONS.c.study_instance_uid == job.study_instance_uid).order_by(REVISIONS.c.number.desc())
        row = connection.execute(newest.limit(1)).one_or_none()
        if row is not None and (row.number, row.state) == (number, RevisionState.PLANNED):
            held = {"state": RevisionState.HELD, "reason": reason_of(findings), "ended_at": None}
            if step_in(connection, of_row(row), RevisionState.PLANNED, held):
                _open(connection, (job.study_instance_uid, number), findings, now)
                record()
    return True


def end(ledger: Ledger, study_uid: str, ending: Ending, record: Callable[[Revision], None]) -> Revision | None:
    """Release or drop a study's newest HELD revision and give it as it was; None where none is held. `record` as in `hold`."""
    now = ledger.clock()
    mine = sa.select(REVISIONS).where(REVISIONS.c.study_instance_uid == study_uid, REVISIONS.c.state == RevisionState.HELD)
    with ledger.writing() as connection:
        ledger.lock(connection, [study_uid])
        row = connection.execute(mine.order_by(REVISIONS.c.number.desc()).limit(1)).one_or_none()
        if row is None:
            return None
        revision = of_row(row)
        if ending.outcome == "RELEASED":
            values: dict[str, Any] = {"state": RevisionState.COMPLETE, "released": True, "reason": None, "ended_at": None}
        else:
            values = {"state": RevisionState.DECLINED, "ended_at": now, "reason": f"dropped by {ending.by}: {ending.because}"}
        if not step_in(connection, revision, RevisionState.HELD, values):
            return None
        _close(connection, revision, ending, now)
        record(revision)
    return revision


def released_keys(ledger: Ledger, study_uid: str) -> frozenset[str]:
    """Give the keys of all findings on a study that a human has released."""
    let_go = sa.select(HOLDS.c.findings).where(HOLDS.c.study_instance_uid == study_uid, HOLDS.c.outcome == "RELEASED")
    with ledger.reading() as connection:
        return frozenset(entry["key"] for findings in connection.execute(let_go).scalars() for entry in findings)


def held(ledger: Ledger) -> list[dict[str, Any]]:
    """List what is held, the longest waiting first: study, revision, since when, kinds, reason."""
    joined = sa.and_(
        HOLDS.c.study_instance_uid == REVISIONS.c.study_instance_uid,
        HOLDS.c.revision == REVISIONS.c.number,
        HOLDS.c.ended_at.is_(None),
    )
    columns = (
        REVISIONS.c.study_instance_uid,
        REVISIONS.c.number,
        REVISIONS.c.reason,
        REVISIONS.c.completed_at,
        REVISIONS.c.last_arrival_at,
    )
    waiting = (
        sa.select(*columns, HOLDS.c.held_at, HOLDS.c.findings)
        .select_from(REVISIONS.outerjoin(HOLDS, joined))
        .where(REVISIONS.c.state == RevisionState.HELD)
        .order_by(REVISIONS.c.last_arrival_at)
    )
    with ledger.reading() as connection:
        return [
            {
                "study": row.study_instance_uid,
                "revision": row.number,
                "held_at": row.held_at or row.completed_at or row.last_arrival_at,
                "kinds": [entry["kind"] for entry in row.findings or ()],
                "reason": row.reason,
            }
            for row in connection.execute(waiting)
        ]


def history(connection: Connection, study_uid: str) -> list[dict[str, Any]]:
    """Give every hold of a study and how it ended, oldest first."""
    mine = sa.select(HOLDS).where(HOLDS.c.study_instance_uid == study_uid).order_by(HOLDS.c.hold_id)
    keys = ("revision", "held_at", "ended_at", "outcome", "by_whom", "because")
    return [
        {key: row[key] for key in keys} | {"kinds": [entry["kind"] for entry in row["findings"]]}
        for row in connection.execute(mine).mappings()
    ]


def warn(ledger: Ledger, revision: Revision, warnings: Sequence[str]) -> None:
    """Write down what is odd about a revision but no reason to hold it."""
    with ledger.writing() as connection:
        mine = sa.update(REVISIONS).where(REVISIONS.c.revision_id == revision.revision_id)
        connection.execute(mine.values(warnings=list(warnings) or None))


def warn_also(ledger: Ledger, revision: Revision, warning: str) -> None:
    """Add one sentence to what is odd about a revision; said twice it is written once."""
    mine = REVISIONS.c.revision_id == revision.revision_id
    with ledger.writing() as connection:
        known = connection.execute(sa.select(REVISIONS.c.warnings).where(mine)).scalar_one() or []
        if warning not in known:
            connection.execute(sa.update(REVISIONS).where(mine).values(warnings=[*known, warning]))


def sent(ledger: Ledger, study_uid: str, revision: int) -> list[Sent]:
    """Give who sent each image of a revision, conflicting ones too; our own results, of revision 0, are left out."""
    columns = ("series_instance_uid", "sop_instance_uid", "calling_ae", "peer_host", "also_from")
    images = sa.select(*(INSTANCES.c[name] for name in columns)).where(
        INSTANCES.c.study_instance_uid == study_uid, INSTANCES.c.revision.between(1, revision), ~INSTANCES.c.removed
    )
    with ledger.reading() as connection:
        return [
            Sent(
                series_instance_uid=row.series_instance_uid,
                sop_instance_uid=row.sop_instance_uid,
                senders=(f"{row.calling_ae} {row.peer_host}", *(row.also_from or ())),
            )
            for row in connection.execute(images)
        ]


def headers(ledger: Ledger, sop_uids: Sequence[str]) -> list[Mapping[str, Any]]:
    """Give the headers of the first received of these images, also where retention took the files, in the order of their UIDs."""
    found: dict[str, Mapping[str, Any]] = {}
    with ledger.reading() as connection:
        for at in range(0, len(sop_uids), 500):
            some = sa.select(INSTANCES.c.sop_instance_uid, INSTANCES.c.header).where(
                INSTANCES.c.sop_instance_uid.in_(sop_uids[at : at + 500]), ~INSTANCES.c.conflict
            )
            found.update((row.sop_instance_uid, row.header) for row in connection.execute(some.order_by(INSTANCES.c.instance_id)))
    return [found[uid] for uid in sorted(found)]


def note_patient(ledger: Ledger, claim: Claim, record: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Write down once whose results a job's are, and give what stands there then; None when the claim was lost before."""
    mine = (JOBS.c.job_id == claim.job.job_id, JOBS.c.state == JobState.RUNNING, JOBS.c.fence == claim.fence)
    with ledger.writing() as connection:
        connection.execute(sa.update(JOBS).where(*mine, JOBS.c.patient.is_(None)).values(patient=dict(record)))
        found: Mapping[str, Any] | None = connection.execute(sa.select(JOBS.c.patient).where(*mine)).scalar()
        if found is not None:
            _find_by(ledger, connection, claim.job.study_instance_uid, found.get("use", {}))
    return found


def _find_by(ledger: Ledger, connection: Connection, study_uid: str, identity: Mapping[str, str]) -> None:
    """Let a purge find the study under the patient that its results carry, too."""
    ident, issuer = identity.get("PatientID", ""), identity.get("IssuerOfPatientID", "")
    if ident:
        row = {"study_instance_uid": study_uid, "patient_key": patient_key(ident), "issuer": issuer[:64]}
        connection.execute(ledger.insert(PATIENTS).values(row).on_conflict_do_nothing())


def reason_of(findings: Sequence[Finding]) -> str:
    """Give all findings as one sentence a technologist understands."""
    return "; ".join(finding.reason for finding in findings)


def _open(connection: Connection, where: tuple[str, int], findings: Sequence[Finding], now: float) -> None:
    facts = [{"kind": entry.kind, "key": entry.key, "reason": entry.reason} for entry in findings]
    connection.execute(sa.insert(HOLDS).values(study_instance_uid=where[0], revision=where[1], findings=facts, held_at=now))


def _close(connection: Connection, revision: Revision, ending: Ending, now: float) -> None:
    """End the open hold; one that was opened without findings (a mismatch of counts) gets its row now."""
    word = {"ended_at": now, "outcome": ending.outcome, "by_whom": ending.by, "because": ending.because}
    mine = (HOLDS.c.study_instance_uid == revision.study_instance_uid, HOLDS.c.revision == revision.number, HOLDS.c.ended_at.is_(None))
    if connection.execute(sa.update(HOLDS).where(*mine).values(word)).rowcount:
        return
    held_at = revision.completed_at or revision.last_arrival_at
    row = {"study_instance_uid": revision.study_instance_uid, "revision": revision.number, "findings": [], "held_at": held_at}
    connection.execute(sa.insert(HOLDS).values(row | word))
