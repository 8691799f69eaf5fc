"""The index of received instances, and the revisions their arrival opens.

The spool's files are the truth; whatever is here can be read again from them (`rebuild`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from node.ledger import Ledger, removal
from node.ledger.revisions import arrive
from node.ledger.schema import INSTANCES, PARCEL_OBJECTS
from node.study import Instance, Series, Study

BATCH = 500
MANUFACTURER = "Overread"
_FIELDS = tuple(Instance.__dataclass_fields__)


def index(ledger: Ledger, instances: Sequence[Instance]) -> int:
    """Enter received instances and open or extend their studies' revisions; returns how many were new.

    Idempotent: an instance that is there already, same bytes, changes nothing. Other bytes under the same
    SOP Instance UID are entered as a conflict. A file that retention removed and that comes again counts as new.
    """
    fresh = 0
    for batch in _batches(instances):
        with ledger.writing(index=True) as connection:
            ledger.lock(connection, [entry.study_instance_uid for entry in batch])
            fresh += _index_batch(ledger, connection, batch)
    return fresh


def rebuild(ledger: Ledger, instances: Iterable[Instance]) -> int:
    """Enter what a scan of the spool finds and mark as removed what it does not; jobs and parcels are not touched."""
    fresh = 0
    seen: set[str] = set()
    # In order of arrival, so that of two with the same UID the first stays the first.
    for batch in _batches(sorted(instances, key=lambda entry: entry.received_at)):
        seen.update(entry.path for entry in batch)
        fresh += index(ledger, batch)
    with ledger.reading() as connection:
        known = connection.execute(sa.select(INSTANCES.c.instance_id, INSTANCES.c.path).where(~INSTANCES.c.removed)).all()
    remove(ledger, [row.instance_id for row in known if row.path not in seen])
    return fresh


def paths(ledger: Ledger, sop_uids: Sequence[str]) -> dict[str, str]:
    """Give the path, relative to the data folder, of the first received bytes of each; a removed one is absent."""
    found: dict[str, str] = {}
    with ledger.reading() as connection:
        for some in _batches(sop_uids):
            live = sa.select(INSTANCES.c.sop_instance_uid, INSTANCES.c.path).where(
                INSTANCES.c.sop_instance_uid.in_(some), ~INSTANCES.c.conflict, ~INSTANCES.c.removed
            )
            found.update((row.sop_instance_uid, row.path) for row in connection.execute(live))
    return found


def study(ledger: Ledger, study_uid: str, revision: int) -> Study:
    """Give a revision of a study as it was frozen: first received bytes only, without what retention removed."""
    rows = _rows(ledger, study_uid, revision, conflict=False)
    by_series: dict[str, list[Instance]] = defaultdict(list)
    for row in rows:
        by_series[row.series_instance_uid].append(instance_of(row))
    series = tuple(
        Series(series_instance_uid=uid, instances=tuple(sorted(entries, key=lambda entry: entry.sop_instance_uid)))
        for uid, entries in sorted(by_series.items())
    )
    return Study(study_instance_uid=study_uid, revision=revision, series=series)


def conflicts(ledger: Ledger, study_uid: str, revision: int, after_revision: int = 0) -> list[tuple[Instance, Instance | None]]:
    """Give instances that came with other bytes than before, each with the first one; None where that is gone."""
    others = [row for row in _rows(ledger, study_uid, revision, conflict=True) if row.revision > after_revision]
    pairs: list[tuple[Instance, Instance | None]] = []
    with ledger.reading() as connection:
        for row in others:
            first = sa.select(INSTANCES).where(INSTANCES.c.sop_instance_uid == row.sop_instance_uid, ~INSTANCES.c.conflict)
            found = connection.execute(first.order_by(INSTANCES.c.instance_id).limit(1)).one_or_none()
            pairs.append((instance_of(row), None if found is None else instance_of(found)))
    return pairs


def reference(ledger: Ledger, sop_uid: str) -> Instance | None:
    """Give one instance by its UID, also when its file was removed: rules are judged on its header."""
    first = sa.select(INSTANCES).where(INSTANCES.c.sop_instance_uid == sop_uid, ~INSTANCES.c.conflict)
    with ledger.reading() as connection:
        row = connection.execute(first.order_by(INSTANCES.c.instance_id.desc()).limit(1)).one_or_none()
    return None if row is None else instance_of(row)


def files(ledger: Ledger, study_uid: str) -> list[tuple[int, str]]:
    """Give (row, path) of every file of a study that is in the spool, conflicts too."""
    live = sa.select(INSTANCES.c.instance_id, INSTANCES.c.path).where(INSTANCES.c.study_instance_uid == study_uid, ~INSTANCES.c.removed)
    with ledger.reading() as connection:
        return [(row.instance_id, row.path) for row in connection.execute(live.order_by(INSTANCES.c.instance_id))]


def remove(ledger: Ledger, instance_ids: Sequence[int], before: float | None = None) -> None:
    """Mark files as gone; the rows stay for a while (node/retention.py). One received after `before` is left alone: it came again."""
    for some in _batches(instance_ids):
        gone = sa.update(INSTANCES).where(INSTANCES.c.instance_id.in_(some))
        if before is not None:
            gone = gone.where(INSTANCES.c.received_at <= before)
        with ledger.writing() as connection:
            connection.execute(gone.values(removed=True))


def instance_of(row: Row[Any]) -> Instance:
    """Make the noun from a row of INSTANCES."""
    values = row._mapping  # noqa: SLF001 -- SQLAlchemy's public name for a row as a mapping
    return Instance(**{name: values[name] for name in _FIELDS})


def _index_batch(ledger: Ledger, connection: Connection, batch: Sequence[Instance]) -> int:
    uids = {entry.sop_instance_uid for entry in batch}
    known: dict[str, list[Any]] = defaultdict(list)
    for row in connection.execute(sa.select(INSTANCES).where(INSTANCES.c.sop_instance_uid.in_(uids))):
        known[row.sop_instance_uid].append(row)
    ours = set(
        connection.execute(sa.select(PARCEL_OBJECTS.c.sop_instance_uid).where(PARCEL_OBJECTS.c.sop_instance_uid.in_(uids))).scalars()
    )
    news: dict[tuple[str, str], tuple[Instance, bool, int | None]] = {}
    again_from: dict[tuple[str, str], list[Instance]] = defaultdict(list)
    for entry in batch:
        key = (entry.sop_instance_uid, entry.sha256)
        same = next((row for row in known[entry.sop_instance_uid] if row.sha256 == entry.sha256), None)
        if key in news or (same is not None and not same.removed):
            again_from[key].append(entry)
            continue
        before = any(not row.removed and not row.conflict for row in known[entry.sop_instance_uid])
        conflict = before or any(uid == entry.sop_instance_uid and not other for (uid, _), (_, other, _) in news.items())
        news[key] = (entry, conflict, None if same is None else same.instance_id)
    arrivals: dict[str, list[Instance]] = defaultdict(list)
    for entry, _, _ in news.values():
        if not _is_ours(entry, ours):
            arrivals[entry.study_instance_uid].append(entry)
    numbers = {uid: arrive(ledger, connection, uid, some) for uid, some in arrivals.items()}
    rows = []
    for entry, conflict, again in news.values():
        state = {"conflict": conflict, "removed": False, "revision": 0 if _is_ours(entry, ours) else numbers[entry.study_instance_uid]}
        values = {name: getattr(entry, name) for name in _FIELDS} | state | {"header": dict(entry.header)}
        values["also_from"] = _others(entry, (), again_from.pop((entry.sop_instance_uid, entry.sha256), ()))
        if again is None:
            rows.append(values)
        else:
            connection.execute(sa.update(INSTANCES).where(INSTANCES.c.instance_id == again).values(values))
    if rows:
        connection.execute(sa.insert(INSTANCES), rows)
    _note_others(connection, known, again_from)
    removal.note_patients(ledger, connection, [entry for entry, _, _ in news.values()])
    return len(news)


def _note_others(
    connection: Connection, known: Mapping[str, Sequence[Row[Any]]], again_from: Mapping[tuple[str, str], Sequence[Instance]]
) -> None:
    """Write down who sent images that are here; the same sender again is no news."""
    for (uid, sha256), entries in again_from.items():
        row = next(row for row in known[uid] if row.sha256 == sha256)
        also = _others(row, row.also_from or (), entries)
        if also != row.also_from:
            connection.execute(sa.update(INSTANCES).where(INSTANCES.c.instance_id == row.instance_id).values(also_from=also))


def _others(first: Instance | Row[Any], known: Sequence[str], entries: Sequence[Instance]) -> list[str] | None:
    """Give who besides the first sender sent the same bytes, each once; None for nobody."""
    names = [*known, *(f"{entry.calling_ae} {entry.peer_host}" for entry in entries if entry.calling_ae)]
    return [name for name in dict.fromkeys(names) if name != f"{first.calling_ae} {first.peer_host}"] or None


def _is_ours(entry: Instance, ours: set[str]) -> bool:
    return entry.sop_instance_uid in ours or entry.header.get("Manufacturer") == MANUFACTURER


def _rows(ledger: Ledger, study_uid: str, revision: int, *, conflict: bool) -> Sequence[Row[Any]]:
    member = sa.select(INSTANCES).where(
        INSTANCES.c.study_instance_uid == study_uid,
        INSTANCES.c.revision <= revision,
        INSTANCES.c.conflict.is_(conflict),
        ~INSTANCES.c.removed,
    )
    with ledger.reading() as connection:
        return connection.execute(member.order_by(INSTANCES.c.instance_id)).all()


def _batches(values: Iterable[Any]) -> Iterator[Any]:
    iterator = iter(values)
    while some := tuple(islice(iterator, BATCH)):
        yield some
