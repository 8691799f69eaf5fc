"""What compose is given and what it gives back."""

from __future__ import annotations

from dataclasses import dataclass

from pydicom.dataset import Dataset

from models.card import ShelvedCard
from models.vocabulary import Prediction, Volume
from node.settings import ResultsSection
from node.study import Job


@dataclass(frozen=True, slots=True, kw_only=True)
class ComposeRequest:
    """One finished analysis.

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
    frames: tuple[int | None, ...] = ()
    given: int | None = None
    remark: str = ""

    def frame(self, index: int) -> int | None:
        """Give the frame number of a slice's source, None where it is an image of its own."""
        return self.frames[index] if self.frames else None


@dataclass(frozen=True, slots=True, kw_only=True)
class ComposedObject:
    """One DICOM object as Part-10 bytes; `kind` is "seg" or "sr"."""

    kind: str
    dataset_bytes: bytes
    sop_class_uid: str
    sop_instance_uid: str
    series_uid: str
    transfer_syntax_uid: str
