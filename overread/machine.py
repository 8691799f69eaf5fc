"""A whole site in one folder, as real processes: the node by `overread up` and, unless one is named, an archive.

For the demo, the benchmarks and the tests; an installation uses `overread up` with its own settings file.
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from node import settings as site_settings
from node.errors import Retryable
from node.settings import Peer, Settings

START_S = 90.0
END_S = 20.0
AE_TITLE, ARCHIVE_AE_TITLE = "OVERREAD", "ARCHIVE"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What to build. `sections` are laid over our settings: {"assembly": {"quiet_s": 1}}; `archive` None: one of ours."""

    home: Path
    archive: Peer | None = None
    sections: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """A running site."""

    settings: Settings
    config: Path
    archive: Peer
    archive_dir: Path | None
    node: Peer
    supervisor: subprocess.Popen[str]
    log: Path


@contextmanager
def run(plan: Plan) -> Iterator[Machine]:
    """Start archive and node, wait until they serve, end them with the block; raises Retryable with the log's place."""
    plan.home.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        port = free_port()
        archive_dir = None if plan.archive is not None else plan.home / "archive"
        archive = plan.archive or _own_archive(stack, plan.home, port)
        config = write_settings(plan, archive, port)
        settings = site_settings.load(config)
        log = plan.home / "node.log"
        supervisor = start(config, log)
        stack.callback(end, supervisor)
        wait_until_ready(supervisor, log)
        yield Machine(
            settings=settings,
            config=config,
            archive=archive,
            archive_dir=archive_dir,
            node=Peer(name="node", ae_title=AE_TITLE, host="127.0.0.1", port=port, calling_ae="DEMO"),
            supervisor=supervisor,
            log=log,
        )


def start(config: Path, log: Path) -> subprocess.Popen[str]:
    """Start `overread up`; its own words on a pipe, everybody's journal in the log."""
    with log.open("ab") as journal_file:
        command = [sys.executable, "-m", "overread", "up", "--config", str(config)]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=journal_file, text=True, process_group=0)  # noqa: S603


def wait_until_ready(process: subprocess.Popen[str], log: Path) -> str:
    """Read the readiness line of `overread up`; raises Retryable when it ends before."""
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("overread is ready"):
            return line.strip()
    raise Retryable(f"the node ended before it was ready; its journal is {log}")


def end(process: subprocess.Popen[Any]) -> None:
    """End a process well, or at once when it does not."""
    if process.poll() is None:
        process.terminate()
    try:
        process.wait(timeout=END_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    for stream in (process.stdout, process.stderr):
        if stream is not None:
            stream.close()


def _own_archive(stack: ExitStack, home: Path, node_port: int) -> Peer:
    command = [sys.executable, "-m", "overread", "archive", "--dir", str(home / "archive"), "--ae-title", ARCHIVE_AE_TITLE]
    command += ["--peer", f"{AE_TITLE}@127.0.0.1:{node_port}"]
    journal_file: IO[bytes] = stack.enter_context((home / "archive.log").open("ab"))
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=journal_file, text=True, process_group=0)  # noqa: S603
    stack.callback(end, process)
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise Retryable(f"the archive did not start; its journal is {home / 'archive.log'}")
    port = int(json.loads(line)["port"])
    return Peer(
        name="archive", ae_title=ARCHIVE_AE_TITLE, host="127.0.0.1", port=port, storage_commitment=True, query=True, calling_ae=AE_TITLE
    )


def write_settings(plan: Plan, archive: Peer, port: int) -> Path:
    """Write the node's settings file."""
    sections: dict[str, dict[str, Any]] = {
        "node": {"ae_titles": [AE_TITLE], "host": "127.0.0.1", "port": port, "data_dir": str(plan.home / "node"), "free_disk_min_mb": 64},
        "broker": {"url": "embedded"},
        "assembly": {"quiet_s": 3},
    }
    for name, values in plan.sections.items():
        sections.setdefault(name, {}).update(values)
    lines = []
    for name, values in sections.items():
        lines += [f"[{name}]", *(f"{key} = {_toml(value)}" for key, value in values.items()), ""]
    peer = archive.model_dump(mode="json", exclude_none=True)
    lines += ["[[peers]]", *(f"{key} = {_toml(value)}" for key, value in peer.items())]
    path = plan.home / "overread.toml"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def _toml(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{key} = {_toml(entry)}" for key, entry in value.items()) + " }"
    return json.dumps(str(value) if isinstance(value, Path) else value)  # a JSON scalar or list is a TOML one too


def free_port() -> int:
    """Give a TCP port nobody listens on just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for(holds: Any, limit_s: float, pause_s: float = 0.1) -> Any:
    """Ask until the answer is true, and give it; None after the limit."""
    until = time.monotonic() + limit_s
    while time.monotonic() < until:
        if answer := holds():
            return answer
        time.sleep(pause_s)
    return None
