"""Nouns of the DICOM side and the states they pass through (docs/flow.md)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class RevisionState(StrEnum):
    """A study revision: RECEIVING -> COMPLETE -> PLANNED | DECLINED | HELD | SUPERSEDED."""

    RECEIVING = "RECEIVING"
    COMPLETE = "COMPLETE"
    PLANNED = "PLANNED"
    DECLINED = "DECLINED"
    HELD = "HELD"
    SUPERSEDED = "SUPERSEDED"


class JobState(StrEnum):
    """A job: QUEUED -> RUNNING -> WRITTEN | DECLINED | FAILED | CANCELLED | SUPERSEDED."""

    QUEUED = "QUEUED"
    RUNNING = "RUNNING"
    WRITTEN = "WRITTEN"
    DECLINED = "DECLINED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"
    SUPERSEDED = "SUPERSEDED"


class DeliveryState(StrEnum):
    """A parcel on its way to one destination: PENDING -> SENT -> COMMITTED | ACCEPTED | FAILED."""

    PENDING = "PENDING"
    SENT = "SENT"
    COMMITTED = "COMMITTED"
    ACCEPTED = "ACCEPTED"
    FAILED = "FAILED"


class Stage(StrEnum):
    """A stage of a job, each a Celery task. `deliver` and `recompose` belong to a delivery; `tell` to a job that has failed."""

    PREPARE = "prepare"
    INFER = "infer"
    COMPOSE = "compose"
    DELIVER = "deliver"
    RECOMPOSE = "recompose"
    TELL = "tell"


class Mode(StrEnum):
    """How a rule runs its model: send, keep without sending, or not at all."""

    LIVE = "live"
    SHADOW = "shadow"
    OFF = "off"


@dataclass(frozen=True, slots=True, kw_only=True)
class Instance:
    """One received SOP instance.

    path    of the spool file, relative to the data folder
    header  the attributes routing needs, by DICOM keyword (node.spool.INDEXED), JSON types only
    sha256  of the data set's bytes as they came over the wire, without the file meta information
    """

    sop_instance_uid: str
    sop_class_uid: str
    transfer_syntax_uid: str
    study_instance_uid: str
    series_instance_uid: str
    sha256: str
    path: str
    size_bytes: int
    received_at: float
    calling_ae: str
    called_ae: str
    peer_host: str
    header: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """Instances of one series, ordered by SOP Instance UID."""

    series_instance_uid: str
    instances: tuple[Instance, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Study:
    """One frozen revision of a study; `revision` is displayed, never hashed."""

    study_instance_uid: str
    revision: int
    series: tuple[Series, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class JobPlan:
    """What routing asks for: one model on some series.

    inputs  role -> sorted SOP Instance UIDs
    """

    job_id: str
    study_instance_uid: str
    model: str
    version: str
    card_digest: str
    inputs: Mapping[str, tuple[str, ...]]
    mode: Mode
    priority: int
    destinations: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Declined:
    """Why one model does not take one series."""

    series_instance_uid: str
    model: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Lacking:
    """An input of a model for which nothing came, where other inputs of it have their series; of any of these modalities."""

    model: str
    role: str
    modalities: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Routing's answer for a study."""

    jobs: tuple[JobPlan, ...]
    declined: tuple[Declined, ...]
    lacking: tuple[Lacking, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A job row; `created_at` is the only source of dates in its results.

    provisional  planned on a hint that the study is whole: it is prepared, and goes no further before the proof
    predecessor  the reports that this job's replace, as the destinations have them (node.outbox); fixed when the job is planned
    patient      whose results they are, by the archive's word just before the first compose (node.demographics); fixed then
    """

    job_id: str
    generation: int
    study_instance_uid: str
    revision: int
    model: str
    version: str
    card_digest: str
    inputs: Mapping[str, tuple[str, ...]]
    mode: Mode
    priority: int
    destinations: tuple[str, ...]
    state: JobState
    stage: Stage
    attempt: int
    fence: int
    created_at: float
    reason: str | None = None
    provisional: bool = False
    predecessor: Mapping[str, Any] | None = None
    patient: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ParcelObject:
    """One DICOM object of a parcel; `path` is relative to the data folder."""

    kind: str
    sop_class_uid: str
    sop_instance_uid: str
    series_instance_uid: str
    transfer_syntax_uid: str
    path: str
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Parcel:
    """The results of one job in one viewer profile, in sending order. What is stored is what is sent, byte for byte.

    profile         its name: of one job and name the first that is written stays
    profile_digest  of all that shapes the objects
    """

    job_id: str
    generation: int
    study_instance_uid: str
    profile: str
    profile_digest: str
    summary: str
    objects: tuple[ParcelObject, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """A parcel on its way to one destination (a peer's name).

    profile        of the parcel that is sent
    wants_profile  the destination refuses that one, and this one is to be written instead; nothing is sent meanwhile
    refusals       what it refused so far, oldest first: profile, to, reason, at
    """

    delivery_id: str
    job_id: str
    generation: int
    destination: str
    profile: str
    state: DeliveryState
    attempt: int
    fence: int
    sent: tuple[str, ...] = ()
    transaction_uid: str | None = None
    reason: str | None = None
    wants_profile: str | None = None
    refusals: tuple[Mapping[str, Any], ...] = ()
