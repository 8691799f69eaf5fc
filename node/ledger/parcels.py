"""Parcels: one a job, generation and viewer profile. The first that is written stays; no other ever takes its place."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from node.ledger import Ledger
from node.ledger.schema import DELIVERY_OBJECTS, PARCEL_OBJECTS, PARCELS
from node.study import Parcel, ParcelObject

OBJECT_FIELDS = tuple(ParcelObject.__dataclass_fields__)


def of_job(ledger: Ledger, job_id: str, generation: int | None = None) -> list[Parcel]:
    """Give the parcels of that generation, or of the newest that has any, in the order of their writing."""
    with ledger.reading() as connection:
        return of_job_in(connection, job_id, generation)


def of_job_in(connection: Connection, job_id: str, generation: int | None = None) -> list[Parcel]:
    """Give the parcels as this transaction sees them."""
    mine = sa.select(PARCELS).where(PARCELS.c.job_id == job_id)
    newest = sa.select(sa.func.max(PARCELS.c.generation)).where(PARCELS.c.job_id == job_id).scalar_subquery()
    found = mine.where(PARCELS.c.generation == (newest if generation is None else generation))
    rows = connection.execute(found.order_by(PARCELS.c.written_at, PARCELS.c.profile)).all()
    return [_parcel(connection, row) for row in rows]


def get_in(connection: Connection, job_id: str, generation: int | None = None, profile: str | None = None) -> Parcel | None:
    """Give one parcel as this transaction sees it."""
    return next((entry for entry in of_job_in(connection, job_id, generation) if profile in {None, entry.profile}), None)


def keep_in(ledger: Ledger, connection: Connection, parcel: Parcel) -> Parcel:
    """Store the parcel unless one of its profile is there, and give the one that is stored."""
    identity = {"job_id": parcel.job_id, "generation": parcel.generation, "profile": parcel.profile}
    row = ledger.insert(PARCELS).values(
        **identity,
        study_instance_uid=parcel.study_instance_uid,
        profile_digest=parcel.profile_digest,
        summary=parcel.summary,
        written_at=ledger.clock(),
    )
    if connection.execute(row.on_conflict_do_nothing().returning(PARCELS.c.profile)).first() is None:
        stored = get_in(connection, parcel.job_id, parcel.generation, parcel.profile)
        assert stored is not None
        return stored
    rows = [
        identity | {"position": position} | {name: getattr(entry, name) for name in OBJECT_FIELDS}
        for position, entry in enumerate(parcel.objects)
    ]
    if rows:
        connection.execute(sa.insert(PARCEL_OBJECTS), rows)
    return parcel


def list_in(connection: Connection, delivery_id: str, parcel: Parcel) -> None:
    """List the parcel's objects as what a delivery is to send."""
    rows = [
        {"delivery_id": delivery_id, "sop_instance_uid": entry.sop_instance_uid, "position": position}
        for position, entry in enumerate(parcel.objects)
    ]
    if rows:
        connection.execute(sa.insert(DELIVERY_OBJECTS), rows)


def _parcel(connection: Connection, row: Row[Any]) -> Parcel:
    mine = (
        PARCEL_OBJECTS.c.job_id == row.job_id,
        PARCEL_OBJECTS.c.generation == row.generation,
        PARCEL_OBJECTS.c.profile == row.profile,
    )
    inside = connection.execute(sa.select(PARCEL_OBJECTS).where(*mine).order_by(PARCEL_OBJECTS.c.position))
    return Parcel(
        job_id=row.job_id,
        generation=row.generation,
        study_instance_uid=row.study_instance_uid,
        profile=row.profile,
        profile_digest=row.profile_digest,
        summary=row.summary,
        objects=tuple(ParcelObject(**{name: entry[name] for name in OBJECT_FIELDS}) for entry in inside.mappings()),
    )
