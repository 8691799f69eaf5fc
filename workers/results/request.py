"""What compose is given, what its writers share, and what it gives back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from models.card import ShelvedCard
from models.vocabulary import Prediction, Volume
from node.errors import Refused
from node.profiles import BUILT_IN, Kind, Profile
from node.settings import ResultsSection
from node.study import Job

if TYPE_CHECKING:
    from workers.measure import SegmentMeasures
    from workers.results.segments import Segment


class Origin(Protocol):
    """What every object says of where it comes from: an analysis that ended, or one that failed."""

    @property
    def job(self) -> Job:
        """Give the job's row."""

    @property
    def card(self) -> ShelvedCard:
        """Give the model's card."""

    @property
    def sources(self) -> tuple[Dataset, ...]:
        """Give the headers of the images."""

    @property
    def settings(self) -> ResultsSection:
        """Give the site's settings."""

    @property
    def profile(self) -> Profile:
        """Give the viewer profile."""

    @property
    def variant(self) -> Mapping[str, str]:
        """Give what the model ran on."""

    def series_number(self, kind: Kind) -> int:
        """Give the Series Number of an object of that kind."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FailureRequest:
    """An analysis that failed, and the viewer profile its report is written for.

    sources  headers of the reference series without pixels, in any order; at least one
    reason   in words for a technologist; nothing of the patient
    """

    job: Job
    card: ShelvedCard
    sources: tuple[Dataset, ...]
    settings: ResultsSection
    reason: str
    profile: Profile = BUILT_IN["ohif"]

    @property
    def variant(self) -> Mapping[str, str]:
        """Give nothing: no model ran to its end."""
        return {}

    def series_number(self, kind: Kind) -> int:
        """Give the Series Number of an object of that kind: the profile's, else that of the settings."""
        return self.profile.series_numbers.get(kind, self.settings.series_numbers[kind])


@dataclass(frozen=True, slots=True, kw_only=True)
class ComposeRequest:
    """One finished analysis, and the viewer profile it is written for.

    sources  the reference series' headers without pixels, in the order of the volume's z axis; a frame of a multi-frame
             image has a header of its own, with the image's UIDs
    frames   each source's frame number in its image, None for an image of its own; empty where all are
    given    how many planes the reference series' files hold; None: as many as the job names images
    remark   in words, what of them was analysed, and that the gantry leaned; empty where all is as usual
    """

    job: Job
    card: ShelvedCard
    prediction: Prediction
    volume: Volume
    sources: tuple[Dataset, ...]
    settings: ResultsSection
    profile: Profile = BUILT_IN["ohif"]
    frames: tuple[int | None, ...] = ()
    given: int | None = None
    remark: str = ""

    @property
    def variant(self) -> Mapping[str, str]:
        """Give what the model ran on."""
        return self.prediction.variant

    def probabilities(self, label: int) -> NDArray[np.uint8]:
        """Give a label's probability (z, y, x), 0..255 for 0 to 1; raises Refused where it does not lie on the images' grid."""
        values = self.prediction.probabilities[label]
        if values.shape != self.prediction.grid.shape or values.dtype != np.uint8:
            raise Refused(f"the probabilities of label {label} are not on the images' grid")
        return values

    def frame(self, index: int) -> int | None:
        """Give the frame number of a slice's source, None where it is an image of its own."""
        return self.frames[index] if self.frames else None

    def series_number(self, kind: Kind) -> int:
        """Give the Series Number of an object of that kind: the profile's, else that of the settings."""
        return self.profile.series_numbers.get(kind, self.settings.series_numbers[kind])


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """What every writer starts from: the request, what is marked and measured, and the objects written before, by kind."""

    request: ComposeRequest
    measured: tuple[tuple[Segment, SegmentMeasures], ...]
    written: Mapping[Kind, tuple[Dataset, ...]] = field(default_factory=dict)

    @property
    def segments(self) -> tuple[Segment, ...]:
        """Give the segments by number."""
        return tuple(segment for segment, _ in self.measured)


@dataclass(frozen=True, slots=True, kw_only=True)
class ComposedObject:
    """One DICOM object as Part-10 bytes."""

    kind: Kind
    dataset_bytes: bytes
    sop_class_uid: str
    sop_instance_uid: str
    series_uid: str
    transfer_syntax_uid: str
