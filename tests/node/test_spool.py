"""The spool keeps what is whole, byte for byte, and refuses what it cannot keep with the status that says why."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pydicom
import pytest
from pydicom.uid import (
    JPEG2000,
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    ImplicitVRLittleEndian,
    JPEGLosslessSV1,
    JPEGLSLossless,
    MRImageStorage,
    RLELossless,
)

from node import keeping
from node.element_walk import Unreadable
from node.spool import INDEXED, Spool, SpoolRefusal, read_instance
from tests.node.wire import command, ct, encoded, pdf

SYNTAXES = [
    ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian,
    JPEGLosslessSV1, JPEGLSLossless, JPEG2000, HTJ2KLossless, RLELossless,
]  # fmt: skip


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    """Open a spool in an empty folder."""
    return Spool(tmp_path)


def files(spool: Spool) -> list[Path]:
    """Give every file of the spool, parts included, its lock not."""
    return sorted(path for path in spool.data_dir.rglob("*") if path.is_file() and path.name != keeping.LOCK)


def refused(spool: Spool, *arguments: object) -> SpoolRefusal:
    """Store what must be refused; nothing of it may be left."""
    before = files(spool)
    with pytest.raises(SpoolRefusal) as caught:
        spool.store(*arguments)  # type: ignore[arg-type]
    assert files(spool) == before
    return caught.value


@pytest.mark.parametrize("syntax", SYNTAXES, ids=lambda uid: uid.name.split(",")[0])
def test_bytes_are_kept_verbatim(spool: Spool, syntax: str) -> None:
    """The data set's bytes lie in the file as they came, in every transfer syntax, after our own file meta information."""
    ds = ct()
    data = encoded(ds, syntax)

    stored = spool.store(command(ds, syntax), data)

    path = spool.data_dir / stored.instance.path
    assert path.read_bytes().endswith(data)
    read = pydicom.dcmread(path)
    assert (read.SOPInstanceUID, read.file_meta.TransferSyntaxUID) == (ds.SOPInstanceUID, syntax)
    assert read.file_meta.MediaStorageSOPInstanceUID == ds.SOPInstanceUID
    assert read.file_meta.SourceApplicationEntityTitle == "MODALITY"
    assert read.file_meta.ImplementationVersionName.startswith("OVERREAD")
    assert len(path.read_bytes()) == 144 + read.file_meta.FileMetaInformationGroupLength + len(data)
    assert stored.instance.sha256 == hashlib.sha256(data).hexdigest()
    assert (stored.fresh, stored.conflict) == (True, False)


@pytest.mark.parametrize("syntax", SYNTAXES[:4], ids=lambda uid: uid.name.split(",")[0])
def test_header_is_indexed(spool: Spool, syntax: str) -> None:
    """The indexed attributes come as strings, numbers and lists, the same from every byte order."""
    ds = ct()
    instance = spool.store(command(ds, syntax), encoded(ds, syntax)).instance
    assert instance.study_instance_uid == ds.StudyInstanceUID
    assert instance.header["ImagePositionPatient"] == [-120.5, -100.0, 33.25]
    assert instance.header["ImageType"] == ["ORIGINAL", "PRIMARY", "AXIAL"]
    assert (instance.header["Rows"], instance.header["InstanceNumber"], instance.header["Modality"]) == (16, 7, "CT")
    assert "SeriesDescription" not in instance.header
    assert set(instance.header) <= set(INDEXED)


def test_names_carry_no_identity(spool: Spool) -> None:
    """File names hold hashes only."""
    ds = ct()
    instance = spool.store(command(ds), encoded(ds)).instance
    digest = hashlib.sha256(str(ds.SOPInstanceUID).encode()).hexdigest()
    assert instance.path == f"incoming/{digest[:2]}/{digest}-{instance.sha256[:16]}.dcm"


def test_every_truncation_is_refused(spool: Spool) -> None:
    """A data set cut off at any byte is refused as not understood, and leaves no file."""
    ds = ct(rows=4, columns=4)
    data = encoded(ds)
    for length in range(len(data)):
        assert refused(spool, command(ds), data[:length]).status == 0xC000, length


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian, JPEG2000, RLELossless])
def test_truncation_in_other_syntaxes(spool: Spool, syntax: str) -> None:
    """The cut is seen in every grammar: fragments without delimiter, a deflate stream without its end."""
    ds = ct()
    data = encoded(ds, syntax)
    for length in (len(data) - 2, len(data) - 9, len(data) // 2, 30):
        assert refused(spool, command(ds, syntax), data[:length]).status == 0xC000


def test_pixel_data_shorter_than_described(spool: Spool) -> None:
    """Pixel data that is whole as an element but holds fewer bytes than rows x columns x frames is refused."""
    ds = ct()
    ds.PixelData = ds.PixelData[:-2]
    assert refused(spool, command(ds), encoded(ds)).status == 0xC000
    many = ct(NumberOfFrames=3)
    assert refused(spool, command(many), encoded(many)).status == 0xC000


def test_fragments_fewer_than_frames(spool: Spool) -> None:
    """An encapsulated multi-frame image with a frame missing is refused."""
    ds = ct(NumberOfFrames=3)
    data = encoded(ds, RLELossless)
    start = data.rindex(b"\xfe\xff\x00\xe0", 0, data.rindex(b"\xfe\xff\x00\xe0"))
    shorter = data[:start] + data[data.rindex(b"\xfe\xff\x00\xe0") :]
    assert refused(spool, command(ds, RLELossless), shorter).status == 0xC000


@pytest.mark.parametrize("garbage", [b"", b"\0" * 64, b"GET / HTTP/1.1\r\nHost: pacs\r\n\r\n", bytes(range(256)) * 40, b"\xff" * 999])
def test_garbage(spool: Spool, garbage: bytes) -> None:
    """Bytes that are no data set are refused in every transfer syntax."""
    ds = ct()
    for syntax in SYNTAXES:
        assert refused(spool, command(ds, syntax), garbage).status == 0xC000


@pytest.mark.parametrize("uid", ["../../etc/passwd", "1.2.abc", "", "1", "1.2." + "3" * 61, "1.2.3 4", "1..2", ".1.2", "1.2.\u0663"])
def test_invalid_uids(spool: Spool, uid: str) -> None:
    """A UID that is no UID is refused, in the request and in the data set alike."""
    ds = ct()
    assert refused(spool, command(ds, sop_instance_uid=uid), encoded(ds)).status == 0xA900
    assert refused(spool, command(ds, sop_class_uid=uid), encoded(ds)).status == 0xA900


@pytest.mark.parametrize("keyword", ["StudyInstanceUID", "SeriesInstanceUID"])
@pytest.mark.filterwarnings("ignore:Invalid value for VR UI")
def test_invalid_uids_inside(spool: Spool, keyword: str) -> None:
    """A path in a study's or series' UID is refused."""
    ds = ct()
    setattr(ds, keyword, "../../secret")
    assert refused(spool, command(ds), encoded(ds)).status == 0xA900


def test_request_and_data_set_disagree(spool: Spool) -> None:
    """A class or instance UID unlike the request's is refused."""
    ds = ct()
    assert refused(spool, command(ds, sop_class_uid=MRImageStorage), encoded(ds)).status == 0xA900
    assert refused(spool, command(ds, sop_instance_uid="1.2.3.4"), encoded(ds)).status == 0xA900


@pytest.mark.parametrize(
    ("uid", "stored"),
    [
        (CTImageStorage, True),
        ("1.2.840.10008.5.1.4.1.1.88.33", True),
        ("1.2.840.10008.5.1.4.1.1.999.1", True),  # newer than our dictionary
        ("1.3.12.2.1107.5.9.1", True),  # private
        ("1.2.840.10008.5.1.4.31", False),  # modality worklist
        ("1.2.840.10008.1.1", False),
        ("1.2.840.10008.1.20.1", False),
        ("1.2.840.10008.1.3.10", False),
        ("1.2.840.10008.5.1.4.1.1.201.5", False),
    ],
)
def test_storage_classes(spool: Spool, uid: str, stored: bool) -> None:  # noqa: FBT001
    """Storage classes known, new and private are kept; every other class is refused."""
    ds = ct(SOPClassUID=uid)
    if stored:
        assert spool.store(command(ds), encoded(ds)).fresh
    else:
        assert refused(spool, command(ds), encoded(ds)).status == 0xA900


def test_documents_are_kept(spool: Spool) -> None:
    """What is no image is kept like one."""
    ds = pdf()
    assert spool.store(command(ds), encoded(ds)).instance.header["Modality"] == "DOC"


def test_same_instance_twice(spool: Spool) -> None:
    """The same bytes again, even from another sender, are acknowledged and written once."""
    ds = ct()
    first = spool.store(command(ds), encoded(ds))
    again = spool.store(command(ds, calling_ae="PACS"), encoded(ds))
    assert (again.fresh, again.conflict, again.instance.path) == (False, False, first.instance.path)
    assert len(files(spool)) == 1


def test_same_uid_with_other_bytes(spool: Spool) -> None:
    """Other bytes under a known UID are kept beside the first and marked."""
    ds = ct()
    first = spool.store(command(ds), encoded(ds))
    ds.SeriesNumber = 99
    other = spool.store(command(ds), encoded(ds))
    assert (other.fresh, other.conflict) == (True, True)
    assert other.instance.path != first.instance.path
    assert (spool.data_dir / first.instance.path).exists()


def test_disk_under_its_watermark(tmp_path: Path) -> None:
    """Under the watermark the sender is told to try again later; above it the same data set is kept."""
    ds = ct()
    free_mb = os.statvfs(tmp_path).f_bavail * os.statvfs(tmp_path).f_frsize // 1024**2
    full = Spool(tmp_path, free_disk_min_mb=free_mb * 2 + 1)
    assert refused(full, command(ds), encoded(ds)).status == 0xA700
    assert Spool(tmp_path, free_disk_min_mb=1).store(command(ds), encoded(ds)).fresh


def test_disk_fills_up_while_a_data_set_arrives(spool: Spool) -> None:
    """A large data set is given up as soon as the disk falls under its watermark, not when it has all arrived."""
    ds = ct(rows=2048, columns=2100)
    part = spool.begin(command(ds))
    spool._free_min_bytes = 2**62
    with pytest.raises(SpoolRefusal) as caught:
        part.write(encoded(ds)[:6_000_000])
    part.close()
    assert caught.value.status == 0xA700
    assert not files(spool)


def test_too_large(tmp_path: Path) -> None:
    """A data set above the limit is refused while it arrives, not after."""
    spool = Spool(tmp_path, max_bytes=1000)
    ds = ct(rows=100, columns=100)
    data = encoded(ds)
    with pytest.raises(SpoolRefusal) as caught:
        spool.store(command(ds), (data[i : i + 100] for i in range(0, len(data), 100)))
    assert caught.value.status == 0xA700
    assert not files(spool)


def test_large_data_sets_pass_through_the_disk(spool: Spool) -> None:
    """A data set larger than the buffer, arriving in pieces, is kept verbatim; cut off, it leaves nothing."""
    ds = ct(rows=2048, columns=2100)
    data = encoded(ds)
    pieces = [data[i : i + 100_000] for i in range(0, len(data), 100_000)]
    assert refused(spool, command(ds), pieces[:-1]).status == 0xC000
    stored = spool.store(command(ds), pieces)
    assert (spool.data_dir / stored.instance.path).read_bytes().endswith(data)
    assert not spool.store(command(ds), pieces).fresh
    assert len(files(spool)) == 1


def test_scan_finds_what_was_stored(spool: Spool) -> None:
    """A restart reads the same instances from the files, with who sent them; strange files are left alone."""
    stored = []
    for syntax in (ImplicitVRLittleEndian, DeflatedExplicitVRLittleEndian):
        ds = ct()
        stored.append(spool.store(command(ds, syntax), encoded(ds, syntax)).instance)
    stranger = spool.data_dir / stored[0].path
    (stranger.parent / "broken.dcm").write_bytes(b"no DICOM")
    (stranger.parent / "empty.dcm").write_bytes(b"")

    def key(instance: object) -> tuple[object, ...]:
        return tuple(
            getattr(instance, name) for name in ("sop_instance_uid", "path", "sha256", "size_bytes", "peer_host", "called_ae", "header")
        )

    again = list(Spool(spool.data_dir).scan())
    assert sorted(map(key, again), key=str) == sorted(map(key, stored), key=str)


def test_sweep_of_dead_writers(spool: Spool) -> None:
    """Opening the spool removes parts of writers that died, and leaves those of living ones."""
    dead = spool.data_dir / "parts" / "dead.part"
    dead.write_bytes(b"half")
    ds = ct(rows=2048, columns=2100)
    data = encoded(ds)
    with_part = spool.begin(command(ds))
    with_part.write(data[:6_000_000])
    Spool(spool.data_dir)
    assert not dead.exists()
    assert len(list((spool.data_dir / "parts").iterdir())) == 1
    with_part.write(data[6_000_000:])
    assert with_part.finish().fresh
    with_part.close()


@pytest.mark.parametrize("charset", [None, b"ISO_IR 100", b"NO_SUCH_SET ", b"\\ISO 2022 IR 87 ", b"ISO_IR 192", b"\xff\xfe"])
def test_wrong_character_sets(spool: Spool, charset: bytes | None) -> None:
    """A name in a character set that is wrong, missing or unknown is kept verbatim and never stops an instance."""
    ds = ct()
    data = encoded(ds)
    name = b"Zaunkoenig^Wilhelmine"
    damaged = data.replace(name, b"Zaunk\xf6nig^\x1b$B\xff\xfe\x80il"[: len(name)].ljust(len(name)))
    assert len(damaged) == len(data)
    if charset is not None:
        damaged = b"\x08\x00\x05\x00CS" + len(charset).to_bytes(2, "little") + charset + damaged
    stored = spool.store(command(ds), damaged)
    assert stored.instance.header["PatientName"].startswith("Zaunk")
    assert (spool.data_dir / stored.instance.path).read_bytes().endswith(damaged)


def nested(depth: int) -> bytes:
    """Open a private sequence that many times, one inside the other."""
    return b"\x09\x00\x10\x10SQ\0\0\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff" * depth


def closed(depth: int) -> bytes:
    """Close as many sequences and their items."""
    return b"\xfe\xff\x0d\xe0\0\0\0\0\xfe\xff\xdd\xe0\0\0\0\0" * depth


def test_nesting(spool: Spool) -> None:
    """Nested sequences of undefined length are walked; a bomb of them is refused without recursion."""
    ds = ct()
    data = encoded(ds)
    at = data.index(b"\x10\x00\x10\x00PN")
    kept = data[:at] + nested(20) + closed(20) + data[at:]
    assert spool.store(command(ds), kept).fresh
    assert refused(spool, command(ds), data[:at] + nested(20) + closed(19) + data[at:]).status == 0xC000
    assert refused(spool, command(ds), data[:at] + nested(50_000) + closed(50_000) + data[at:]).status == 0xC000


def test_un_of_undefined_length_is_implicit_inside(spool: Spool) -> None:
    """A converted private sequence (UN, undefined length) is walked as implicit little endian."""
    ds = ct()
    data = encoded(ds)
    at = data.index(b"\x10\x00\x10\x00PN")
    inside = b"\x08\x00\x60\x00\x02\0\0\0CT"
    un = b"\x09\x00\x10\x10UN\0\0\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff" + inside + closed(1)
    assert spool.store(command(ds), data[:at] + un + data[at:]).fresh


def test_item_length_that_looks_like_letters(spool: Spool) -> None:
    """An item whose length's bytes spell a value representation is still an item."""
    ds = ct()
    data = encoded(ds)
    at = data.index(b"\x10\x00\x10\x00PN")
    length = int.from_bytes(b"AS\0\0", "little")
    filler = b"\x09\x00\x11\x10UN\0\0" + (length - 12).to_bytes(4, "little") + bytes(length - 12)
    sequence = b"\x09\x00\x10\x10SQ\0\0\xff\xff\xff\xff\xfe\xff\x00\xe0AS\0\0" + filler + b"\xfe\xff\xdd\xe0\0\0\0\0"
    assert spool.store(command(ds), data[:at] + sequence + data[at:]).fresh


def test_deflate_bomb(tmp_path: Path) -> None:
    """A small stream that inflates beyond the limit is refused at the limit."""
    spool = Spool(tmp_path, max_bytes=5_000_000)
    ds = ct(rows=2048, columns=2100)
    ds.PixelData = bytes(len(ds.PixelData))
    data = encoded(ds, DeflatedExplicitVRLittleEndian)
    assert len(data) < 100_000
    assert refused(spool, command(ds, DeflatedExplicitVRLittleEndian), data).status == 0xC000


def test_bare_data_set_is_read(tmp_path: Path) -> None:
    """A file without preamble is read by its first element, in all three native syntaxes."""
    for syntax in SYNTAXES[:3]:
        ds = ct()
        path = tmp_path / "bare"
        path.write_bytes(encoded(ds, syntax))
        assert read_instance(path).sop_instance_uid == ds.SOPInstanceUID


def test_file_meta_cut_off(spool: Spool) -> None:
    """A file that ends in its meta information is unreadable, at every length."""
    ds = ct()
    whole = (spool.data_dir / spool.store(command(ds), encoded(ds)).instance.path).read_bytes()
    path = spool.data_dir / "cut"
    for length in range(0, 420, 7):
        path.write_bytes(whole[:length])
        with pytest.raises((Unreadable, SpoolRefusal)):
            read_instance(path)
