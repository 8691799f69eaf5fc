"""A destination that refuses a class of a parcel gets the whole result in another profile, as its parcel refers to itself.

    PENDING, being sent --ask--> PENDING, wants a profile --point--> PENDING, to be sent, with the other parcel

Each step is one compare-and-set on the delivery's fence: killed in between, the sweep goes on from the row; done twice, the
second is refused.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from node.ledger import Ledger, deliveries, parcels
from node.ledger.deliveries import DeliveryClaim
from node.ledger.jobs import SUBMIT_GRACE_S
from node.ledger.schema import DELIVERIES, DELIVERY_OBJECTS, TRANSACTIONS
from node.study import Parcel, Stage


def ask(ledger: Ledger, claim: DeliveryClaim, profile: str, reason: str) -> Stage | None:
    """Note that the destination refuses the parcel and is to get it in that profile; give the stage that follows.

    None: the claim was lost, or something of the parcel is stored there. Where another destination has that profile's
    parcel already, the delivery is sent with it at once.
    """
    delivery, now = claim.delivery, ledger.clock()
    mine = DELIVERY_OBJECTS.c.delivery_id == delivery.delivery_id
    stored = sa.exists().where(mine, sa.or_(DELIVERY_OBJECTS.c.sent_at.is_not(None), DELIVERY_OBJECTS.c.committed_at.is_not(None)))
    refusal = {"profile": delivery.profile, "to": profile, "reason": reason, "at": now}
    values = _due(now) | {"wants_profile": profile, "reason": reason, "refusals": [*delivery.refusals, refusal]}
    with ledger.writing() as connection:
        if not deliveries.move_in(connection, (*deliveries.held(claim), ~stored), values):
            return None
        parcel = parcels.get_in(connection, delivery.job_id, delivery.generation, profile)
        if parcel is None:
            return Stage.RECOMPOSE
        _point(connection, delivery.delivery_id, parcel, now)
        return Stage.DELIVER


def point(ledger: Ledger, claim: DeliveryClaim, parcel: Parcel) -> bool:
    """Store the parcel, unless one of its profile is there already, and let the delivery send the stored one; False: the claim was lost."""
    delivery = claim.delivery
    with ledger.writing() as connection:
        wanted = (*deliveries.held(claim), DELIVERIES.c.wants_profile == parcel.profile)
        if not deliveries.move_in(connection, wanted, {"lease_until": None}):
            return False
        _point(connection, delivery.delivery_id, parcels.keep_in(ledger, connection, parcel), ledger.clock())
    return True


def release(ledger: Ledger, claim: DeliveryClaim, reason: str, delay_s: float) -> bool:
    """Let the parcel be written again after `delay_s`; FAILED when its attempts are spent."""
    attempt = claim.delivery.attempt
    if attempt >= ledger.limits.max_attempts:
        return deliveries.fail(ledger, claim, f"{reason} (gave up after {attempt} attempts)")
    return deliveries.retry(ledger, claim, reason, delay_s)


def postpone(ledger: Ledger, claim: DeliveryClaim, reason: str, delay_s: float) -> bool:
    """Let it be written again after `delay_s` without counting the attempt: nothing is wrong with the work."""
    later = ledger.clock() + delay_s
    values = {"lease_until": None, "next_at": later, "submit_after": later, "submissions": 0, "reason": reason}
    return deliveries.move(ledger, deliveries.held(claim), values | {"attempt": DELIVERIES.c.attempt - 1})


def _point(connection: Connection, delivery_id: str, parcel: Parcel, now: float) -> None:
    mine = DELIVERIES.c.delivery_id == delivery_id
    connection.execute(sa.delete(DELIVERY_OBJECTS).where(DELIVERY_OBJECTS.c.delivery_id == delivery_id))
    # Nothing is stored there: what was asked about is not what is sent now.
    connection.execute(sa.delete(TRANSACTIONS).where(TRANSACTIONS.c.delivery_id == delivery_id))
    connection.execute(sa.update(DELIVERIES).where(mine).values(_due(now) | {"profile": parcel.profile, "wants_profile": None}))
    parcels.list_in(connection, delivery_id, parcel)


def _due(now: float) -> dict[str, Any]:
    """Give a delivery whose next message its worker sends; the sweep does after a moment."""
    return {
        "fence": DELIVERIES.c.fence + 1,
        "attempt": 0,
        "lease_until": None,
        "next_at": now,
        "submit_after": now + SUBMIT_GRACE_S,
        "submissions": 0,
    }
