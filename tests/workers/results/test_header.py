"""Patient, study, dates and character sets."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from io import BytesIO
from typing import Any

import pydicom
import pytest
from pydicom import config
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian

from node.settings import ResultsSection
from tests.workers.results import scans, sources
from tests.workers.results.strict import broken
from workers.results import ComposeRequest, compose, header, identity


def read(request: ComposeRequest) -> dict[str, Dataset]:
    """Compose and read back."""
    return {entry.kind: pydicom.dcmread(BytesIO(entry.dataset_bytes)) for entry in compose(request).objects}


def received(request: ComposeRequest) -> ComposeRequest:
    """Give the request with sources that went through a file, as received images do."""
    sources = []
    for source in request.sources:
        buffer = BytesIO()
        source.file_meta = pydicom.dataset.FileMetaDataset()
        source.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        pydicom.dcmwrite(buffer, source, enforce_file_format=True)
        sources.append(pydicom.dcmread(BytesIO(buffer.getvalue())))
    return replace(request, sources=tuple(sources))


NAMES = {
    "ISO_IR 100": "Müller^Jürgen",
    "ISO_IR 144": "Иванов^Иван",
    "ISO_IR 192": "王^小東=王^小东",
    r"\ISO 2022 IR 87": "Yamada^Tarou=山田^太郎=やまだ^たろう",
    r"\ISO 2022 IR 149": "Hong^Gildong=洪^吉洞=홍^길동",
    "GB18030": "Wang^XiaoDong=王^小东",
}


@pytest.mark.parametrize("character_set", NAMES)
def test_names_come_back_in_the_character_set_of_the_images(character_set: str) -> None:
    """The archive compares names byte by byte, so the character set is kept and not translated."""
    value: Any = character_set.split("\\") if "\\" in character_set else character_set
    request = received(scans.request(SpecificCharacterSet=value, PatientName=NAMES[character_set]))
    request = replace(request, profile=sources.EVERYTHING)
    for dataset in read(request).values():
        assert str(dataset.PatientName) == NAMES[character_set]
        assert dataset.SpecificCharacterSet == request.sources[0].SpecificCharacterSet


def test_a_name_of_one_component_raises_no_warning_that_would_hold_it() -> None:
    """A library's warning about an odd name would write it into the log; warnings are errors in this run."""
    assert read(scans.request(PatientName="ANONYMOUS"))["sr"].PatientName == "ANONYMOUS"


def test_patient_and_study_are_those_of_the_images() -> None:
    """Results never open a new study or change who the patient is."""
    for dataset in read(scans.request()).values():
        assert (dataset.PatientID, dataset.IssuerOfPatientID, dataset.PatientBirthDate) == ("PHI-7391", "Hospital", "19600229")
        assert (dataset.AccessionNumber, dataset.StudyID, dataset.StudyDescription) == ("ACC-55", "S1", "CT chest")


@pytest.mark.parametrize(
    "keyword",
    ["PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID", "ReferringPhysicianName", "StudyDate", "StudyTime", "PatientName"],
)
def test_an_image_without_a_type_2_attribute_still_gives_a_result(keyword: str) -> None:
    """Real archives hold images without them; the result has the attribute, empty."""
    request = scans.request()
    for source in request.sources:
        delattr(source, keyword)
    for dataset in read(request).values():
        assert keyword in dataset
        assert not dataset[keyword].value


@pytest.mark.parametrize("sex", ["X", "U", "female", ""])
def test_a_sex_outside_the_standards_values_becomes_unknown(sex: str) -> None:
    """A result must be valid even where the image is not."""
    assert {str(dataset.PatientSex or "") for dataset in read(scans.request(PatientSex=sex)).values()} == {""}


@pytest.fixture
def strict() -> Iterator[None]:
    """Let pydicom raise on any value that breaks its VR."""
    before = config.settings.reading_validation_mode
    config.settings.reading_validation_mode = config.RAISE
    yield
    config.settings.reading_validation_mode = before


def all_values(dataset: Dataset) -> int:
    """Count the values, each of which must obey its VR."""
    assert broken(dataset) == []
    return sum(1 for _ in dataset.iterall())


@pytest.mark.parametrize("arguments", [{}, {"nodules": 0}, {"finds": False}, {"scan": scans.Scan(shape=(10, 25, 31))}])
def test_every_value_obeys_its_vr(strict: None, arguments: dict[str, Any]) -> None:
    """Strict validation accepts everything we write."""
    for dataset in read(scans.request(**arguments)).values():
        assert all_values(dataset) > 200


def test_broken_values_of_the_images_are_not_passed_on(strict: None) -> None:
    """A birth date that is none is left empty, a study description that is too long is left out."""
    objects = read(scans.request(PatientBirthDate="29.02.1960", StudyDescription="d" * 70))
    for dataset in objects.values():
        assert all_values(dataset) > 200
        assert not dataset.PatientBirthDate
        assert "StudyDescription" not in dataset


def test_dates_come_from_the_job_in_utc_where_the_images_name_no_zone() -> None:
    """The job was made on 2 January 2025, 11:00:00.5 UTC; no zone is claimed for the copied study date."""
    for dataset in read(scans.request()).values():
        assert (dataset.ContentDate, dataset.ContentTime) == ("20250102", "110000.500000")
        assert (dataset.InstanceCreationDate, dataset.InstanceCreationTime) == ("20250102", "110000.500000")
        assert "TimezoneOffsetFromUTC" not in dataset


@pytest.mark.parametrize(("offset", "date", "time"), [("+1300", "20250103", "000000.500000"), ("-0530", "20250102", "053000.500000")])
def test_dates_are_in_the_images_time_zone_where_they_name_one(offset: str, date: str, time: str) -> None:
    """One offset holds for every date of an object, so ours follow the images'."""
    for dataset in read(scans.request(TimezoneOffsetFromUTC=offset)).values():
        assert (dataset.ContentDate, dataset.ContentTime, dataset.TimezoneOffsetFromUTC) == (date, time, offset)
        sent = [str(item.ContributionDateTime) for item in dataset.ContributingEquipmentSequence if "ContributionDateTime" in item]
        assert set(sent) == {f"{date}{time}{offset}"}


def test_uids_stand_under_the_sites_root_and_within_64_characters() -> None:
    """A site with a root of its own keeps it; without one, UIDs are UUID-derived."""
    request = replace(scans.request(), settings=ResultsSection(uid_root="1.2.826.0.1.3680043.10.1234"))
    for dataset in read(request).values():
        assert str(dataset.SOPInstanceUID).startswith("1.2.826.0.1.3680043.10.1234.")
        assert len(dataset.SOPInstanceUID) <= 64
        assert dataset.SOPInstanceUID.is_valid
    assert read(scans.request())["seg"].SOPInstanceUID.startswith("2.25.")


def test_a_uid_depends_on_every_part_and_on_where_a_part_ends() -> None:
    """("ab", "c") and ("a", "bc") name different things."""
    assert len({identity.uid(None, "ab", "c"), identity.uid(None, "a", "bc"), identity.uid(None, "abc"), identity.uid("1.2", "abc")}) == 4
    assert identity.uid(None, "ab", "c") == identity.uid(None, "ab", "c")


def test_a_uuid_derived_uid_is_a_real_uuid() -> None:
    """2.25 stands for a UUID; ours are of version 8, made by a rule of our own."""
    from uuid import UUID  # noqa: PLC0415

    made = UUID(int=int(identity.uid(None, "anything").removeprefix("2.25.")))
    assert (made.version, made.variant) == (8, "specified in RFC 4122")


def test_the_source_headers_are_left_as_they_were() -> None:
    """Compose works on copies; the caller's headers do not change."""
    request = scans.request(PatientSex="X")
    before = [source.to_json() for source in request.sources]
    compose(request)
    assert [source.to_json() for source in request.sources] == before


def _code(**values: str) -> Dataset:
    item = Dataset()
    for keyword, value in values.items():
        setattr(item, keyword, value)
    return item


def test_codes_that_are_none_are_left_out() -> None:
    """A real scanner's procedure code had no meaning, a real archive's physician no institution; a whole code is kept."""
    broken, whole = (
        _code(CodeValue="0FINGN", CodingSchemeDesignator="99SITE"),
        _code(CodeValue="0FINGN", CodingSchemeDesignator="99SITE", CodeMeaning="Finger"),
    )
    person = _code()
    person.PersonIdentificationCodeSequence = [whole]
    at_home = _code(InstitutionName="Hospital")
    at_home.PersonIdentificationCodeSequence = [whole]
    for codes, persons, kept in (([broken], [person], False), ([whole], [at_home], True)):
        source = scans.Scan().sources()[0]
        source.ProcedureCodeSequence, source.ReferringPhysicianIdentificationSequence = codes, persons
        copy = header.inherited(source)
        assert ("ProcedureCodeSequence" in copy, "ReferringPhysicianIdentificationSequence" in copy) == (kept, kept)


def test_a_patient_that_is_no_human_says_whether_it_is_neutered_or_that_nobody_knows() -> None:
    """The attribute must be there for animals, and only for them."""
    source = scans.Scan().sources()[0]
    assert "PatientSexNeutered" not in header.inherited(source)
    source.PatientSpeciesDescription = "Mouse"
    assert header.inherited(source)["PatientSexNeutered"].is_empty


def test_an_empty_character_set_is_left_out() -> None:
    """A real CT has one; without a value it means the default, which no attribute says as well."""
    for entry in compose(scans.request(SpecificCharacterSet="")).objects:
        assert "SpecificCharacterSet" not in pydicom.dcmread(BytesIO(entry.dataset_bytes))
