"""What each supervised process does: broker, listener, dispatch, worker.

They are hidden commands of `overread`; `up`, `serve` and `worker` start them with `--parent`.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from pathlib import Path

from node import journal
from node.errors import Misconfigured
from node.settings import Settings
from overread import processes

LOCK_WAIT_S = 20.0
QUEUES = ("gpu", "cpu", "io")


def run_dir(settings: Settings) -> Path:
    """Give the folder of ready and lock files."""
    return settings.data_dir / "run"


def role(name: str, config: Path | None, *arguments: str, last: bool = False) -> processes.Role:
    """Describe a child: `python -m overread <name> ... --parent <us>`."""
    command = [sys.executable, "-m", "overread", *(arguments or (name,)), "--parent", str(os.getpid())]
    if config is not None:
        command += ["--config", str(config.absolute())]
    return processes.Role(name=name, command=tuple(command), last=last)


def broker(settings: Settings, parent: int | None) -> None:
    """Become the embedded Valkey: a unix socket in a folder of ours alone, no TCP port, an append-only file.

    The lock's descriptor passes through exec: two servers can never write one append-only file.
    """
    from node.broker import socket_path  # noqa: PLC0415

    binary = processes.broker_binary()
    processes.die_with_parent(parent)
    processes.hold(run_dir(settings), "broker", wait_s=LOCK_WAIT_S, inherit=True)
    socket, home = socket_path(settings), settings.data_dir / "broker"
    home.mkdir(parents=True, exist_ok=True, mode=0o700)
    _make_private(socket.parent)
    options = {
        "port": "0",
        "unixsocket": str(socket),
        "unixsocketperm": "700",
        "dir": str(home),
        "appendonly": "yes",
        "appendfsync": "everysec",
        "save": "",
        "maxmemory-policy": "noeviction",
        "loglevel": "warning",
        "daemonize": "no",
    }
    processes.say_ready(run_dir(settings), "broker")  # the others wait for its socket by themselves
    os.execv(binary, [str(binary), *(word for key, value in options.items() for word in (f"--{key}", value))])  # noqa: S606


def _make_private(folder: Path) -> None:
    """Make a folder that only we may enter; raises Misconfigured when somebody else's lies there (a shared /tmp)."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    if folder.is_symlink() or folder.stat().st_uid != os.getuid():
        raise Misconfigured(f"{folder} belongs to another user; remove it, or set a shorter [node] data_dir")
    folder.chmod(0o700)


def listener(settings: Settings, parent: int | None) -> None:
    """Serve DICOM until SIGTERM."""
    from node.ledger import open_ledger  # noqa: PLC0415
    from node.listener import Listener  # noqa: PLC0415
    from node.spool import Spool  # noqa: PLC0415

    stop = _start("listener", parent)
    if parent is not None:
        processes.hold(run_dir(settings), "listener", wait_s=LOCK_WAIT_S)
    listening = Listener(settings, open_ledger(settings), Spool(settings.data_dir, settings.node.free_disk_min_mb))
    listening.start()
    processes.say_ready(run_dir(settings), "listener", port=listening.port)
    stop.wait()
    listening.stop()


def dispatch(settings: Settings, config: Path | None, parent: int | None) -> None:
    """Assemble, route, submit and sweep until SIGTERM."""
    from node import dispatch as loop  # noqa: PLC0415

    stop = _start("dispatch", parent)
    processes.say_ready(run_dir(settings), "dispatch")
    loop.serve(settings, stop, config)


def worker(settings: Settings, config: Path | None, queue: str, parent: int | None) -> int:
    """Consume one queue until SIGTERM; give the exit code."""
    from workers import app  # noqa: PLC0415

    journal.configure(process=f"worker-{queue}")
    processes.die_with_parent(parent, signal.SIGQUIT)
    return app.run(settings, queue, config, lambda: processes.say_ready(run_dir(settings), f"worker-{queue}"))


def _start(name: str, parent: int | None) -> threading.Event:
    stop = threading.Event()
    journal.configure(process=name)
    processes.stop_on_signals(stop)
    processes.die_with_parent(parent)
    return stop
