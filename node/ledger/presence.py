"""Whether anybody listens: silence says nothing about a study while no listener could have heard its images.

Each listener notes every few seconds that it is up, and since when. Quiet time counts from there: after a restart of the
node a study that was on its way when it stopped is not taken for complete.
"""

from __future__ import annotations

import sqlalchemy as sa

from node.ledger import Ledger
from node.ledger.schema import META

BEAT_S = 3.0
AWAY_S = 15.0  # a listener not heard of for so long is down or restarting
RETIRED_S = 900.0  # one that stays away for so long, while we watch, is not waited for any more
_PREFIX = "listener "


def beat(ledger: Ledger, name: str, since: float) -> None:
    """Note that the listener of that name (at most 20 characters) is up, and since when."""
    value = f"{since:.3f} {ledger.clock():.3f}"
    row = ledger.insert(META).values(key=_PREFIX + name, value=value)
    with ledger.writing(index=True) as connection:
        connection.execute(row.on_conflict_do_update(index_elements=[META.c.key], set_={"value": value}))


def listening_since(ledger: Ledger) -> float | None:
    """Tell since when every listener has been up; 0 where none was ever noted, None while one is away."""
    now = ledger.clock()
    with ledger.reading() as connection:
        rows = connection.execute(sa.select(META.c.value).where(META.c.key.startswith(_PREFIX))).scalars().all()
    since = 0.0
    for value in rows:
        up_since, heard = (float(word) for word in value.split())
        if now - heard <= AWAY_S:
            since = max(since, up_since)
        # Its silence counts from when we could notice it: our own start, after a night in which everything was off.
        elif now - max(heard, ledger.opened_at) < RETIRED_S:
            return None
    return since
