"""Planted faults in a real worker with a real broker: each ends as docs/operations.md says, and the next study runs."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from models import runtimes
from node import dispatch, routing, settings
from node.ledger import Ledger, instances, jobs, revisions
from node.settings import Settings
from node.study import Job, JobState, Stage
from tests import phantoms, planted
from tests.node import brokers, work
from workers import folder, gpu, pipeline, tasks, workspace

ROOT = Path(__file__).parents[3]
LIMIT_S = 900
DEVICE = gpu.devices(("auto",))[0]
SETTINGS = """
[node]
data_dir = {home}
[models]
dir = {models}
starters = false
[workers]
devices = ["auto"]
stall_s = 6
"""
TOLD = {
    "nan": "scores are no numbers, in float32",
    "hang": "the model made no progress for 6 s, and the worker's process was replaced",
    "crash": "the worker's process died in infer, or stopped answering; its memory may have run out",
    "poisoned": f"{DEVICE} failed (device-side assert), and the worker's process was replaced",
}


@dataclass
class Site:
    """A broker, a dispatch loop and a GPU worker on one ledger; what the cpu worker does is done here."""

    settings: Settings
    ledger: Ledger
    worker: subprocess.Popen[bytes]
    journal: Path

    def analyse(self, study: Path, *models: str) -> dict[str, str]:
        """Index a study, plan these models on it and prepare their volumes; give model -> job id."""
        instances.index(self.ledger, folder.read(study))
        revision = work.freeze(self.ledger, folder.read(study)[0].study_instance_uid)
        frozen = instances.study(self.ledger, revision.study_instance_uid, revision.number)
        cards = {name: entry for name, entry in pipeline.known_cards(self.settings).items() if name in models}
        plan = routing.route(frozen, cards, (), ())
        assert revisions.plan(self.ledger, revision.revision_id, plan)
        for entry in plan.jobs:
            tasks.prepare(entry.job_id)
        return {entry.model: entry.job_id for entry in plan.jobs}

    def wait(self, job_id: str) -> Job:
        """Wait until the job has ended, or waits for compose."""
        until = time.monotonic() + LIMIT_S
        while time.monotonic() < until:
            job = jobs.get(self.ledger, job_id)
            if job.stage is Stage.COMPOSE or job.state is JobState.FAILED:
                return job
            time.sleep(0.2)
        raise AssertionError(f"the job did not end: {job}\n{self.journal.read_text()[-3000:]}")

    def variant(self, job: Job) -> dict[str, str]:
        """Read how the prediction of a job was made."""
        place = workspace.Shelf(root=self.settings.work_dir, job_id=job.job_id, generation=job.generation, fence=job.fence)
        return dict(workspace.load_prediction(place).variant)


@contextmanager
def dispatching(site: Settings) -> Iterator[None]:
    """Run the node's own loop in a thread."""
    stop = threading.Event()
    thread = threading.Thread(target=dispatch.serve, args=(site, stop))
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """Start all of it with one good model and five that fail."""
    monkeypatch.setattr(runtimes, "__path__", [*runtimes.__path__, str(planted.PLACE)])
    models = tmp_path / "models"
    planted.put(models, "good")
    planted.put(models, "memory", fault="memory", spared="never")
    planted.put(models, "nan", fault="nan")
    planted.put(models, "hang", fault="hang")
    planted.put(models, "crash", fault="crash")
    planted.put(models, "poisoned", fault="CUDA error: device-side assert triggered")
    config = tmp_path / "overread.toml"
    config.write_text(SETTINGS.format(home=json.dumps(str(tmp_path / "data")), models=json.dumps(str(models))), encoding="utf-8")
    kept = tasks.Site()
    kept.settings = settings.load(config, {})
    monkeypatch.setattr(tasks, "SITE", kept)
    journal = tmp_path / "worker.log"
    command = [sys.executable, "-m", "tests.planted", "gpu", str(config)]
    with brokers.valkey(kept.settings), journal.open("wb") as log, subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log) as worker:
        try:
            with dispatching(kept.settings):
                yield Site(kept.settings, kept.context.ledger, worker, journal)
        finally:
            worker.terminate()
            worker.wait(30)
            kept.context.ledger.close()


@pytest.mark.timeout(1200)
def test_every_planted_fault_ends_as_it_should_and_the_next_study_runs(site: Site, tmp_path: Path) -> None:
    """No memory on any way, NaN, hang, crash, broken device: tried again twice, then FAILED with the reason."""
    phantoms.thorax(tmp_path / "first")
    by_model = site.analyse(tmp_path / "first", "memory", *TOLD)
    short = site.wait(by_model["memory"])
    assert (short.state, short.attempt) == (JobState.FAILED, 3)
    assert re.search(
        r"the memory does not suffice for memory on this series \([0-9 x]+ voxels\): at the least .* is needed", str(short.reason)
    )
    for model, told in TOLD.items():
        job = site.wait(by_model[model])
        assert (job.state, job.reason) == (JobState.FAILED, f"{told} (gave up after 3 attempts of infer)")
        assert job.attempt == 3
    phantoms.thorax(tmp_path / "second", seed=2)
    job = site.wait(site.analyse(tmp_path / "second", "good")["good"])
    assert (job.state, site.variant(job)["way"]) == (JobState.QUEUED, "plain")
    assert site.worker.poll() is None, "the worker's parent outlives all that its children go through"
    parent = psutil.Process(site.worker.pid)
    (child,) = parent.children()
    assert has_torch(child)
    assert not has_torch(parent), "what forks must not have torch"


def has_torch(process: psutil.Process) -> bool:
    """Tell whether torch's library is mapped into a process."""
    return any("libtorch" in entry.path for entry in process.memory_maps())
