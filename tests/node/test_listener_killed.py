"""kill -9 of the listener loses nothing that was acknowledged."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from pathlib import Path

from pydicom.uid import CTImageStorage

from node.spool import Spool
from tests.node.listening import indexed, listening, soon
from tests.node.raw import Caller
from tests.node.wire import ct, encoded

SERVE = """
print("begun", flush=True)
import faulthandler, sys, threading
faulthandler.dump_traceback_later(45, exit=True)  # one that hangs tells where
from pathlib import Path
from node.ledger import open_ledger
from node.listener import Listener
from node.settings import Settings
from node.spool import Spool
settings = Settings.model_validate({"node": {"data_dir": sys.argv[1], "port": 0, "free_disk_min_mb": 0}})
listener = Listener(settings, open_ledger(settings), Spool(settings.data_dir))
listener.start()
faulthandler.cancel_dump_traceback_later()
print("port", listener.port, flush=True)
threading.Event().wait()
"""


def started(folder: Path) -> tuple[subprocess.Popen[str], int]:
    """Start a listener in a process of its own; gives it and its port. One that hangs is killed and tells where it stood.

    An interpreter that hangs before its first line (seen on a loaded machine) is no listener's fault: another one is started.
    """
    told = []
    for _ in range(3):
        command = [sys.executable, "-c", SERVE, str(folder)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2])
        late = threading.Timer(60, lambda process=process: told.append(_end(process)))
        late.start()
        assert process.stdout is not None
        said = []
        for line in process.stdout:
            said.append(line)
            if line.startswith("port "):
                late.cancel()
                return process, int(line.split()[1])
        late.cancel()
        late.join()
        process.stdout.close()
        process.wait()
        assert not said, f"the listener did not start: {said}; {told}"
    raise AssertionError(f"no interpreter came to its first line: {told}")


def _end(process: subprocess.Popen[str]) -> str:
    """Kill a process that hangs; gives what the kernel says of its threads."""
    told = []
    try:
        for thread in Path(f"/proc/{process.pid}/task").iterdir():
            told += [f"{thread.name} {name}: {(thread / name).read_text()[:200]}" for name in ("comm", "wchan", "syscall")]
    except OSError as failure:
        told.append(str(failure))
    finally:
        process.kill()
        process.wait()
    return "; ".join(told)


def test_killed_while_receiving(tmp_path: Path) -> None:
    """Every instance acknowledged before kill -9 is whole on the disk and in the index of the next start; no part is left."""
    acknowledged: list[str] = []
    process, port = started(tmp_path)

    def send() -> None:
        with Caller(port) as caller:
            caller.associate()
            while True:
                ds = ct(rows=256, columns=256, StudyInstanceUID="1.2.81")
                try:
                    status = caller.store(CTImageStorage, ds.SOPInstanceUID, encoded(ds))
                except (AssertionError, OSError):
                    return
                assert status == 0x0000
                acknowledged.append(ds.SOPInstanceUID)

    callers = [threading.Thread(target=send) for _ in range(3)]
    for caller in callers:
        caller.start()
    soon(lambda: len(acknowledged) >= 15)
    process.send_signal(signal.SIGKILL)
    process.wait()
    for caller in callers:
        caller.join()
    assert process.stdout is not None
    process.stdout.close()

    assert set(acknowledged) <= {instance.sop_instance_uid for instance in Spool(tmp_path).scan()}
    assert not list((tmp_path / "parts").iterdir())
    with listening(tmp_path) as listener:
        soon(lambda: set(acknowledged) <= {instance.sop_instance_uid for instance in indexed(listener, "1.2.81")})
