"""Supervision: what dies comes back, what is stopped ends, what lost its supervisor ends too."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from node.errors import Retryable
from overread import processes

ROOT = Path(__file__).parents[2]
CHILD = (
    "import sys, time; from pathlib import Path; from overread import processes\n"
    "processes.die_with_parent(int(sys.argv[2])); processes.say_ready(Path(sys.argv[1]), 'child'); time.sleep(60)"
)


def until(holds: Callable[[], bool], what: str) -> None:
    """Wait until it holds."""
    give_up = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < give_up, what
        time.sleep(0.02)


def alive(pid: int) -> bool:
    """Tell whether a process runs; one that is dead but not yet waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def role(run_dir: Path, code: str = CHILD) -> processes.Role:
    """Describe a child that runs the code."""
    return processes.Role(name="child", command=(sys.executable, "-c", code, str(run_dir), str(os.getpid())))


def test_a_killed_child_comes_back_and_a_stop_ends_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kill -9 of a child brings a new process; `stop` ends it and takes its ready file away."""
    monkeypatch.chdir(ROOT)
    supervisor = processes.Supervisor([role(tmp_path)], tmp_path)
    told: list[int] = []
    thread = threading.Thread(target=supervisor.run, args=(lambda facts: told.append(facts["child"]["pid"]),))
    thread.start()
    child = supervisor.children[0]
    try:
        until(lambda: bool(told), "the child never got ready")
        os.kill(told[0], signal.SIGKILL)
        until(lambda: child.ready is not None and child.ready["pid"] != told[0], "the child did not come back")
        assert child.ready is not None
        second = child.ready["pid"]
        assert alive(second)
        assert not alive(told[0])
    finally:
        supervisor.stop.set()
        thread.join(20)
    assert not alive(second)
    assert not (tmp_path / "child.ready").exists()
    assert len(told) == 1


def test_a_child_that_ignores_the_end_is_ended_with_its_own_children(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A child deaf to SIGTERM is killed with its whole process group once the grace is over."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(processes, "GRACE_S", 0.3)
    code = (
        "import signal, subprocess, sys, time; from pathlib import Path; from overread import processes\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "grandchild = subprocess.Popen(['sleep', '60'])\n"
        "processes.say_ready(Path(sys.argv[1]), 'child', grandchild=grandchild.pid); time.sleep(60)"
    )
    supervisor = processes.Supervisor([role(tmp_path, code)], tmp_path)
    told: list[int] = []
    thread = threading.Thread(
        target=supervisor.run, args=(lambda facts: told.extend((facts["child"]["pid"], facts["child"]["grandchild"])),)
    )
    thread.start()
    until(lambda: bool(told), "the child never got ready")
    supervisor.stop.set()
    thread.join(20)
    assert len(told) == 2
    until(lambda: not any(alive(pid) for pid in told), "a process outlived the stop")


def test_a_child_that_cannot_live_is_started_ever_more_slowly(tmp_path: Path) -> None:
    """A child that dies at once is not restarted in a busy loop."""
    supervisor = processes.Supervisor([processes.Role(name="child", command=("false",))], tmp_path)
    starts: list[float] = []
    child = supervisor.children[0]
    give_up = time.monotonic() + 3
    while len(starts) < 4 and time.monotonic() < give_up:
        before = child.process
        child.keep_up()
        if child.process is not None and child.process is not before:
            starts.append(time.monotonic())
        time.sleep(0.01)
    child.wait_for_end(time.monotonic() + 5)
    gaps = [later - earlier for earlier, later in itertools.pairwise(starts)]
    assert len(gaps) == 3
    assert all(gap >= floor for gap, floor in zip(gaps, (0.2, 0.4, 0.8), strict=True))


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux tells a child that its parent died")
def test_a_killed_supervisor_leaves_no_child_behind(tmp_path: Path) -> None:
    """Kill -9 of the supervisor ends its children."""
    code = (
        "import os, sys; from pathlib import Path; from overread import processes\n"
        f"command = (sys.executable, '-c', {CHILD!r}, sys.argv[1], str(os.getpid()))\n"
        "role = processes.Role(name='child', command=command)\n"
        "processes.Supervisor([role], Path(sys.argv[1])).run(lambda facts: print(facts['child']['pid'], flush=True))"
    )
    supervisor = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=ROOT)
    assert supervisor.stdout is not None
    with supervisor.stdout:
        while not (line := supervisor.stdout.readline()).strip().isdigit():
            assert line, "the supervisor ended"
        supervisor.kill()
        supervisor.wait()
    until(lambda: not alive(int(line)), "the child outlived its supervisor")


def test_only_one_holds_a_name_and_its_death_frees_it(tmp_path: Path) -> None:
    """A second holder is told which process has the name; after that one is killed the name is free."""
    code = (
        "import sys, time; from pathlib import Path; from overread import processes\n"
        "processes.hold(Path(sys.argv[1]), 'broker', wait_s=0); print('held', flush=True); time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, cwd=ROOT)
    assert process.stdout is not None
    with process.stdout:
        assert process.stdout.readline() == b"held\n"
        with pytest.raises(Retryable, match=str(process.pid)):
            processes.hold(tmp_path, "broker", wait_s=0.1)
        process.kill()
        process.wait()
    os.close(processes.hold(tmp_path, "broker", wait_s=5))


def test_a_lock_passes_through_exec(tmp_path: Path) -> None:
    """What a process became by exec still holds the lock: the broker's server does, although it knows nothing of it."""
    code = (
        "import os, sys; from pathlib import Path; from overread import processes\n"
        "processes.hold(Path(sys.argv[1]), 'broker', wait_s=0, inherit=True); os.execvp('sleep', ['sleep', '60'])"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], cwd=ROOT)
    try:
        until(lambda: Path(f"/proc/{process.pid}/comm").read_text(encoding="utf-8") == "sleep\n", "no exec")
        with pytest.raises(Retryable):
            processes.hold(tmp_path, "broker", wait_s=0.1)
    finally:
        process.kill()
        process.wait()
