"""The heartbeat of a claim."""

from __future__ import annotations

import threading
import time

import pytest

from workers.heartbeat import Heartbeat, LostLease, Rhythm


def wait_for(event: threading.Event) -> None:
    """Wait for the event."""
    assert event.wait(10)


def check_for_ever(beat: Heartbeat) -> None:
    """Work until the lease is lost."""
    while True:
        beat.check()
        time.sleep(0.01)


def test_a_refused_renewal_stops_the_stage() -> None:
    """Once the ledger refuses to renew, the next check raises LostLease."""
    refused = threading.Event()

    def renew() -> bool:
        refused.set()
        return False

    with Heartbeat(renew, Rhythm(lease_s=60, renew_s=0.01, limit_s=60)) as beat:
        wait_for(refused)
        with pytest.raises(LostLease):
            check_for_ever(beat)


def test_a_renewed_lease_lets_the_stage_go_on() -> None:
    """While renewals succeed, checks pass beyond the first lease's end."""
    count = 0
    enough = threading.Event()

    def renew() -> bool:
        nonlocal count
        count += 1
        if count > 20:
            enough.set()
        return True

    with Heartbeat(renew, Rhythm(lease_s=0.15, renew_s=0.01, limit_s=60)) as beat:
        wait_for(enough)
        beat.check()


def test_no_renewal_after_the_stages_limit() -> None:
    """A stage that hangs loses its lease at its limit although its heartbeat thread still lives."""
    calls: list[float] = []

    def renew() -> bool:
        calls.append(time.monotonic())
        return True

    with Heartbeat(renew, Rhythm(lease_s=60, renew_s=0.01, limit_s=0.1)) as beat:
        with pytest.raises(LostLease):
            check_for_ever(beat)
        before = len(calls)
        time.sleep(0.1)
        assert len(calls) == before


def test_a_ledger_that_is_away_costs_the_lease_only_when_it_stays_away() -> None:
    """A failed renewal is tried again; without any success within lease_s the lease counts as lost."""
    tried = threading.Event()
    away = threading.Event()
    away.set()

    def renew() -> bool:
        tried.set()
        if away.is_set():
            raise OSError("away")
        return True

    with Heartbeat(renew, Rhythm(lease_s=5, renew_s=0.01, limit_s=60)) as beat:
        wait_for(tried)
        beat.check()
    with Heartbeat(renew, Rhythm(lease_s=0.1, renew_s=0.01, limit_s=60)) as beat, pytest.raises(LostLease):
        check_for_ever(beat)
