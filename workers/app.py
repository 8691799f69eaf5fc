"""The Celery application of the workers: transport only; the ledger decides who works on what.

Settings are those that held under kill -9 (docs/flow.md): late acks, prefetch 1, no results, JSON only. A message
that comes twice, or late, finds no claim in the ledger and ends.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from celery import Celery
from celery.exceptions import CPendingDeprecationWarning
from celery.platforms import SecurityWarning
from celery.signals import setup_logging, worker_process_init, worker_ready

from node.broker import broker_url
from node.settings import Settings
from node.study import Stage

QUEUES = ("gpu", "cpu", "io")
STAGES_OF = {"cpu": (Stage.PREPARE, Stage.COMPOSE, Stage.RECOMPOSE, Stage.TELL), "gpu": (Stage.INFER,), "io": (Stage.DELIVER,)}
VISIBILITY_TIMEOUT_S = 120
KILL_AFTER_S = 10.0
# A process loads models before it says that it lives: a minute's worth (workers.gpu.loaded), and the last may be a large one.
START_S = 600.0
PRIORITY_DEFAULT = 6  # 0 is the highest, and a message without one would count as 0

app = Celery("overread", include=["workers.tasks"], set_as_current=True)


def configure(settings: Settings) -> Celery:
    """Give the application with this site's broker and limits."""
    limits = settings.workers.time_limit_s
    app.conf.update(
        broker_url=broker_url(settings),
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_transport_options={
            "visibility_timeout": VISIBILITY_TIMEOUT_S,
            "unacked_restore_interval": 5,
            "unacked_restore_throttle": 1,
            "socket_keepalive": True,
        },
        accept_content=["json"],
        task_serializer="json",
        task_ignore_result=True,
        result_backend=None,
        task_acks_late=True,
        task_reject_on_worker_lost=True,
        task_retry_on_worker_lost=True,
        task_default_priority=PRIORITY_DEFAULT,
        task_create_missing_queues=True,
        worker_prefetch_multiplier=1,
        worker_proc_alive_timeout=START_S,
        worker_cancel_long_running_tasks_on_connection_loss=False,
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
        worker_send_task_events=False,
        task_annotations={
            # The heartbeat stops at the limit; the soft limit then ends the stage, the hard one a hung process.
            f"overread.{stage}": {"soft_time_limit": limit, "time_limit": limit + KILL_AFTER_S}
            for stage, limit in ((stage, limits.get(stage, 1800.0)) for stage in Stage)
        },
    )
    return app


def run(settings: Settings, queue: str, config: Path | None = None, on_ready: Callable[[], None] = lambda: None) -> int:
    """Consume one queue until SIGTERM; one process a unit of concurrency, or a device. Give the exit code; raises Misconfigured."""
    from workers import tasks  # noqa: PLC0415 -- tasks import this module

    configure(settings)
    # What Celery warns a superuser of is pickle; ours takes JSON only.
    warnings.filterwarnings("ignore", category=SecurityWarning)
    # A task goes on while the broker is away: the ledger holds its claim, so its message may come twice.
    warnings.filterwarnings("ignore", category=CPendingDeprecationWarning)
    tasks.SITE.settings, tasks.SITE.config, tasks.SITE.queue = settings, config, queue
    setup_logging.connect(_leave_logging_alone, weak=False)
    worker_process_init.connect(_start_child, weak=False)
    worker_ready.connect(lambda **_: on_ready(), weak=False)
    worker: Any = app.Worker(
        hostname=f"{queue}@%h",
        queues=[queue],
        pool="prefork",
        concurrency=_processes(settings, queue),
        without_gossip=True,
        without_mingle=True,
        without_heartbeat=True,
        loglevel="WARNING",
        quiet=True,
        optimization="fair",
    )
    worker.start()
    return int(worker.exitcode or 0)


def _processes(settings: Settings, queue: str) -> int:
    """Count the processes of a queue's worker; raises Misconfigured."""
    if queue == "gpu":
        from workers import gpu  # noqa: PLC0415

        return gpu.processes(settings.workers.devices)
    return {"cpu": settings.workers.concurrency_cpu, "io": settings.workers.concurrency_io}[queue]


def _leave_logging_alone(**_: object) -> None:
    """Being connected is enough: Celery then leaves the journal's set-up as it is."""


def _start_child(**_: object) -> None:
    from workers import tasks  # noqa: PLC0415

    tasks.SITE.start_child()
