"""The element walk meets any bytes without harm, and agrees with pydicom on whole ones."""

from __future__ import annotations

import warnings
from pathlib import Path

import pydicom
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGBaseline8Bit,
    RLELossless,
)

from node.element_walk import MAX_DEPTH, Unreadable, walk
from node.header import read_header
from node.spool import SpoolRefusal, read_instance
from tests.node.wire import ct, encoded

SYNTAXES = [
    ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian, JPEGBaseline8Bit, RLELossless,
]  # fmt: skip
WHOLE = {syntax: encoded(ct(rows=4, columns=4, NumberOfFrames=1), syntax) for syntax in SYNTAXES}


def survives(data: bytes, syntax: str) -> None:
    """Read a header; the only way out besides a result is Unreadable."""
    try:
        read_header(data, syntax, max_bytes=10_000_000)
    except Unreadable:
        return


@settings(max_examples=300, deadline=None)
@given(data=st.binary(max_size=400), syntax=st.sampled_from(SYNTAXES))
@example(data=b"\x08\x00\x05\x00SQ\0\0\xff\xff\xff\xff" * 200, syntax=ExplicitVRLittleEndian)
@example(data=b"\xe0\x7f\x10\x00OB\0\0\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff", syntax=ExplicitVRLittleEndian)
def test_any_bytes(data: bytes, syntax: str) -> None:
    """Any bytes are read or refused in every transfer syntax."""
    survives(data, syntax)


@settings(max_examples=400, deadline=None)
@given(st.data(), st.sampled_from(SYNTAXES))
def test_damaged_data_sets(data: st.DataObject, syntax: str) -> None:
    """A data set with bytes changed, cut out or put in is read or refused."""
    damaged = bytearray(WHOLE[syntax])
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(damaged) - 1))
        length = data.draw(st.integers(0, 8))
        damaged[at : at + length] = data.draw(st.binary(max_size=12))
        if not damaged:
            return
    survives(bytes(damaged), syntax)


def test_depth_is_bounded() -> None:
    """Sequences one level above the limit are refused, at the limit they are walked."""
    opened, ended = (
        b"\x09\x00\x10\x10SQ\0\0\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff",
        b"\xfe\xff\x0d\xe0\0\0\0\0\xfe\xff\xdd\xe0\0\0\0\0",
    )
    levels = MAX_DEPTH // 2
    walk(opened * levels + ended * levels, ExplicitVRLittleEndian, {})
    with pytest.raises(Unreadable):
        walk(opened * (levels + 1) + ended * (levels + 1), ExplicitVRLittleEndian, {})


def test_agrees_with_pydicom() -> None:
    """Every file that comes with pydicom is refused or gives the UIDs, the sizes and the position that pydicom reads."""
    read = 0
    for path in sorted(
        (Path(pydicom.__file__).parent / "data" / "test_files").glob("[!b]*.dcm")
    ):  # badVR.dcm has a number of frames that is none
        try:
            instance = read_instance(path)
        except (Unreadable, SpoolRefusal):
            continue
        read += 1
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ds = pydicom.dcmread(path, force=True, stop_before_pixels=True)
            assert instance.sop_instance_uid == ds.SOPInstanceUID
            assert (instance.header.get("Rows"), instance.header.get("NumberOfFrames")) == (ds.get("Rows"), ds.get("NumberOfFrames")), path
            assert instance.header.get("ImagePositionPatient") == ds.get("ImagePositionPatient"), path
            assert instance.header.get("PatientName", "") == str(ds.get("PatientName", "")), path
    assert read > 40
