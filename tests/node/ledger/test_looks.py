"""Looks at the peers' counts: when they are due, who takes them, and that an arrival makes them void."""

from __future__ import annotations

import pytest

from node.ledger import Ledger, instances, looks, revisions
from node.ledger.revisions import Revision
from node.settings import AssemblySection
from tests.node import work
from tests.node.conftest import Clock


def newest(ledger: Ledger) -> Revision:
    """Give the study's newest revision."""
    return revisions.of_study(ledger, "1.2.3")[-1]


@pytest.mark.parametrize(("quiet_s", "first_s"), [(60, 50), (20, 10), (8, 4)])
def test_the_first_look_comes_before_the_quiet_time_ends(ledger: Ledger, clock: Clock, quiet_s: float, first_s: float) -> None:
    """So long before it that the second look can be the proof at its end, but not in the first half of it."""
    assembly = AssemblySection(quiet_s=quiet_s, count_stable_s=10)
    instances.index(ledger, work.slices(2))
    clock.now += first_s - 0.5
    assert looks.due(ledger, clock.now, assembly) == []
    clock.now += 0.5
    assert len(looks.due(ledger, clock.now, assembly)) == 1


def test_one_process_takes_a_look(ledger: Ledger, clock: Clock) -> None:
    """The others find it taken; one that died leaves it to them after a while."""
    instances.index(ledger, work.slices(2))
    seen = newest(ledger)
    assert looks.claim(ledger, seen)
    assert not looks.claim(ledger, seen)
    clock.now += looks.LOOK_LEASE_S
    assert looks.claim(ledger, seen)


def test_what_a_look_found_is_void_after_an_arrival(ledger: Ledger, clock: Clock) -> None:
    """It is not written, and what was written is forgotten; the next look is due by the new arrival's time."""
    instances.index(ledger, work.slices(2))
    seen = newest(ledger)
    assert looks.claim(ledger, seen)
    assert looks.note(ledger, seen, {"said": "equal"}, clock.now + 10)
    assert newest(ledger).evidence == {"said": "equal"}
    instances.index(ledger, work.slices(1, first=3))
    assert newest(ledger).evidence is None
    assert not looks.note(ledger, seen, {"said": "equal twice"}, clock.now)
    assert not looks.claim(ledger, seen)
    clock.now += 50
    assert [entry.fence for entry in looks.due(ledger, clock.now, work.QUIET)] == [newest(ledger).fence]


def test_senders_are_those_of_the_images_that_count(ledger: Ledger) -> None:
    """Each once; who sent our own results back is none."""
    ours = work.image("1.2.3.9.1", series="1.2.3.9", header={"Manufacturer": "Overread"})
    instances.index(ledger, [*work.slices(3), ours])
    assert looks.senders(ledger, "1.2.3") == [("PACS", "127.0.0.1")]
    assert looks.senders(ledger, "1.2.4") == []
