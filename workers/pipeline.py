"""The stages as plain functions, and `run`: the same stages in a row without queue, ledger or network.

A stage takes what the one before left on the shelf, writes its own, moves the job by one compare-and-set and gives
the messages that should follow. It calls `guard` before every durable write: a lost lease stops it there.
"""

from __future__ import annotations

import gc
import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from models import card as cards
from models.card import Accept, ShelvedCard
from models.grids import tilt
from models.networks import verdicts
from models.vocabulary import Grid, Prediction, Progress, Volume
from node import demographics, fit, holds, journal, outbox, routing
from node.errors import Misconfigured, Refused
from node.ledger import Ledger, deliveries, instances, jobs, open_ledger
from node.ledger.holds import Finding
from node.profiles import Profile
from node.settings import Settings
from node.study import DeliveryState, Job, JobPlan, JobState, Parcel, ParcelObject, Stage
from workers import correction, folder, frames, gpu, workspace
from workers.frames import Origin

if TYPE_CHECKING:
    from workers.results import Composed, ComposeRequest  # highdicom takes seconds to import

log = journal.get("pipeline")
Guard = Callable[[], None]
Following = tuple[tuple[Stage, str], ...]
WRITER_OF = {"volumes": Stage.PREPARE, "prediction": Stage.INFER}
"""Which stage writes a work file: there a job goes back to when the file is lost."""
ANYHOW = gpu.Policy()


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """What a stage needs of this process."""

    settings: Settings
    ledger: Ledger
    cards: Mapping[str, ShelvedCard]


def open_context(settings: Settings) -> Context:
    """Open the ledger and read the cards; raises Misconfigured, BadCard."""
    return Context(settings=settings, ledger=open_ledger(settings), cards=known_cards(settings))


def known_cards(settings: Settings) -> dict[str, ShelvedCard]:
    """Read the cards of this site; raises BadCard."""
    return cards.discover(cards.folders(settings.models.dir, starters=settings.models.starters))


def make_warm(settings: Settings, queue: str) -> None:
    """Load what the queue's stages need before the first job arrives: imports take seconds, models too."""
    if queue == "gpu":
        gpu.set_threads(settings.workers.threads)
        gpu.choose(settings.workers.engine)
        verdicts.keep_in(settings.data_dir / "engines")
        gpu.warm_up(known_cards(settings).values(), _home(settings), settings.workers.memory_budget_gb, settings.data_dir / "run")
    elif queue == "cpu":
        from workers import load, results  # noqa: F401, PLC0415

        # A study's headers are hundreds of thousands of objects, and a collector that is called by their number would look at
        # all that was imported each time.
        gc.collect()
        gc.freeze()


def prepare(context: Context, claim: jobs.Claim, guard: Guard) -> Following:
    """Files -> volumes on the shelf."""
    job = claim.job
    shelved = card_of(context, job)
    volumes, origin = read_volumes(shelved, {role: paths(context, uids) for role, uids in job.inputs.items()})
    guard()
    workspace.save_volumes(_shelf(context, claim.job), volumes, origin)
    guard()
    return _advance(context, claim, Stage.INFER)


def infer(context: Context, claim: jobs.Claim, guard: Guard) -> Following:
    """Volumes -> prediction on the shelf, on one device that is ours alone meanwhile."""
    shelved = card_of(context, claim.job)
    place = _shelf(context, claim.job)
    volumes, _origin = workspace.load_volumes(place)
    workers = context.settings.workers
    names = sorted(gpu.devices(workers.devices), key=_home(context.settings).__ne__)
    limit_s = workers.time_limit_s[Stage.INFER]

    def give_up(reason: str) -> None:
        jobs.release(context.ledger, claim, reason, 0)

    with gpu.lease(context.settings.data_dir / "run", names, limit_s) as device:
        guard()
        with gpu.Watchdog(gpu.Patience(stall_s=workers.stall_s, limit_s=limit_s), give_up) as watchdog:
            policy = policy_of(context.settings)
            prediction = predict(shelved, volumes, device, replace(policy, attempt=claim.job.attempt, progress=watchdog.tell))
    guard()
    workspace.save_prediction(place, prediction)
    guard()
    return _advance(context, claim, Stage.COMPOSE)


def _home(settings: Settings) -> str:
    return gpu.home(settings.data_dir / "run", gpu.devices(settings.workers.devices))


def policy_of(settings: Settings) -> gpu.Policy:
    """Give what the site says of every prediction."""
    return gpu.Policy(precision=settings.workers.precision, budget_gb=settings.workers.memory_budget_gb)


def compose(context: Context, claim: jobs.Claim, guard: Guard) -> Following:
    """Prediction -> a parcel for each profile, all on the disk before the ledger says WRITTEN; then one message a destination."""
    from workers import forms  # noqa: PLC0415 -- highdicom takes seconds to import

    job = claim.job
    patient = demographics.settle(context.settings, context.ledger, claim)
    if isinstance(patient, Finding):
        holds.stop(context.ledger, claim, patient)
        return ()
    guard()
    made = forms.write(context, analysis(context, job, patient), guard)
    guard()
    if not jobs.written(context.ledger, claim, made.parcels, made.profiles, made.refusals):
        return ()
    due = deliveries.of_job(context.ledger, job.job_id, job.generation)
    return tuple((Stage.DELIVER, delivery.delivery_id) for delivery in due if delivery.state is DeliveryState.PENDING)


def analysis(context: Context, job: Job, patient: Mapping[str, Any] | None) -> ComposeRequest:
    """Read back what there is to be written of a finished prediction; raises LostWork, Refused, Misconfigured."""
    shelved, place = card_of(context, job), _shelf(context, job)
    volumes, origin = workspace.load_volumes(place)
    files = dict(zip(origin.images, paths(context, origin.images), strict=True))
    request = _request((job, shelved, workspace.load_prediction(place)), volumes, origin, files, context.settings)
    return replace(request, sources=correction.apply(request.sources, patient))


def in_profile(settings: Settings, request: ComposeRequest, profile: Profile) -> ComposeRequest:
    """Give the request for one viewer profile, naming the report that its destinations have."""
    told = outbox.predecessor(settings, request.job, profile.name)
    return replace(request, profile=profile, job=replace(request.job, predecessor=told))


STAGES: Mapping[Stage, Callable[[Context, jobs.Claim, Guard], Following]] = {
    Stage.PREPARE: prepare,
    Stage.INFER: infer,
    Stage.COMPOSE: compose,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Routed:
    """A study of a folder that a model takes: the job as the ledger would hold it, and the folder's files by SOP Instance UID."""

    job: Job
    files: Mapping[str, Path]


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Where a run's objects go, in which viewer profile (None: the default of [results]), and who is told 0..1 of the model's work."""

    out: Path
    profile: str | None = None
    progress: Progress = lambda _part: None


@dataclass(frozen=True, slots=True, kw_only=True)
class Ran:
    """What `run` made: the objects' files in sending order, and the summary."""

    prediction: Prediction
    files: tuple[Path, ...]
    summary: str


def run(shelved: ShelvedCard, routed: Routed, wanted: Wanted, settings: Settings) -> Ran:
    """Run one model on a study of a folder and write its objects; no node, no queue, no ledger.

    Raises Misconfigured where there is no profile of that name, Refused, Unfit, Broken, BadCard, Retryable.
    """
    from workers import results  # noqa: PLC0415

    chosen = settings.profile(wanted.profile)
    job, files = routed.job, routed.files
    by_role = {role: [files[uid] for uid in uids] for role, uids in job.inputs.items()}
    volumes, origin = read_volumes(shelved, by_role)
    policy = replace(policy_of(settings), progress=wanted.progress)
    prediction = predict(shelved, volumes, gpu.devices(settings.workers.devices)[0], policy)
    request = _request((job, shelved, prediction), volumes, origin, files, settings)
    composed, summary = results.compose(in_profile(settings, request, chosen))
    wanted.out.mkdir(parents=True, exist_ok=True)
    written = []
    for number, entry in enumerate(composed, start=1):
        path = wanted.out / f"{number:02d}-{entry.kind}.dcm"
        path.write_bytes(entry.dataset_bytes)
        written.append(path)
    return Ran(prediction=prediction, files=tuple(written), summary=summary)


def read_folder(shelved: ShelvedCard, source: Path) -> dict[str, Volume]:
    """Read the volumes a model would be given of the one study of a folder; raises Refused."""
    several = routed(shelved, source)
    if len(several) > 1:
        raise Refused(f"the folder holds {len(several)} studies that fit; one is wanted")
    job, files = several[0].job, several[0].files
    return read_volumes(shelved, {role: [files[uid] for uid in uids] for role, uids in job.inputs.items()})[0]


def routed(shelved: ShelvedCard, source: Path) -> tuple[Routed, ...]:
    """Route a folder of DICOM files to this one model, study by study; raises Refused with routing's reasons when none fits."""
    found = folder.read(source)
    files = {instance.sop_instance_uid: Path(instance.path) for instance in found}
    taken, reasons = [], []
    for study in folder.studies(found):
        plan = routing.route(study, {shelved.card.model.name: shelved}, (), ())
        reasons += [entry.reason for entry in plan.declined]
        taken += [Routed(job=_job(entry, study.revision), files=files) for entry in plan.jobs]
    if not taken:
        raise Refused("no series fits this model: " + "; ".join(dict.fromkeys(reasons)))
    return tuple(taken)


def _job(entry: JobPlan, revision: int) -> Job:
    return Job(
        job_id=entry.job_id,
        generation=1,
        study_instance_uid=entry.study_instance_uid,
        revision=revision,
        model=entry.model,
        version=entry.version,
        card_digest=entry.card_digest,
        inputs=entry.inputs,
        mode=entry.mode,
        priority=entry.priority,
        destinations=(),
        state=JobState.RUNNING,
        stage=Stage.PREPARE,
        attempt=1,
        fence=1,
        created_at=time.time(),
    )


def read_volumes(shelved: ShelvedCard, files: Mapping[str, Sequence[Path]]) -> tuple[dict[str, Volume], Origin]:
    """Read one volume a role, and what the reference role's was made of; raises Refused."""
    from workers import load  # noqa: PLC0415

    loaded = {role: load.load(paths) for role, paths in files.items()}
    for entry in shelved.card.inputs:
        if entry.role in loaded and loaded[entry.role].sources[0].SOPClassUID in frames.ENHANCED:
            _within_limits(loaded[entry.role].volume.grid, entry.accept)
    return {role: entry.volume for role, entry in loaded.items()}, loaded[shelved.card.reference_role].origin


def inspect(shelved: ShelvedCard, files: Mapping[str, Sequence[Path]]) -> None:
    """Judge each role's series as `read_volumes` does, by the headers alone; raises Refused."""
    from workers import load  # noqa: PLC0415

    for entry in shelved.card.inputs:
        grid, header = load.judge(files[entry.role])
        if header.SOPClassUID in frames.ENHANCED:
            _within_limits(grid, entry.accept)


def _within_limits(grid: Grid, accept: Accept) -> None:
    """Refuse a volume made of frames that the card excludes; routing saw no frame's place."""
    between_mm = grid.between_planes_mm
    pixel_mm = (min(grid.spacing_mm[1:]), max(grid.spacing_mm[1:]))
    stack = fit.Stack(slices=grid.shape[0], pixel_mm=pixel_mm, slice_spacing_mm=between_mm, extent_mm=grid.shape[0] * between_mm)
    misfit = fit.loaded(stack, accept)
    if misfit is not None:
        raise Refused(f"The frames do not fit the model: {misfit.sentence}.")


def predict(shelved: ShelvedCard, volumes: Mapping[str, Volume], device: str, policy: gpu.Policy = ANYHOW) -> Prediction:
    """Run the model on that device; raises Unfit, Broken, BadCard, Misconfigured, Retryable.

    A model sees upright volumes only; the slices of a tilted gantry are moved by whole pixels, and its marks moved back.
    """
    upright = {role: tilt.upright(volume) for role, volume in volumes.items()}
    prediction = gpu.predict(shelved, upright, device, policy)
    return tilt.back(prediction, volumes[shelved.card.reference_role].grid)


def _advance(context: Context, claim: jobs.Claim, stage: Stage) -> Following:
    return ((stage, claim.job.job_id),) if jobs.advance(context.ledger, claim, stage) else ()


def card_of(context: Context, job: Job) -> ShelvedCard:
    """Give the card that the job was planned for; raises Misconfigured where it is not here any more."""
    shelved = context.cards.get(job.model)
    if shelved is None:
        raise Misconfigured(f"no model card named {job.model} is installed here; add it to [models] dir on every host")
    if shelved.digest != job.card_digest:
        raise Misconfigured(f"the card or weights of {job.model} changed after this job was planned; send the study again for the new one")
    return shelved


def paths(context: Context, uids: Sequence[str]) -> list[Path]:
    """Give the spool files; raises Refused when retention took one, for it will not come back by itself."""
    found = instances.paths(context.ledger, uids)
    missing = [uid for uid in uids if uid not in found or not (context.settings.data_dir / found[uid]).is_file()]
    if missing:
        raise Refused(f"{len(missing)} of {len(uids)} images are no longer on this node; send the study again")
    return [context.settings.data_dir / found[uid] for uid in uids]


def _shelf(context: Context, job: Job) -> workspace.Shelf:
    return workspace.Shelf(root=context.settings.work_dir, job_id=job.job_id, generation=job.generation, fence=job.fence)


def _request(
    done: tuple[Job, ShelvedCard, Prediction],
    volumes: Mapping[str, Volume],
    origin: Origin,
    files: Mapping[str, Path],
    settings: Settings,
) -> ComposeRequest:
    """Give compose what it needs; `files` by SOP Instance UID."""
    from workers import results  # noqa: PLC0415

    job, shelved, prediction = done
    return results.ComposeRequest(
        job=job,
        card=shelved,
        prediction=prediction,
        volume=volumes[shelved.card.reference_role],
        sources=tuple(frames.headers(origin.sources, files)),
        settings=settings.results,
        frames=tuple(source.frame for source in origin.sources) if any(source.frame for source in origin.sources) else (),
        given=origin.given,
        remark=origin.remark,
    )


def keep(context: Context, job: Job, profile: Profile, composed: Composed) -> Parcel:
    """Make the composed objects durable and describe them; where there are none nothing is kept."""
    from workers.results import profile_digest  # noqa: PLC0415

    blobs = [(entry.kind, entry.dataset_bytes) for entry in composed.objects]
    paths = workspace.keep_parcel(context.settings.data_dir, job, blobs) if blobs else ()
    objects = tuple(
        ParcelObject(
            kind=entry.kind,
            sop_class_uid=entry.sop_class_uid,
            sop_instance_uid=entry.sop_instance_uid,
            series_instance_uid=entry.series_uid,
            transfer_syntax_uid=entry.transfer_syntax_uid,
            path=path,
            sha256=hashlib.sha256(entry.dataset_bytes).hexdigest(),
        )
        for entry, path in zip(composed.objects, paths, strict=True)
    )
    return Parcel(
        job_id=job.job_id,
        generation=job.generation,
        study_instance_uid=job.study_instance_uid,
        profile=profile.name,
        profile_digest=profile_digest(context.settings.results, profile),
        summary=composed.summary,
        objects=objects,
    )
