"""Enhanced multi-frame images made of the same generated slices: what a voxel is follows from its place in LPS."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import Dataset, FileDataset
from pydicom.uid import UID, generate_uid

from tests.workers.slices import Scan, datasets

CLASSES = {"CT": "1.2.840.10008.5.1.4.1.1.2.1", "MR": "1.2.840.10008.5.1.4.1.1.4.1", "PT": "1.2.840.10008.5.1.4.1.1.130"}
# The functional group that holds an attribute.
GROUP_OF = {
    "ImagePositionPatient": "PlanePositionSequence",
    "ImageOrientationPatient": "PlaneOrientationSequence",
    "PixelSpacing": "PixelMeasuresSequence",
    "SliceThickness": "PixelMeasuresSequence",
    "RescaleSlope": "PixelValueTransformationSequence",
    "RescaleIntercept": "PixelValueTransformationSequence",
    "RescaleType": "PixelValueTransformationSequence",
    "StackID": "FrameContentSequence",
    "TemporalPositionIndex": "FrameContentSequence",
    "DimensionIndexValues": "FrameContentSequence",
    "NominalPercentageOfCardiacPhase": "CardiacSynchronizationSequence",
    "EffectiveEchoTime": "MREchoSequence",
    "DiffusionBValue": "MRDiffusionSequence",
    "InversionTimes": "MRModifierSequence",
}
OF_EACH = ("ImagePositionPatient", "DimensionIndexValues", "StackID", "TemporalPositionIndex", "RescaleSlope", "RescaleIntercept")


@dataclass(frozen=True, slots=True, kw_only=True)
class Stack:
    """One pass over a scan's slices: what its frames say besides, and by how much its values are higher."""

    says: dict[str, Any]
    higher: float = 0.0
    scan: Scan | None = None


def enhanced(scan: Scan, stacks: Sequence[Stack] = (Stack(says={}),), *, order: Sequence[int] | None = None) -> FileDataset:
    """Make one enhanced image of every stack's slices, one stack after another or in the order given."""
    planes = [made for stack in stacks for made in _slices(scan, stack)]
    planes = [planes[index] for index in (order if order is not None else range(len(planes)))]
    image = deepcopy(planes[0])
    image.SOPClassUID = image.file_meta.MediaStorageSOPClassUID = UID(CLASSES[scan.modality])
    image.SOPInstanceUID = image.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    image.NumberOfFrames, image.InstanceNumber = len(planes), 1
    image.ImageType = ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"]
    image.PixelData = b"".join(plane.PixelData for plane in planes)
    for keyword in GROUP_OF:
        if keyword in image:
            del image[keyword]
    varies = [keyword for keyword in GROUP_OF if len({str(plane.get(keyword)) for plane in planes}) > 1 or keyword in OF_EACH]
    image.SharedFunctionalGroupsSequence = [_groups(planes[0], [keyword for keyword in GROUP_OF if keyword not in varies])]
    image.PerFrameFunctionalGroupsSequence = [_groups(plane, varies) for plane in planes]
    return image


def _slices(scan: Scan, stack: Stack) -> list[FileDataset]:
    of = stack.scan or scan
    made = datasets(replace(of, truth=lambda points: of.truth(points) + stack.higher))
    for index, plane in enumerate(made):
        if scan.modality == "CT":
            plane.RescaleType = "HU"
        plane.DimensionIndexValues = [1, index + 1]
        for keyword, value in stack.says.items():
            setattr(plane, keyword, value)
    return made


def _groups(plane: Dataset, keywords: Sequence[str]) -> Dataset:
    """Put attributes into their groups."""
    item = Dataset()
    for keyword in keywords:
        if keyword in plane:
            if GROUP_OF[keyword] not in item:
                setattr(item, GROUP_OF[keyword], [Dataset()])
            getattr(item, GROUP_OF[keyword])[0].add(plane[keyword])
    return item


def save(folder: Path, *images: FileDataset) -> list[Path]:
    """Write images, in one series, with the patient of the first."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for index, image in enumerate(images):
        for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID"):
            setattr(image, keyword, images[0][keyword].value)
        paths.append(folder / f"{index}.dcm")
        image.save_as(paths[-1], enforce_file_format=True)
    return paths


def mixed(count: int, seed: int = 3) -> list[int]:
    """Give an order of frames that says nothing of their places."""
    return [int(index) for index in np.random.default_rng(seed).permutation(count)]
