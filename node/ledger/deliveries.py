"""Deliveries: a parcel on its way to one destination. PENDING -> SENT -> COMMITTED | ACCEPTED | FAILED.

Being sent is a lease on a PENDING delivery, not a state: when the sender dies the delivery is PENDING
still, and the objects that were marked are not sent again. One that wants another profile is not sent until that is written
(node/ledger/fallbacks.py).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from node.ledger import Ledger
from node.ledger.jobs import resubmit_delay
from node.ledger.parcels import get_in
from node.ledger.schema import DELIVERIES, DELIVERY_OBJECTS, TRANSACTIONS
from node.study import Delivery, DeliveryState, Parcel, Stage

BATCH = 500
PENDING = DeliveryState.PENDING
SENT = DeliveryState.SENT
# An archive that lost what it took may need a while: 30 s, then 60, 120 ... up to an hour.
UNSENT_FIRST_S, UNSENT_MAX_S = 30.0, 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliveryClaim:
    """The right to send one delivery until the lease ends. Send what `delivery.sent` does not name.

    stage  recompose: the right to write the parcel that `delivery.wants_profile` names
    """

    delivery: Delivery
    parcel: Parcel
    fence: int
    stage: Stage = Stage.DELIVER


def get(ledger: Ledger, delivery_id: str) -> Delivery:
    """Give the delivery; raises KeyError."""
    with ledger.reading() as connection:
        return _get_in(connection, delivery_id)


def of_job(ledger: Ledger, job_id: str, generation: int) -> list[Delivery]:
    """Give the deliveries of one job's results, by destination."""
    mine = sa.select(DELIVERIES).where(DELIVERIES.c.job_id == job_id, DELIVERIES.c.generation == generation)
    with ledger.reading() as connection:
        return _all(connection, connection.execute(mine.order_by(DELIVERIES.c.destination)).all())


def due(ledger: Ledger, now: float, limit: int = 50) -> list[Delivery]:
    """Give deliveries that need a message now: their time has come, nobody has them, no message is fresh.

    Those that want another profile are to be composed, the others to be sent.
    """
    found = sa.select(DELIVERIES).where(
        DELIVERIES.c.state == PENDING, DELIVERIES.c.submit_after <= now, DELIVERIES.c.next_at <= now, is_free(now)
    )
    with ledger.reading() as connection:
        return _all(connection, connection.execute(found.order_by(DELIVERIES.c.submit_after).limit(limit)).all())


def submitted(ledger: Ledger, delivery_id: str) -> bool:
    """Note that a message is out; the next one goes 30 s later, then 60, 120 ... up to 480."""
    delay = resubmit_delay(DELIVERIES.c.submissions)
    values = {"submissions": DELIVERIES.c.submissions + 1, "submit_after": ledger.clock() + delay}
    return move(ledger, (DELIVERIES.c.delivery_id == delivery_id, DELIVERIES.c.state == PENDING), values)


def claim(ledger: Ledger, delivery_id: str, lease_s: float, stage: Stage = Stage.DELIVER) -> DeliveryClaim | None:
    """Take the delivery for sending, or for writing its other profile; None: another has it, it has moved on, or it is not due yet."""
    now = ledger.clock()
    take = (
        sa.update(DELIVERIES)
        .where(DELIVERIES.c.delivery_id == delivery_id, DELIVERIES.c.state == PENDING, DELIVERIES.c.next_at <= now, is_free(now))
        .where(DELIVERIES.c.wants_profile.is_(None) if stage is Stage.DELIVER else DELIVERIES.c.wants_profile.is_not(None))
        .values(
            fence=DELIVERIES.c.fence + 1,
            attempt=DELIVERIES.c.attempt + 1,
            started_at=now,
            lease_until=now + min(lease_s, _limit_s(ledger, stage)),
        )
        .returning(DELIVERIES)
    )
    with ledger.writing() as connection:
        row = connection.execute(take).one_or_none()
        if row is None:
            return None
        parcel = get_in(connection, row.job_id, row.generation, row.profile)
        if parcel is None:
            raise KeyError(row.job_id)
        return DeliveryClaim(delivery=_delivery(connection, row), parcel=parcel, fence=row.fence, stage=stage)


def renew(ledger: Ledger, claim: DeliveryClaim, lease_s: float) -> bool:
    """Extend the lease, never beyond the stage's time limit; False: no longer ours, stop sending."""
    now = ledger.clock()
    end = DELIVERIES.c.started_at + _limit_s(ledger, claim.stage)
    until = sa.case((end < now + lease_s, end), else_=now + lease_s)
    return move(ledger, (*held(claim), end > now), {"lease_until": until})


def object_sent(ledger: Ledger, claim: DeliveryClaim, sop_uid: str, status: int) -> bool:
    """Mark one object as stored by the peer with that C-STORE status; it is not sent again."""
    mine = sa.exists().where(*held(claim))
    mark = sa.update(DELIVERY_OBJECTS).where(
        DELIVERY_OBJECTS.c.delivery_id == claim.delivery.delivery_id, DELIVERY_OBJECTS.c.sop_instance_uid == sop_uid, mine
    )
    with ledger.writing() as connection:
        return connection.execute(mark.values(status=status, sent_at=ledger.clock(), failure=None)).rowcount == 1


def sent(ledger: Ledger, claim: DeliveryClaim, transaction_uid: str | None) -> bool:
    """Note that every object is stored there; name the commitment transaction where one is about to be asked for."""
    now = ledger.clock()
    with ledger.writing() as connection:
        values = {"state": SENT, "sent_at": now, "checked_at": now, "lease_until": None, "reason": None}
        if not move_in(connection, held(claim), values):
            return False
        if transaction_uid is not None:
            _record(ledger, connection, claim.delivery.delivery_id, transaction_uid)
    return True


def retry(ledger: Ledger, claim: DeliveryClaim, reason: str, delay_s: float) -> bool:
    """Give the delivery back, to be tried again after `delay_s`; who counts the attempts is the sender."""
    later = ledger.clock() + delay_s
    values = {"lease_until": None, "next_at": later, "submit_after": later, "submissions": 0, "reason": reason}
    return move(ledger, held(claim), values)


def fail(ledger: Ledger, claim: DeliveryClaim, reason: str) -> bool:
    """End the delivery: the destination will not have it; `reason` is for a technologist."""
    return move(ledger, held(claim), ended(ledger, DeliveryState.FAILED, reason))


def accepted(ledger: Ledger, delivery_id: str, proof: str) -> bool:
    """End a SENT delivery whose destination does not commit, with the proof there is."""
    values = ended(ledger, DeliveryState.ACCEPTED, None) | {"proof": proof}
    return move(ledger, (DELIVERIES.c.delivery_id == delivery_id, DELIVERIES.c.state == SENT), values)


def give_up(ledger: Ledger, delivery_id: str, reason: str) -> bool:
    """End a delivery nobody is sending: its attempts are spent, or the archive never answered."""
    now = ledger.clock()
    live = (DELIVERIES.c.delivery_id == delivery_id, DELIVERIES.c.state.in_([PENDING, SENT]), is_free(now))
    return move(ledger, live, ended(ledger, DeliveryState.FAILED, reason) | {"fence": DELIVERIES.c.fence + 1})


def asked(ledger: Ledger, delivery_id: str, transaction_uid: str) -> bool:
    """Record a commitment transaction before it is sent; several of one delivery may be open."""
    now = ledger.clock()
    with ledger.writing() as connection:
        mine = (DELIVERIES.c.delivery_id == delivery_id, DELIVERIES.c.state.in_([PENDING, SENT]))
        if not move_in(connection, mine, {"checked_at": now}):
            return False
        _record(ledger, connection, delivery_id, transaction_uid)
    return True


def report(ledger: Ledger, transaction_uid: str, committed: set[str], failed: Mapping[str, int]) -> bool:
    """Take the archive's answer; False: that transaction is not ours. Told twice it changes nothing.

    All objects committed: COMMITTED, also where the report comes after we had settled for less or given up.
    One that the archive does not vouch for, and that was sent before this transaction was asked for, is unsent
    again and the delivery PENDING after a while.
    """
    now = ledger.clock()
    with ledger.writing() as connection:
        asked_at, delivery_id = _transaction(connection, transaction_uid, now)
        if delivery_id is None:
            return False
        ledger.lock(connection, [delivery_id])
        mine = DELIVERY_OBJECTS.c.delivery_id == delivery_id
        waiting = (mine, DELIVERY_OBJECTS.c.committed_at.is_(None))
        done = sa.update(DELIVERY_OBJECTS).where(*waiting, DELIVERY_OBJECTS.c.sop_instance_uid.in_(committed))
        connection.execute(done.values(committed_at=now, failure=None, sent_at=sa.func.coalesce(DELIVERY_OBJECTS.c.sent_at, now)))
        rest = connection.execute(sa.select(DELIVERY_OBJECTS).where(*waiting).order_by(DELIVERY_OBJECTS.c.position)).all()
        if not rest:
            values = ended(ledger, DeliveryState.COMMITTED, None) | {"fence": DELIVERIES.c.fence + 1}
            move_in(connection, (DELIVERIES.c.delivery_id == delivery_id, DELIVERIES.c.state != DeliveryState.COMMITTED), values)
            return True
        lost = [row.sop_instance_uid for row in rest if row.sent_at is not None and row.sent_at <= asked_at]
        if lost:
            _unsend(connection, delivery_id, {uid: failed.get(uid) for uid in lost}, now)
    return True


def waiting_for_commitment(ledger: Ledger, now: float, timeout_s: Mapping[str, float] | None = None) -> list[Delivery]:
    """Give SENT deliveries last looked after longer ago than their destination's time-out (None: all SENT)."""
    found = sa.select(DELIVERIES).where(DELIVERIES.c.state == SENT).order_by(DELIVERIES.c.checked_at)
    with ledger.reading() as connection:
        rows = connection.execute(found).all()
        due_rows = [row for row in rows if timeout_s is None or row.checked_at + timeout_s.get(row.destination, 0.0) <= now]
        return _all(connection, due_rows)


def checked(ledger: Ledger, delivery: Delivery, before: float) -> bool:
    """Take the next look after a SENT delivery for oneself; False: another process did."""
    mine = (DELIVERIES.c.delivery_id == delivery.delivery_id, DELIVERIES.c.state == SENT, DELIVERIES.c.checked_at <= before)
    return move(ledger, mine, {"checked_at": ledger.clock()})


def transactions(ledger: Ledger, delivery_id: str) -> list[str]:
    """Give every commitment transaction of a delivery, oldest first."""
    mine = sa.select(TRANSACTIONS.c.transaction_uid).where(TRANSACTIONS.c.delivery_id == delivery_id)
    with ledger.reading() as connection:
        return list(connection.execute(mine.order_by(TRANSACTIONS.c.asked_at)).scalars())


def lost_senders(ledger: Ledger, now: float) -> list[Delivery]:
    """Free deliveries whose worker died or hung (its lease has ended) and give them; they are due at once."""
    late = sa.select(DELIVERIES).where(DELIVERIES.c.state == PENDING, DELIVERIES.c.lease_until <= now)
    freed = []
    with ledger.reading() as connection:
        rows = connection.execute(late).all()
    for row in rows:
        same = (DELIVERIES.c.delivery_id == row.delivery_id, DELIVERIES.c.fence == row.fence, DELIVERIES.c.lease_until <= now)
        what = "the sender was lost or hung; sent again" if row.wants_profile is None else "the worker was lost or hung; written again"
        values = {"lease_until": None, "next_at": now, "submit_after": now, "reason": what}
        if move(ledger, same, values):
            freed.append(get(ledger, row.delivery_id))
    return freed


def _transaction(connection: Connection, transaction_uid: str, now: float) -> tuple[float, str | None]:
    mine = TRANSACTIONS.c.transaction_uid == transaction_uid
    row = connection.execute(sa.update(TRANSACTIONS).where(mine).values(reported_at=now).returning(TRANSACTIONS)).one_or_none()
    return (0.0, None) if row is None else (row.asked_at, row.delivery_id)


def _unsend(connection: Connection, delivery_id: str, lost: Mapping[str, int | None], now: float) -> None:
    attempt = connection.execute(sa.select(DELIVERIES.c.attempt).where(DELIVERIES.c.delivery_id == delivery_id)).scalar_one()
    later = now + min(UNSENT_FIRST_S * 2 ** max(attempt - 1, 0), UNSENT_MAX_S)
    values = {
        "state": PENDING,
        "next_at": later,
        "submit_after": later,
        "submissions": 0,
        "reason": f"the archive did not commit {len(lost)} of its objects; sent again",
    }
    if not move_in(connection, (DELIVERIES.c.delivery_id == delivery_id, DELIVERIES.c.state == SENT), values):
        return
    for uid, failure in lost.items():
        one = sa.update(DELIVERY_OBJECTS).where(DELIVERY_OBJECTS.c.delivery_id == delivery_id, DELIVERY_OBJECTS.c.sop_instance_uid == uid)
        connection.execute(one.values(sent_at=None, status=None, failure=failure))


def _record(ledger: Ledger, connection: Connection, delivery_id: str, transaction_uid: str) -> None:
    row = ledger.insert(TRANSACTIONS).values(transaction_uid=transaction_uid, delivery_id=delivery_id, asked_at=ledger.clock())
    connection.execute(row.on_conflict_do_nothing())


def _get_in(connection: Connection, delivery_id: str) -> Delivery:
    row = connection.execute(sa.select(DELIVERIES).where(DELIVERIES.c.delivery_id == delivery_id)).one_or_none()
    if row is None:
        raise KeyError(delivery_id)
    return _delivery(connection, row)


def _delivery(connection: Connection, row: Row[Any]) -> Delivery:
    return _all(connection, [row])[0]


def _all(connection: Connection, rows: Sequence[Row[Any]]) -> list[Delivery]:
    """Make the nouns, with two questions for all of them: a night's deliveries may wait for one archive."""
    ids = [row.delivery_id for row in rows]
    sent: dict[str, list[str]] = defaultdict(list)
    asked: dict[str, str] = {}
    for at in range(0, len(ids), BATCH):
        mine = DELIVERY_OBJECTS.c.delivery_id.in_(ids[at : at + BATCH])
        objects = sa.select(DELIVERY_OBJECTS.c.delivery_id, DELIVERY_OBJECTS.c.sop_instance_uid)
        for one in connection.execute(objects.where(mine, DELIVERY_OBJECTS.c.sent_at.is_not(None)).order_by(DELIVERY_OBJECTS.c.position)):
            sent[one.delivery_id].append(one.sop_instance_uid)
        open_ones = sa.select(TRANSACTIONS).where(TRANSACTIONS.c.delivery_id.in_(ids[at : at + BATCH]))
        asked |= {one.delivery_id: one.transaction_uid for one in connection.execute(open_ones.order_by(TRANSACTIONS.c.asked_at))}
    return [
        Delivery(
            delivery_id=row.delivery_id,
            job_id=row.job_id,
            generation=row.generation,
            destination=row.destination,
            profile=row.profile,
            state=DeliveryState(row.state),
            attempt=row.attempt,
            fence=row.fence,
            sent=tuple(sent[row.delivery_id]),
            transaction_uid=asked.get(row.delivery_id),
            reason=row.reason,
            wants_profile=row.wants_profile,
            refusals=tuple(row.refusals or ()),
        )
        for row in rows
    ]


def _limit_s(ledger: Ledger, stage: Stage) -> float:
    return float(ledger.limits.time_limit_s.get(stage, 900.0))


def is_free(now: float) -> sa.ColumnElement[bool]:
    """Tell that nobody has the delivery."""
    return sa.or_(DELIVERIES.c.lease_until.is_(None), DELIVERIES.c.lease_until <= now)


def held(claim: DeliveryClaim) -> tuple[sa.ColumnElement[bool], ...]:
    """Tell that the claim still holds."""
    mine = DELIVERIES.c.delivery_id == claim.delivery.delivery_id
    return (mine, DELIVERIES.c.state == PENDING, DELIVERIES.c.fence == claim.fence)


def ended(ledger: Ledger, state: DeliveryState, reason: str | None) -> dict[str, Any]:
    """Give a delivery at its end."""
    return {"state": state, "ended_at": ledger.clock(), "lease_until": None, "reason": reason, "wants_profile": None}


def move(ledger: Ledger, where: tuple[sa.ColumnElement[bool], ...], values: Mapping[str, Any]) -> bool:
    """Move one delivery; False: it was not there any more."""
    with ledger.writing() as connection:
        return move_in(connection, where, values)


def move_in(connection: Connection, where: tuple[sa.ColumnElement[bool], ...], values: Mapping[str, Any]) -> bool:
    """Move one delivery inside the caller's transaction."""
    return connection.execute(sa.update(DELIVERIES).where(*where).values(values)).rowcount == 1
