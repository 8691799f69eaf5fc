"""Looks at the peers' counts, and what they say, on a RECEIVING revision.

A look is taken by one process at a time; what it finds is written only while nothing has arrived since it began.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa

from node.ledger import Ledger, planning
from node.ledger.revisions import Revision, of_row, quiet_time, step_in
from node.ledger.schema import INSTANCES, NOTICES, REVISIONS
from node.settings import AssemblySection
from node.study import RevisionState

RECEIVING = RevisionState.RECEIVING
# A process that died while it asked; longer than a dead peer's time-outs, of which there may be several.
LOOK_LEASE_S = 120.0
A_STEP = 500


def due(ledger: Ledger, now: float, assembly: AssemblySection) -> list[Revision]:
    """Give RECEIVING revisions to look after now, the longest quiet first.

    The first look comes `count_stable_s` before the quiet time ends, not before half of it: the second can then be the proof
    at the moment the quiet time ends.
    """
    quiet_s = quiet_time(assembly)
    lead_s = assembly.count_stable_s
    first_s = sa.case((quiet_s > 2 * lead_s, quiet_s - lead_s), else_=quiet_s / 2)
    wanted = sa.select(REVISIONS).where(
        REVISIONS.c.state == RECEIVING,
        REVISIONS.c.last_arrival_at + first_s <= now,
        sa.or_(REVISIONS.c.ask_after.is_(None), REVISIONS.c.ask_after <= now),
    )
    with ledger.reading() as connection:
        return [of_row(row) for row in connection.execute(wanted.order_by(REVISIONS.c.last_arrival_at).limit(A_STEP))]


def claim(ledger: Ledger, revision: Revision) -> bool:
    """Take the look for this process; False: another has it, or an image arrived."""
    now = ledger.clock()
    free = sa.or_(REVISIONS.c.ask_after.is_(None), REVISIONS.c.ask_after <= now)
    take = sa.update(REVISIONS).where(*_same(revision), free).values(ask_after=now + LOOK_LEASE_S)
    with ledger.writing() as connection:
        return connection.execute(take).rowcount == 1


def note(ledger: Ledger, revision: Revision, evidence: Mapping[str, Any], ask_after: float) -> bool:
    """Write what the look found and when the next is due; False when an image arrived since `revision` was read."""
    write = sa.update(REVISIONS).where(*_same(revision)).values(evidence=dict(evidence), ask_after=ask_after)
    with ledger.writing() as connection:
        return connection.execute(write).rowcount == 1


def decline(ledger: Ledger, revision: Revision, evidence: Mapping[str, Any], reason: str) -> bool:
    """Freeze a revision that is known to lack images, DECLINED; False when an image arrived after all."""
    now = ledger.clock()
    values = {"state": RevisionState.DECLINED, "completed_at": now, "ended_at": now, "evidence": dict(evidence), "reason": reason}
    with ledger.writing() as connection:
        ledger.lock(connection, [revision.study_instance_uid])
        if not step_in(connection, revision, RECEIVING, values):
            return False
        planning.drop_ahead(connection, revision.study_instance_uid, now)
    return True


def senders(ledger: Ledger, study_uid: str) -> list[tuple[str, str]]:
    """Give the (AE title, address) pairs that sent images of a study."""
    mine = sa.select(INSTANCES.c.calling_ae, INSTANCES.c.peer_host).where(
        INSTANCES.c.study_instance_uid == study_uid, INSTANCES.c.revision > 0, ~INSTANCES.c.conflict, ~INSTANCES.c.removed
    )
    with ledger.reading() as connection:
        return sorted((row.calling_ae, row.peer_host) for row in connection.execute(mine.distinct()))


def sender_ended(ledger: Ledger, study_uid: str, facts: Mapping[str, Any]) -> None:
    """Note how the association ended that brought a study's last images: evidence for people, nothing waits for it."""
    mine = sa.update(REVISIONS).where(REVISIONS.c.study_instance_uid == study_uid, REVISIONS.c.state == RECEIVING)
    with ledger.writing(index=True) as connection:
        connection.execute(mine.values(sender=dict(facts)))


def told(ledger: Ledger, study_uid: str, notice: Mapping[str, Any]) -> None:
    """Keep an Instance Availability Notification; told twice it is kept once. The next look comes at once."""
    with ledger.writing() as connection:
        connection.execute(ledger.insert(NOTICES).values(study_instance_uid=study_uid, **notice).on_conflict_do_nothing())
        waiting = sa.update(REVISIONS).where(REVISIONS.c.study_instance_uid == study_uid, REVISIONS.c.state == RECEIVING)
        connection.execute(waiting.values(ask_after=None))


def notices(ledger: Ledger, study_uid: str) -> dict[str, int]:
    """Give the most images of each series that one notification named."""
    found: dict[str, int] = {}
    mine = sa.select(NOTICES.c.series).where(NOTICES.c.study_instance_uid == study_uid)
    with ledger.reading() as connection:
        for series in connection.execute(mine).scalars():
            for uid, count in series.items():
                found[uid] = max(found.get(uid, 0), int(count))
    return found


def _same(revision: Revision) -> tuple[sa.ColumnElement[bool], ...]:
    return (REVISIONS.c.revision_id == revision.revision_id, REVISIONS.c.state == RECEIVING, REVISIONS.c.fence == revision.fence)
