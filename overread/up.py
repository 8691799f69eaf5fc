"""The whole node on one machine: embedded broker, listener, dispatch and workers as supervised processes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from node import journal
from node.errors import Misconfigured, Retryable
from node.settings import Settings
from overread import processes, roles


def up(settings: Settings, config: Path | None) -> None:
    """Run everything until SIGTERM or SIGINT; raises Misconfigured, also when this data folder has a node already."""
    from node import dispatch  # noqa: PLC0415

    dispatch.known_cards(settings)  # a bad card stops us here, with its reason, not in a restart loop
    try:
        processes.hold(roles.run_dir(settings), "up", wait_s=0)
    except Retryable as error:
        raise Misconfigured(f"{error.reason}: {settings.data_dir}; stop it, or set another [node] data_dir") from error
    wanted = [roles.role(name, config) for name in ("listener", "dispatch")] + worker_roles(roles.QUEUES, config)
    if settings.broker.url.get_secret_value() == "embedded":
        processes.broker_binary()
        wanted.insert(0, roles.role("broker", config, last=True))
    _supervise("up", wanted, settings)


def serve(settings: Settings, config: Path | None) -> None:
    """Run listener and dispatch."""
    _supervise("serve", [roles.role(name, config) for name in ("listener", "dispatch")], settings)


def workers(settings: Settings, queues: tuple[str, ...], config: Path | None) -> None:
    """Run one worker a queue."""
    _supervise("workers", worker_roles(queues, config), settings)


def worker_roles(queues: tuple[str, ...], config: Path | None) -> list[processes.Role]:
    """Describe one worker a queue; raises Misconfigured for a queue that does not exist."""
    for queue in queues:
        if queue not in roles.QUEUES:
            raise Misconfigured(f"there is no queue {queue!r}; --queues takes {','.join(roles.QUEUES)}")
    return [roles.role(f"worker-{queue}", config, "worker", "--queues", queue) for queue in queues]


def _supervise(name: str, wanted: list[processes.Role], settings: Settings) -> None:
    journal.configure(process=name)
    supervisor = processes.Supervisor(wanted, roles.run_dir(settings))
    processes.stop_on_signals(supervisor.stop)

    def tell(facts: Mapping[str, Mapping[str, Any]]) -> None:
        titles = ",".join(settings.node.ae_titles)
        where = f" {titles} on {settings.node.host}:{facts['listener']['port']}" if "listener" in facts else ""
        print(f"overread is ready:{where} ({', '.join(facts)})", flush=True)

    supervisor.run(tell)
