"""Tests for elements written and read as bytes: pydicom is the measure of both."""

from __future__ import annotations

from dataclasses import replace
from io import BytesIO
from typing import Any

import numpy as np
import pydicom
import pytest
from highdicom.sr.utils import collect_evidence
from pydicom import dcmwrite
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence as Items
from pydicom.uid import ExplicitVRLittleEndian

from node.errors import Refused
from node.profiles import BUILT_IN
from tests.workers.results import scans
from workers.results import check_bytes, check_frames, compose, elements, header


def _reference(uid: str, frame: int | None = None) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = "1.2.840.10008.5.1.4.1.1.2", uid
    if frame is not None:
        item.ReferencedFrameNumber = frame
    return item


@pytest.mark.parametrize(("uid", "frame"), [("1.2.3", None), ("1.2.34", 7), ("2.25.123456", 120)])
def test_elements_are_the_bytes_that_pydicom_writes(uid: str, frame: int | None) -> None:
    """UIDs, numbers as text and sequences, of even and odd length, are pydicom's own bytes, between what stands around them."""
    whole = Dataset()
    image, purpose = _reference(uid, frame), Dataset()
    purpose.CodeValue, purpose.CodingSchemeDesignator, purpose.CodeMeaning = "121322", "DCM", "Source"
    image.PurposeOfReferenceCodeSequence = Items([purpose])
    whole.SourceImageSequence = Items([image, image])
    before, after = elements.around(image, "ReferencedSOPClassUID", "ReferencedSOPInstanceUID", "ReferencedFrameNumber")
    named = elements.text("ReferencedSOPClassUID", "UI", "1.2.840.10008.5.1.4.1.1.2")
    named += elements.text("ReferencedSOPInstanceUID", "UI", uid)
    named += b"" if frame is None else elements.text("ReferencedFrameNumber", "IS", frame)
    assert before == b""
    assert after
    assert elements.sequence("SourceImageSequence", [named + after] * 2) == elements.encoded(whole)


def test_what_is_put_in_as_bytes_is_read_as_a_sequence() -> None:
    """A data set with a sequence put in as bytes is written by pydicom as if it had been built item by item."""
    built, spliced = Dataset(), Dataset()
    for dataset in (built, spliced):
        dataset.Modality, dataset.InstanceNumber = "SEG", 1
    built.SourceImageSequence = Items([_reference("1.2.3", 5), _reference("1.2.4")])
    elements.put(spliced, "SourceImageSequence", map(elements.encoded, built.SourceImageSequence))
    assert elements.encoded(spliced) == elements.encoded(built)
    assert [item.ReferencedSOPInstanceUID for item in spliced.SourceImageSequence] == ["1.2.3", "1.2.4"]


def _frame(number: int | None, z: float) -> Dataset:
    group, derivation, place = Dataset(), Dataset(), Dataset()
    derivation.SourceImageSequence = Items([_reference("1.2.3", 4)])
    place.ImagePositionPatient = [-1.5, 2, z]
    group.DerivationImageSequence, group.PlanePositionSequence = Items([derivation]), Items([place])
    if number is not None:
        identification = Dataset()
        identification.ReferencedSegmentNumber = number
        group.SegmentIdentificationSequence = Items([identification])
    return group


def test_the_gate_reads_of_frames_what_pydicom_wrote() -> None:
    """Position, image and segment of each frame are those that were written; what is cut off is refused."""
    seg = Dataset()
    seg.PerFrameFunctionalGroupsSequence = Items([_frame(3, 10.25), _frame(None, -7)])
    data = elements.encoded(seg)
    read: Any = pydicom.dcmread(BytesIO(_part10(data)))
    first, second = check_frames.groups(read)
    assert (first.number, second.number) == (3, None)
    assert check_frames.position(first.place[0]) == [-1.5, 2, 10.25]
    assert check_frames.position(second.place[0]) == [-1.5, 2, -7]
    assert check_frames.named(first.place[1]) == [("1.2.840.10008.5.1.4.1.1.2", "1.2.3", 4)]
    with pytest.raises(Refused, match="cannot be read"):
        list(check_bytes.items(data[12:-1]))


def _part10(body: bytes) -> bytes:
    dataset, buffer = Dataset(), BytesIO()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID, dataset.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.66.4", "1.2.9"
    dcmwrite(buffer, dataset, enforce_file_format=True)
    return buffer.getvalue() + body


@pytest.mark.parametrize("shape", [(4, 8), (5, 5)])
def test_bits_are_counted_and_unpacked_row_by_row(shape: tuple[int, int]) -> None:
    """Some rows of a frame, and its number of pixels, are those of the mask that was packed, also where frames end within a byte."""
    masks = np.random.default_rng(0).random((3, *shape)) > 0.5
    data = memoryview(np.packbits(masks.ravel(), bitorder="little").tobytes())
    for number, mask in enumerate(masks):
        frame = check_frames.Bits(data=data, first=number * mask.size, shape=shape)
        assert frame.count() == mask.sum()
        assert np.array_equal(frame.rows(slice(1, 3)), mask[1:3])
        assert frame.rows(slice(0, 0)).shape == (0, shape[1])


@pytest.mark.parametrize("pixels", [b"", bytes(range(200)) * 10, b"odd"])
def test_pixels_are_put_behind_what_pydicom_writes(pixels: bytes) -> None:
    """An object's bytes are those that pydicom writes in one piece, whether it has pixels or not."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID, dataset.SOPInstanceUID, dataset.SeriesInstanceUID = "1.2.840.10008.5.1.4.1.1.66.4", "1.2.9", "1.2.8"
    dataset.Rows, dataset.Columns, dataset.BitsAllocated, dataset.PixelRepresentation = 100, 20, 8, 0
    if pixels:
        dataset.PixelData = pixels
        dataset["PixelData"].VR = "OB"
    ours, buffer = header.encode(dataset, "seg"), BytesIO()
    dcmwrite(buffer, dataset, enforce_file_format=True)
    assert ours.dataset_bytes == buffer.getvalue()


def test_pages_of_an_odd_number_of_bytes_are_padded_and_refused_unpadded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pixel data is of even length (PS3.5 7.1.1); an archive breaks off the association at what is not, and never says why."""
    request = replace(scans.request(scans.Scan(shape=(10, 61, 63))), profile=BUILT_IN["basic"])
    pages = [pydicom.dcmread(BytesIO(entry.dataset_bytes)) for entry in compose(request).objects if entry.kind == "sc"]
    sizes = [page.Rows * page.Columns * 3 for page in pages]
    assert any(size % 2 for size in sizes)
    assert [len(page.PixelData) for page in pages] == [size + size % 2 for size in sizes]
    monkeypatch.setattr(header, "_written", _unpadded)
    with pytest.raises(Refused, match="colour image of its size"):
        compose(request)


def _unpadded(dataset: Dataset) -> bytes:
    """Write an object that ends with its last pixel, odd or not."""
    buffer = BytesIO()
    dcmwrite(buffer, dataset, enforce_file_format=True)
    odd = dataset.get("PixelData") is not None and len(dataset.PixelData) % 2
    if not odd:
        return buffer.getvalue()
    behind = len(dataset.PixelData)
    whole = buffer.getvalue()[:-1]
    return whole[: -behind - 4] + behind.to_bytes(4, "little") + whole[-behind:]


def test_a_report_lists_the_evidence_that_highdicom_would() -> None:
    """Every image and the SEG stand in the report's evidence as highdicom itself lists them."""
    request = scans.request()
    written = {entry.kind: pydicom.dcmread(BytesIO(entry.dataset_bytes)) for entry in compose(request).objects}
    root = Dataset()
    root.ContentSequence = []
    wanted, others = collect_evidence([*request.sources, written["seg"]], root)
    assert not others
    listed = written["sr"].CurrentRequestedProcedureEvidenceSequence
    assert [item.to_json() for item in listed] == [item.to_json() for item in wanted]
    assert len(listed[0].ReferencedSeriesSequence[0].ReferencedSOPSequence) == len(request.sources)
