"""Headers as no standard allows them: each gives objects that a strict reader accepts, or a refusal with its reason.

Never another exception, and never a warning: a library's warning quotes the value, which may be a patient's.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import pydicom
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.tag import Tag

from node.errors import Refused
from tests.workers import slices
from tests.workers.results import scans, sources
from tests.workers.results.strict import broken
from workers.load import load
from workers.results import ComposeRequest, compose

# What an object inherits, points at or is placed by.
KEYWORDS = (
    *("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "PatientAge", "PatientWeight", "PatientSize", "IssuerOfPatientID"),
    *("StudyDate", "StudyTime", "StudyID", "AccessionNumber", "ReferringPhysicianName", "StudyDescription", "SeriesDescription"),
    *("SeriesDate", "SeriesTime", "AcquisitionDate", "AcquisitionTime", "TimezoneOffsetFromUTC", "SpecificCharacterSet"),
    *("BodyPartExamined", "Laterality", "PatientPosition", "PositionReferenceIndicator", "FrameOfReferenceUID", "SliceThickness"),
    *(
        "SpacingBetweenSlices",
        "InstanceNumber",
        "SeriesNumber",
        "Manufacturer",
        "InstitutionName",
        "ProtocolName",
        "DeidentificationMethod",
    ),
    *("PatientIdentityRemoved", "ClinicalTrialSponsorName", "ClinicalTrialProtocolID", "ClinicalTrialSubjectID", "LossyImageCompression"),
    *("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "Rows", "Columns", "PixelSpacing", "Modality"),
    *("ImageOrientationPatient", "ImagePositionPatient", "BurnedInAnnotation", "OtherPatientIDs", "EthnicGroup", "PatientComments"),
)
NASTY: dict[str, list[bytes]] = {
    "PN": [b"ANONYMOUS", b"a" * 64, b"a^b^c^d^e^f^g", b"x=y=z=w", b"M\xfcller^J\xf6rg", b"\xff\xfe\x00", b"two\\names"],
    "LO": [b"x" * 64, b"x" * 65, b"x" * 4000, b"tab\there", b"\xe4\xf6", b"a\\b\\c", b"line\r\nbreak"],
    "SH": [b"x" * 16, b"x" * 17, b"a\\b", b"\xe4"],
    "CS": [b"X", b"lower case", b"a" * 20, b"YES\\NO", b"\xe4", b"A-B"],
    "DA": [b"2025.01.02", b"20251399", b"unknown", b"00000000", b"20250102\\20250103"],
    "TM": [b"25:61", b"246060", b"10:11:12", b"noon", b"101112.1234567"],
    "UI": [b"1.2.abc", b"0", b"1..2", b"9" * 65, b"1.2.3 ", b"1.2\\1.3"],
    "DS": [b"abc", b"1,5", b"NaN", b"1e400", b"-1", b"0", b"1" * 20, b"1\\2\\3\\4"],
    "IS": [b"abc", b"1.5", b"99999999999999", b"-7"],
    "US": [b"\x00", b"\x00\x00", b"\xff\xff", b"\x01\x00\x02\x00"],
    "AS": [b"64", b"064Y", b"-01Y", b"old"],
    "LT": [b"x" * 20000, b"\x1b$B"],
    "SpecificCharacterSet": [
        b"ISO_IR 100",
        b"ISO_IR 192",
        b"\\ISO 2022 IR 87",
        b"ISO 2022 IR 6\\ISO 2022 IR 149",
        b"latin1",
        b"ISO_IR 999",
    ],
    "TimezoneOffsetFromUTC": [b"+0100", b"-9999", b"UTC", b"+01:00"],
}
# Patient, order and study are kept as they came: the archive knows them by these.
AS_THEY_CAME = frozenset({"PatientName", "PatientID", "IssuerOfPatientID", "AccessionNumber", "StudyID", "SpecificCharacterSet"})
Change = Callable[[Dataset], None]


def raw(keyword: str, value: bytes) -> Change:
    """Put in the bytes as a file would bring them, unread."""
    tag, vr = Tag(tag_for_keyword(keyword) or 0), dictionary_VR(keyword)

    def change(source: Dataset) -> None:
        padded = value + (b"\0" if vr == "UI" else b" ") * (len(value) % 2)
        source._dict[tag] = RawDataElement(tag, vr, len(padded), padded, 0, is_implicit_VR=False, is_little_endian=True)

    change.__name__ = f"{keyword}={value[:20]!r}"
    return change


def gone(keyword: str) -> Change:
    """Remove an attribute."""

    def change(source: Dataset) -> None:
        source._dict.pop(Tag(tag_for_keyword(keyword) or 0), None)

    change.__name__ = f"no {keyword}"
    return change


def nested(depth: int, value: bytes) -> Change:
    """Put in a sequence of sequences whose innermost item breaks its VR, and a private block beside it."""

    def change(source: Dataset) -> None:
        inner = Dataset()
        for keyword in ("PatientBirthDate", "StudyInstanceUID", "CodeValue"):
            raw(keyword, value)(inner)
        for _ in range(depth):
            outer = Dataset()
            outer.RequestAttributesSequence = [inner]
            inner = outer
        source.RequestAttributesSequence = inner.RequestAttributesSequence
        source.OtherPatientIDsSequence = [Dataset()]
        source.private_block(0x0019, "SOMEBODY", create=True).add_new(0x10, "UN", value * 3)

    change.__name__ = f"nested {depth}"
    return change


def _values(keyword: str) -> list[bytes]:
    return [b"", *NASTY.get(keyword, NASTY.get(dictionary_VR(keyword), [b"?"]))]


CHANGES = st.one_of(
    st.sampled_from(KEYWORDS).map(gone),
    st.sampled_from([(keyword, value) for keyword in KEYWORDS for value in _values(keyword)]).map(lambda pair: raw(*pair)),
    st.builds(nested, st.integers(1, 4), st.sampled_from([b"", b"\xff" * 9, b"x" * 70])),
)
# Which slices: all of them as a rule, since one that differs from the others is refused early.
MUTATIONS = st.lists(st.tuples(CHANGES, st.sampled_from(["all", "all", "all", "one", "later"])), min_size=1, max_size=5)


def mutated(request: ComposeRequest, mutations: list[tuple[Change, str]]) -> ComposeRequest:
    """Apply changes to copies of the headers."""
    made = []
    for index, source in enumerate(request.sources):
        copy = Dataset()
        copy.update(source)
        copy._dict = dict(copy._dict)
        for change, where in mutations:
            if where == "all" or (where == "one" and index == 3) or (where == "later" and index > 0):
                change(copy)
        made.append(copy)
    return replace(request, sources=tuple(made))


def accepted_or_refused(request: ComposeRequest) -> str:
    """Compose; give "" where every object is valid to its last value, else the reason of the refusal."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            objects = compose(request).objects
        except Refused as refused:
            return _told(refused.reason)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what is kept as it came
        for entry in objects:
            dataset = pydicom.dcmread(BytesIO(entry.dataset_bytes))
            assert broken(dataset, but=AS_THEY_CAME) == []
            assert sum(1 for _ in dataset.iterall()) > 40
    return ""


def _told(reason: str) -> str:
    """Give a reason that is one: in words, and without the patient."""
    assert len(reason) > 15
    assert reason.isascii()
    assert "Anna" not in reason
    assert "7391" not in reason
    return reason


FORMS: dict[str, ComposeRequest] = {}


SMALL = scans.Scan(shape=(6, 16, 16))


def form(name: str) -> ComposeRequest:
    """Make each analysis once: composing does not change it."""
    if name not in FORMS:
        made: dict[str, Any] = {
            "findings": {"nodules": 1},
            "nothing": {"scan": SMALL, "nodules": 0, "organs": False},
            "labelmap": {"scan": scans.Scan(shape=(6, 25, 31)), "nodules": 0},
        }[name]
        FORMS[name] = replace(scans.request(**made), profile=sources.EVERYTHING)
    return FORMS[name]


def property_of(examples: int) -> Any:
    """Give the settings of a bounded search that is the same in every run."""
    return settings(
        max_examples=examples, derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck), print_blob=False
    )


@property_of(15)
@given(mutations=MUTATIONS, name=st.sampled_from(["findings", "nothing", "labelmap"]))
def test_mutated_headers_give_valid_objects_or_a_reason(mutations: list[tuple[Change, str]], name: str) -> None:
    """A bounded, repeatable search through missing, broken and contradicting attributes."""
    accepted_or_refused(mutated(form(name), mutations))


@pytest.mark.verify
@pytest.mark.timeout(3000)
@property_of(600)
@given(mutations=MUTATIONS, name=st.sampled_from(["findings", "nothing", "labelmap"]))
def test_many_mutated_headers_give_valid_objects_or_a_reason(mutations: list[tuple[Change, str]], name: str) -> None:
    """The same search, longer."""
    accepted_or_refused(mutated(form(name), mutations))


SINGLES = [gone(keyword) for keyword in KEYWORDS] + [raw(keyword, value) for keyword in KEYWORDS for value in _values(keyword)]


@pytest.mark.verify
@pytest.mark.timeout(3000)
def test_each_change_alone_gives_valid_objects_or_a_reason() -> None:
    """Every attribute missing, empty, and with every broken value, one at a time."""
    faults = []
    for change in SINGLES:
        try:
            accepted_or_refused(mutated(form("findings"), [(change, "all")]))
        except (Exception, Warning) as error:  # noqa: BLE001 -- every one is a fault, and all are shown at once
            faults.append(f"{change.__name__}: {type(error).__name__}: {str(error)[:150]}")
    assert faults == []


@pytest.mark.parametrize("keyword", ["FrameOfReferenceUID", "StudyInstanceUID", "SeriesInstanceUID", "SOPClassUID"])
def test_images_that_nothing_can_point_at_are_refused(keyword: str) -> None:
    """Without these a mark would lie nowhere; the reason says so."""
    reason = accepted_or_refused(mutated(form("findings"), [(gone(keyword), "all")]))
    assert reason


PIXELS: dict[str, dict[str, Any]] = {
    "16-bit unsigned with a padding value": {"bits": (16, 16), "extra": {"PixelPaddingValue": 65535}},
    "a rescale of each slice": {"each": lambda index: {"RescaleIntercept": str(-1024 - index), "RescaleSlope": "1"}},
    "MONOCHROME1": {"extra": {"PhotometricInterpretation": "MONOCHROME1"}},
    "signed": {"signed": True, "stored": lambda _: (1.0, 0.0)},
}


@pytest.mark.parametrize("what", PIXELS)
def test_odd_pixels_give_a_result_or_a_reason(what: str, tmp_path: Path) -> None:
    """From files to objects: whatever the pixels are, the marks lie where they were put, or nobody gets a result."""
    scan = replace(slices.Scan(shape=(6, 16, 20)), **PIXELS[what])
    try:
        loaded = load(slices.series(tmp_path, scan))
    except Refused as refused:
        _told(refused.reason)
        return
    assert accepted_or_refused(replace(sources.analysed(loaded), profile=sources.EVERYTHING)) == ""
