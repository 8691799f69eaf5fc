"""Makes instances, studies and jobs for tests of the node, without files."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from node.ledger import Ledger, instances, jobs, revisions
from node.ledger.jobs import Claim
from node.settings import AssemblySection
from node.study import Declined, Instance, Job, JobPlan, Mode, Parcel, ParcelObject, Plan, Stage

CT = "1.2.840.10008.5.1.4.1.1.2"
SEG = "1.2.840.10008.5.1.4.1.1.66.4"
Header = Mapping[str, Any] | None
QUIET = AssemblySection(quiet_s=60, quiet_max_s=300)


def image(sop: str, *, study: str = "1.2.3", series: str = "1.2.3.1", content: str = "", header: Header = None) -> Instance:
    """Make one CT slice; `content` stands for its bytes."""
    number = int(sop.rsplit(".", 1)[-1])
    fields: dict[str, Any] = {
        "Modality": "CT",
        "PatientID": "P1",
        "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"],
        "BodyPartExamined": "CHEST",
        "Rows": 512,
        "Columns": 512,
        "PixelSpacing": [0.7, 0.7],
        "ImageOrientationPatient": [1, 0, 0, 0, 1, 0],
        "ImagePositionPatient": [-180.0, -180.0, 2.0 * number],
    }
    return Instance(
        sop_instance_uid=sop,
        sop_class_uid=CT,
        transfer_syntax_uid="1.2.840.10008.1.2.1",
        study_instance_uid=study,
        series_instance_uid=series,
        sha256=hashlib.sha256((sop + content).encode()).hexdigest(),
        path=f"incoming/{hashlib.sha256((sop + content).encode()).hexdigest()[:40]}.dcm",
        size_bytes=527_000,
        received_at=1_700_000_000.0,
        calling_ae="PACS",
        called_ae="OVERREAD",
        peer_host="127.0.0.1",
        header={key: value for key, value in (fields | dict(header or {})).items() if value is not None},
    )


def slices(count: int, *, study: str = "1.2.3", series: str = "1.2.3.1", first: int = 1, header: Header = None) -> list[Instance]:
    """Make a stack of CT slices, 2 mm apart."""
    return [image(f"{series}.{number}", study=study, series=series, header=header) for number in range(first, first + count)]


def job_plan(job_id: str, inputs: Sequence[str], **changes: Any) -> JobPlan:
    """Make a plan of one job of the model chest-ct."""
    fields: dict[str, Any] = {
        "job_id": job_id,
        "study_instance_uid": "1.2.3",
        "model": "chest-ct",
        "version": "1.0",
        "card_digest": "d" * 64,
        "inputs": {"image": tuple(inputs)},
        "mode": Mode.LIVE,
        "priority": 5,
        "destinations": ("archive",),
    }
    return JobPlan(**fields | changes)


def declined(series: str, reason: str) -> Declined:
    """Make routing's reason for one series."""
    return Declined(series_instance_uid=series, model="chest-ct", reason=reason)


def freeze(ledger: Ledger, study: str = "1.2.3") -> revisions.Revision:
    """Complete the newest revision of a study."""
    newest = revisions.of_study(ledger, study)[-1]
    assert revisions.complete(ledger, newest, {"said": "no arrival for 60 s"})
    return revisions.of_study(ledger, study)[-1]


def planned(ledger: Ledger, *plans: JobPlan, study: str = "1.2.3") -> None:
    """Complete and plan the newest revision with these jobs."""
    assert revisions.plan(ledger, freeze(ledger, study).revision_id, Plan(jobs=plans, declined=()))


def queued_job(ledger: Ledger, job_id: str = "job-1", **changes: Any) -> Job:
    """Receive a study of three slices and plan one job on it."""
    stack = slices(3)
    instances.index(ledger, stack)
    planned(ledger, job_plan(job_id, [entry.sop_instance_uid for entry in stack], **changes))
    return jobs.get(ledger, job_id)


def parcel_of(job: Job) -> Parcel:
    """Make a parcel of one SEG and one SR."""
    objects = tuple(
        ParcelObject(
            kind=kind,
            sop_class_uid=SEG,
            sop_instance_uid=f"2.25.{number}",
            series_instance_uid=f"2.25.1{number}",
            transfer_syntax_uid="1.2.840.10008.1.2.1",
            path=f"parcels/{job.job_id}/{kind}.dcm",
            sha256="0" * 64,
        )
        for number, kind in enumerate(("seg", "sr"), start=7)
    )
    return Parcel(
        job_id=job.job_id,
        generation=job.generation,
        study_instance_uid=job.study_instance_uid,
        profile="ohif",
        profile_digest="p",
        summary="1 nodule",
        objects=objects,
    )


def at_compose(ledger: Ledger, job: Job) -> Claim:
    """Bring a queued job to the claim of its last stage."""
    for stage, following in ((Stage.PREPARE, Stage.INFER), (Stage.INFER, Stage.COMPOSE)):
        held = jobs.claim(ledger, job.job_id, stage, 8)
        assert held
        assert jobs.advance(ledger, held, following)
    held = jobs.claim(ledger, job.job_id, Stage.COMPOSE, 8)
    assert held
    return held


def written_job(ledger: Ledger, job_id: str = "job-1", **changes: Any) -> Job:
    """Bring a job to WRITTEN with its deliveries."""
    job = queued_job(ledger, job_id, **changes)
    assert jobs.written(ledger, at_compose(ledger, job), [parcel_of(job)], dict.fromkeys(job.destinations, "ohif"))
    return jobs.get(ledger, job_id)
