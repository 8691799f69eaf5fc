"""`overread up`: one machine, real processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from node import broker
from overread import machine
from tests import shelf

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[machine.Machine]:
    """Run one node with its archive for the tests that only look."""
    home = tmp_path_factory.mktemp("site")
    models = {"dir": shelf.put(home / "models"), "starters": False}
    with machine.run(machine.Plan(home=home, sections={"models": models})) as running:
        yield running


def pid(site: machine.Machine, name: str) -> int:
    """Give the process that serves under that name."""
    ready = site.settings.data_dir / "run" / f"{name}.ready"
    return int(json.loads(ready.read_text(encoding="utf-8"))["pid"])


def test_check_holds_while_the_node_runs(site: machine.Machine) -> None:
    """Listener, broker, ledger, disk, work folder, models, device and peer: all fine, exit code 0."""
    done = subprocess.run(
        [sys.executable, "-m", "overread", "check", "--json", "--config", str(site.config)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    facts = json.loads(done.stdout)
    assert [entry for entry in facts["checks"] if not entry["holds"]] == []
    assert {entry["name"] for entry in facts["checks"]} >= {"listener", "broker", "ledger", "peer archive", "device", "model two-parts"}
    assert done.returncode == 0


def test_torch_is_in_no_parent_of_a_fork(site: machine.Machine) -> None:
    """A Celery parent that had torch would leave its forked children hanging; its child for the GPU queue has it."""
    parent = psutil.Process(pid(site, "worker-gpu"))
    (child,) = machine.wait_for(parent.children, 60)
    assert not any("libtorch" in entry.path for entry in parent.memory_maps())
    assert machine.wait_for(lambda: any("libtorch" in entry.path for entry in child.memory_maps()), 60)


def test_listener_and_dispatch_run_without_torch(site: machine.Machine) -> None:
    """The DICOM side loads no torch."""
    for name in ("listener", "dispatch"):
        assert not any("libtorch" in entry.path for entry in psutil.Process(pid(site, name)).memory_maps())


def test_the_embedded_broker_is_for_this_user_alone(site: machine.Machine) -> None:
    """It opens no TCP port; its socket, and the folder around it, are closed to others; it keeps an append-only file."""
    process = psutil.Process(pid(site, "broker"))
    assert [link for link in process.net_connections(kind="inet") if link.status == psutil.CONN_LISTEN] == []
    socket = broker.socket_path(site.settings)
    assert socket.stat().st_mode & 0o777 == 0o700
    assert socket.parent.stat().st_mode & 0o777 == 0o700
    assert list((site.settings.data_dir / "broker" / "appendonlydir").iterdir())


def test_a_second_node_on_the_same_data_folder_is_refused(site: machine.Machine) -> None:
    """It says which process has the folder, and the first one goes on."""
    done = subprocess.run(
        [sys.executable, "-m", "overread", "up", "--config", str(site.config)], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert done.returncode == 2
    assert f"process {site.supervisor.pid}" in done.stderr
    assert site.supervisor.poll() is None


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_up_stops_within_seconds_and_leaves_nothing(tmp_path: Path, number: signal.Signals) -> None:
    """A stop ends every process, and the exit code is 0; the socket is gone."""
    models = {"dir": shelf.put(tmp_path / "models"), "starters": False}
    with machine.run(machine.Plan(home=tmp_path / "site", sections={"models": models})) as site:
        family = psutil.Process(site.supervisor.pid).children(recursive=True)
        assert len(family) >= 9
        os.kill(site.supervisor.pid, number)
        begin = time.monotonic()
        assert site.supervisor.wait(timeout=60) == 0
        _gone, alive = psutil.wait_procs(family, timeout=5)
        assert alive == []
        assert time.monotonic() - begin < 60  # a hang, not a speed, is what this bounds
        assert list((site.settings.data_dir / "run").glob("*.ready")) == []
