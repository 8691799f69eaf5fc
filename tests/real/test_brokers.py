"""A site's own Redis instead of the embedded Valkey; the broker is only transport."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import phantoms
from tests.real import dcmtk
from tests.real.node import site
from tests.real.processes import Server, free_port, running
from tests.servers import require

pytestmark = [pytest.mark.real, pytest.mark.timeout(600)]


@pytest.fixture
def redis_port(tmp_path: Path) -> Iterator[int]:
    """Run a redis-server with an append-only file."""
    port, folder = free_port(), tmp_path / "redis"
    folder.mkdir()
    options = ["--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder), "--appendonly", "yes", "--save", ""]
    with running(Server(command=[require("redis-server"), *options], log=folder / "redis.log", port=port)):
        yield port


def test_a_real_redis_carries_the_work_and_none_of_the_patient(tmp_path: Path, redis_port: int) -> None:
    """With [broker] url = redis://, a study is answered; what passed through Redis names ids and stages, never the patient."""
    sections = {"broker": {"url": f"redis://127.0.0.1:{redis_port}/0"}}
    with site(tmp_path, sections) as pacs:
        dcmtk.echoscu(pacs.node.port)
        with (tmp_path / "monitor.txt").open("w") as out:
            monitor = subprocess.Popen(["redis-cli", "-p", str(redis_port), "monitor"], stdout=out)
            try:
                truth = phantoms.thorax(tmp_path / "study", phantoms.Scan(patient=phantoms.PHI, nodules_mm=(16.0,)))
                dcmtk.dcmsend(pacs.node.port, tmp_path / "study")
                pacs.until(truth.study_instance_uid, "COMMITTED")
                assert len(pacs.archive.find(truth.study_instance_uid, "SR")) == 1
            finally:
                monitor.kill()
                monitor.wait()
        spoken = (tmp_path / "monitor.txt").read_text(errors="replace")
    assert "overread.infer" in spoken
    for word in (*phantoms.PHI_WORDS, truth.study_instance_uid):
        assert word not in spoken
    assert not (tmp_path / "node" / "data" / "broker").exists(), "no embedded broker ran"
