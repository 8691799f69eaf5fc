"""Read parametric maps back voxel by voxel, each frame where its own position says.

Ref: PS3.3 C.8.32.3, C.7.6.16.2.11
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.pixels.utils import iter_pixels

from node.errors import Refused
from workers.results.check_place import check_planes, slice_of
from workers.results.request import ComposeRequest

PROBABILITY = ("122157", "DCM")
SYNTAXES = {"explicit": "1.2.840.10008.1.2.1", "rle": "1.2.840.10008.1.2.5", "jpeg-ls": "1.2.840.10008.1.2.4.80"}


def verify(request: ComposeRequest, maps: Sequence[Dataset]) -> None:
    """Raise Refused unless the maps hold each label's probabilities once at every voxel, and their real world values are these."""
    card, wanted = request.card.card, request.prediction.probabilities
    titles = {f"Probability of {part.label}"[:64]: part.index for part in card.output.labels if part.index in wanted}
    found: dict[str, list[int]] = {title: [] for title in titles}
    for entry in maps:
        title = str(entry.ContentDescription)
        if title not in titles:
            raise Refused("the result has a parametric map of a label without probabilities")
        label = titles[title]
        mapping = _mapping(entry, (card.label(label).type.value, card.label(label).type.scheme))
        _check_form(request, entry)
        slices = _check_frames(request, entry, wanted[label], mapping)
        _check_references(request, entry, slices)
        found[title] += slices
    if any(sorted(slices) != list(range(len(request.sources))) for slices in found.values()):
        raise Refused("the result has not one parametric map for each label that has probabilities, or a slice of one is missing")
    if len({entry.SeriesInstanceUID for entry in maps}) != len(maps):
        raise Refused("two parametric maps of the result share a series, of which a viewer shows one")


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


def _check_form(request: ComposeRequest, entry: Dataset) -> None:
    """Compare frame of reference, orientation and spacing with the images', and the form with what the profile asks for."""
    grid, profile = request.prediction.grid, request.profile
    if entry.FrameOfReferenceUID != request.sources[0].FrameOfReferenceUID:
        raise Refused("a parametric map lies in another frame of reference than the images")
    if (entry.Rows, entry.Columns) != grid.shape[1:]:
        raise Refused("a parametric map is not on the images' grid")
    check_planes(request, entry.SharedFunctionalGroupsSequence[0], "parametric map")
    if entry.file_meta.TransferSyntaxUID != SYNTAXES[profile.pm_syntax] or entry.BitsAllocated != 16 or entry.PixelRepresentation:
        raise Refused("a parametric map is not of unsigned 16 bit values in the transfer syntax that the profile asks for")
    if profile.frames_max is not None and int(entry.NumberOfFrames) > profile.frames_max:
        raise Refused(f"a parametric map has more than the {profile.frames_max} frames that the profile allows")


def _check_references(request: ComposeRequest, entry: Dataset, slices: Sequence[int]) -> None:
    """Look for every image that the map lies on in its references, and for nothing else."""
    named = {
        (series.SeriesInstanceUID, item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID)
        for series in entry.ReferencedSeriesSequence
        for item in series.ReferencedInstanceSequence
    }
    sources = [request.sources[index] for index in slices]
    if named != {(source.SeriesInstanceUID, source.SOPClassUID, source.SOPInstanceUID) for source in sources}:
        raise Refused("a parametric map does not refer to the images")


def _check_frames(request: ComposeRequest, entry: Dataset, wanted: NDArray[np.uint8], mapping: tuple[float, float]) -> list[int]:
    """Put every frame where it says, compare its real world values with the probabilities there, and give the slices."""
    slope, intercept = mapping
    groups = entry.PerFrameFunctionalGroupsSequence
    if len(groups) != int(entry.NumberOfFrames):
        raise Refused("a parametric map has not one description for each frame")
    taken = []
    for stored, group in zip(_frames(entry), groups, strict=True):
        index = slice_of(request, group, "parametric map")
        taken.append(index)
        # Half a step of 1/255 would already be another probability.
        if np.abs(stored * slope + intercept - wanted[index] / 255).max() > 1e-6:
            raise Refused("a parametric map does not hold the probabilities that the model gave")
    if len(set(taken)) != len(taken):
        raise Refused("two frames of a parametric map lie on one image")
    return taken


def _frames(entry: Dataset) -> Iterator[NDArray[Any]]:
    """Give each frame's stored values; what is encoded is decoded by pydicom and its plug-ins, never by what encoded it."""
    count, size = int(entry.NumberOfFrames), int(entry.Rows) * int(entry.Columns)
    if entry.file_meta.TransferSyntaxUID != SYNTAXES["explicit"]:
        try:
            yield from list(iter_pixels(entry, raw=True))
        except (ValueError, RuntimeError, AttributeError) as error:
            raise Refused(f"a parametric map's pixel data is short or cannot be decoded ({type(error).__name__})") from None
        return
    if len(entry.PixelData) != 2 * count * size:
        raise Refused("a parametric map's pixel data is short")
    for frame in range(count):
        yield np.frombuffer(entry.PixelData, "<u2", count=size, offset=2 * frame * size).reshape(int(entry.Rows), int(entry.Columns))
