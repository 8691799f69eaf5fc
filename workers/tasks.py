"""The Celery tasks: claim in the ledger, run the stage, move the state. No claim: acknowledge and end.

This is a process edge: whatever a stage raises becomes a state with a reason, and nothing reaches Celery, whose
retries the ledger does not need.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import structlog
from celery.exceptions import SoftTimeLimitExceeded

from models.card import BadCard
from models.vocabulary import Broken, Unfit
from node import deliver as sender
from node import journal, routing
from node.broker import Broker
from node.errors import Misconfigured, NoRoom, Refused, Retryable
from node.ledger import deliveries, failures, fallbacks, instances, jobs, shadowing
from node.ledger.deliveries import DeliveryClaim
from node.settings import Settings
from node.settings import load as load_settings
from node.study import Job, Mode, Stage
from workers import gpu, pipeline, rewrite, workspace
from workers.app import app
from workers.heartbeat import Heartbeat, LostLease, Rhythm

log = journal.get("tasks")
DELIVERY_STAGES = (Stage.DELIVER, Stage.RECOMPOSE)
BACK_OFF_S = (1.0, 5.0, 30.0)
"""Waits after the first, second and every later failure of a stage."""
NO_ROOM_S = 30.0


class Site:
    """What one worker process holds: settings from its parent, and its own ledger, broker and cards."""

    def __init__(self) -> None:
        self.settings = Settings()
        self.config: Path | None = None
        self.queue = ""
        self._seen: float | None = None
        self._context: pipeline.Context | None = None
        self._broker: Broker | None = None

    def start_child(self) -> None:
        """Make ready after the fork: nothing with threads or sockets is older than this."""
        journal.configure(process=f"worker-{self.queue}")
        self._seen = self.config.stat().st_mtime if self.config is not None and self.config.exists() else None
        pipeline.make_warm(self.settings, self.queue)

    @property
    def rules_now(self) -> Settings:
        """Give the settings with the file's present rules: switching a model off needs no restart."""
        if self.config is not None:
            try:
                changed = self.config.stat().st_mtime
                if self._seen is not None and changed != self._seen:
                    self.settings = self.settings.model_copy(update={"rules": load_settings(self.config).rules})
                    log.info("rules.read_again")
                self._seen = changed
            except (OSError, Misconfigured) as error:
                log.warning("rules.unreadable", error=type(error).__name__)
        return self.settings

    @property
    def context(self) -> pipeline.Context:
        """Give this process's own context."""
        if self._context is None:
            self._context = pipeline.open_context(self.settings)
        return self._context

    def submit(self, stage: Stage, ident: str, job: Job) -> None:
        """Send the next message and note it; where the broker is away, dispatch's sweep sends it later."""
        try:
            if self._broker is None:
                self._broker = Broker(self.settings)
            self._broker.submit(stage, ident, job.priority)
            if stage in DELIVERY_STAGES:
                deliveries.submitted(self.context.ledger, ident)
            else:
                jobs.submitted(self.context.ledger, job, stage)
        except Exception as error:  # noqa: BLE001 -- the state is durable already; a lost message is found by the sweep
            log.warning("submit.failed", stage=stage, error=type(error).__name__)


SITE = Site()


@app.task(name="overread.prepare")  # type: ignore[untyped-decorator]
def prepare(job_id: str) -> None:
    """Files -> volumes."""
    _at_the_edge(_job_stage, Stage.PREPARE, job_id)


@app.task(name="overread.infer")  # type: ignore[untyped-decorator]
def infer(job_id: str) -> None:
    """Volumes -> prediction."""
    _at_the_edge(_job_stage, Stage.INFER, job_id)


@app.task(name="overread.compose")  # type: ignore[untyped-decorator]
def compose(job_id: str) -> None:
    """Prediction -> parcel."""
    _at_the_edge(_job_stage, Stage.COMPOSE, job_id)


@app.task(name="overread.deliver")  # type: ignore[untyped-decorator]
def deliver(delivery_id: str) -> None:
    """Parcel -> archive."""
    _at_the_edge(_delivery, Stage.DELIVER, delivery_id)


@app.task(name="overread.recompose")  # type: ignore[untyped-decorator]
def recompose(delivery_id: str) -> None:
    """Prediction -> another parcel, which the destination may take."""
    _at_the_edge(_rewrite, Stage.RECOMPOSE, delivery_id)


@app.task(name="overread.tell")  # type: ignore[untyped-decorator]
def tell(job_id: str) -> None:
    """Job without a result -> a report that says so, where a site asks."""
    _at_the_edge(_tell, Stage.TELL, job_id)


def _at_the_edge(run: Callable[[Stage, str], None], stage: Stage, ident: str) -> None:
    """Let nothing out: what could not even be written into the ledger is found there by its expired lease."""
    structlog.contextvars.bind_contextvars(stage=str(stage), ident=ident)
    try:
        run(stage, ident)
    except Exception as error:
        log.exception("task.broke", error=type(error).__name__)
    finally:
        structlog.contextvars.unbind_contextvars("stage", "ident")


def _job_stage(stage: Stage, job_id: str) -> None:
    context, limits = SITE.context, SITE.settings.workers
    claim = jobs.claim(context.ledger, job_id, stage, limits.lease_s)
    if claim is None:
        log.debug("claim.none")
        return
    mode = _mode_now(context, claim.job)
    if mode is Mode.OFF:
        jobs.cancel(context.ledger, job_id, "the rules switch this model off")
        log.info("job.cancelled")
        return
    if mode is Mode.SHADOW and claim.job.mode is Mode.LIVE:
        log.info("job.shadowed")
        claim = shadowing.keep_unsent(context.ledger, claim)
        if claim is None:
            return
    log.info("stage.started", fence=claim.fence)
    with Heartbeat(lambda: jobs.renew(context.ledger, claim, limits.lease_s), _rhythm(stage)) as beat:
        try:
            following = pipeline.STAGES[stage](context, claim, beat.check)
        except Exception as error:  # noqa: BLE001 -- the process edge: every error becomes a state
            try:
                _settle(context, claim, error)
            finally:
                if isinstance(error, gpu.Poisoned):  # whatever the ledger says: on this device nothing works any more
                    gpu.leave(gpu.POISONED, error.reason)
            return
    log.info("stage.ended", fence=claim.fence)
    for next_stage, ident in following:
        SITE.submit(next_stage, ident, claim.job)


def _mode_now(context: pipeline.Context, job: Job) -> Mode:
    first = next(iter(job.inputs.values()))[0]
    return routing.mode_now(SITE.rules_now, job, instances.reference(context.ledger, first))


def _settle(context: pipeline.Context, claim: jobs.Claim, error: Exception) -> None:
    """Write an error as the job's next state. Refused: declined; passing: again later; ours: failed."""
    error = _time_limit(error) or error
    ledger, reason = context.ledger, getattr(error, "reason", None)
    delay_s = BACK_OFF_S[min(claim.job.attempt, len(BACK_OFF_S)) - 1]
    if isinstance(error, LostLease):
        log.warning("lease.lost", fence=claim.fence)
    elif isinstance(error, workspace.LostWork):
        log.warning("work.lost", error=str(error))
        jobs.send_back(ledger, claim, pipeline.WRITER_OF[error.name], str(error))
    elif isinstance(error, Refused | Unfit):
        log.info("job.declined", reason=reason)
        jobs.decline(ledger, claim, str(reason))
    elif isinstance(error, BadCard | Misconfigured):
        log.error("job.failed", reason=str(error))
        jobs.fail(ledger, claim, str(error))
    elif isinstance(error, SoftTimeLimitExceeded):
        limit_s = SITE.settings.workers.time_limit_s[claim.stage]
        jobs.release(ledger, claim, f"the stage {claim.stage} ran past its limit of {limit_s:.0f} s", delay_s)
    elif isinstance(error, NoRoom) or (isinstance(error, OSError) and error.errno in workspace.FULL):
        log.error("stage.no_room", alert=True, fence=claim.fence)
        jobs.postpone(ledger, claim, f"{reason or 'a disk of the worker is full'}; tried again when there is room", NO_ROOM_S)
    elif isinstance(error, Retryable | Broken):
        log.warning("stage.retry", reason=reason)
        jobs.release(ledger, claim, str(reason), delay_s)
    else:
        log.error("stage.broke", error=type(error).__name__, exc_info=error)
        jobs.release(ledger, claim, f"unexpected {type(error).__name__}", delay_s)


def _time_limit(error: BaseException) -> SoftTimeLimitExceeded | None:
    """Give Celery's soft limit where it lies under an error: it strikes anywhere, and whoever caught it took it for a fault of a file."""
    seen: BaseException | None = error
    while seen is not None and not isinstance(seen, SoftTimeLimitExceeded):
        seen = seen.__cause__ or seen.__context__
    return seen


def _delivery(_stage: Stage, delivery_id: str) -> None:
    context, limits = SITE.context, SITE.settings.workers
    claim = deliveries.claim(context.ledger, delivery_id, limits.lease_s)
    if claim is None:
        log.debug("claim.none")
        return
    following = sender.send(SITE.settings, context.ledger, claim)  # renews its own lease: it must stop between two objects
    if following is not None:
        SITE.submit(following, delivery_id, jobs.get(context.ledger, claim.delivery.job_id))


def _rewrite(stage: Stage, delivery_id: str) -> None:
    context, limits = SITE.context, SITE.settings.workers
    claim = deliveries.claim(context.ledger, delivery_id, limits.lease_s, stage)
    if claim is None:
        log.debug("claim.none")
        return
    log.info("stage.started", fence=claim.fence, profile=claim.delivery.wants_profile)
    with Heartbeat(lambda: deliveries.renew(context.ledger, claim, limits.lease_s), _rhythm(stage)) as beat:
        try:
            following = rewrite.recompose(context, claim, beat.check)
        except Exception as error:  # noqa: BLE001 -- the process edge: every error becomes a state
            _settle_rewrite(context, claim, error)
            return
    log.info("stage.ended", fence=claim.fence)
    for next_stage, ident in following:
        SITE.submit(next_stage, ident, jobs.get(context.ledger, claim.delivery.job_id))


def _tell(_stage: Stage, job_id: str) -> None:
    """Write it without a claim: of two the first counts. What no further try mends ends in the journal, and nobody is told."""
    context = SITE.context
    job = jobs.get(context.ledger, job_id)
    if not failures.is_untold(context.ledger, job_id):
        log.debug("claim.none")
        return
    try:
        following = rewrite.tell(context, job)
    except (Refused, Misconfigured, BadCard) as error:
        _tell_nobody(context, job, error)
        return
    for stage, ident in following:
        SITE.submit(stage, ident, job)


def _tell_nobody(context: pipeline.Context, job: Job, error: Exception) -> None:
    if failures.close(context.ledger, job):
        log.error("failure.not_told", alert=True, job=job.job_id, reason=str(error))


def _settle_rewrite(context: pipeline.Context, claim: DeliveryClaim, error: Exception) -> None:
    """Write an error as the delivery's next state: passing trouble is tried again, all else leaves the refusal standing."""
    ledger, delivery, reason = context.ledger, claim.delivery, getattr(error, "reason", None)
    delay_s = BACK_OFF_S[min(delivery.attempt, len(BACK_OFF_S)) - 1]
    if isinstance(error, LostLease):
        log.warning("lease.lost", fence=claim.fence)
    elif isinstance(error, Refused | Unfit | BadCard | Misconfigured | workspace.LostWork):
        refused = delivery.refusals[-1]["reason"] if delivery.refusals else delivery.reason
        told = f"{refused}; nor can it be written as {delivery.wants_profile}: {error}. When the archive takes the class: overread retry"
        log.error("delivery.failed", alert=True, destination=delivery.destination, reason=told)
        deliveries.fail(ledger, claim, told)
    elif isinstance(error, NoRoom) or (isinstance(error, OSError) and error.errno in workspace.FULL):
        log.error("stage.no_room", alert=True, fence=claim.fence)
        fallbacks.postpone(ledger, claim, f"{reason or 'a disk of the worker is full'}; tried again when there is room", NO_ROOM_S)
    elif isinstance(error, Retryable):
        log.warning("stage.retry", reason=reason)
        fallbacks.release(ledger, claim, str(reason), delay_s)
    elif isinstance(error, SoftTimeLimitExceeded):
        limit_s = SITE.settings.workers.time_limit_s[Stage.RECOMPOSE]
        fallbacks.release(ledger, claim, f"the stage {Stage.RECOMPOSE} ran past its limit of {limit_s:.0f} s", delay_s)
    else:
        log.error("stage.broke", error=type(error).__name__, exc_info=error)
        fallbacks.release(ledger, claim, f"unexpected {type(error).__name__}", delay_s)


def _rhythm(stage: Stage) -> Rhythm:
    limits = SITE.settings.workers
    return Rhythm(lease_s=limits.lease_s, renew_s=limits.renew_s, limit_s=limits.time_limit_s[stage])
