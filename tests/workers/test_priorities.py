"""Priorities through a real Valkey and a real worker: what is urgent overtakes what waits."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import sqlalchemy as sa

from models import card
from node import dispatch
from node.ledger import Ledger, instances, jobs, open_ledger, revisions
from node.ledger.schema import JOBS, STAGE_TIMES
from node.settings import load
from node.study import Instance, JobState
from tests import shelf
from tests.node import brokers, work

ROOT = Path(__file__).parents[2]
SETTINGS = """
[node]
data_dir = "{home}/data"
free_disk_min_mb = 1
[assembly]
quiet_s = 0.001
[models]
dir = "{home}/models"
starters = false
[[rules]]
model = "*"
when = "called_ae is STROKE or SeriesDescription contains stroke"
priority = "stat"
[[rules]]
model = "*"
when = "called_ae is NIGHT"
priority = "low"
"""


def study_for(called_ae: str, number: int) -> list[Instance]:
    """Make a study that was sent to that AE; its files are not there, so that prepare ends at once."""
    uid = f"1.2.{number}"
    made = work.slices(12, study=uid, series=f"{uid}.1")
    fields = [{name: getattr(image, name) for name in Instance.__dataclass_fields__} for image in made]
    return [Instance(**entry | {"called_ae": called_ae}) for entry in fields]


def order_of_work(ledger: Ledger) -> list[str]:
    """Give the studies in the order in which a worker began them."""
    with ledger.reading() as connection:
        begun = connection.execute(sa.select(STAGE_TIMES.c.job_id).order_by(STAGE_TIMES.c.started_at)).scalars().all()
    return [jobs.get(ledger, job_id).study_instance_uid for job_id in begun]


def test_a_stat_study_overtakes_the_low_ones_that_wait(tmp_path: Path) -> None:
    """Low and routine studies are queued first; the worker that then comes takes stat, routine, low."""
    config = tmp_path / "overread.toml"
    config.write_text(SETTINGS.format(home=tmp_path), encoding="utf-8")
    settings = load(config, {})
    shelf.put(tmp_path / "models")
    ledger = open_ledger(settings)
    with brokers.valkey(settings) as client:
        dispatcher = dispatch.Dispatcher(settings, ledger, card.discover([tmp_path / "models"]), config)
        arrivals = [("NIGHT", 1), ("NIGHT", 2), ("NIGHT", 3), ("OVERREAD", 4), ("STROKE", 5)]
        for called_ae, number in arrivals:
            instances.index(ledger, study_for(called_ae, number))
            time.sleep(0.01)  # longer than the quiet time
            dispatcher.step()
        dispatcher.close()
        planned = [jobs.get(ledger, job) for job in _all_jobs(ledger)]
        assert sorted(job.priority for job in planned) == [0, 5, 9, 9, 9]
        assert [client.llen(queue) for queue in ("cpu", "cpu\x06\x163", "cpu\x06\x169")] == [1, 1, 3]
        worker = subprocess.Popen([sys.executable, "-m", "overread", "worker", "--queues", "cpu", "--config", str(config)], cwd=ROOT)
        try:
            _wait_until_done(ledger, 5)
        finally:
            worker.terminate()
            worker.wait(60)
    assert order_of_work(ledger) == ["1.2.5", "1.2.4", "1.2.1", "1.2.2", "1.2.3"]
    assert revisions.of_study(ledger, "1.2.5")[-1].number == 1
    ledger.close()


def _all_jobs(ledger: Ledger) -> list[str]:
    with ledger.reading() as connection:
        return list(connection.execute(sa.select(JOBS.c.job_id)).scalars())


def _wait_until_done(ledger: Ledger, count: int) -> None:
    deadline = time.monotonic() + 200
    while sum(jobs.get(ledger, job).state is JobState.DECLINED for job in _all_jobs(ledger)) < count:
        assert time.monotonic() < deadline, "the worker did not take the jobs"
        time.sleep(0.1)
