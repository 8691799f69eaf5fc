"""The node as an administrator starts it: `overread up` with a settings file, and its answers to `overread status`."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.real.orthanc import Orthanc, orthanc
from tests.real.processes import Server, free_port, running, wait_for

OVERREAD = Path(sys.executable).with_name("overread")
# A machine shared by several test processes has one thread for each; a real node takes what it finds.
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "OVERREAD_WORKERS__THREADS": "1"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """One running node."""

    port: int
    data_dir: Path
    config: Path
    log: Path

    def status(self, study_uid: str) -> dict[str, Any]:
        """Ask `overread status --study` for a study's story; an empty dict while it is unknown."""
        command = [str(OVERREAD), "status", "--config", str(self.config), "--study", study_uid, "--json"]
        ran = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env={**os.environ, **ENVIRONMENT})
        studies = json.loads(ran.stdout)["studies"] if ran.stdout.strip() else []
        return dict(studies[0]) if studies else {}

    def said(self) -> str:
        """Give everything the node's processes printed."""
        return self.log.read_text(errors="replace")


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """An archive and a node that know each other."""

    archive: Orthanc
    node: Node

    def states(self, study_uid: str) -> set[str]:
        """Give every state that `overread status` names for a study: its words in capitals."""
        return set(re.findall(r"[A-Z]{4,}", json.dumps(self.node.status(study_uid))))

    def until(self, study_uid: str, state: str, *, seconds: float = 420) -> None:
        """Wait for a state; a failure on the way ends the wait at once, with what the node says."""

        def reached() -> bool:
            states = self.states(study_uid)
            assert "FAILED" not in states, json.dumps(self.node.status(study_uid))[:3000] + self.node.said()[-3000:]
            return state in states

        wait_for(reached, seconds=seconds, what=state, every_s=2)


def settings_text(values: Mapping[str, Any], peers: list[Mapping[str, Any]]) -> str:
    """Write the settings file: sections of plain values, then the peers. JSON's scalars and lists are TOML's."""
    lines = []
    for section, content in values.items():
        lines += [f"[{section}]", *(f"{key} = {json.dumps(value)}" for key, value in content.items()), ""]
    for peer in peers:
        lines += ["[[peers]]", *(f"{key} = {json.dumps(value)}" for key, value in peer.items()), ""]
    return "\n".join(lines)


@contextlib.contextmanager
def node(folder: Path, *, port: int, archive: Orthanc, sections: Mapping[str, Mapping[str, Any]] | None = None) -> Iterator[Node]:
    """Run `overread up`; a short quiet time, one CPU, results to the archive with commitment."""
    folder.mkdir(parents=True, exist_ok=True)
    values: dict[str, dict[str, Any]] = {
        "node": {"ae_titles": ["OVERREAD"], "port": port, "data_dir": str(folder / "data"), "free_disk_min_mb": 0},
        "assembly": {"quiet_s": 2},
        "workers": {"devices": ["cpu"], "threads": 1},
    }
    for section, content in (sections or {}).items():
        values.setdefault(section, {}).update(content)
    peer = {
        "name": "archive", "ae_title": archive.ae_title, "host": "127.0.0.1", "port": archive.dicom_port,
        "storage_commitment": True, "query": True, "commitment_timeout_s": 30, "retry_first_s": 1,
    }  # fmt: skip
    path = folder / "overread.toml"
    path.write_text(settings_text(values, [peer]))
    place = Node(port=port, data_dir=folder / "data", config=path, log=folder / "overread.log")
    command = [str(OVERREAD), "up", "--config", str(path)]
    with running(Server(command=command, log=place.log, port=port, environment=ENVIRONMENT, start_s=120)):
        wait_for(lambda: "overread is ready" in place.said(), seconds=120, what="every process of the node to be ready")
        yield place


@contextlib.contextmanager
def site(folder: Path, sections: Mapping[str, Mapping[str, Any]] | None = None) -> Iterator[Site]:
    """Run Orthanc and a node that send to each other."""
    port = free_port()
    with (
        orthanc(folder / "orthanc", node_port=port) as archive,
        node(folder / "node", port=port, archive=archive, sections=sections) as place,
    ):
        yield Site(archive=archive, node=place)
