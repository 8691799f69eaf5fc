"""Nouns of a fetch: what is asked for, what a peer has of it that we lack, what became of it.

Patient data is in here only to compare; it is left out of every repr, and nothing here is logged whole.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace

from node.errors import Retryable

# (images arrived so far, images asked for), called from the thread that fetches
Progress = Callable[[int, int], None]


class Deadline:
    """A moment after which a fetch gives up; `seconds` from its making."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._at = time.monotonic() + seconds

    @property
    def left_s(self) -> float:
        """Give the seconds left, 0 when there are none."""
        return max(self._at - time.monotonic(), 0.0)

    def need(self) -> None:
        """Raise Retryable once the moment has passed."""
        if not self.left_s:
            raise Retryable(f"the fetch was given up after {self.seconds:g} s (the peer's retrieve_timeout_s)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Patient:
    """Whose images they must be."""

    patient_id: str = field(repr=False)
    issuer: str = field(default="", repr=False)

    def is_same(self, other: Patient) -> bool:
        """Compare; an image without an issuer says nothing against one with it. Ref: PS3.3 C.7.1.1."""
        return self.patient_id == other.patient_id and (self.issuer == other.issuer or not self.issuer or not other.issuer)


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundSeries:
    """A series as the peer lists it; `count` None where it does not count."""

    series_instance_uid: str
    modality: str
    count: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundImage:
    """An instance as the peer lists it; the class is empty where it does not say."""

    sop_instance_uid: str
    sop_class_uid: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SeriesPlan:
    """One series: what the peer lists, and which of it is not here."""

    series_instance_uid: str
    modality: str
    listed: tuple[FoundImage, ...]
    missing: tuple[str, ...]

    @property
    def classes(self) -> tuple[str, ...]:
        """Give the SOP classes of what is missing; one of them empty where the peer does not say."""
        lacking = set(self.missing)
        return tuple(sorted({image.sop_class_uid for image in self.listed if image.sop_instance_uid in lacking}))


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchPlan:
    """What a peer has of a study that is not here; `ours` counts our own results there, which are never fetched."""

    peer: str
    how: str
    study_instance_uid: str
    series: tuple[SeriesPlan, ...]
    ours: int = 0
    patient: Patient | None = field(default=None, repr=False)

    @property
    def missing(self) -> tuple[str, ...]:
        """Give every SOP Instance UID that is to be fetched."""
        return tuple(uid for series in self.series for uid in series.missing)

    def only(self, sop_uids: Iterable[str]) -> FetchPlan:
        """Give the part of the plan that asks for these."""
        wanted = set(sop_uids)
        left = (replace(entry, missing=tuple(uid for uid in entry.missing if uid in wanted)) for entry in self.series)
        return replace(self, series=tuple(entry for entry in left if entry.missing))


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchOutcome:
    """What became of a plan.

    retrieved  asked for and here now
    refused    reason -> SOP Instance UIDs that came and were not kept, asked for or not
    missing    asked for and still not here (one that was refused is here no more than one that never came)
    warnings   what the peer said of sub-operations, and why attempts broke off
    """

    peer: str
    how: str
    study_instance_uid: str
    asked: int
    retrieved: tuple[str, ...] = ()
    refused: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    missing: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    attempts: int = 0

    @property
    def complete(self) -> bool:
        """Tell whether all that was asked for is here."""
        return not self.missing


@dataclass(frozen=True, slots=True, kw_only=True)
class PriorQuery:
    """Studies of a patient before a date (YYYYMMDD) and time (HHMMSS, may be empty); never the study itself."""

    patient: Patient = field(repr=False)
    modality: str
    before_date: str = field(repr=False)
    before_time: str = field(default="", repr=False)
    study_instance_uid: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prior:
    """An earlier study; dates are for sorting, not for showing."""

    study_instance_uid: str
    modalities: tuple[str, ...]
    study_date: str = field(repr=False)
    study_time: str = field(repr=False)
    patient: Patient = field(repr=False)
