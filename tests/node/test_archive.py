"""The in-process archive, driven by DCMTK's own clients."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian, RLELossless, generate_uid

from node.archive import Archive, Faults
from node.archive.holdings import data_set_of
from node.errors import Refused, Retryable
from tests.node.archive_files import image, study, write
from tests.servers import require

PROMPT = {**os.environ, "TCP_NODELAY": "1"}  # Debian's DCMTK leaves Nagle on: 40 ms a response


def call(*command: str | Path) -> str:
    """Run a DCMTK client; gives what it printed."""
    done = subprocess.run([str(part) for part in command], env=PROMPT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def soon(condition: Callable[[], object], within_s: float = 10) -> None:
    """Wait until the condition holds."""
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.02)


@pytest.fixture
def archive(tmp_path: Path) -> Iterator[Archive]:
    """Run an archive on a free port."""
    with Archive(tmp_path / "archive", "PACS") as running:
        yield running


def dcmsend(archive: Archive, *paths: Path) -> str:
    """Send files with DCMTK's dcmsend."""
    return call(require("dcmsend"), "-v", "-aec", archive.ae_title, "127.0.0.1", str(archive.port), *paths)


def findscu(archive: Archive, *keys: str) -> list[dict[str, str]]:
    """Query with DCMTK's findscu; gives one mapping of tag to value a match."""
    options = [part for key in keys for part in ("-k", key)]
    text = call(require("findscu"), "-v", "-S", "-aec", archive.ae_title, "127.0.0.1", str(archive.port), *options)
    answers = text.split("Find Response:")[1:]
    found = [re.findall(r"\((\w{4},\w{4})\) \w\w \[?(.*?)\]? +#", answer) for answer in answers]
    return [{tag: value.strip("\0 ") for tag, value in pairs} for pairs in found]


def test_an_archive_answers_echo_to_its_own_name_only(archive: Archive) -> None:
    """C-ECHO to the right called AE title succeeds; another title is rejected."""
    call(require("echoscu"), "-aec", "PACS", "127.0.0.1", str(archive.port))
    other = subprocess.run(
        [require("echoscu"), "-aec", "OTHER", "127.0.0.1", str(archive.port)], env=PROMPT, capture_output=True, check=False
    )
    assert other.returncode != 0


@pytest.mark.parametrize(("syntax", "proposing"), [(ExplicitVRLittleEndian, "-xe"), (ImplicitVRLittleEndian, "-xi")])
def test_what_dcmtk_sends_is_kept_byte_for_byte(archive: Archive, tmp_path: Path, syntax: str, proposing: str) -> None:
    """The data set in the archive's file equals the one in the sender's file."""
    sent = write(image(generate_uid(), generate_uid(), syntax=syntax), tmp_path / "sent.dcm")
    call(require("storescu"), proposing, "-aec", "PACS", "127.0.0.1", str(archive.port), sent)
    uid = str(dcmread(sent).SOPInstanceUID)
    kept = archive.path_of(uid)
    assert kept is not None
    assert data_set_of(kept) == data_set_of(sent)
    assert dcmread(kept).file_meta.TransferSyntaxUID == syntax


def test_unknown_and_private_classes_are_kept_too(archive: Archive, tmp_path: Path) -> None:
    """Label map segmentation and a private class arrive when forwarded by another archive, in an odd syntax too."""
    study_uid, series_uid = generate_uid(), generate_uid()
    with Archive(tmp_path / "other", "OTHER", peers={"PACS": ("127.0.0.1", archive.port)}) as other:
        for sop_class in ("1.2.840.10008.5.1.4.1.1.66.7", "1.2.826.0.1.3680043.10.1.1"):
            other.add(write(image(study_uid, series_uid, sop_class=sop_class), tmp_path / "file.dcm"))
        compressed = image(study_uid, series_uid)
        compressed.compress(RLELossless, generate_instance_uid=False)
        other.add(write(compressed, tmp_path / "file.dcm"))
        assert other.forward(study_uid, "PACS") == 3
        assert sorted(archive.instances(study_uid)) == sorted(other.instances(study_uid))
        for uid in other.instances(study_uid):
            kept, sent = archive.path_of(uid), other.path_of(uid)
            assert kept is not None
            assert sent is not None
            assert data_set_of(kept) == data_set_of(sent)


def test_garbage_is_refused_and_nothing_kept(archive: Archive, tmp_path: Path) -> None:
    """A data set that cannot be read is answered C000."""
    sent = write(image(generate_uid(), generate_uid()), tmp_path / "sent.dcm")
    content = sent.read_bytes()
    head = len(content) - len(data_set_of(sent))
    sent.write_bytes(content[:head] + b"\x08\x00\x16\x00ZZ\xff\xff" * 20)
    with Archive(tmp_path / "other", "OTHER", peers={"PACS": ("127.0.0.1", archive.port)}) as other:
        real = write(image(generate_uid(), generate_uid()), tmp_path / "real.dcm")
        uid = other.add(real)
        kept = other.path_of(uid)
        assert kept is not None
        kept.write_bytes(sent.read_bytes())  # the index still says what it was
        assert other.forward(str(dcmread(real).StudyInstanceUID), "PACS") == 0
    assert [reception.status for reception in archive.received] == [0xC000]
    assert archive.holdings.all() == []


def test_findscu_sees_counts_at_every_level(archive: Archive, tmp_path: Path) -> None:
    """Study, series and image level answers carry UIDs and the numbers of related instances; a growing study counts up."""
    study_uid, paths = study(tmp_path / "files", series=2, images=3)
    dcmsend(archive, *paths[:-1])
    [found] = findscu(archive, "QueryRetrieveLevel=STUDY", "PatientID=PHANTOM*", "StudyInstanceUID", "NumberOfStudyRelatedInstances")
    assert found["0020,000d"] == study_uid
    assert found["0020,1208"] == "5"
    dcmsend(archive, paths[-1])
    series = findscu(
        archive, "QueryRetrieveLevel=SERIES", f"StudyInstanceUID={study_uid}", "SeriesInstanceUID", "NumberOfSeriesRelatedInstances"
    )
    assert [answer["0020,1209"] for answer in series] == ["3", "3"]
    first = str(dcmread(paths[0]).SeriesInstanceUID)
    images = findscu(archive, "QueryRetrieveLevel=IMAGE", f"StudyInstanceUID={study_uid}", f"SeriesInstanceUID={first}", "SOPInstanceUID")
    assert {answer["0008,0018"] for answer in images} == {str(dcmread(path).SOPInstanceUID) for path in paths[:3]}


@pytest.mark.parametrize(
    ("key", "matches"),
    [
        ("PatientName=phantom*", 1),
        ("PatientName=Phantom^?rchive", 1),
        ("PatientName=Nobody*", 0),
        ("StudyDate=20240101-20240103", 1),
        ("StudyDate=20240103-", 0),
        ("ModalitiesInStudy=CT", 1),
        ("ModalitiesInStudy=MR", 0),
        ("AccessionNumber=A1", 0),
    ],
)
def test_query_keys_match_as_the_standard_says(archive: Archive, tmp_path: Path, key: str, matches: int) -> None:
    """Wildcards, names without case, date ranges and absent attributes match or do not."""
    dcmsend(archive, *study(tmp_path / "files", images=1)[1])
    assert len(findscu(archive, "QueryRetrieveLevel=STUDY", "StudyInstanceUID", key)) == matches


def test_a_query_that_skips_a_level_is_refused(archive: Archive) -> None:
    """An image level query without a series is answered A900: this archive knows no relational queries."""
    text = call(
        require("findscu"), "-v", "-S", "-aec", "PACS", "127.0.0.1", str(archive.port), "-k", "QueryRetrieveLevel=IMAGE",
        "-k", "StudyInstanceUID=1.2.3", "-k", "SOPInstanceUID",
    )  # fmt: skip
    assert "DataSetDoesNotMatchSOPClass" in text


def test_movescu_moves_a_series_to_a_known_peer(archive: Archive, tmp_path: Path) -> None:
    """C-MOVE sends the chosen series to the named AE, and answers A801 for an AE nobody knows."""
    study_uid, paths = study(tmp_path / "files", series=2, images=2)
    dcmsend(archive, *paths)
    series_uid = str(dcmread(paths[0]).SeriesInstanceUID)
    keys = ["-k", "QueryRetrieveLevel=SERIES", "-k", f"StudyInstanceUID={study_uid}", "-k", f"SeriesInstanceUID={series_uid}"]
    command = [require("movescu"), "-v", "-S", "-aec", "PACS", *keys, "127.0.0.1", str(archive.port)]
    with Archive(tmp_path / "other", "OTHER") as other:
        archive.peers["OTHER"] = ("127.0.0.1", other.port)
        call(*command, "-aem", "OTHER")
        assert sorted(other.instances(study_uid)) == sorted(str(dcmread(path).SOPInstanceUID) for path in paths[:2])
        for path in paths[:2]:
            moved = other.path_of(str(dcmread(path).SOPInstanceUID))
            assert moved is not None
            assert data_set_of(moved) == data_set_of(path)
    refused = subprocess.run([*command, "-aem", "NOBODY"], env=PROMPT, capture_output=True, text=True, check=False)
    assert "MoveDestinationUnknown" in refused.stdout + refused.stderr


def test_forwarding_reaches_storescp(archive: Archive, tmp_path: Path) -> None:
    """A forwarded study lies, image by image, in the folder of DCMTK's storescp."""
    study_uid, paths = study(tmp_path / "files", images=3)
    for path in paths:
        archive.add(path)
    folder = tmp_path / "storescp"
    folder.mkdir()
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    peer = subprocess.Popen([require("storescp"), "--accept-all", "+B", "-od", folder, str(port)], env=PROMPT)
    try:
        archive.peers["STORESCP"] = ("127.0.0.1", port)
        soon(lambda: _connects(port))
        assert archive.forward(study_uid, "STORESCP") == 3
        assert len(list(folder.iterdir())) == 3
    finally:
        peer.terminate()
        peer.wait(10)


def _connects(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_forwarding_says_why_it_could_not(archive: Archive, tmp_path: Path) -> None:
    """An unknown peer is Refused, one that does not listen Retryable."""
    study_uid, [path] = study(tmp_path / "files", images=1)
    archive.add(path)
    with pytest.raises(Refused):
        archive.forward(study_uid, "NOBODY")
    archive.peers["DOWN"] = ("127.0.0.1", 1)
    with pytest.raises(Retryable):
        archive.forward(study_uid, "DOWN")


def test_planted_store_faults_strike_as_told(archive: Archive, tmp_path: Path) -> None:
    """Refused classes lose their context; the next n stores fail; an association aborts after n; afterwards all is well."""
    study_uid, paths = study(tmp_path / "files", images=3)
    with Archive(tmp_path / "other", "OTHER", peers={"PACS": ("127.0.0.1", archive.port)}) as other:
        uids = [other.add(path) for path in paths]
        archive.faults = Faults(refused_classes=frozenset({"1.2.840.10008.5.1.4.1.1.2"}))
        with pytest.raises((Refused, Retryable)):
            other.forward(study_uid, "PACS")
        archive.faults = Faults(abort_after=1)
        with pytest.raises(Retryable):
            other.forward(study_uid, "PACS")
        assert archive.instances(study_uid) == uids[:1]
        archive.faults = Faults(fail_stores=2, fail_status=0xA700)
        assert other.forward(study_uid, "PACS") == 1
        assert other.forward(study_uid, "PACS") == 3
    assert archive.instances(study_uid) == uids


def test_a_study_can_grow_while_it_is_forwarded(archive: Archive, tmp_path: Path) -> None:
    """With grow_by the sender's own count is short until the late images arrive there and go out."""
    study_uid, paths = study(tmp_path / "files", images=3)
    with Archive(tmp_path / "other", "OTHER", peers={"PACS": ("127.0.0.1", archive.port)}) as other:
        for path in paths:
            other.add(path)
        other.faults = Faults(grow_by=1)
        counts: list[str] = []
        send = other._send

        def counting(part: list[object], ae_title: str) -> int:
            taken = send(part, ae_title)  # type: ignore[arg-type]
            [answer] = findscu(other, "QueryRetrieveLevel=STUDY", f"StudyInstanceUID={study_uid}", "NumberOfStudyRelatedInstances")
            counts.append(answer["0020,1208"])
            return taken

        other._send = counting  # type: ignore[method-assign, assignment]
        assert other.forward(study_uid, "PACS") == 3
        assert counts == ["2", "3"]


def test_it_runs_as_a_process_and_keeps_its_files_over_a_restart(tmp_path: Path) -> None:
    """`python -m node.archive` prints its port, ends with 0 on SIGTERM, and a new start still holds the study."""
    study_uid, paths = study(tmp_path / "files")
    command = [
        sys.executable,
        "-m",
        "node.archive",
        "--dir",
        str(tmp_path / "archive"),
        "--ae-title",
        "PACS",
        "--port",
        "0",
        "--peer",
        "A@127.0.0.1:4",
    ]
    for round_number in range(2):
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        port = json.loads(process.stdout.readline())["port"]
        if round_number == 0:
            call(require("dcmsend"), "-aec", "PACS", "127.0.0.1", str(port), *paths)
        keys = ["-k", "QueryRetrieveLevel=STUDY", "-k", "StudyInstanceUID", "-k", "NumberOfStudyRelatedInstances=2"]
        assert study_uid in call(require("findscu"), "-v", "-S", "-aec", "PACS", "127.0.0.1", str(port), *keys)
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0
        process.stdout.close()
