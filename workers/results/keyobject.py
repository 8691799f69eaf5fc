"""The key object selection: the images that matter, by reference, so that a viewer can show them first.

Ref: PS3.3 A.35.4, C.17.6; PS3.16 TID 2010
"""

from __future__ import annotations

from highdicom.ko import KeyObjectSelection, KeyObjectSelectionDocument
from pydicom.dataset import Dataset
from pydicom.sr.coding import Code as PydicomCode
from pydicom.uid import ExplicitVRLittleEndian

from node.profiles import Kind
from workers.results import header, keyimages, references, sr_context, wording
from workers.results.identity import object_uid
from workers.results.request import Draft

KIND: Kind = "kos"
OF_INTEREST = PydicomCode("113000", "DCM", "Of Interest")


def write(draft: Draft) -> tuple[Dataset, ...]:
    """Select each slice on which something marked is largest; no object where nothing is marked."""
    indices, every = keyimages.indices(draft)
    return (_build(draft, indices, every),) if indices else ()


def _build(draft: Draft, indices: list[int], every: int) -> Dataset:
    request = draft.request
    left_out = f" {len(indices)} of {every} key images are selected." if len(indices) < every else ""
    first = header.donor(request.sources[indices[0]])
    dataset = KeyObjectSelectionDocument(
        evidence=[first, *(request.sources[index] for index in indices[1:])],
        content=KeyObjectSelection(
            document_title=OF_INTEREST,
            referenced_objects=[request.sources[index] for index in indices],
            observer_device_context=sr_context.device(request),
            description=f"{wording.statement(request, draft.segments)}{left_out}",
        ),
        series_instance_uid=object_uid(request, KIND, "series"),
        series_number=request.series_number(KIND),
        sop_instance_uid=object_uid(request, KIND, "instance"),
        instance_number=1,
        manufacturer=header.MANUFACTURER,
        manufacturer_model_name=header.MANUFACTURER,
        software_versions=header.software_versions(request),
        device_serial_number=request.settings.installation_id,
        series_description=wording.series_description(request, KIND),
        contributing_equipment=header.equipment(request),
        specific_character_set=None,
        transfer_syntax_uid=ExplicitVRLittleEndian,
    )
    dataset.copy_patient_and_study_information(first)
    images = (item for item in dataset.ContentSequence if item.ValueType == "IMAGE")
    for item, index in zip(images, indices, strict=True):
        references.point(request, item.ReferencedSOPSequence[0], index)
    header.finish(dataset, request, KIND)
    return dataset
