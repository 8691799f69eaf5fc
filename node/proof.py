"""Prove by the archive's counts that a study is whole: whom to ask, when to stop asking, what follows.

For threads of the dispatch loop: it waits for peers. A peer that does not answer is left alone for a while, so that it
costs its time-out once and not once a study; the studies of other peers are asked about elsewhere.

Ref: PS3.4 C.3.4 (0020,1209) Number of Series Related Instances
"""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from node import evidence, fetch, holds, journal, query
from node.demographics import key
from node.errors import OverreadError, Refused, Retryable
from node.evidence import Evidence, Look, Standing
from node.ledger import Ledger, instances, looks, presence, revisions
from node.ledger.holds import Finding
from node.ledger.revisions import Revision
from node.settings import AssemblySection, Peer, Settings
from node.spool import Spool

log = journal.get("assembly")

# Between two looks at a study that is not whole: a quarter of the time already waited, so that an archive is asked a dozen times.
PATIENCE = 0.25


@dataclass(frozen=True, slots=True, kw_only=True)
class Acts:
    """What a look may lead to besides a move; both return at once, nothing here waits for them.

    hinted  told a revision that one count says is whole
    fetch   told a revision and the names of the peers that have more of it
    """

    hinted: Callable[[Revision], None]
    fetch: Callable[[Revision, Sequence[str]], None]


class Asker:
    """Who asks, for one process; remembers which peers did not answer, by the ledger's clock."""

    def __init__(self, settings: Settings, ledger: Ledger, acts: Acts) -> None:
        self.settings = settings
        self.ledger = ledger
        self._acts = acts
        self._away: dict[str, tuple[float, str]] = {}
        self._lock = threading.Lock()
        self._whom: dict[tuple[int, int], tuple[str, ...]] = {}  # of (revision, fence): a peer's long line is not read again

    def groups(self) -> dict[tuple[str, ...], list[Revision]]:
        """Give the revisions to look after now, by the names of the peers to ask: each group is a thread's work."""
        found: dict[tuple[str, ...], list[Revision]] = defaultdict(list)
        known, self._whom = self._whom, {}
        for revision in looks.due(self.ledger, self.ledger.clock(), self.settings.assembly):
            key = (revision.revision_id, revision.fence)
            if key not in known:
                known[key] = tuple(whom(self.settings.peers, looks.senders(self.ledger, revision.study_instance_uid)))
            self._whom[key] = known[key]
            found[known[key]].append(revision)
        return found

    def look_after(self, names: Sequence[str], some: Sequence[Revision]) -> None:
        """Take a look at each revision, and move it where the evidence allows."""
        for revision in some:
            if looks.claim(self.ledger, revision):
                self._look(names, revision)

    def _look(self, names: Sequence[str], revision: Revision) -> None:
        """Ask, weigh, and do one thing: complete, give up, fetch, or wait for the next look."""
        ledger, assembly = self.ledger, self.settings.assembly
        look = self._ask(names, revision.study_instance_uid)
        study = instances.study(ledger, revision.study_instance_uid, revision.number)
        found = evidence.judge(evidence.received(study), look, evidence.from_json(revision.evidence), assembly.count_stable_s)
        wait = Wait(
            now=ledger.clock(),
            since=max(revision.last_arrival_at, presence.listening_since(ledger) or 0.0),
            quiet_s=revisions.quiet_s(revision, assembly),
            assembly=assembly,
        )
        if wait.is_quiet and found.settled:
            self._complete(revision, found, wait)
            return
        sources = self._sources(found) if wait.is_quiet else []
        if sources:
            found = evidence.with_fetch(found, wait.now, None)
        elif wait.is_over and not _is_fetching(found, wait):
            self._end(revision, found, wait)
            return
        facts = evidence.to_json(found, wait.waited_s)
        if looks.note(ledger, revision, facts, wait.next_at(found)):
            log.debug("revision.waits", study=revision.study_instance_uid, revision=revision.number, evidence=facts["said"])
            if sources:
                self._acts.fetch(revision, sources)
            elif found.hinted:
                self._acts.hinted(revision)

    def fetched(self, revision: Revision, words: str) -> None:
        """Note what came of a fetch; images that came have made the note out of date, and it is not written."""
        now = revisions.get(self.ledger, revision.revision_id)
        found = evidence.from_json(now.evidence)
        if found is not None and now.fence == revision.fence:
            noted = evidence.with_fetch(found, self.ledger.clock(), words)
            looks.note(self.ledger, now, evidence.to_json(noted, self.ledger.clock() - now.last_arrival_at), self.ledger.clock())

    def _sources(self, found: Evidence) -> list[str]:
        """Give the peers to fetch from: those with more of a series in two looks, that let us retrieve; once an arrival."""
        missing = found.standing(Standing.MISSING)
        if not missing or found.looks < 2 or found.fetch is not None:
            return []
        able = {peer.name for peer in self.settings.peers if peer.retrieve != "none"}
        return sorted({entry.peer for entry in missing if entry.peer in able})

    def _ask(self, names: Sequence[str], study_uid: str) -> Look:
        counts: dict[str, dict[str, int | None]] = {}
        away: dict[str, str] = {}
        silent: dict[str, str] = {}
        asked_at = self.ledger.clock()
        for name in names:
            reason = self._still_away(name)
            if reason is None:
                try:
                    counts[name] = query.series_counts(self.settings, self.settings.peer(name), study_uid)
                except Retryable as error:
                    reason = self._note_away(name, error.reason)
                except Refused as error:
                    silent[name] = error.reason
                    log.warning("peer.does_not_count", peer=name, reason=error.reason)
            if reason is not None:
                away[name] = reason
        told = looks.notices(self.ledger, study_uid)
        return Look(asked_at=asked_at, answered_at=self.ledger.clock(), counts=counts, away=away, silent=silent, notices=told)

    def _still_away(self, name: str) -> str | None:
        with self._lock:
            until, reason = self._away.get(name, (0.0, ""))
        return reason if until > self.ledger.clock() else None

    def _note_away(self, name: str, reason: str) -> str:
        with self._lock:
            self._away[name] = (self.ledger.clock() + self.settings.assembly.count_stable_s, reason)
        log.warning("peer.does_not_answer", peer=name, reason=reason)
        return reason

    def _end(self, revision: Revision, found: Evidence, wait: Wait) -> None:
        """Stop waiting: DECLINED or HELD where a peer has more, else complete with what evidence there is."""
        if not found.standing(Standing.MISSING):
            self._complete(revision, found, wait)
            return
        reason = evidence.mismatch(found)
        facts = evidence.to_json(found, wait.waited_s, proof="mismatch")
        if wait.assembly.on_mismatch == "hold":
            counts = sorted((uid, entry.here, entry.there) for uid, entry in found.series.items())
            holds.hold(self.ledger, revision, [Finding(kind="incomplete", key=key("incomplete", counts), reason=reason)], facts)
        elif looks.decline(self.ledger, revision, facts, reason):
            log.warning("revision.lacks_images", alert=True, reason=reason, **_names(revision))

    def _complete(self, revision: Revision, found: Evidence, wait: Wait) -> None:
        everything = bool(found.series) and len(found.standing(Standing.PROVED)) == len(found.series)
        facts = evidence.to_json(found, wait.waited_s, proof="count" if everything else "quiet")
        if revisions.complete(self.ledger, revision, facts):
            log.info("revision.complete", evidence=facts["said"], **_names(revision))


@dataclass(frozen=True, slots=True, kw_only=True)
class Wait:
    """How long a revision has waited, by the ledger's clock, and how long it may."""

    now: float
    since: float
    quiet_s: float
    assembly: AssemblySection

    @property
    def waited_s(self) -> float:
        """Give the seconds since the last arrival."""
        return self.now - self.since

    @property
    def is_quiet(self) -> bool:
        """Tell whether the quiet time has passed."""
        return self.waited_s >= self.quiet_s

    @property
    def is_over(self) -> bool:
        """Tell whether nothing is waited for any more."""
        return self.waited_s >= max(self.assembly.give_up_s, self.quiet_s)

    def next_at(self, found: Evidence) -> float:
        """Give when to look again: when a hint may become the proof, else with growing patience, and when it is over."""
        stable_s = self.assembly.count_stable_s
        hints = [entry.since + stable_s for entry in found.standing(Standing.HINT)]
        if hints and found.hinted:
            return max(*hints, self.now)
        if found.settled:
            return self.since + self.quiet_s
        end = self.since + max(self.assembly.give_up_s, self.quiet_s)
        later = self.now + max(stable_s, PATIENCE * self.waited_s)
        return min(later, end) if end > self.now else self.now + stable_s


def whom(known: Sequence[Peer], senders: Sequence[tuple[str, str]]) -> list[str]:
    """Give the names of the peers to ask: those that sent the study, by title, else by address; else all with `query`.

    A modality that sends to the archive and to us cannot be asked: then the archives can.
    """
    return nearest([peer for peer in known if peer.query], senders)


def nearest(able: Sequence[Peer], senders: Sequence[tuple[str, str]]) -> list[str]:
    """Give the names of those that sent a study, by title, else by address; else of all."""
    by_title = [peer.name for peer in able if any(peer.ae_title == title for title, _ in senders)]
    by_host = [peer.name for peer in able if any(peer.host == host for _, host in senders)]
    return sorted(by_title or by_host or [peer.name for peer in able])


def fetch_rest(settings: Settings, ledger: Ledger, names: Sequence[str], study_uid: str) -> str:
    """Fetch from each of the peers what lacks of a study's series; gives what came of it in words."""
    words = []
    for name in names:
        try:
            spool = Spool(settings.data_dir, settings.node.free_disk_min_mb)
            outcome = fetch.complete_series(settings, ledger, spool, settings.peer(name), study_uid)
        except OverreadError as error:
            words.append(error.reason)
        else:
            words.append(f"{len(outcome.retrieved)} of {outcome.asked} images came from {name} by {outcome.how}")
            log.info("revision.fetched", study=study_uid, peer=name, asked=outcome.asked, retrieved=len(outcome.retrieved))
    return "; ".join(words)


def _is_fetching(found: Evidence, wait: Wait) -> bool:
    """Tell whether a fetch goes on; one whose process died is not waited for longer than for anything else."""
    return found.fetch is not None and found.fetch["said"] is None and wait.now - found.fetch["at"] < wait.assembly.give_up_s


def _names(revision: Revision) -> dict[str, str | int]:
    return {"study": revision.study_instance_uid, "revision": revision.number}
