"""Whether anybody listens, and up to when what was heard is indexed.

Each listener notes every few seconds that it is up, and since when. Quiet time counts from there: after a restart of the
node a study that was on its way when it stopped is not taken for complete. It also notes until when all that it acknowledged
is in the index: what came later may belong to a study whose work seems to have ended.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import inf

import sqlalchemy as sa

from node.ledger import Ledger
from node.ledger.schema import META

BEAT_S = 3.0
AWAY_S = 15.0  # a listener not heard of for so long is down or restarting
RETIRED_S = 900.0  # one that stays away for so long, while we watch, is not waited for any more
_PREFIX = "listener "


def beat(ledger: Ledger, name: str, since: float, indexed_until: float) -> None:
    """Note that the listener of that name (at most 20 characters) is up, since when, and until when all it acknowledged is indexed."""
    value = f"{since:.3f} {ledger.clock():.3f} {indexed_until:.3f}"
    row = ledger.insert(META).values(key=_PREFIX + name, value=value)
    with ledger.writing(index=True) as connection:
        connection.execute(row.on_conflict_do_update(index_elements=[META.c.key], set_={"value": value}))


def listening_since(ledger: Ledger) -> float | None:
    """Tell since when every listener has been up; 0 where none was ever noted, None while one is away."""
    now, since = ledger.clock(), 0.0
    for up_since, heard, _ in _waited_for(ledger):
        if now - heard > AWAY_S:
            return None
        since = max(since, up_since)
    return since


def indexed_until(ledger: Ledger) -> float:
    """Tell until when all that any listener acknowledged is indexed; infinity where no listener was ever noted."""
    return min((indexed for _, _, indexed in _waited_for(ledger)), default=inf)


def _waited_for(ledger: Ledger) -> Iterator[tuple[float, float, float]]:
    """Give (up since, last heard of, indexed until) of each listener but those gone for good."""
    now = ledger.clock()
    with ledger.reading() as connection:
        rows = connection.execute(sa.select(META.c.value).where(META.c.key.startswith(_PREFIX))).scalars().all()
    for value in rows:
        up_since, heard, *indexed = (float(word) for word in value.split())
        # Its silence counts from when we could notice it: our own start, after a night in which everything was off.
        if now - heard <= AWAY_S or now - max(heard, ledger.opened_at) < RETIRED_S:
            yield up_since, heard, indexed[0] if indexed else 0.0  # one of an older version did not say
