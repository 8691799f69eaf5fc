"""The last gate: read the bytes back and compare them with the prediction and the images; nothing leaves that differs.

It shares no code with what writes: bits are unpacked here, frames are placed by their own positions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from io import BytesIO

import pydicom
from pydicom.dataset import Dataset

from node.errors import Refused
from node.profiles import ORDER, Kind
from workers.results import check_failure, check_gsps, check_kos, check_place, check_pm, check_rtstruct, check_sc, check_seg, check_sr
from workers.results.marks import Mark, check_explained, marks, measured
from workers.results.request import ComposedObject, ComposeRequest, FailureRequest, Origin

# Who and which study it is: must come back exactly as the images say it.
IDENTITY = (
    *("PatientName", "PatientID", "IssuerOfPatientID", "StudyInstanceUID", "AccessionNumber", "StudyID"),
    *("SpecificCharacterSet", "TimezoneOffsetFromUTC"),
)
# May have been emptied where the source broke a rule, but never changed.
COPIED = ("PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "StudyDescription", "ReferringPhysicianName")
OWN_LENGTHS = {"SeriesDescription": 64, "ContentLabel": 16, "ContentDescription": 64, "ManufacturerModelName": 64, "DeviceSerialNumber": 64}


def truth(request: ComposeRequest) -> dict[str, Mark]:
    """Give what the prediction marks, measured; raises Refused where it cannot be explained, whatever is written."""
    found = marks(request)
    check_explained(request, found)
    return measured(request, found)


def verify(request: ComposeRequest, objects: Sequence[ComposedObject], known: Callable[[], Mapping[str, Mark]] | None = None) -> None:
    """Raise Refused with the reason unless the objects say what the prediction says, of these images, of this patient.

    known  gives what `truth` gives, or raises what it raises, where somebody has begun with it already
    What is wrong with prediction or images themselves is refused in every profile, for another may be sent where one is refused.
    """
    read: dict[Kind, list[Dataset]] = {}
    for entry in objects:
        read.setdefault(entry.kind, []).append(_read(entry))
    if list(read) != [kind for kind in ORDER if kind in read] or not set(read) <= set(request.profile.objects):
        raise Refused("the result's objects are not those that the profile asks for, in sending order")
    if len(read.get("sr", ())) != 1:
        raise Refused("the result must have exactly one report")
    _check_uids(request, [dataset for datasets in read.values() for dataset in datasets])
    _check_sources(request)
    check_place.check_images(request)
    found = truth(request) if known is None else known()
    for kind, datasets in read.items():
        for dataset in datasets:
            _check_header(request, kind, dataset)
    segs = read.get("seg", [])
    if request.profile.wants("seg"):
        check_seg.verify(request, segs, found)
    if request.profile.wants("pm"):
        check_pm.verify(request, read.get("pm", ()))
    if request.profile.wants("rtstruct"):
        check_rtstruct.verify(request, read.get("rtstruct", ()), found)
    if request.profile.wants("gsps"):
        check_gsps.verify(request, read.get("gsps", []), found)
    check_sc.verify(request, read.get("sc", ()))
    check_kos.verify(request, read.get("kos", ()))
    check_sr.verify(request, read["sr"][0], segs, found)


def verify_failure(request: FailureRequest, entry: ComposedObject) -> None:
    """Raise Refused unless the report says that the analysis of these images of this patient failed, and nothing else."""
    report = _read(entry)
    _check_uids(request, [report])
    _check_sources(request)
    _check_header(request, entry.kind, report)
    check_failure.verify(request, report)


def _check_uids(request: Origin, datasets: Sequence[Dataset]) -> None:
    """Look that no instance has another's UID, and no kind its series.

    Ref: PS3.5 9
    """
    instances = [dataset.SOPInstanceUID for dataset in datasets]
    series = {(dataset.SeriesInstanceUID, dataset.SOPClassUID) for dataset in datasets}
    uids = [*instances, *(uid for uid, _ in series)]
    if len(set(uids)) != len(uids) or set(uids) & {source.SOPInstanceUID for source in request.sources}:
        raise Refused("two objects of the result share a UID")


def _read(entry: ComposedObject) -> Dataset:
    """Read Part 10 bytes; what the row of the object says must be what the file says."""
    dataset = pydicom.dcmread(BytesIO(entry.dataset_bytes))
    meta = dataset.file_meta
    said = (entry.sop_class_uid, entry.sop_instance_uid, entry.series_uid, entry.transfer_syntax_uid)
    if said != (dataset.SOPClassUID, dataset.SOPInstanceUID, dataset.SeriesInstanceUID, meta.TransferSyntaxUID):
        raise Refused(f"the {entry.kind} is not the object it is listed as")
    if (meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID) != (dataset.SOPClassUID, dataset.SOPInstanceUID):
        raise Refused(f"the file meta information of the {entry.kind} names another object")
    return dataset


def _check_sources(request: Origin) -> None:
    """Look at every slice, because one of another patient among them must not pass."""
    for keyword in ("PatientID", "PatientName", "StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID"):
        if len({_text(source, keyword) for source in request.sources}) > 1:
            raise Refused(f"the source images do not agree on {keyword}")


def _check_header(request: Origin, kind: Kind, dataset: Dataset) -> None:
    """Compare who and which study it is, and look at our own words."""
    first = request.sources[0]
    for keyword in IDENTITY:
        if _text(dataset, keyword) != _text(first, keyword) and not (keyword == "TimezoneOffsetFromUTC" and keyword not in dataset):
            raise Refused(f"{keyword} of the {kind} is not that of the images")
    for keyword in COPIED:
        if _text(dataset, keyword) not in {_text(first, keyword), ""}:
            raise Refused(f"{keyword} of the {kind} is not that of the images")
    if dataset.Manufacturer != "Overread":
        raise Refused(f"the {kind} does not say that Overread made it")
    for keyword, length in OWN_LENGTHS.items():
        value = str(dataset.get(keyword, ""))
        if len(value) > length or not value.isascii():
            raise Refused(f"{keyword} of the {kind} is longer than {length} characters or not ASCII")


def _text(dataset: Dataset, keyword: str) -> str:
    """Give a value as text; absent, empty and None are the same, padding does not count."""
    value = dataset.get(keyword)
    return "" if value is None else str(value).rstrip(" \0")
