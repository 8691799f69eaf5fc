"""The parametric map: a label's probability at every voxel, on the images' own grid; one object a label, where asked for.

Ref: PS3.3 A.75, C.8.32, C.7.6.16.2.11 (Real World Value Mapping)
"""

from __future__ import annotations

import highdicom
import numpy as np
from highdicom.content import VOILUTTransformation
from highdicom.pm import ParametricMap, RealWorldValueMapping
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.uid import ExplicitVRLittleEndian

from models.card import LabelPart
from node.errors import Refused
from node.profiles import Kind
from workers.results import groups, header, placement, references, wording
from workers.results.identity import object_uid
from workers.results.request import Draft

KIND: Kind = "pm"
STEPS = 255
"""A stored value is this many times the probability."""
MAP_SERIES = 10  # added to the Series Number for each further label


def write(draft: Draft) -> tuple[Dataset, ...]:
    """Write one map for each label that the model gives probabilities of, in the card's order."""
    request = draft.request
    known = {part.index: part for part in request.card.card.output.labels}
    if strange := set(request.prediction.probabilities) - set(known):
        raise Refused(f"the prediction gives probabilities of label {min(strange)}, which the model's card does not name")
    parts = [part for index, part in known.items() if index in request.prediction.probabilities]
    return tuple(_build(draft, part, number) for number, part in enumerate(parts, start=1))


def _build(draft: Draft, part: LabelPart, number: int) -> Dataset:
    """Write one label's map, as 16 bits because the standard and other readers know no map of 8."""
    request, place = draft.request, "" if number == 1 else f"-{number}"
    values = request.prediction.probabilities[part.index]
    if values.shape != request.prediction.grid.shape or values.dtype != np.uint8:
        raise Refused(f"the probabilities of label {part.index} are not on the images' grid")
    if request.prediction.grid.is_projection:
        raise Refused("a parametric map needs images that lie in the patient")
    told = wording.message(request, draft.segments) if request.profile.description else f"Probability of {part.label}"
    dataset = ParametricMap(
        source_images=references.stand_ins(request, [header.donor(request.sources[0]), *request.sources[1:]]),
        pixel_array=values.astype(np.uint16),
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
        series_description=wording.series_description(request, KIND, told),
        contributing_equipment=header.equipment(request),
        specific_character_set=None,
    )
    dataset.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence = placement.pixel_measures(request)
    references.put_right(request, dataset)
    dataset.BurnedInAnnotation = "NO"
    dataset.Laterality = request.sources[0].get("Laterality")  # type 2C: paired body parts. Ref: PS3.3 C.7.3.1
    header.finish(dataset, request, KIND)
    return dataset


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
