"""Read parametric maps back voxel by voxel, each frame where its own position says.

Ref: PS3.3 C.8.32.3, C.7.6.16.2.11
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from node.errors import Refused
from workers.results.check_place import check_planes, slice_of
from workers.results.request import ComposeRequest

PROBABILITY = ("122157", "DCM")
EXPLICIT_LITTLE_ENDIAN = "1.2.840.10008.1.2.1"


def verify(request: ComposeRequest, maps: Sequence[Dataset]) -> None:
    """Raise Refused unless there is one map for each label with probabilities, and its real world values are these."""
    card, wanted = request.card.card, request.prediction.probabilities
    titles = {f"Probability of {part.label}"[:64]: part.index for part in card.output.labels if part.index in wanted}
    if sorted(str(entry.ContentDescription) for entry in maps) != sorted(titles):
        raise Refused("the result has not one parametric map for each label that has probabilities")
    for entry in maps:
        label = titles[str(entry.ContentDescription)]
        _check_plane(request, entry)
        _check_references(request, entry)
        mapping = _mapping(entry, (card.label(label).type.value, card.label(label).type.scheme))
        _check_frames(request, entry, wanted[label], mapping)


def _mapping(entry: Dataset, finding: tuple[str, str]) -> tuple[float, float]:
    """Give slope and intercept of what is said to be a probability of that finding."""
    (mapping,) = entry.SharedFunctionalGroupsSequence[0].RealWorldValueMappingSequence
    told = {
        item.ConceptNameCodeSequence[0].CodeValue: (
            item.ConceptCodeSequence[0].CodeValue,
            item.ConceptCodeSequence[0].CodingSchemeDesignator,
        )
        for item in mapping.QuantityDefinitionSequence
    }
    unit = mapping.MeasurementUnitsCodeSequence[0]
    if told != {"246205007": PROBABILITY, "121071": finding} or (unit.CodingSchemeDesignator, unit.CodeValue) != ("UCUM", "1"):
        raise Refused("a parametric map does not say that it holds the probability of its label")
    if (mapping.RealWorldValueFirstValueMapped, mapping.RealWorldValueLastValueMapped) != (0, 255):
        raise Refused("a parametric map does not map all its values")
    return float(mapping.RealWorldValueSlope), float(mapping.RealWorldValueIntercept)


def _check_plane(request: ComposeRequest, entry: Dataset) -> None:
    """Compare frame of reference, orientation and spacing with the images', in millimetres of the farthest corner."""
    grid, shared = request.prediction.grid, entry.SharedFunctionalGroupsSequence[0]
    if entry.FrameOfReferenceUID != request.sources[0].FrameOfReferenceUID:
        raise Refused("a parametric map lies in another frame of reference than the images")
    if (entry.Rows, entry.Columns) != grid.shape[1:] or int(entry.NumberOfFrames) != len(request.sources) != grid.shape[0]:
        raise Refused("a parametric map is not on the images' grid")
    check_planes(request, shared, "parametric map")


def _check_references(request: ComposeRequest, entry: Dataset) -> None:
    """Look for every image in the references, and for nothing else."""
    named = {
        (series.SeriesInstanceUID, item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID)
        for series in entry.ReferencedSeriesSequence
        for item in series.ReferencedInstanceSequence
    }
    if named != {(source.SeriesInstanceUID, source.SOPClassUID, source.SOPInstanceUID) for source in request.sources}:
        raise Refused("a parametric map does not refer to the images")


def _check_frames(request: ComposeRequest, entry: Dataset, wanted: NDArray[np.uint8], mapping: tuple[float, float]) -> None:
    """Put every frame where it says, and compare its real world values with the probabilities there."""
    slope, intercept = mapping
    count, size = int(entry.NumberOfFrames), int(entry.Rows) * int(entry.Columns)
    groups = entry.PerFrameFunctionalGroupsSequence
    if entry.file_meta.TransferSyntaxUID != EXPLICIT_LITTLE_ENDIAN or entry.BitsAllocated != 16 or entry.PixelRepresentation:
        raise Refused("a parametric map is not of unsigned 16 bit values, Explicit VR Little Endian")
    if len(entry.PixelData) != 2 * count * size or len(groups) != count:
        raise Refused("a parametric map has not one description for each frame, or its pixel data is short")
    taken = set()
    for frame, group in enumerate(groups):
        index = slice_of(request, group, "parametric map")
        taken.add(index)
        stored: NDArray[Any] = np.frombuffer(entry.PixelData, "<u2", count=size, offset=2 * frame * size).reshape(wanted.shape[1:])
        # Half a step of 1/255 would already be another probability.
        if np.abs(stored * slope + intercept - wanted[index] / 255).max() > 1e-6:
            raise Refused("a parametric map does not hold the probabilities that the model gave")
    if len(taken) != count:
        raise Refused("two frames of a parametric map lie on one image")
