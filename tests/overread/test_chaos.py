"""Kill every process in turn during one study: exactly one result set arrives."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest
from pydicom.uid import Comprehensive3DSRStorage, SegmentationStorage
from rich.console import Console

from node import send
from node.archive.holdings import Holdings
from node.errors import Retryable
from node.ledger import Ledger, open_ledger
from node.study import Instance
from overread import machine, progress
from tests import phantoms, shelf
from workers import folder

LIMIT_S = 240
# The quiet time outlasts a listener's restart on a loaded machine: else the first half of the study counts as complete.
SECTIONS: dict[str, Mapping[str, Any]] = {
    "assembly": {"quiet_s": 10},
    "workers": {"lease_s": 3, "renew_s": 0.5, "max_attempts": 8},
}


@dataclass
class Killer:
    """Kills processes of a site, and notes whom."""

    site: machine.Machine
    ledger: Ledger
    study: str
    killed: list[str] = field(default_factory=list)

    def pid(self, name: str) -> int:
        """Give the process that serves under that name now."""
        ready = self.site.settings.data_dir / "run" / f"{name}.ready"

        def look() -> int | None:
            with suppress(OSError, ValueError):
                pid = int(json.loads(ready.read_text(encoding="utf-8"))["pid"])
                return pid if psutil.pid_exists(pid) else None
            return None

        found = machine.wait_for(look, LIMIT_S)
        assert found, f"{name} does not serve"
        return int(found)

    def kill(self, name: str) -> None:
        """Kill -9 the process of that name."""
        os.kill(self.pid(name), signal.SIGKILL)
        self.killed.append(name)

    def kill_child(self, name: str) -> None:
        """Kill -9 the processes that a worker forked for its tasks."""
        children = machine.wait_for(lambda: psutil.Process(self.pid(name)).children(), LIMIT_S)
        for child in children:
            with suppress(psutil.NoSuchProcess):
                child.kill()
        self.killed.append(f"{name}'s child")

    def wait_until_job(self, holds: Callable[[str, str], bool]) -> None:
        """Wait until the job's (state, stage) satisfy the question, or its work is over."""

        def look() -> bool:
            facts = progress.Follower(machine_console(), self.ledger, self.study).look()
            jobs = facts["jobs"] if facts else []
            return any(holds(job["state"], job["stage"]) or job["state"] == "WRITTEN" for job in jobs)

        assert machine.wait_for(look, LIMIT_S, 0.02), "the job did not get there"


def machine_console() -> Console:
    """Give a console that prints nothing."""
    return Console(quiet=True)


def send_whatever_happens(killer: Killer, files: list[Instance]) -> None:
    """Send as a PACS does, all of it again after a lost association; the listener dies once on the way."""
    answered = 0

    def one_more(_entry: Instance) -> None:
        nonlocal answered
        answered += 1
        if answered == len(files) // 3:
            killer.kill("listener")

    give_up = time.monotonic() + LIMIT_S
    while time.monotonic() < give_up:
        with suppress(Retryable):
            if send.store(killer.site.settings, killer.site.node, files, one_more).stored == len(files):
                return
        time.sleep(0.3)
    raise AssertionError("the node never took the study")


def kill_the_supervisor(killer: Killer) -> subprocess.Popen[str]:
    """Kill -9 `overread up`, wait until nothing of it serves, start it anew."""
    names = ("broker", "listener", "dispatch", "worker-gpu", "worker-cpu", "worker-io")
    family = psutil.Process(killer.site.supervisor.pid).children(recursive=True)
    assert len(family) >= len(names)
    killer.site.supervisor.kill()
    killer.site.supervisor.wait()
    killer.killed.append("supervisor")
    gone, alive = psutil.wait_procs(family, timeout=30)
    assert not alive, f"{len(alive)} of {len(gone) + len(alive)} processes outlived their supervisor"
    again = machine.start(killer.site.config, killer.site.log)
    machine.wait_until_ready(again, killer.site.log)
    return again


@pytest.mark.timeout(600)
def test_every_process_dies_once_and_one_result_set_arrives(tmp_path: Path) -> None:
    """Listener, dispatch, workers and their children, broker and supervisor are killed during one study; nothing is lost or doubled."""
    models = {"dir": shelf.put(tmp_path / "models", overlap=0.5), "starters": False}
    truth = phantoms.thorax(tmp_path / "study")
    files = folder.read(tmp_path / "study")
    with machine.run(machine.Plan(home=tmp_path / "site", sections=SECTIONS | {"models": models})) as site:
        ledger = open_ledger(site.settings)
        killer = Killer(site, ledger, truth.study_instance_uid)
        send_whatever_happens(killer, files)
        killer.kill("dispatch")
        killer.wait_until_job(lambda _state, _stage: True)
        killer.kill("worker-cpu")
        killer.wait_until_job(lambda state, stage: (state, stage) == ("RUNNING", "infer"))
        killer.kill_child("worker-gpu")
        killer.wait_until_job(lambda state, stage: (state, stage) == ("RUNNING", "infer"))
        killer.kill("broker")
        killer.kill("worker-gpu")
        killer.wait_until_job(lambda state, stage: (state, stage) == ("RUNNING", "compose"))
        killer.kill_child("worker-cpu")
        again = kill_the_supervisor(killer)
        try:
            killer.wait_until_job(lambda _state, _stage: False)
            killer.kill("worker-io")
            facts = progress.Follower(machine_console(), ledger, truth.study_instance_uid).follow(LIMIT_S)
        finally:
            machine.end(again)
        assert site.archive_dir is not None
        held = Holdings(site.archive_dir).study(truth.study_instance_uid)
    assert len(killer.killed) == 9
    # On a slow machine the dead listener's silence outlasts the quiet time: then a first revision was begun, and sent nothing.
    jobs = [(job["state"], [entry["state"] for entry in job["deliveries"]]) for job in facts["jobs"]]
    assert [job for job in jobs if job != ("SUPERSEDED", [])] == [("WRITTEN", ["COMMITTED"])]
    assert facts["images"] == len(files)
    kinds = Counter(entry.sop_class_uid for entry in held)
    assert (kinds[SegmentationStorage], kinds[Comprehensive3DSRStorage]) == (1, 1)
    assert {entry.sop_instance_uid for entry in held} == {entry["sop_instance_uid"] for job in facts["jobs"] for entry in job["objects"]}
