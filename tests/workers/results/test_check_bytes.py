"""Sequences read as bytes: what pydicom wrote comes back, and whatever is cut off is refused, at every length."""

from __future__ import annotations

from io import BytesIO

import pydicom
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from node.errors import Refused
from workers.results import check_bytes


def referring(count: int) -> Dataset:
    """Give an object that refers to so many images of one series, as read back from its bytes."""
    series, dataset = Dataset(), Dataset()
    series.SeriesInstanceUID, series.ReferencedInstanceSequence = "1.2.3", []
    for number in range(count):
        image = Dataset()
        image.ReferencedSOPClassUID, image.ReferencedSOPInstanceUID = "1.2.840.10008.5.1.4.1.1.2", f"1.2.3.{number}"
        series.ReferencedInstanceSequence.append(image)
    dataset.ReferencedSeriesSequence = [series]
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    file = BytesIO()
    dataset.save_as(file, implicit_vr=False, little_endian=True)
    return pydicom.dcmread(BytesIO(file.getvalue()), force=True)


def test_references_come_back_as_they_were_written() -> None:
    """Series, class and instance of each, without the padding of odd lengths."""
    ((series, images),) = check_bytes.referred(referring(12))
    assert series == "1.2.3"
    assert images == [("1.2.840.10008.5.1.4.1.1.2", f"1.2.3.{number}") for number in range(12)]


def test_a_sequence_that_ends_early_is_refused_wherever_it_ends() -> None:
    """Not one of its beginnings is read as if it were whole."""
    whole = check_bytes.sequence(referring(2), check_bytes.SERIES)
    (item,) = check_bytes.items(whole)
    for end in range(1, len(whole)):
        with pytest.raises(Refused, match="cannot be read"):
            list(check_bytes.items(whole[:end]))
    ends = {0, len(item)}
    for tag, value in check_bytes.elements(item):
        ends.add(item.index(value) + len(value))
        assert tag in {check_bytes.SERIES_UID, check_bytes.IN_SERIES}
    for end in set(range(len(item))) - ends:
        with pytest.raises(Refused, match="cannot be read"):
            list(check_bytes.elements(item[:end]))


def test_a_sequence_that_pydicom_has_read_is_not_there_as_bytes() -> None:
    """What was read and may have been changed is no longer what is sent."""
    dataset = referring(1)
    assert dataset.ReferencedSeriesSequence
    with pytest.raises(Refused, match="cannot be read"):
        check_bytes.sequence(dataset, check_bytes.SERIES)
