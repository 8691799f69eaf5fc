"""Start a server on loopback, wait until it answers, keep its log, end it."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path


def free_port() -> int:
    """Give a port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def listening(port: int) -> bool:
    """Tell whether something accepts connections there."""
    with socket.socket() as probe:
        probe.settimeout(0.5)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def wait_for(condition: Callable[[], object], *, seconds: float, what: str, every_s: float = 0.2) -> None:
    """Wait until the condition holds; fail with what was waited for."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {seconds:g} s for {what}")
        time.sleep(every_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """How one server is started. DCMTK, Orthanc too, leaves Nagle on unless TCP_NODELAY is set: 40 ms a response."""

    command: Sequence[str]
    log: Path
    port: int
    environment: Mapping[str, str] = field(default_factory=dict)
    start_s: float = 60


@contextlib.contextmanager
def running(server: Server) -> Iterator[subprocess.Popen[bytes]]:
    """Run a server; on the way out end it and all it started."""
    # Where this process is killed, the kernel ends the server.
    leash = ["setpriv", "--pdeathsig", "TERM"] if shutil.which("setpriv") else []
    with server.log.open("ab") as log:
        process = subprocess.Popen(
            [*leash, *server.command],
            stdout=log,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            env={**os.environ, "TCP_NODELAY": "1", **server.environment},
            start_new_session=True,
        )
    try:
        name = Path(server.command[0]).name
        wait_for(lambda: listening(server.port) or process.poll() is not None, seconds=server.start_s, what=f"{name} to listen")
        if process.poll() is not None:
            raise AssertionError(f"{name} ended with {process.returncode}:\n{server.log.read_text(errors='replace')[-3000:]}")
        yield process
    finally:
        end(process)


def end(process: subprocess.Popen[bytes], *, grace_s: float = 20) -> None:
    """Ask a process group to end, then make it."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(grace_s)
            return
