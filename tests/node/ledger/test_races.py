"""Races between real processes: exactly one wins, and nothing is half done."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from node.ledger import Ledger, deliveries, fallbacks, instances, jobs, revisions
from node.ledger.jobs import Claim
from node.ledger.schema import INSTANCES, JOBS, REVISIONS
from node.study import JobState, RevisionState, Stage
from tests.node import work

SPAWN = multiprocessing.get_context("spawn")
PROCESSES = 3


@pytest.fixture
def place(ledger_url: str, tmp_path: Path) -> tuple[str, Path]:
    """Give where the ledger is, for a process to open it itself."""
    return ledger_url, tmp_path / "data"


@pytest.fixture
def shared(place: tuple[str, Path]) -> Iterator[Ledger]:
    """Give this process's own ledger with the real clock."""
    opened = Ledger(*place)
    yield opened
    opened.close()


class Racers:
    """Processes that wait for the same moment and then act, each with a ledger of its own."""

    def __init__(self) -> None:
        self._barrier = SPAWN.Barrier(PROCESSES)
        pairs = [SPAWN.Pipe() for _ in range(PROCESSES)]
        self._pipes = [ours for ours, _ in pairs]
        self._processes = [SPAWN.Process(target=_race, args=(self._barrier, theirs), daemon=True) for _, theirs in pairs]
        for process in self._processes:
            process.start()
        for _, theirs in pairs:
            theirs.close()

    def run(self, place: tuple[str, Path], act: Callable[..., Any], arguments: Sequence[tuple[Any, ...]]) -> list[Any]:
        """Run `act(ledger, *arguments[i])` in each process at once; give what each returned."""
        for pipe, some in zip(self._pipes, arguments, strict=True):
            pipe.send((place, act, some))
        got = [pipe.recv() for pipe in self._pipes]
        broken = [answer for answer in got if isinstance(answer, str)]
        assert not broken, broken
        return got

    def close(self) -> None:
        """End the processes."""
        for pipe, process in zip(self._pipes, self._processes, strict=True):
            pipe.close()
            process.join(30)
            process.close()


def _race(barrier: Any, pipe: Any) -> None:
    while True:
        try:
            place, act, arguments = pipe.recv()
        except EOFError:
            return
        try:
            ledger = Ledger(*place)
            barrier.wait(60)
            answer = act(ledger, *arguments)
            ledger.close()
        except Exception as error:  # noqa: BLE001 -- told to the test
            answer = repr(error)
        pipe.send(answer)


@pytest.fixture(scope="module")
def racers() -> Iterator[Racers]:
    """Give the processes, started once."""
    started = Racers()
    yield started
    started.close()


def _claim_all(ledger: Ledger, job_ids: list[str]) -> list[str]:
    return [job_id for job_id in job_ids if jobs.claim(ledger, job_id, Stage.PREPARE, 60)]


def _write(ledger: Ledger, held: Claim) -> list[bool]:
    return [jobs.written(ledger, held, [work.parcel_of(held.job)], {"archive": "ohif"})]


def _point(ledger: Ledger, delivery_id: str, summary: str) -> list[str]:
    """Write what a delivery wants, as fast as the others; give what is stored in the end."""
    held = deliveries.claim(ledger, delivery_id, 60, Stage.RECOMPOSE)
    assert held
    job = jobs.get(ledger, held.delivery.job_id)
    assert fallbacks.point(ledger, held, replace(work.parcel_of(job), profile="basic", summary=summary))
    stored = jobs.parcel(ledger, job.job_id, 1, "basic")
    assert stored
    return [stored.summary]


def _take_back(ledger: Ledger) -> list[str]:
    return [entry.job_id for entry in jobs.expired(ledger)]


def _index(ledger: Ledger, first: int) -> list[int]:
    return [instances.index(ledger, work.slices(8, first=number)) for number in range(first, first + 40, 4)]


def _freeze(ledger: Ledger) -> list[tuple[int, int]]:
    """Freeze whatever is receiving until all 44 have come; give each frozen revision and its instance count."""
    frozen: list[tuple[int, int]] = []
    deadline = time.monotonic() + 60
    while (not frozen or frozen[-1][1] < 44) and time.monotonic() < deadline:
        seen = revisions.in_state(ledger, RevisionState.RECEIVING)
        frozen.extend((entry.number, _count(ledger, entry.number)) for entry in seen if revisions.complete(ledger, entry, {"said": "race"}))
    return frozen


def _count(ledger: Ledger, revision: int) -> int:
    return sum(len(entry.instances) for entry in instances.study(ledger, "1.2.3", revision).series)


def _die_in_a_move(place: tuple[str, Path], told: Any) -> None:
    ledger = Ledger(*place)
    with ledger.writing() as connection:
        connection.execute(sa.update(JOBS).values(state=JobState.FAILED))
        told.set()
        signal.pause()


def test_exactly_one_process_claims_each_job(place: tuple[str, Path], shared: Ledger, racers: Racers) -> None:
    """Duplicates of every message in every worker: each job is taken once."""
    stack = work.slices(3)
    instances.index(shared, stack)
    job_ids = [f"job-{number}" for number in range(25)]
    work.planned(shared, *(work.job_plan(job_id, [stack[0].sop_instance_uid]) for job_id in job_ids))
    won = racers.run(place, _claim_all, [(job_ids,)] * PROCESSES)
    assert sorted(job_id for some in won for job_id in some) == sorted(job_ids)
    assert {jobs.get(shared, job_id).attempt for job_id in job_ids} == {1}


def test_of_two_writers_of_one_claim_one_wins(place: tuple[str, Path], shared: Ledger, racers: Racers) -> None:
    """A duplicate task of the same fence finishes too: the first WRITTEN is kept, the second refused."""
    held = work.at_compose(shared, work.queued_job(shared))
    assert sorted(racers.run(place, _write, [(held,)] * PROCESSES)) == [[False], [False], [True]]
    assert len(deliveries.of_job(shared, held.job.job_id, 1)) == 1


def test_of_three_destinations_that_fall_back_one_writes_for_all(place: tuple[str, Path], shared: Ledger, racers: Racers) -> None:
    """Three workers write the same profile of one job at once: one parcel, and all three deliveries send it."""
    names = ("a", "b", "c")
    job = work.written_job(shared, destinations=names)
    idents = [jobs.delivery_id(job.job_id, 1, name) for name in names]
    for ident in idents:
        held = deliveries.claim(shared, ident, 8)
        assert held
        assert fallbacks.ask(shared, held, "basic", "no such class") is Stage.RECOMPOSE
    seen = racers.run(place, _point, [(ident, f"of {ident}") for ident in idents])
    assert len({summary for some in seen for summary in some}) == 1
    assert {deliveries.get(shared, ident).profile for ident in idents} == {"basic"}


def test_an_expired_lease_is_taken_back_by_one_sweep(place: tuple[str, Path], shared: Ledger, racers: Racers) -> None:
    """Several dispatchers sweep: the job returns once and its attempt is counted once."""
    job = work.queued_job(shared)
    assert jobs.claim(shared, job.job_id, Stage.PREPARE, 0.01)
    taken = racers.run(place, _take_back, [()] * PROCESSES)
    assert sorted(taken) == [[], [], [job.job_id]]
    back = jobs.get(shared, job.job_id)
    assert (back.state, back.attempt) == (JobState.QUEUED, 1)


def test_several_writers_index_one_study(place: tuple[str, Path], shared: Ledger, racers: Racers) -> None:
    """Overlapping arrivals in several processes: every instance once, one revision."""
    racers.run(place, _index, [(1 + 10 * number,) for number in range(PROCESSES)])
    assert _count(shared, 1) == 10 * (PROCESSES - 1) + 44
    with shared.reading() as connection:
        assert connection.execute(sa.select(sa.func.count()).select_from(REVISIONS)).scalar() == 1


def test_a_freeze_races_arrivals(place: tuple[str, Path], shared: Ledger, racers: Racers) -> None:
    """However freezing and arriving interleave, a frozen revision never changes afterwards."""
    counts = racers.run(place, _race_part, [(True,), (False,), (False,)])
    frozen = dict(counts[0])
    assert frozen[max(frozen)] == 44
    for number, count in frozen.items():
        assert _count(shared, number) == count
    with shared.reading() as connection:
        assert connection.execute(sa.select(sa.func.count()).select_from(INSTANCES)).scalar() == 44


def _race_part(ledger: Ledger, freezes: bool) -> list[Any]:  # noqa: FBT001 -- one of two parts
    return _freeze(ledger) if freezes else _index(ledger, 1)


def test_a_process_killed_inside_a_move_changes_nothing(place: tuple[str, Path], shared: Ledger) -> None:
    """Kill -9 between UPDATE and COMMIT: the move never was, and the next one goes through."""
    job = work.queued_job(shared)
    told = SPAWN.Event()
    victim: SpawnProcess = SPAWN.Process(target=_die_in_a_move, args=(place, told))
    victim.start()
    assert told.wait(60)
    assert jobs.get(shared, job.job_id).state is JobState.QUEUED
    assert victim.pid
    os.kill(victim.pid, signal.SIGKILL)
    victim.join(30)
    victim.close()
    assert jobs.claim(shared, job.job_id, Stage.PREPARE, 8)
