"""Silence counts only while somebody listens."""

from __future__ import annotations

from pathlib import Path

from node import assembly
from node.ledger import Ledger, instances, presence, revisions
from node.study import RevisionState
from tests.node import work
from tests.node.conftest import Clock


def state(ledger: Ledger) -> RevisionState:
    """Give the state of the only revision."""
    (revision,) = revisions.of_study(ledger, "1.2.3")
    return revision.state


def freeze(ledger: Ledger) -> None:
    """Complete what is quiet, as the dispatch loop does."""
    since = presence.listening_since(ledger)
    if since is not None:
        assembly.freeze(ledger, work.QUIET, since)


def test_without_any_listener_noted_the_last_arrival_counts(ledger: Ledger, clock: Clock) -> None:
    """An index filled by a rebuild, say, is judged as before."""
    instances.index(ledger, work.slices(3))
    clock.now += 60
    assert presence.listening_since(ledger) == 0
    freeze(ledger)
    assert state(ledger) is RevisionState.COMPLETE


def test_a_study_on_its_way_when_the_listener_went_is_waited_for(ledger: Ledger, clock: Clock) -> None:
    """No half study is analysed because nobody could hear the rest; quiet time begins anew when somebody can."""
    presence.beat(ledger, "one", clock.now, clock.now)
    instances.index(ledger, work.slices(3))
    clock.now += 61
    freeze(ledger)
    assert state(ledger) is RevisionState.RECEIVING
    heard_again = clock.now
    presence.beat(ledger, "one", heard_again, clock.now)
    freeze(ledger)
    assert state(ledger) is RevisionState.RECEIVING
    for _ in range(6):
        clock.now += 10
        presence.beat(ledger, "one", heard_again, clock.now)
    freeze(ledger)
    assert state(ledger) is RevisionState.COMPLETE


def test_a_night_with_everything_off_is_no_silence(ledger_url: str, tmp_path: Path, clock: Clock) -> None:
    """The dispatch loop that starts before the listener does not complete what was on its way."""
    before = Ledger(ledger_url, tmp_path / "data", clock)
    presence.beat(before, "one", clock.now, clock.now)
    instances.index(before, work.slices(3))
    before.close()
    clock.now += 8 * 3600
    after = Ledger(ledger_url, tmp_path / "data", clock)
    assert presence.listening_since(after) is None
    presence.beat(after, "one", clock.now, clock.now)
    assert presence.listening_since(after) == clock.now
    after.close()


def test_a_listener_that_is_gone_for_good_stops_nobody(ledger: Ledger, clock: Clock) -> None:
    """A host that was taken out of service is waited for a quarter of an hour, then no more."""
    presence.beat(ledger, "old host", clock.now, clock.now)
    instances.index(ledger, work.slices(3))
    clock.now += presence.RETIRED_S - 1
    presence.beat(ledger, "new host", clock.now - 300, clock.now)
    assert presence.listening_since(ledger) is None
    clock.now += 1
    assert presence.listening_since(ledger) == clock.now - 301
