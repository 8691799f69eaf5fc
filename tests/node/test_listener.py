"""The listener with honest callers: DCMTK, pynetdicom, our own archive's reports."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pydicom
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    AllTransferSyntaxes,
    BasicTextSRStorage,
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
    generate_uid,
)
from pynetdicom import AE, build_context, build_role

from node import commitment
from node.ledger import Ledger
from node.listener import Listener
from node.peers import association, echo
from node.spool import Spool
from tests.node.listening import indexed, listening, soon, us
from tests.node.raw import Caller
from tests.node.wire import PATIENT, command, ct, encoded, pdf
from tests.servers import require

PUSH_MODEL = "1.2.840.10008.1.20.1"
PROMPT = {**os.environ, "TCP_NODELAY": "1"}  # Debian's DCMTK leaves Nagle on: 40 ms a response


@pytest.fixture
def listener(tmp_path: Path) -> Iterator[Listener]:
    """Run a listener."""
    with listening(tmp_path / "data") as running:
        yield running


def file_of(folder: Path, ds: Dataset, syntax: str = ExplicitVRLittleEndian) -> Path:
    """Write a Part-10 file of a data set."""
    spool = Spool(folder / "made", fsync=False)
    return folder / "made" / spool.store(command(ds, syntax), encoded(ds, syntax)).instance.path


def test_echo(listener: Listener) -> None:
    """C-ECHO is answered."""
    assert 0 < echo(listener.settings, us(listener)) < 10


# DCMTK's storescu: the option that proposes a syntax. It knows no HTJ2K.
PROPOSALS = {
    ImplicitVRLittleEndian: "-xi",
    ExplicitVRLittleEndian: "-xe",
    ExplicitVRBigEndian: "-xb",
    DeflatedExplicitVRLittleEndian: "-xd",
    JPEGLosslessSV1: "-xs",
    JPEGLSLossless: "-xt",
    JPEG2000Lossless: "-xv",
    RLELossless: "-xr",
}


@pytest.mark.real
@pytest.mark.parametrize("syntax", PROPOSALS, ids=lambda uid: uid.name.split(",")[0])
def test_storescu_in_each_syntax(listener: Listener, tmp_path: Path, syntax: str) -> None:
    """DCMTK's storescu is served in each transfer syntax it can propose; the bytes it encodes are the bytes kept."""
    ds = ct()
    storescu = Path(require("dcmsend")).with_name("storescu")  # pynetdicom installs a command of the same name
    line = [str(storescu), "-v", PROPOSALS[syntax], "-aec", "OVERREAD", "127.0.0.1", str(listener.port), str(file_of(tmp_path, ds, syntax))]
    done = subprocess.run(line, env=PROMPT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    soon(lambda: indexed(listener, ds.StudyInstanceUID))
    (instance,) = indexed(listener, ds.StudyInstanceUID)
    assert instance.transfer_syntax_uid == syntax
    assert instance.sop_instance_uid == ds.SOPInstanceUID
    kept = pydicom.dcmread(listener.settings.data_dir / instance.path)
    assert kept.PixelData.strip(b"\0") == pydicom.dcmread(file_of(tmp_path, ds, syntax)).PixelData.strip(b"\0")


@pytest.mark.real
def test_dcmsend_of_a_mixed_folder(listener: Listener, tmp_path: Path) -> None:
    """DCMTK sends images, a document and a report on one association; all are kept and indexed with their sender."""
    study = generate_uid()
    document, report = pdf(), pdf()
    report.SOPClassUID, report.Modality = BasicTextSRStorage, "SR"
    sets = [*(ct() for _ in range(4)), document, report]
    for ds in sets:
        ds.StudyInstanceUID = study
    line = [require("dcmsend"), "-v", "-aet", "DCMSEND", "-aec", "OVERREAD", "127.0.0.1", str(listener.port)]
    line += [str(file_of(tmp_path, ds)) for ds in sets]
    done = subprocess.run(line, env=PROMPT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    soon(lambda: len(indexed(listener, study)) == 6)
    assert {instance.sop_instance_uid for instance in indexed(listener, study)} == {ds.SOPInstanceUID for ds in sets}
    assert {(one.calling_ae, one.called_ae, one.peer_host) for one in indexed(listener, study)} == {("DCMSEND", "OVERREAD", "127.0.0.1")}


@pytest.mark.parametrize(
    "syntax", [uid for uid in AllTransferSyntaxes if not uid.startswith(("1.2.840.10008.1.2.6", "1.2.840.10008.1.2.7"))], ids=str
)
def test_every_transfer_syntax_is_accepted(listener: Listener, syntax: str) -> None:
    """Every transfer syntax that DIMSE carries is accepted for storage."""
    with Caller(listener.port) as caller:
        assert caller.associate([(CTImageStorage, [syntax])]) == [0]


def test_callers_order_of_syntaxes(listener: Listener) -> None:
    """The caller's first syntax is chosen, big endian only where it offers nothing else."""
    for offered, chosen in [
        ([RLELossless, ExplicitVRLittleEndian], RLELossless),
        ([ExplicitVRBigEndian, ImplicitVRLittleEndian], ImplicitVRLittleEndian),
        ([ExplicitVRBigEndian], ExplicitVRBigEndian),
    ]:
        with association(listener.settings, us(listener), [build_context(CTImageStorage, offered)]) as link:
            assert link.accepted_contexts[0].transfer_syntax == [chosen]


def test_acknowledged_is_durable(listener: Listener, tmp_path: Path) -> None:
    """When 0x0000 arrives the file is there whole, whatever the ledger does; nothing is left in parts/."""
    ds = ct()
    with Caller(listener.port) as caller:
        caller.associate()
        assert caller.store(CTImageStorage, ds.SOPInstanceUID, encoded(ds)) == 0x0000
        files = [path for path in (tmp_path / "data" / "incoming").rglob("*") if path.is_file()]
    assert [pydicom.dcmread(path).SOPInstanceUID for path in files] == [ds.SOPInstanceUID]
    assert not list((tmp_path / "data" / "parts").iterdir())


def test_order_of_durability(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file is synced, then renamed, then its folder synced, and only then is success answered."""
    happened: list[str] = []
    fsync, rename = os.fsync, Path.rename

    def watched_fsync(handle: int) -> None:
        happened.append("fsync folder" if os.path.isdir(f"/proc/self/fd/{handle}") else "fsync file")  # noqa: PTH112
        fsync(handle)

    def watched_rename(path: Path, target: Path) -> Path:
        happened.append("rename")
        return rename(path, target)

    with listening(tmp_path) as listener, Caller(listener.port) as caller:
        caller.associate()
        monkeypatch.setattr(os, "fsync", watched_fsync)
        monkeypatch.setattr(Path, "rename", watched_rename)
        monkeypatch.setattr(listener._indexer, "put", lambda _instance: happened.append("index"))
        ds = ct()
        assert caller.store(CTImageStorage, ds.SOPInstanceUID, encoded(ds)) == 0x0000
        monkeypatch.undo()
    assert happened[-4:] == ["fsync file", "rename", "fsync folder", "index"]


def test_failed_sync_is_not_acknowledged(listener: Listener, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that cannot sync makes the sender keep its copy: out of resources, and no file."""

    def fails(_handle: int) -> None:
        raise OSError(5, "Input/output error")

    ds = ct()
    with Caller(listener.port) as caller:
        caller.associate()
        monkeypatch.setattr(os, "fsync", fails)
        assert caller.store(CTImageStorage, ds.SOPInstanceUID, encoded(ds)) == 0xA700
        monkeypatch.undo()
        assert not list((listener.settings.data_dir / "parts").iterdir())
        assert caller.store(CTImageStorage, ds.SOPInstanceUID, encoded(ds)) == 0x0000


def test_counters(listener: Listener) -> None:
    """What was received, repeated, in conflict and refused is counted."""
    ds = ct()
    data = encoded(ds)
    other = data.replace(b"PHI-4711", b"PHI-4712")
    with Caller(listener.port) as caller:
        caller.associate()
        for sent in (data, data, other, data[:50]):
            caller.store(CTImageStorage, ds.SOPInstanceUID, sent)
    counters = listener.counters
    assert (counters.associations, counters.received, counters.repeated, counters.conflicts) == (1, 3, 1, 1)
    assert (counters.refused, counters.bytes) == ({0xC000: 1}, 3 * len(data))


def test_nothing_of_the_patient_is_logged(listener: Listener, capfd: pytest.CaptureFixture[str]) -> None:
    """Receiving, refusing and breaking off write no patient's name or identifier to any output."""
    ds = ct()
    with Caller(listener.port) as caller:
        caller.associate()
        caller.store(CTImageStorage, ds.SOPInstanceUID, encoded(ds))
        caller.store(CTImageStorage, ds.SOPInstanceUID, encoded(ds)[:-3])
        caller.store(CTImageStorage, ds.SOPInstanceUID, encoded(ds).replace(b"PHI-4711", b"PHI-4712"))
        caller.send(b"\x04\0\xff\xff\xff\xff" + PATIENT.encode())
        caller.closed_by_peer()
    out = "".join(capfd.readouterr())
    assert "instance.refused" in out
    assert PATIENT not in out
    assert "PHI-471" not in out


def test_many_callers_at_once(listener: Listener) -> None:
    """Callers in parallel, some sending the same instance at the same moment, are all served; each instance is kept once."""
    shared = [ct() for _ in range(5)]
    statuses: list[int] = []

    def send(number: int) -> None:
        with Caller(listener.port) as caller:
            caller.associate(calling=f"CT{number}")
            sets = [*shared, *(ct() for _ in range(5))]
            statuses.extend([caller.store(CTImageStorage, ds.SOPInstanceUID, encoded(ds)) for ds in sets])

    threads = [threading.Thread(target=send, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert statuses == [0] * 60
    assert len(list((listener.settings.data_dir / "incoming").rglob("*.dcm"))) == 35
    soon(lambda: not listener.not_indexed)


@pytest.mark.parametrize("role", [True, False], ids=["as SCP", "without role"])
def test_commitment_report(listener: Listener, monkeypatch: pytest.MonkeyPatch, role: bool) -> None:  # noqa: FBT001
    """A storage commitment report on a new association, with role selection or without, reaches the commitment room."""
    seen: list[Any] = []

    def on_report(_ledger: Ledger, event_type: int, dataset: Dataset) -> int:
        seen.append((event_type, dataset.TransactionUID))
        return 0x0000

    monkeypatch.setattr(commitment, "on_report", on_report)
    assert report(listener, role=role) == 0x0000
    assert seen == [(1, "1.2.3.99")]


def report(listener: Listener, *, role: bool) -> int:
    """Send a report as an archive does; gives the status."""
    information = Dataset()
    information.TransactionUID = "1.2.3.99"
    roles = [build_role(PUSH_MODEL, scp_role=True)] if role else []
    with association(listener.settings, us(listener), [build_context(PUSH_MODEL)], roles=roles) as link:
        status, _ = link.send_n_event_report(information, 1, PUSH_MODEL, "1.2.840.10008.1.20.1.1")
    return int(status.Status)


def test_commitment_report_of_nothing_we_asked(listener: Listener) -> None:
    """A report of an unknown transaction is answered with a failure, not with an abort."""
    assert report(listener, role=True) != 0x0000


def test_commitment_room_in_trouble(listener: Listener, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error while a report is taken is answered as a processing failure."""

    def fails(*_: object) -> int:
        raise RuntimeError("no")

    monkeypatch.setattr(commitment, "on_report", fails)
    assert report(listener, role=True) == 0x0110


def test_process_wide_switches_of_pynetdicom(listener: Listener, monkeypatch: pytest.MonkeyPatch) -> None:
    """What another user of pynetdicom in the process switches on changes neither negotiation nor storage."""
    from pynetdicom import _config  # noqa: PLC0415

    monkeypatch.setattr(_config, "UNRESTRICTED_STORAGE_SERVICE", True)
    monkeypatch.setattr(_config, "STORE_RECV_CHUNKED_DATASET", True)
    ds = ct()
    with Caller(listener.port) as caller:
        assert caller.associate([("1.2.840.10008.5.1.4.31", [ExplicitVRLittleEndian]), (CTImageStorage, [ExplicitVRLittleEndian])]) == [
            3,
            0,
        ]
        assert caller.store(CTImageStorage, ds.SOPInstanceUID, encoded(ds), context=3) == 0x0000
    assert report(listener, role=True) != 0x0000


def test_port_taken(tmp_path: Path) -> None:
    """A port that is taken stops the start with the system's error."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(OSError, match="in use"), listening(tmp_path, port=taken.getsockname()[1]):
            pass


def test_sender_of_pynetdicom(listener: Listener) -> None:
    """Pynetdicom's own SCU, in its default settings, is served."""
    ds = ct()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ae = AE("SCU")
    ae.add_requested_context(CTImageStorage, ExplicitVRLittleEndian)
    link = ae.associate("127.0.0.1", listener.port, ae_title="OVERREAD")
    assert link.send_c_store(ds).Status == 0x0000
    link.release()
    soon(lambda: not listener.connections)
    assert json.dumps(dict(indexed_header(listener, ds)))


def indexed_header(listener: Listener, ds: Dataset) -> dict[str, Any]:
    """Wait for a data set's row; give its header."""
    soon(lambda: indexed(listener, ds.StudyInstanceUID))
    return dict(indexed(listener, ds.StudyInstanceUID)[0].header)
