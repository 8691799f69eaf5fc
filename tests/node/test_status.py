"""What `overread status` shows: the states, the reasons, and no patient."""

from __future__ import annotations

import json

from node import status
from node.ledger import Ledger, deliveries, fallbacks, instances, jobs, revisions
from node.study import Plan, Stage
from tests.node import work
from tests.node.conftest import Clock


def test_an_empty_ledger_counts_nothing(ledger: Ledger) -> None:
    """Every state is named, with none in it."""
    seen = status.overview(ledger)
    assert set(seen["jobs"]) == {"QUEUED", "RUNNING", "WRITTEN", "DECLINED", "FAILED", "CANCELLED", "SUPERSEDED"}
    assert not any(seen["jobs"].values())
    assert seen["queues"] == {}


def test_the_overview_counts_and_lists_what_needs_a_human(ledger: Ledger, clock: Clock) -> None:
    """A waiting job, a held study and a failed delivery are seen at a glance."""
    job = work.written_job(ledger)
    (delivery,) = deliveries.of_job(ledger, job.job_id, 1)
    held = deliveries.claim(ledger, delivery.delivery_id, 8)
    assert held
    assert deliveries.fail(ledger, held, "the archive takes no SEG")
    instances.index(ledger, work.slices(2, study="1.2.4", series="1.2.4.1"))
    assert revisions.hold(ledger, work.freeze(ledger, "1.2.4"), "two patient IDs")
    stack = work.slices(2, study="1.2.5", series="1.2.5.1")
    instances.index(ledger, stack)
    work.planned(ledger, work.job_plan("job-2", [stack[0].sop_instance_uid], study_instance_uid="1.2.5"), study="1.2.5")
    clock.now += 5
    seen = status.overview(ledger)
    assert (seen["jobs"]["WRITTEN"], seen["jobs"]["QUEUED"], seen["deliveries"]["FAILED"], seen["revisions"]["HELD"]) == (1, 1, 1, 1)
    assert seen["queues"] == {"prepare": {"queued": 1, "running": 0, "oldest_s": 5.0}}
    assert seen["held"][0]["reason"] == "two patient IDs"
    assert seen["failed_deliveries"][0]["reason"] == "the archive takes no SEG"


def test_a_study_s_story_is_whole_and_without_the_patient(ledger: Ledger, clock: Clock) -> None:
    """By Study Instance UID or accession number: revisions, reasons, stage times, deliveries; the number itself is not shown."""
    header = {"AccessionNumber": "ACC-4711", "PatientName": "DOE^JANE", "PatientID": "PID-42"}
    stack = [*work.slices(3, header=header), work.image("1.2.3.2.1", series="1.2.3.2", header=header)]
    instances.index(ledger, stack)
    wanted = work.job_plan("job-1", [entry.sop_instance_uid for entry in stack[:3]])
    why = work.declined("1.2.3.2", "it has 1 slice, the model needs at least 20")
    assert revisions.plan(ledger, work.freeze(ledger).revision_id, Plan(jobs=(wanted,), declined=(why,)))
    held = jobs.claim(ledger, "job-1", Stage.PREPARE, 8)
    assert held
    clock.now += 2
    assert jobs.advance(ledger, held, Stage.INFER)
    told = status.of_study(ledger, " ACC-4711 ")
    assert told == status.of_study(ledger, "1.2.3")
    (study,) = told["studies"]
    assert (study["study"], study["images"], study["series"]) == ("1.2.3", 4, 2)
    assert study["revisions"][0]["declined"] == [
        {"model": "chest-ct", "series_instance_uid": "1.2.3.2", "reason": "it has 1 slice, the model needs at least 20"}
    ]
    (job,) = study["jobs"]
    assert (job["state"], job["stage"], job["images"]) == ("QUEUED", "infer", 3)
    assert job["stages"][0]["ended_at"] - job["stages"][0]["started_at"] == 2
    text = json.dumps([told, status.overview(ledger)])
    assert not [secret for secret in header.values() if secret in text]


def test_deliveries_show_how_far_they_are(ledger: Ledger) -> None:
    """Objects sent and committed, and how often commitment was asked for."""
    job = work.written_job(ledger)
    (delivery,) = deliveries.of_job(ledger, job.job_id, 1)
    held = deliveries.claim(ledger, delivery.delivery_id, 8)
    assert held
    assert deliveries.object_sent(ledger, held, "2.25.7", 0)
    assert deliveries.asked(ledger, delivery.delivery_id, "2.25.100")
    (shown,) = status.of_study(ledger, "1.2.3")["studies"][0]["jobs"][0]["deliveries"]
    assert (shown["objects"], shown["sent"], shown["committed"], shown["commitment_requests"]) == (2, 1, 0, 1)
    assert status.overview(ledger)["queues"]["deliver"]["running"] == 1


def test_a_result_that_is_written_anew_waits_in_a_queue_of_its_own(ledger: Ledger) -> None:
    """Until then it waits to be sent."""
    job = work.written_job(ledger)
    (delivery,) = deliveries.of_job(ledger, job.job_id, 1)
    assert status.overview(ledger)["queues"].keys() == {"deliver"}
    held = deliveries.claim(ledger, delivery.delivery_id, 8)
    assert held
    assert fallbacks.ask(ledger, held, "basic", "no such class") is Stage.RECOMPOSE
    assert status.overview(ledger)["queues"] == {"recompose": {"queued": 1, "running": 0, "oldest_s": 0.0}}


def test_an_unknown_study_has_no_story(ledger: Ledger) -> None:
    """Neither an error nor somebody else's study."""
    assert status.of_study(ledger, "no such number") == {"studies": []}
