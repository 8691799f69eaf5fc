"""The engine that is shipped as the default, through a real broker and a real worker: chosen at start, kept, and named by each result."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from models import card
from node import dispatch, routing
from node.ledger import instances, jobs, revisions
from node.settings import Settings, load
from node.study import JobState, Stage
from tests import phantoms, shelf
from tests.node import brokers, work
from workers import folder, tasks, workspace

ROOT = Path(__file__).parents[2]
LIMIT_S = 900
SETTINGS = """
[node]
data_dir = {data}
[models]
dir = {models}
starters = false
[workers]
devices = ["cpu"]
"""


@contextmanager
def working(settings: Settings, config: Path) -> Iterator[None]:
    """Run the node's loop in a thread, and a worker of the queue gpu beside it; what the cpu worker does is done here."""
    stop = threading.Event()
    loop = threading.Thread(target=dispatch.serve, args=(settings, stop))
    command = [sys.executable, "-m", "overread", "worker", "--queues", "gpu", "--config", str(config)]
    with (config.parent / "worker.log").open("ab") as log, subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log) as worker:
        loop.start()
        try:
            yield
        finally:
            stop.set()
            loop.join()
            worker.terminate()
            worker.wait(60)


def engine(site: tasks.Site, study: Path) -> str:
    """Let the model run on a study, and read what its prediction says of the engine."""
    ledger, images = site.context.ledger, folder.read(study)
    instances.index(ledger, images)
    revision = work.freeze(ledger, images[0].study_instance_uid)
    plan = routing.route(instances.study(ledger, revision.study_instance_uid, revision.number), site.context.cards, (), ())
    assert revisions.plan(ledger, revision.revision_id, plan)
    tasks.prepare(plan.jobs[0].job_id)
    until = time.monotonic() + LIMIT_S
    while (job := jobs.get(ledger, plan.jobs[0].job_id)).stage is not Stage.COMPOSE:
        assert time.monotonic() < until, f"no prediction: {job}"
        assert job.state in {JobState.QUEUED, JobState.RUNNING}, job.reason
        time.sleep(0.1)
    place = workspace.Shelf(root=site.settings.work_dir, job_id=job.job_id, generation=job.generation, fence=job.fence)
    return workspace.load_prediction(place).variant["engine"]


@pytest.mark.timeout(2 * LIMIT_S + 100)
def test_the_default_engine_is_chosen_at_start_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first worker tries and keeps its verdict; the next takes what was kept, here turned round, so that both engines run."""
    monkeypatch.delenv("OVERREAD_WORKERS__ENGINE")
    config = tmp_path / "overread.toml"
    places = {"data": json.dumps(str(tmp_path / "data")), "models": json.dumps(str(shelf.put(tmp_path / "models")))}
    config.write_text(SETTINGS.format(**places), encoding="utf-8")
    site = tasks.Site()
    site.settings = load(config)
    monkeypatch.setattr(tasks, "SITE", site)
    (shelved,) = card.discover([tmp_path / "models"]).values()
    ran = []
    with brokers.valkey(site.settings):
        for seed in (1, 2):
            phantoms.thorax(tmp_path / f"study-{seed}", seed=seed)
            with working(site.settings, config):
                ran.append(engine(site, tmp_path / f"study-{seed}"))
            (kept,) = (site.settings.data_dir / "engines").iterdir()
            if seed == 1:
                first = json.loads(kept.read_bytes())
                kept.write_text(json.dumps({**first, "why": "" if first["why"] else "was turned round"}), encoding="utf-8")
    site.context.ledger.close()
    assert first["of"]["model"].startswith(shelved.digest)
    assert first["why"] in {"", "is not faster"}
    named = f"openvino {first['of']['openvino']}"
    assert ran == ([named, "torch; openvino was turned round"] if not first["why"] else ["torch; openvino is not faster", named])
