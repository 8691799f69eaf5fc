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

    sources  the reference series' headers without pixels, in the order of the volume's z axis
    """

    job: Job
    card: ShelvedCard
    prediction: Prediction
    volume: Volume
    sources: tuple[Dataset, ...]
    settings: ResultsSection


@dataclass(frozen=True, slots=True, kw_only=True)
class ComposedObject:
    """One DICOM object as Part-10 bytes; `kind` is "seg" or "sr"."""

    kind: str
    dataset_bytes: bytes
    sop_class_uid: str
    sop_instance_uid: str
    series_uid: str
    transfer_syntax_uid: str
