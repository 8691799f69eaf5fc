"""What every object carries: patient and study from the source, equipment and dates of our own.

Ref: PS3.3 C.7, C.12.1
"""

from __future__ import annotations

import datetime as dt
import importlib.metadata
import struct
from collections.abc import Iterable
from copy import deepcopy
from io import BytesIO
from typing import Any

import highdicom
from pydicom import config, dcmwrite
from pydicom.datadict import dictionary_has_tag, dictionary_VM
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sr.codedict import codes
from pydicom.uid import UID, ExplicitVRLittleEndian
from pydicom.valuerep import validate_value

from models.card import ascii_only
from node.errors import Refused
from node.part10 import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION
from node.profiles import Kind
from workers.frames import ENHANCED, PROJECTIONS
from workers.results import identity
from workers.results.request import ComposedObject, Origin

MANUFACTURER = "Overread"  # routing knows our own results by it
# Type 2 in the Patient and General Study modules; highdicom raises AttributeError where one is missing.
REQUIRED = (
    *("PatientName", "PatientID", "PatientBirthDate", "PatientSex"),
    *("StudyDate", "StudyTime", "ReferringPhysicianName", "StudyID", "AccessionNumber"),
)
# Kept verbatim even where they break a rule: an archive that took the images knows the patient and the order by them.
VERBATIM = frozenset(
    {"PatientName", "PatientID", "IssuerOfPatientID", "StudyInstanceUID", "StudyID", "AccessionNumber", "SpecificCharacterSet"}
)
PIXEL_DATA = 0x7FE00010
REFERABLE = frozenset({*ENHANCED, *ENHANCED.values(), *PROJECTIONS})
TEXT_VRS = frozenset({"AE", "AS", "CS", "DA", "DS", "DT", "IS", "LO", "LT", "PN", "SH", "ST", "TM", "UC", "UI", "UR", "UT"})


def donor(source: Dataset) -> Dataset:
    """Copy the header of an image that a result can point at, see `inherited`; raises Refused for others."""
    copy = inherited(source)
    _referable(copy)
    return copy


def inherited(source: Dataset) -> Dataset:
    """Copy one source header into a form every object may inherit from: complete, and valid where it may be changed.

    A broken value of a type 3 attribute is left out, of a type 2 one emptied, and so is a sequence with a code that is none;
    PatientSex outside M, F, O becomes unknown.
    """
    copy = Dataset()
    for element in source:
        if not element.tag.is_private and element.tag.group != 0x7FE0 and (element.keyword in VERBATIM or _valid(element)):
            copy.add(deepcopy(element))
    for keyword in REQUIRED:
        if keyword not in copy:
            setattr(copy, keyword, None)
    if not {"PatientSpeciesDescription", "PatientSpeciesCodeSequence"}.isdisjoint(copy.dir()) and "PatientSexNeutered" not in copy:
        copy.PatientSexNeutered = None  # type 2C of a patient that is no human. Ref: PS3.3 C.7.2.2
    # highdicom warns of a name without a caret, and its warning holds the name; of several character sets it refuses the
    # first, which is empty. `finish` puts both in.
    copy.PatientName = None
    copy.pop("SpecificCharacterSet", None)
    if copy.PatientSex not in {"M", "F", "O"}:
        copy.PatientSex = None
    return copy


def _referable(source: Dataset) -> None:
    """Refuse images that a result cannot point at; a radiograph lies in no frame of reference."""
    if not source.get("FrameOfReferenceUID") and source.get("SOPClassUID") not in PROJECTIONS:
        raise Refused("the images have no Frame of Reference UID, so marks cannot be placed on them")
    named(source)
    if source.get("SOPClassUID") not in REFERABLE:
        raise Refused("the images are not CT, MR, PET, CR, DX or mammography images; results on other kinds are not written")


def named(source: Dataset) -> None:
    """Refuse images without the UIDs by which a report names them."""
    for keyword in ("SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID"):
        if not source.get(keyword):
            raise Refused(f"the images have no {keyword}, so a result cannot refer to them")


def _valid(element: DataElement) -> bool:
    """Tell whether a value obeys its VR.

    Ref: PS3.5 6.2
    """
    if element.VR == "SQ":
        return all(_whole(element.keyword, item) and all(map(_valid, item)) for item in element.value)
    if element.VM > 1 and dictionary_has_tag(element.tag) and dictionary_VM(element.tag) == "1":
        return False
    if element.VR not in TEXT_VRS:
        return True
    values: Iterable[Any] = element.value if element.VM > 1 else (element.value,)
    try:
        for value in values:
            validate_value(element.VR, None if value is None else str(value), config.RAISE)
    except ValueError:
        return False
    return True


def _whole(keyword: str, item: Dataset) -> bool:
    """Tell whether a code has value, scheme and meaning, and a person named by a code an institution.

    Ref: PS3.3 Table 8.8-1a, 10-1
    """
    if keyword.endswith("CodeSequence"):
        value = any(item.get(name) for name in ("CodeValue", "LongCodeValue", "URNCodeValue"))
        return bool(value and item.get("CodeMeaning") and (item.get("CodingSchemeDesignator") or item.get("URNCodeValue")))
    if "PersonIdentificationCodeSequence" in item:
        return bool(item.get("InstitutionName") or item.get("InstitutionCodeSequence"))
    return True


def software_versions(request: Origin) -> list[str]:
    """Give node and model, each with its version."""
    model = request.card.card.model
    return [f"overread {importlib.metadata.version('overread')}", f"{model.name} {model.version}"]


def equipment(request: Origin) -> list[highdicom.ContributingEquipment]:
    """Describe the model as contributing equipment, with the digests of its weights and what it ran on."""
    model = request.card.card.model
    facts = [f"{name} sha256 {file.sha256}" for name, file in sorted(request.card.card.runtime.files.items())]
    facts.append(f"card sha256 {request.card.digest}")
    facts += [f"{name} {value}" for name, value in sorted(request.variant.items())]
    return [
        highdicom.ContributingEquipment(
            manufacturer=MANUFACTURER,
            purpose_of_reference=codes.DCM.ProcessingEquipment,
            manufacturer_model_name=model.title,
            software_versions=model.version,
            contribution_description=ascii_only("; ".join(facts))[:1024],
        )
    ]


def finish(dataset: Dataset, request: Origin, kind: Kind) -> None:
    """Put in everything that neither a clock nor chance may decide, and what highdicom has no argument for."""
    source = request.sources[0]
    _set_dates(dataset, request)
    dimension = identity.object_uid(request, kind, "dimension")
    for sequence in ("DimensionOrganizationSequence", "DimensionIndexSequence"):
        for item in dataset.get(sequence, ()):
            item.DimensionOrganizationUID = dimension
    if source.get("SpecificCharacterSet"):  # an empty one says what none says, and is no valid value
        dataset.add(deepcopy(source["SpecificCharacterSet"]))
    if "PatientName" in source:
        dataset.add(deepcopy(source["PatientName"]))
    if request.settings.institution:
        dataset.InstitutionName = ascii_only(request.settings.institution)[:64]


def _set_dates(dataset: Dataset, request: Origin) -> None:
    moment = moment_of(request)
    content = "PresentationCreation" if "PresentationCreationDate" in dataset else "Content"
    for moment_of_what in ("InstanceCreation", content, "Series"):
        setattr(dataset, f"{moment_of_what}Date", f"{moment:%Y%m%d}")
        setattr(dataset, f"{moment_of_what}Time", f"{moment:%H%M%S.%f}")
    if offset := _offset_of(request.sources[0]):
        dataset.TimezoneOffsetFromUTC = offset
    for item in dataset.ContributingEquipmentSequence:
        if item.PurposeOfReferenceCodeSequence[0].CodeValue != codes.DCM.AcquisitionEquipment.value:
            item.ContributionDateTime = f"{moment:%Y%m%d%H%M%S.%f%z}"


def moment_of(request: Origin) -> dt.datetime:
    """Give the job's moment in the source's time zone where it names one, else in UTC.

    TimezoneOffsetFromUTC holds for every date of an object, the copied study date too. So it is taken over from the
    source or left out, never added; date-times of our own carry their offset themselves. Ref: PS3.3 C.12.1.1.8
    """
    offset = _offset_of(request.sources[0])
    zone = dt.UTC
    if offset:
        sign = -1 if offset[0] == "-" else 1
        zone = dt.timezone(sign * dt.timedelta(hours=int(offset[1:3]), minutes=int(offset[3:5])))
    return dt.datetime.fromtimestamp(request.job.created_at, zone)


def _offset_of(source: Dataset) -> str | None:
    """Give "+0100" or "-0500" from the source, None where it has none that can be read."""
    value = str(source.get("TimezoneOffsetFromUTC") or "").strip()
    well_formed = len(value) == 5 and value[0] in "+-" and value[1:].isdigit() and int(value[1:3]) <= 14 and int(value[3:]) < 60
    return value if well_formed else None


def encode(dataset: Dataset, kind: Kind) -> ComposedObject:
    """Write the object as Part 10 under file meta information of our own."""
    meta = FileMetaDataset()
    meta.FileMetaInformationVersion = b"\x00\x01"
    meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    meta.TransferSyntaxUID = dataset.file_meta.TransferSyntaxUID
    meta.ImplementationClassUID = UID(IMPLEMENTATION_CLASS_UID)
    meta.ImplementationVersionName = IMPLEMENTATION_VERSION
    dataset.file_meta = meta
    return ComposedObject(
        kind=kind,
        dataset_bytes=_written(dataset),
        sop_class_uid=str(dataset.SOPClassUID),
        sop_instance_uid=str(dataset.SOPInstanceUID),
        series_uid=str(dataset.SeriesInstanceUID),
        transfer_syntax_uid=str(meta.TransferSyntaxUID),
    )


def _written(dataset: Dataset) -> bytes:
    """Write Part 10 bytes; native pixels, which come last, are put behind what pydicom writes: it copies them three times."""
    pixels = dataset.get("PixelData")
    if not pixels or len(pixels) % 2 or dataset.file_meta.TransferSyntaxUID != ExplicitVRLittleEndian or max(dataset.keys()) != PIXEL_DATA:
        return _by_pydicom(dataset)
    dataset.PixelData = b""
    head = _by_pydicom(dataset)
    dataset.PixelData = pixels
    return b"".join([head[:-4], struct.pack("<L", len(pixels)), pixels])


def _by_pydicom(dataset: Dataset) -> bytes:
    buffer = BytesIO()
    dcmwrite(buffer, dataset, enforce_file_format=True)
    return buffer.getvalue()
