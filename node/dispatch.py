"""The loop: assemble, route, submit, sweep. Any number of processes may run it; every step is a compare-and-set.

Nothing here waits for the network: what talks to archives, or removes files, runs in threads of its own.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from models import card
from models.card import ShelvedCard
from node import assembly, commitment, holds, inputs, journal, outbox, proof, retention, routing
from node.broker import Broker, BrokerAway
from node.errors import Misconfigured, OverreadError, Retryable
from node.ledger import Ledger, deliveries, failures, instances, jobs, open_ledger, presence, revisions
from node.ledger import holds as hold_rows
from node.ledger.revisions import Revision
from node.settings import Settings
from node.settings import load as load_settings
from node.study import Delivery, Job, Mode, Plan, RevisionState, Stage

log = journal.get("dispatch")

STEP_S = 0.5
BROKER_LOOK_S = 5.0
RETENTION_S = 600.0
RELIEF_S = 5.0
THREADS = 16
FETCHERS = 2


def serve(settings: Settings, stop: threading.Event, config: Path | None = None) -> None:
    """Run steps until `stop`; outages of ledger and broker are waited out. Raises Misconfigured at start.

    `config` is the settings' file: a change of its rules takes effect without a restart.
    """
    ledger = open_ledger(settings)
    dispatcher = Dispatcher(settings, ledger, known_cards(settings), config)
    log.info("dispatch.started", models=sorted(dispatcher.cards))
    try:
        while not stop.is_set():
            dispatcher.guarded_step()
            stop.wait(STEP_S)
    finally:
        dispatcher.close()
        ledger.close()
        log.info("dispatch.stopped")


def known_cards(settings: Settings) -> dict[str, ShelvedCard]:
    """Read the model cards the settings name and check the rules against them; raises Misconfigured."""
    try:
        cards = card.discover(card.folders(settings.models.dir, starters=settings.models.starters))
        for shelved in cards.values():
            card.runtime_of(shelved)
    except card.BadCard as error:
        raise Misconfigured(str(error)) from error
    routing.check_rules(settings.rules, cards)
    return cards


class Dispatcher:
    """One process's share of the loop; all that must not be forgotten is in the ledger."""

    def __init__(self, settings: Settings, ledger: Ledger, cards: Mapping[str, ShelvedCard], config: Path | None = None) -> None:
        self.settings = settings
        self.ledger = ledger
        self.cards = cards
        self._config = config
        self._config_read_at = _changed_at(config)
        self._broker = Broker(settings)
        self._incarnation: str | None = None
        self._broker_due = 0.0
        self._retention_due = 0.0
        self._relief_due = 0.0
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="dispatch")
        self._running: dict[str, Future[None]] = {}
        # A retrieval takes minutes: a few at a time, and none in the way of questions.
        self._fetchers = ThreadPoolExecutor(FETCHERS, thread_name_prefix="fetch")
        self._fetches: list[Future[None]] = []
        self._asker = proof.Asker(settings, ledger, proof.Acts(hinted=self._plan_ahead, fetch=self._fetch))
        self._away: dict[str, str] = {}

    def guarded_step(self) -> None:
        """Take a step; trouble is journalled and left to the next one."""
        try:
            self.step()
            self._back("ledger")
        except Retryable as error:
            self._note_away("ledger", error.reason)
        except Exception as error:  # noqa: BLE001 -- the process edge: one broken row must not stop the others
            _broke("step", error)

    def step(self) -> None:
        """Do all that is due now. Idempotent; raises Retryable while the ledger is away."""
        self._make_room()
        self._read_rules()
        self._assemble()
        suspects = [revision for revision in revisions.in_state(self.ledger, RevisionState.COMPLETE) if not self._plan(revision)]
        if suspects:
            self._aside("holds", lambda: self._judge(suspects))
        for job in jobs.expired(self.ledger):
            log.warning("job.lost", job=job.job_id, stage=job.stage, attempt=job.attempt, state=job.state)
        for delivery in deliveries.lost_senders(self.ledger, self.ledger.clock()):
            log.warning("delivery.lost", delivery=delivery.delivery_id, destination=delivery.destination, attempt=delivery.attempt)
        self._submit()
        self._chase()
        if self.ledger.clock() >= self._retention_due:
            self._retention_due = self.ledger.clock() + RETENTION_S
            self._aside("retention", lambda: retention.sweep(self.settings, self.ledger))

    def close(self) -> None:
        """Wait for the threads and give the broker's connections back."""
        self._fetchers.shutdown(wait=True, cancel_futures=True)
        self._pool.shutdown(wait=True)
        self._broker.close()

    def wait(self) -> None:
        """Wait until what runs aside has ended."""
        for future in list(self._running.values()):
            future.result()
        for future in self._fetches:
            future.result()

    def _read_rules(self) -> None:
        """Take the file's rules when it has changed; rules that are wrong leave the old ones in force."""
        changed_at = _changed_at(self._config)
        if self._config is None or changed_at == self._config_read_at:
            return
        self._config_read_at = changed_at
        try:
            rules = load_settings(self._config).rules
            routing.check_rules(rules, self.cards)
        except Misconfigured as error:
            log.warning("rules.refused", alert=True, reason=error.reason)
            return
        self.settings = self.settings.model_copy(update={"rules": rules})
        log.info("rules.read_again", rules=len(rules))

    def _assemble(self) -> None:
        """Complete what is quiet; where the peers are to be asked for their counts, each of them in a thread of its own."""
        listening_since = presence.listening_since(self.ledger)
        if listening_since is None:
            self._note_away("listener", "no listener is up: silence says nothing about what was on its way")
            return
        self._back("listener")
        if self.settings.assembly.proof == "none":
            assembly.freeze(self.ledger, self.settings.assembly, listening_since)
            return
        for names, some in self._asker.groups().items():
            self._aside(f"counts at {' + '.join(names) or 'nobody'}", lambda names=names, some=some: self._asker.look_after(names, some))  # type: ignore[misc]

    def _plan_ahead(self, revision: Revision) -> None:
        """Let workers prepare what one count says is whole; whatever speaks against it is told when it is complete."""
        try:
            study = instances.study(self.ledger, revision.study_instance_uid, revision.number)
            if not holds.suspicious(holds.received(self.ledger, revision, study)):
                plan = routing.route(study, self.cards, self.settings.rules, self.settings.destinations())
                revisions.plan_ahead(self.ledger, revision, plan)
        except OverreadError:
            raise
        except Exception as error:  # noqa: BLE001 -- headers are whatever a device wrote
            log.debug("revision.not_planned_ahead", study=revision.study_instance_uid, error=type(error).__name__)

    def _fetch(self, revision: Revision, names: Sequence[str]) -> None:
        """Ask those peers for what they have more of; never waits."""
        study_uid = revision.study_instance_uid
        self._retrieve(lambda: self._asker.fetched(revision, proof.fetch_rest(self.settings, self.ledger, names, study_uid)))

    def _fetch_inputs(self, revision: Revision, plan: Plan) -> None:
        """Ask for the series that models of several inputs lack, once a revision; never waits."""
        study_uid = revision.study_instance_uid
        names = inputs.sources(self.settings, self.ledger, study_uid) if plan.lacking else []

        def run() -> None:
            words = inputs.fetch_lacking(self.settings, self.ledger, names, study_uid, plan.lacking)
            hold_rows.warn_also(self.ledger, revision, words)

        if names:
            self._retrieve(run)

    def _retrieve(self, run: Callable[[], None]) -> None:
        self._fetches = [future for future in self._fetches if not future.done()]
        self._fetches.append(self._fetchers.submit(self._guarded, "fetch", run))

    def _plan(self, revision: Revision, *, looking: bool = False) -> bool:
        """Hold, plan or decline one frozen revision; False when that needs a look at files and archives, which only `looking` takes.

        A study that breaks routing is held, not tried for ever.
        """
        names: dict[str, Any] = {"study": revision.study_instance_uid, "revision": revision.number}
        try:
            study = instances.study(self.ledger, revision.study_instance_uid, revision.number)
            images = holds.received(self.ledger, revision, study)
            if holds.suspicious(images) and not looking:
                return False
            plan = routing.route(study, self.cards, self.settings.rules, self.settings.destinations())
        except OverreadError:
            raise
        except Exception as error:  # noqa: BLE001 -- headers are whatever a device wrote
            _broke("routing", error, **names)
            holds.hold(self.ledger, revision, [holds.broken(error)])
            return True
        judgement = holds.judge(self.settings, self.ledger, revision, images, looking=looking)
        if judgement.findings:
            moved = holds.hold(self.ledger, revision, judgement.findings)
        elif moved := revisions.plan(self.ledger, revision.revision_id, plan):
            log.info("revision.planned", jobs=[job.job_id for job in plan.jobs], declined=len(plan.declined), **names)
            self._fetch_inputs(revision, plan)
        if moved and not revision.released:
            holds.note_received(self.ledger, revision, images)
        return True

    def _judge(self, suspects: Sequence[Revision]) -> None:
        """Look at what may have to be held; trouble with one leaves the others their turn."""
        for revision in suspects:

            def look(revision: Revision = revision) -> None:
                self._plan(revision, looking=True)

            self._guarded("holds", look)

    def _submit(self) -> None:
        """Send what has no fresh message; while the broker is away everything stays due."""
        now = self.ledger.clock()
        if self._away.get("broker") and now < self._broker_due:
            return
        try:
            if now >= self._broker_due:
                self._look_at_broker()
                self._broker_due = now + BROKER_LOOK_S
            for job in jobs.queued(self.ledger):
                self._submit_job(job)
            for delivery in deliveries.due(self.ledger, self.ledger.clock()):
                stage = Stage.DELIVER if delivery.wants_profile is None else Stage.RECOMPOSE
                self._broker.submit(stage, delivery.delivery_id, jobs.get(self.ledger, delivery.job_id).priority)
                deliveries.submitted(self.ledger, delivery.delivery_id)
            self._tell_failures()
            self._back("broker")
        except BrokerAway as error:
            self._note_away("broker", error.reason)
            self._broker_due = now + 1.0

    def _tell_failures(self) -> None:
        """Have a worker write the report of a job without a result, where a destination's profile asks for it."""
        for job in failures.due(self.ledger):
            if not outbox.failure_profiles(self.settings, job):
                failures.close(self.ledger, job)
            elif failures.submitted(self.ledger, job):
                self._broker.submit(Stage.TELL, job.job_id, job.priority)
            elif failures.close(self.ledger, job):
                log.error("failure.not_told", alert=True, job=job.job_id, reason="no worker could write the report")

    def _look_at_broker(self) -> None:
        """After a start of the broker, or of ours, every message may be lost: all of them go out again."""
        incarnation = self._broker.incarnation()
        if incarnation != self._incarnation:
            count = jobs.resubmit_all(self.ledger)
            log.info("broker.found", messages_due=count)
            self._incarnation = incarnation

    def _submit_job(self, job: Job) -> None:
        first = next((uids[0] for uids in job.inputs.values() if uids), None)
        reference = None if first is None else instances.reference(self.ledger, first)
        if routing.mode_now(self.settings, job, reference) is Mode.OFF:
            if jobs.cancel(self.ledger, job.job_id, "the rules switch this model off"):
                log.info("job.cancelled", job=job.job_id)
            return
        self._broker.submit(job.stage, job.job_id, job.priority)
        jobs.submitted(self.ledger, job, job.stage)

    def _chase(self) -> None:
        """Look after deliveries without a commitment report, each destination in a thread of its own."""
        timeouts = {peer.name: peer.commitment_timeout_s for peer in self.settings.peers}
        now = self.ledger.clock()
        waiting: dict[str, list[Delivery]] = defaultdict(list)
        for delivery in deliveries.waiting_for_commitment(self.ledger, now, timeouts):
            waiting[delivery.destination].append(delivery)
        for destination, some in waiting.items():
            before = now - timeouts.get(destination, 0.0)
            self._aside(f"to {destination}", lambda some=some, before=before: self._chase_all(some, before))  # type: ignore[misc]

    def _chase_all(self, some: list[Delivery], before: float) -> None:
        for delivery in some:
            if deliveries.checked(self.ledger, delivery, before):
                commitment.chase(self.settings, self.ledger, delivery)

    def _aside(self, name: str, act: Callable[[], None]) -> None:
        """Run in a thread unless the last run of that name still goes on."""
        last = self._running.get(name)
        if last is None or last.done():
            self._running[name] = self._pool.submit(self._guarded, name, act)

    def _guarded(self, name: str, act: Callable[[], None]) -> None:
        try:
            act()
            self._back(name)
        except OverreadError as error:
            self._note_away(name, error.reason)
        except Exception as error:  # noqa: BLE001 -- the thread's edge
            _broke(name, error)

    def _make_room(self) -> None:
        """Look at the disk before all else: on a full one no other step may get through."""
        if self.ledger.clock() >= self._relief_due and retention.is_tight(self.settings):
            self._relief_due = self.ledger.clock() + RELIEF_S
            self._aside("relief", self._relieve)

    def _relieve(self) -> None:
        """Evict what has ended; raises Retryable, for the journal, where all that is left is unfinished work."""
        if not retention.relieve(self.settings, self.ledger):
            raise Retryable("the disk is nearly full, and nothing on it has ended long enough; below free_disk_min_mb images are refused")

    def _note_away(self, what: str, reason: str) -> None:
        """Journal an outage once, not every half second."""
        if self._away.get(what) != reason:
            log.warning("dispatch.waits", what=what, reason=reason)
            self._away[what] = reason

    def _back(self, what: str) -> None:
        if self._away.pop(what, None) is not None:
            log.info("dispatch.goes_on", what=what)


def _changed_at(config: Path | None) -> float | None:
    try:
        return None if config is None else config.stat().st_mtime
    except OSError:
        return None


def _broke(what: str, error: BaseException, **names: Any) -> None:
    """Journal an error by its type and places: its words may quote a header."""
    log.error("dispatch.broke", what=what, error=journal.places(error), **names)
