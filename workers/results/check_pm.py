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
from workers.results.request import ComposeRequest

PLACE_MM = 1e-3
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
    """Compare frame of reference, orientation and spacing with the grid, in millimetres of the farthest corner."""
    grid, shared = request.prediction.grid, entry.SharedFunctionalGroupsSequence[0]
    if entry.FrameOfReferenceUID != request.sources[0].FrameOfReferenceUID:
        raise Refused("a parametric map lies in another frame of reference than the images")
    if (entry.Rows, entry.Columns) != grid.shape[1:] or int(entry.NumberOfFrames) != len(request.sources) != grid.shape[0]:
        raise Refused("a parametric map is not on the images' grid")
    orientation = np.array(shared.PlaneOrientationSequence[0].ImageOrientationPatient, dtype=float)
    measures = shared.PixelMeasuresSequence[0]
    spacing = np.array(measures.PixelSpacing, dtype=float)
    # x grows along the row's direction by the distance between columns, the second spacing. Ref: PS3.3 C.7.6.2.1.1
    off_x = (grid.affine[:3, 2] - orientation[:3] * spacing[1]) * grid.shape[2]
    off_y = (grid.affine[:3, 1] - orientation[3:] * spacing[0]) * grid.shape[1]
    off_z = float(measures.SpacingBetweenSlices) - grid.between_planes_mm
    if max(np.abs(off_x).max(), np.abs(off_y).max(), abs(off_z)) > PLACE_MM:
        raise Refused("a parametric map's orientation or spacing is not that of the images")


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
        index = _slice_of(request, group)
        taken.add(index)
        stored: NDArray[Any] = np.frombuffer(entry.PixelData, "<u2", count=size, offset=2 * frame * size).reshape(wanted.shape[1:])
        # Half a step of 1/255 would already be another probability.
        if np.abs(stored * slope + intercept - wanted[index] / 255).max() > 1e-6:
            raise Refused("a parametric map does not hold the probabilities that the model gave")
    if len(taken) != count:
        raise Refused("two frames of a parametric map lie on one image")


def _slice_of(request: ComposeRequest, group: Dataset) -> int:
    """Find the slice a frame lies on by its position alone, and compare with the source it names."""
    grid = request.prediction.grid
    position = np.array([group.PlanePositionSequence[0].ImagePositionPatient], dtype=float)
    index = round(float(grid.to_index(position)[0, 0]))
    if not 0 <= index < grid.shape[0] or np.abs(grid.to_world_mm(np.array([[index, 0.0, 0.0]])) - position).max() > PLACE_MM:
        raise Refused("a frame of a parametric map lies on none of the images")
    images = [item for entry in group.DerivationImageSequence for item in entry.SourceImageSequence]
    derived = [(item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID, item.get("ReferencedFrameNumber")) for item in images]
    source = request.sources[index]
    if derived != [(source.SOPClassUID, source.SOPInstanceUID, request.frame(index))]:
        raise Refused("a frame of a parametric map names another source image than the one it lies on")
    return index
