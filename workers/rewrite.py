"""What is written after a job has ended: its results in another profile, and the report that it failed. Idempotent.

The first parcel of a profile that is stored stays, so that two workers may write the same.
"""

from __future__ import annotations

import math
import shutil

from node import demographics, outbox
from node.errors import Refused
from node.ledger import failures, fallbacks, jobs, parcels, removal
from node.ledger.deliveries import DeliveryClaim
from node.ledger.holds import Finding
from node.profiles import Profile
from node.study import Job, JobState, Parcel, Stage
from workers import correction, pipeline, pixels
from workers.pipeline import Context, Following, Guard


def recompose(context: Context, claim: DeliveryClaim, guard: Guard) -> Following:
    """Prediction -> the parcel in the profile that a delivery wants instead; then it is sent.

    Raises LostWork and Refused where the work files or the images have gone, or workers were lost at it again and again.
    """
    delivery = claim.delivery
    if delivery.attempt > context.ledger.limits.max_attempts:
        raise Refused(f"the worker was lost or hung {context.ledger.limits.max_attempts} times")
    stored = jobs.parcel(context.ledger, delivery.job_id, delivery.generation, delivery.wants_profile)
    if stored is None:
        job, profile = jobs.get(context.ledger, delivery.job_id), context.settings.profile(delivery.wants_profile)
        if job.generation != delivery.generation:
            raise Refused("the job was tried again since, and that run's result answers for it")
        parcel = _result(context, job, profile, guard) if job.state is JobState.WRITTEN else _failure(context, job, profile, guard)
    if fallbacks.point(context.ledger, claim, stored or parcel):
        return ((Stage.DELIVER, delivery.delivery_id),)
    if stored is None:
        _discard(context, parcel)
    return ()


def _discard(context: Context, parcel: Parcel) -> None:
    """Remove what came too late for a job that has ended, of a purged patient perhaps: no other worker may store it any more."""
    ended = removal.ended_jobs(context.ledger, [parcel.job_id])[parcel.job_id]
    kept = {entry.path for each in parcels.of_job(context.ledger, parcel.job_id, parcel.generation) for entry in each.objects}
    if ended.ended_at < math.inf and not kept & {entry.path for entry in parcel.objects}:
        shutil.rmtree((context.settings.data_dir / parcel.objects[0].path).parent, ignore_errors=True)


def tell(context: Context, job: Job, guard: Guard = lambda: None) -> Following:
    """Write the report that a job failed for the destinations that ask for it; then one message each.

    Raises Refused where it cannot be said whose images they are.
    """
    wanted = outbox.failure_profiles(context.settings, job)
    names = dict.fromkeys(wanted.values())
    reports = [_failure(context, job, context.settings.profile(name), guard) for name in names]
    return tuple((Stage.DELIVER, ident) for ident in failures.written(context.ledger, job, reports, wanted))


def _result(context: Context, job: Job, profile: Profile, guard: Guard) -> Parcel:
    from workers import results  # noqa: PLC0415 -- highdicom takes seconds to import

    composed = results.compose(pipeline.in_profile(context.settings, pipeline.analysis(context, job, job.patient), profile))
    guard()
    return pipeline.keep(context, job, profile, composed)


def _failure(context: Context, job: Job, profile: Profile, guard: Guard) -> Parcel:
    """Write that nothing was analysed, on the headers of the images, as the archive knows their patient."""
    from workers import results  # noqa: PLC0415 -- highdicom takes seconds to import

    shelved = pipeline.card_of(context, job)
    patient = job.patient or demographics.look(context.settings, context.ledger, job)
    if isinstance(patient, Finding):
        raise Refused(patient.reason)
    files = pipeline.paths(context, job.inputs[shelved.card.reference_role])
    request = results.FailureRequest(
        job=job,
        card=shelved,
        sources=correction.apply([pixels.read(path, pixels=False) for path in files], patient),
        settings=context.settings.results,
        reason=job.reason or "",
        profile=profile,
    )
    composed = results.compose_failure(request)
    guard()
    return pipeline.keep(context, job, profile, composed)
