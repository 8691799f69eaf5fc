"""The task edge: every error becomes a state with a reason, and nothing that names a patient reaches the journal."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import structlog
from celery.exceptions import SoftTimeLimitExceeded

from models import registry
from models.card import BadCard, read
from models.networks import program
from models.vocabulary import Unfit
from node import journal
from node.errors import Misconfigured, NoRoom, Refused, Retryable
from node.ledger import Ledger, jobs, shadowing
from node.settings import Rule, Settings
from node.study import Job, JobState, Mode, Stage
from tests import shelf
from tests.node import work
from workers import gpu, pipeline, tasks, workspace
from workers.heartbeat import LostLease

Stub = Callable[[pipeline.Context, jobs.Claim, pipeline.Guard], pipeline.Following]


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tasks.Site]:
    """Give the tasks a site of their own: a real ledger on the disk, and no broker."""
    site = tasks.Site()
    section = {"node": {"data_dir": str(tmp_path / "data")}, "broker": {"url": "redis://127.0.0.1:1/0"}}
    site.settings = Settings.model_validate(section)
    monkeypatch.setattr(tasks, "SITE", site)
    monkeypatch.setattr(tasks, "BACK_OFF_S", (0.0,))
    yield site
    site.context.ledger.close()


def raising(error: Exception) -> Stub:
    """Make a stage that ends in that error."""

    def stage(_context: pipeline.Context, _claim: jobs.Claim, _guard: pipeline.Guard) -> pipeline.Following:
        raise error

    return stage


def run_with(stage: Stub, ledger: Ledger, monkeypatch: pytest.MonkeyPatch, **changes: object) -> Job:
    """Run one queued job's first stage; give the job as the ledger then has it."""
    work.queued_job(ledger, "job-1", **changes)
    monkeypatch.setattr(pipeline, "STAGES", {Stage.PREPARE: stage})
    tasks.prepare("job-1")
    return jobs.get(ledger, "job-1")


@pytest.mark.parametrize(
    ("error", "state", "reason"),
    [
        (Refused("slice 20 is missing"), JobState.DECLINED, "slice 20 is missing"),
        (Unfit("no lung is seen"), JobState.DECLINED, "no lung is seen"),
        (BadCard("card.toml: wrong sha256"), JobState.FAILED, "card.toml: wrong sha256"),
        (Misconfigured("no such device"), JobState.FAILED, "no such device"),
        (Retryable("the memory ran out"), JobState.QUEUED, "the memory ran out"),
        (OSError(28, "No space left on device"), JobState.QUEUED, "a disk of the worker is full; tried again when there is room"),
        (ValueError("PatientName Qvortrup"), JobState.QUEUED, "unexpected ValueError"),
        (SoftTimeLimitExceeded(), JobState.QUEUED, "the stage prepare ran past its limit of 600 s"),
        (workspace.LostWork("volumes", "is missing"), JobState.QUEUED, "the work file volumes is missing"),
        (LostLease("gone"), JobState.RUNNING, None),
    ],
)
def test_an_error_becomes_a_state_with_a_reason(
    site: tasks.Site, monkeypatch: pytest.MonkeyPatch, error: Exception, state: JobState, reason: str | None
) -> None:
    """Refused and Unfit decline, a wrong card or setting fails, passing trouble queues again, a lost lease writes nothing."""
    job = run_with(raising(error), site.context.ledger, monkeypatch)
    assert (job.state, job.reason) == (state, reason)


def test_a_time_limit_that_strikes_in_a_trial_is_no_fault_of_the_card(
    site: tasks.Site, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Celery's soft limit is an exception like any other to whoever proves a network: the job is given back, not failed for good."""

    def late(_windows: object) -> program.Outputs:
        raise SoftTimeLimitExceeded

    def proving(*_args: object) -> pipeline.Following:
        with registry.options_at_fault(read(shelf.put(tmp_path) / "two-parts" / "card.toml")):
            program.probe(program.Program(run=late, device="cpu", facts={}), 1, (2, 2, 2))
        return ()

    job = run_with(proving, site.context.ledger, monkeypatch)
    assert (job.state, job.reason) == (JobState.QUEUED, "the stage prepare ran past its limit of 600 s")


def test_a_lost_device_ends_the_process_even_where_the_ledger_is_away(site: tasks.Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """The job cannot be given back just now: its lease does that later. The process must not take another job all the same."""
    left: list[int] = []

    def away(*_args: object) -> None:
        raise OSError("the ledger's database is away")

    monkeypatch.setattr(jobs, "release", away)
    monkeypatch.setattr(gpu, "leave", lambda code, _reason: left.append(code))
    run_with(raising(gpu.Poisoned("cuda:0 failed")), site.context.ledger, monkeypatch)
    assert left == [gpu.POISONED]


def test_a_stage_that_always_breaks_fails_after_its_attempts(site: tasks.Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error nobody foresaw is tried max_attempts times, then FAILED with its type."""
    ledger = site.context.ledger
    assert run_with(raising(KeyError("x")), ledger, monkeypatch).state is JobState.QUEUED
    for _ in range(5):
        tasks.prepare("job-1")
    job = jobs.get(ledger, "job-1")
    assert job.state is JobState.FAILED
    assert job.reason == "unexpected KeyError (gave up after 3 attempts of prepare)"


def test_a_full_disk_never_fails_a_job(site: tasks.Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """However often there is no room, the job waits, its attempts are not spent, and the reason says what it waits for."""
    monkeypatch.setattr(tasks, "NO_ROOM_S", 0.0)
    ledger = site.context.ledger
    run_with(raising(NoRoom("the disk of work/ is full")), ledger, monkeypatch)
    for _ in range(5):
        tasks.prepare("job-1")
    job = jobs.get(ledger, "job-1")
    assert (job.state, job.attempt) == (JobState.QUEUED, 0)
    assert job.reason == "the disk of work/ is full; tried again when there is room"


def test_the_journal_tells_the_place_and_never_the_words(site: tasks.Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """An unexpected error's type and traceback places are logged; its message, which may quote a header, is not."""
    lines = structlog.testing.CapturingLogger()
    monkeypatch.setattr(tasks, "log", structlog.wrap_logger(lines, processors=[journal._places_only, structlog.processors.JSONRenderer()]))
    run_with(raising(ValueError("bad value for PatientName: Qvortrup^Zebediah")), site.context.ledger, monkeypatch)
    (broke,) = [json.loads(call.args[0]) for call in lines.calls if "stage.broke" in call.args[0]]
    assert broke["error"] == "ValueError"
    assert any("test_tasks.py" in place for place in broke["exception"])
    assert "Qvortrup" not in repr(lines.calls)


def test_a_message_without_a_claim_ends_without_working(site: tasks.Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second message for a stage that runs, has passed or never was does nothing."""
    ledger = site.context.ledger
    calls: list[int] = []

    def stage(context: pipeline.Context, claim: jobs.Claim, _guard: pipeline.Guard) -> pipeline.Following:
        calls.append(claim.fence)
        tasks.prepare("job-1")
        assert jobs.advance(context.ledger, claim, Stage.INFER)
        return ()

    run_with(stage, ledger, monkeypatch)
    tasks.prepare("job-1")
    tasks.prepare("no-such-job")
    assert calls == [1]


def test_a_model_switched_off_in_the_file_cancels_a_queued_job(site: tasks.Site, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The kill switch needs no restart: the rules are read again when the settings file changes."""
    config = tmp_path / "overread.toml"
    config.write_text(f'[node]\ndata_dir = "{tmp_path / "data"}"\n', encoding="utf-8")
    site.config = config
    assert site.rules_now.rules == ()
    config.write_text(config.read_text(encoding="utf-8") + '[[rules]]\nmodel = "chest-ct"\nmode = "off"\n', encoding="utf-8")
    os.utime(config, (time.time() + 5, time.time() + 5))
    job = run_with(raising(AssertionError("must not run")), site.context.ledger, monkeypatch)
    assert (job.state, job.reason) == (JobState.CANCELLED, "the rules switch this model off")


def test_a_model_put_into_the_shadow_keeps_what_it_makes_of_a_queued_job(
    site: tasks.Site, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """At its next stage the job loses its destinations; it goes on, and another worker's word that comes late changes nothing."""
    ledger = site.context.ledger
    site.settings = site.settings.model_copy(update={"rules": (Rule(model="chest-ct", mode="shadow"),)})
    seen: list[jobs.Claim] = []

    def stage(context: pipeline.Context, claim: jobs.Claim, _guard: pipeline.Guard) -> pipeline.Following:
        seen.append(claim)
        assert jobs.advance(context.ledger, claim, Stage.INFER)
        return ()

    job = run_with(stage, ledger, monkeypatch)
    assert [(claim.job.mode, claim.job.destinations) for claim in seen] == [(Mode.SHADOW, ())]
    assert (job.state, job.stage, job.mode, job.destinations) == (JobState.QUEUED, Stage.INFER, Mode.SHADOW, ())
    assert shadowing.keep_unsent(ledger, seen[0]) is None


def test_a_ledger_that_is_away_breaks_no_worker(site: tasks.Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where not even the claim can be written the task ends quietly; the sweep finds the job again."""
    work.queued_job(site.context.ledger, "job-1")

    def away(*_: object) -> None:
        raise Retryable("the ledger does not answer")

    monkeypatch.setattr(jobs, "claim", away)
    tasks.prepare("job-1")
