"""The parametric map: a label's probability at every voxel, on the images' own grid; one object a label, where asked for.

Where the destination takes no object of so many frames a label has several, each of consecutive slices.

Ref: PS3.3 A.75, C.8.32, C.7.6.16.2.11 (Real World Value Mapping)
"""

from __future__ import annotations

from itertools import pairwise

import highdicom
import numpy as np
from highdicom.content import VOILUTTransformation
from highdicom.pm import ParametricMap, RealWorldValueMapping
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.uid import ExplicitVRLittleEndian

from models.card import LabelPart
from node.errors import Refused
from node.profiles import Kind
from workers.results import groups, header, packing, placement, references, wording
from workers.results.identity import object_uid
from workers.results.request import ComposeRequest, Draft

KIND: Kind = "pm"
STEPS = 255
"""A stored value is this many times the probability."""
MAP_SERIES = 10  # added to the Series Number for each further label


def write(draft: Draft) -> tuple[Dataset, ...]:
    """Write one map for each label that the model gives probabilities of, in the card's order; several where it has too many frames."""
    request = draft.request
    known = {part.index: part for part in request.card.card.output.labels}
    if strange := set(request.prediction.probabilities) - set(known):
        raise Refused(f"the prediction gives probabilities of label {min(strange)}, which the model's card does not name")
    parts = [part for index, part in known.items() if index in request.prediction.probabilities]
    pieces = _pieces(request)
    told = [f"{number}/{len(pieces)}" if len(pieces) > 1 else "" for number in range(1, len(pieces) + 1)]
    wanted = [(part, slices, which) for part in parts for slices, which in zip(pieces, told, strict=True)]
    return tuple(_build(draft, *piece, number) for number, piece in enumerate(wanted, start=1))


def _pieces(request: ComposeRequest) -> list[range]:
    """Give the slices of each map of a label: all of them, or as even parts as `frames_max` allows."""
    count, most = len(request.sources), request.profile.frames_max
    pieces = 1 if most is None else -(-count // most)
    borders = [count * piece // pieces for piece in range(pieces + 1)]
    return [range(*pair) for pair in pairwise(borders)]


def _build(draft: Draft, part: LabelPart, slices: range, which: str, number: int) -> Dataset:
    """Write one label's map of these slices, as 16 bits because the standard and other readers know no map of 8."""
    request, place = draft.request, "" if number == 1 else f"-{number}"
    told = wording.message(request, draft.segments) if request.profile.description else f"Probability of {part.label}"
    first, *others = (request.sources[index] for index in slices)
    stored = _values(request, part)[slices.start : slices.stop].astype(np.uint16)
    dataset = ParametricMap(
        source_images=references.stand_ins(request, [header.donor(first), *others], slices),
        pixel_array=stored,
        series_instance_uid=object_uid(request, KIND, f"series{place}"),
        series_number=request.series_number(KIND) + MAP_SERIES * (number - 1),
        sop_instance_uid=object_uid(request, KIND, f"instance{place}"),
        instance_number=1,
        manufacturer=header.MANUFACTURER,
        manufacturer_model_name=header.MANUFACTURER,
        software_versions=header.software_versions(request),  # type: ignore[arg-type]  # pydicom takes a list only
        device_serial_number=request.settings.installation_id,
        contains_recognizable_visual_features=False,
        real_world_value_mappings=[_mapping(part)],
        voi_lut_transformations=[VOILUTTransformation(window_center=(STEPS + 1) / 2, window_width=STEPS + 1)],
        transfer_syntax_uid=ExplicitVRLittleEndian,
        pixel_measures=placement.pixel_measures(request),
        content_label=wording.content_label(request),
        content_description=f"Probability of {part.label}"[:64],
        series_description=wording.series_description(request, KIND, f"{told} {which}".rstrip()),
        contributing_equipment=header.equipment(request),
        specific_character_set=None,
    )
    dataset.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence = placement.pixel_measures(request)
    if request.profile.pm_syntax != "explicit":
        ordered = np.frombuffer(dataset.PixelData, "<u2").reshape(stored.shape)  # highdicom's order of frames is its own
        dataset.PixelData = packing.encoded(ordered, request.profile.pm_syntax)
        dataset.file_meta.TransferSyntaxUID = packing.SYNTAXES[request.profile.pm_syntax]
    references.put_right(request, dataset)
    dataset.BurnedInAnnotation = "NO"
    dataset.Laterality = request.sources[0].get("Laterality")  # type 2C: paired body parts. Ref: PS3.3 C.7.3.1
    header.finish(dataset, request, KIND)
    return dataset


def _values(request: ComposeRequest, part: LabelPart) -> NDArray[np.uint8]:
    if request.prediction.grid.is_projection:
        raise Refused("a parametric map needs images that lie in the patient")
    return request.probabilities(part.index)


def _mapping(part: LabelPart) -> RealWorldValueMapping:
    """Take stored values to probabilities: 0 to 0, 255 to 1; say of what, because a probability alone says nothing."""
    mapping = RealWorldValueMapping(
        lut_label="PROBABILITY",
        lut_explanation=f"Probability of {part.label}"[:64],
        unit=codes.UCUM.NoUnits,
        value_range=(0, STEPS),
        slope=1 / STEPS,
        intercept=0.0,
        quantity_definition=codes.DCM.Probability,
    )
    mapping.QuantityDefinitionSequence.append(highdicom.sr.CodeContentItem(name=codes.DCM.Finding, value=groups.coded(part.type)))
    return mapping
