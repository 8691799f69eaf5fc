"""What the ledger knows of one patient's studies, and forgetting whose they are: ids, UIDs, states and reasons stay."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from node.ledger import Ledger
from node.ledger.removal import DROPPED, OPEN_DELIVERIES, OPEN_JOBS, OPEN_REVISIONS, patient_key
from node.ledger.schema import DELIVERIES, HOLDS, INSTANCES, JOBS, PATIENTS, REVISIONS
from node.study import DeliveryState, JobState, RevisionState


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """One received file of the patient, also one whose file has gone; `header` is cleared at the end."""

    row: int
    sop_instance_uid: str
    path: str
    here: bool
    header: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Holding:
    """What is kept of the patient in one study: images, the jobs that used them, and what is unfinished, in words."""

    study_instance_uid: str
    issuer: str
    images: tuple[Image, ...]
    jobs: tuple[str, ...]
    unfinished: tuple[str, ...]


def find(ledger: Ledger, patient_id: str) -> list[Holding]:
    """Give what is kept of a patient ID, study by study, of every issuer."""
    mine = sa.select(PATIENTS).where(PATIENTS.c.patient_key == patient_key(patient_id)).order_by(PATIENTS.c.study_instance_uid)
    with ledger.reading() as connection:
        return [_holding(connection, row.study_instance_uid, row.issuer, patient_id) for row in connection.execute(mine).all()]


def _holding(connection: Connection, study_uid: str, issuer: str, patient_id: str) -> Holding:
    rows = connection.execute(sa.select(INSTANCES).where(INSTANCES.c.study_instance_uid == study_uid)).all()
    every = [
        Image(row=row.instance_id, sop_instance_uid=row.sop_instance_uid, path=row.path, here=not row.removed, header=row.header)
        for row in rows
    ]
    named = [_patient_of(entry) for entry in every]
    # Where no image names this patient, the archive said that they all are this patient's.
    whole = patient_id.strip() not in named or not any(name and name != patient_id.strip() for name in named)
    images = tuple(entry for entry, name in zip(every, named, strict=True) if whole or name in {"", patient_id.strip()})
    uids = {entry.sop_instance_uid for entry in images}
    jobs = connection.execute(sa.select(JOBS.c.job_id, JOBS.c.inputs).where(JOBS.c.study_instance_uid == study_uid)).all()
    used = tuple(row.job_id for row in jobs if whole or not row.inputs or uids & {uid for some in row.inputs.values() for uid in some})
    return Holding(study_instance_uid=study_uid, issuer=issuer, images=images, jobs=used, unfinished=_unfinished(connection, study_uid))


def _patient_of(image: Image) -> str:
    return str(image.header.get("PatientID") or "").strip(" \0")


def _unfinished(connection: Connection, study_uid: str) -> tuple[str, ...]:
    open_ones = (
        (
            "revision",
            sa.select(REVISIONS.c.state).where(REVISIONS.c.study_instance_uid == study_uid, REVISIONS.c.state.in_(OPEN_REVISIONS)),
        ),
        ("job", sa.select(JOBS.c.state).where(JOBS.c.study_instance_uid == study_uid, JOBS.c.state.in_(OPEN_JOBS))),
        (
            "delivery",
            sa.select(DELIVERIES.c.state)
            .join(JOBS, JOBS.c.job_id == DELIVERIES.c.job_id)
            .where(JOBS.c.study_instance_uid == study_uid, DELIVERIES.c.state.in_(OPEN_DELIVERIES)),
        ),
    )
    return tuple(f"{what} {state}" for what, question in open_ones for state in connection.execute(question).scalars())


def _open(table: sa.Table, states: Sequence[str]) -> sa.ColumnElement[bool]:
    return table.c.state.in_(states)


def end_and_mark(ledger: Ledger, holding: Holding, word: tuple[str, str], *, force: bool) -> bool:
    """Mark the images as gone, after ending what is unfinished by that word (by, because); False: unfinished, and no force.

    The patient's key stays until `forget`, so that a purge that was cut off can be repeated.
    """
    study_uid, now = holding.study_instance_uid, ledger.clock()
    with ledger.writing() as connection:
        ledger.lock(connection, [study_uid])
        if _unfinished(connection, study_uid):
            if not force:
                return False
            _end(connection, study_uid, word, now)
        rows = [entry.row for entry in holding.images]
        for some in _batches(rows):
            connection.execute(sa.update(INSTANCES).where(INSTANCES.c.instance_id.in_(some)).values(removed=True))
    return True


def _end(connection: Connection, study_uid: str, word: tuple[str, str], now: float) -> None:
    reason = f"purged by {word[0]}: {word[1]}"
    ended = {"ended_at": now, "reason": reason}
    mine = REVISIONS.c.study_instance_uid == study_uid
    revisions = sa.update(REVISIONS).where(mine, REVISIONS.c.state.in_(OPEN_REVISIONS))
    connection.execute(revisions.values(ended | {"state": RevisionState.DECLINED, "fence": REVISIONS.c.fence + 1}))
    opened = sa.update(HOLDS).where(HOLDS.c.study_instance_uid == study_uid, HOLDS.c.ended_at.is_(None))
    connection.execute(opened.values(ended_at=now, outcome=DROPPED, by_whom=word[0], because=word[1]))
    jobs = sa.update(JOBS).where(JOBS.c.study_instance_uid == study_uid, JOBS.c.state.in_(OPEN_JOBS))
    cancelled = {"state": JobState.CANCELLED, "fence": JOBS.c.fence + 1, "updated_at": now, "lease_until": None, "reason": reason}
    connection.execute(jobs.values(cancelled))
    of_study = DELIVERIES.c.job_id.in_(sa.select(JOBS.c.job_id).where(JOBS.c.study_instance_uid == study_uid))
    sends = sa.update(DELIVERIES).where(of_study, DELIVERIES.c.state.in_(OPEN_DELIVERIES))
    failed = {"state": DeliveryState.FAILED, "fence": DELIVERIES.c.fence + 1, "lease_until": None, "wants_profile": None}
    connection.execute(sends.values(ended | failed))


def forget(ledger: Ledger, holding: Holding, patient_id: str) -> bool:
    """Clear headers, accession numbers, the jobs' patients and the patient's key; False when an image came again meanwhile."""
    study_uid = holding.study_instance_uid
    with ledger.writing() as connection:
        ledger.lock(connection, [study_uid])
        for some in _batches([entry.row for entry in holding.images]):
            gone = sa.update(INSTANCES).where(INSTANCES.c.instance_id.in_(some), INSTANCES.c.removed == sa.true())
            connection.execute(gone.values(header={}))
        connection.execute(sa.update(JOBS).where(JOBS.c.job_id.in_(holding.jobs)).values(patient=None))
        left = _holding(connection, study_uid, holding.issuer, patient_id)
        if any(entry.here for entry in left.images):
            return False
        connection.execute(sa.update(REVISIONS).where(REVISIONS.c.study_instance_uid == study_uid).values(accession_number=None))
        key = (PATIENTS.c.study_instance_uid == study_uid, PATIENTS.c.patient_key == patient_key(patient_id))
        connection.execute(sa.delete(PATIENTS).where(*key, PATIENTS.c.issuer == holding.issuer))
    return True


def _batches(rows: Sequence[int]) -> list[Sequence[int]]:
    return [rows[at : at + 500] for at in range(0, len(rows), 500)]
