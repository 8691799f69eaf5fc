"""What of a study is here already, and what an archive has from us: read from the ledger's index."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import sqlalchemy as sa

from node.fetch.plan import Patient
from node.ledger import Ledger
from node.ledger.schema import INSTANCES, PARCEL_OBJECTS

_BATCH = 500


def held(ledger: Ledger, study_uid: str) -> dict[str, str]:
    """Give SOP Instance UID -> Series Instance UID of the images whose files are here; what retention removed is not."""
    mine = sa.select(INSTANCES.c.sop_instance_uid, INSTANCES.c.series_instance_uid).where(
        INSTANCES.c.study_instance_uid == study_uid, ~INSTANCES.c.removed
    )
    with ledger.reading() as connection:
        return {row.sop_instance_uid: row.series_instance_uid for row in connection.execute(mine)}


def here(ledger: Ledger, sop_uids: Collection[str]) -> set[str]:
    """Give those of the images whose files are here."""
    return _among(ledger, sop_uids, INSTANCES.c.sop_instance_uid, ~INSTANCES.c.removed)


def ours(ledger: Ledger, sop_uids: Collection[str]) -> set[str]:
    """Give those of the objects that are results of this node."""
    return _among(ledger, sop_uids, PARCEL_OBJECTS.c.sop_instance_uid)


def first(ledger: Ledger, study_uid: str) -> tuple[str, dict[str, Any]] | None:
    """Give who sent the first image of a study, and its header; None for a study that never came."""
    mine = sa.select(INSTANCES.c.calling_ae, INSTANCES.c.header).where(
        INSTANCES.c.study_instance_uid == study_uid, INSTANCES.c.revision > 0, ~INSTANCES.c.conflict
    )
    with ledger.reading() as connection:
        row = connection.execute(mine.order_by(INSTANCES.c.instance_id).limit(1)).one_or_none()
    return None if row is None else (row.calling_ae, dict(row.header))


def patient_of(header: dict[str, Any]) -> Patient:
    """Give whose image it is, by its header."""
    return Patient(patient_id=str(header.get("PatientID", "")).strip(), issuer=str(header.get("IssuerOfPatientID", "")).strip())


def _among(ledger: Ledger, sop_uids: Collection[str], column: sa.Column[Any], *conditions: Any) -> set[str]:
    found: set[str] = set()
    every: Sequence[str] = list(sop_uids)
    with ledger.reading() as connection:
        for start in range(0, len(every), _BATCH):
            some = every[start : start + _BATCH]
            found.update(connection.scalars(sa.select(column).where(column.in_(some), *conditions)))
    return found
