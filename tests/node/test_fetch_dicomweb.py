"""QIDO-RS and WADO-RS against a server that answers as told: right, wrong, cut off, without end."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom import dcmread
from pydicom.uid import generate_uid

from node import fetch, settings
from node.errors import Misconfigured, Refused, Retryable
from node.fetch.multipart import Multipart, media_type
from tests.node.archive_files import image, study, write
from tests.node.dicomweb import BOUNDARY, MULTIPART, Pacs, Reply, parts, serving
from tests.node.fetching import Place, place


@contextmanager
def near(folder: Path, pacs: Pacs, **peer: Any) -> Iterator[Place]:
    """Run a server and make a node that fetches from it."""
    with serving(pacs) as url:
        made = place(folder / "node", 1, retrieve="wado-rs", dicomweb_url=url, **peer)
        yield made
        made.ledger.close()


def run(node: Place, study_uid: str) -> fetch.FetchOutcome:
    """Plan and retrieve."""
    return fetch.retrieve(node.settings, node.ledger, node.spool, fetch.missing(node.settings, node.ledger, study_uid))


def data_set(path: Path) -> bytes:
    """Give the bytes behind the file meta information."""
    content = path.read_bytes()
    return content[144 + int.from_bytes(content[140:144], "little") :]


def test_a_study_comes_series_by_series_with_its_bytes(tmp_path: Path) -> None:
    """Each series is one request; the bytes are the server's; again nothing is asked for but the lists."""
    study_uid, paths = study(tmp_path / "files", series=2, images=3)
    pacs = Pacs(paths)
    with near(tmp_path, pacs) as node:
        outcome = run(node, study_uid)
        assert (len(outcome.retrieved), outcome.refused, outcome.warnings) == (6, {}, ())
        rows = node.rows(study_uid)
        kept = {row.sop_instance_uid: data_set(node.settings.data_dir / row.path) for row in rows}
        assert kept == {str(dcmread(path).SOPInstanceUID): data_set(path) for path in paths}
        assert {(row.calling_ae, row.called_ae) for row in rows} == {("PACS", "OVERREAD")}
        assert sum("/series/" in asked and "/instances" not in asked for asked in pacs.asked) == 2
        assert run(node, study_uid).asked == 0


def test_single_images_are_asked_for_by_name(tmp_path: Path) -> None:
    """Of a series that is partly here only the missing images are requested."""
    study_uid, paths = study(tmp_path / "files", images=4)
    pacs = Pacs(paths)
    with near(tmp_path, pacs) as node:
        node.receive(paths[:3])
        outcome = fetch.complete_series(node.settings, node.ledger, node.spool, node.peer, study_uid)
        assert outcome.retrieved == (str(dcmread(paths[3]).SOPInstanceUID),)
        assert [asked.rpartition("/")[2] for asked in pacs.asked if "/instances/" in asked] == list(outcome.retrieved)


def test_lists_come_page_by_page(tmp_path: Path) -> None:
    """A server that caps its pages at two is asked on until a page is empty."""
    study_uid, paths = study(tmp_path / "files", images=5)
    pacs = Pacs(paths)
    pacs.page = 2
    with near(tmp_path, pacs) as node:
        assert len(fetch.missing(node.settings, node.ledger, study_uid).missing) == 5


def test_credentials_go_out_and_stay_secret(tmp_path: Path) -> None:
    """A token is sent as a bearer's, a user's password as basic; neither is in a repr; both at once are an error."""
    study_uid, paths = study(tmp_path / "files", images=1)
    pacs = Pacs(paths)
    with near(tmp_path, pacs, dicomweb_token="t0ken") as node:  # noqa: S106 -- a test's
        assert run(node, study_uid).complete
        assert {sent["Authorization"] for sent in pacs.headers} == {"Bearer t0ken"}
        assert "t0ken" not in repr(node.settings)
    pacs.headers.clear()
    with near(tmp_path / "basic", pacs, dicomweb_user="us", dicomweb_password="pa55") as node:  # noqa: S106 -- a test's
        assert run(node, study_uid).complete
        assert {sent["Authorization"] for sent in pacs.headers} == {"Basic dXM6cGE1NQ=="}
        assert "pa55" not in repr(node.settings)


@pytest.mark.parametrize(
    "lines",
    ['retrieve = "wado-rs"', 'dicomweb_user = "us"', 'dicomweb_url = "ftp://x"', 'dicomweb_url = "http://user:word@x/"'],
)
def test_half_a_dicomweb_peer_is_misconfigured(tmp_path: Path, lines: str) -> None:
    """WADO-RS without its URL, a user without a password, an odd URL, or one with credentials in it: told at start."""
    path = tmp_path / "overread.toml"
    path.write_text(f'[[peers]]\nname = "pacs"\nae_title = "PACS"\nhost = "pacs"\nport = 104\n{lines}\n')
    with pytest.raises(Misconfigured, match="peers"):
        settings.load(path, {})


def is_file(asked: str) -> bool:
    """Tell a retrieval from a question."""
    return asked.count("/") in {3, 5} and not asked.endswith(("/series", "/instances"))


Change = Callable[[list[bytes], Reply], Reply]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda _files, _reply: Reply(b"<html>", "text/html"), "text/html instead of DICOM"),
        (lambda files, _reply: Reply(parts(files, "image/jpeg"), MULTIPART), "a part of image/jpeg"),
        (lambda _files, _reply: Reply(b"", "multipart/related"), "without a usable boundary"),
        (lambda _files, _reply: Reply(b"x" * 200_000, MULTIPART), "is called multipart and is not"),
        (lambda _files, _reply: Reply(b"--0verread\r\n" + b"h: v\r\n" * 9000, MULTIPART), "headers without end"),
        (lambda _files, _reply: Reply(status=302, headers={"Location": "http://elsewhere.example/"}), "sends us elsewhere"),
        (lambda _files, _reply: Reply(status=403), "does not let us in"),
        (lambda _files, _reply: Reply(status=406), "HTTP 406"),
        (lambda files, _reply: Reply(parts(files), MULTIPART, headers={"Content-Encoding": "gzip"}), "compresses"),
    ],
)
def test_an_answer_that_is_no_dicom_is_refused(tmp_path: Path, change: Change, reason: str) -> None:
    """Wrong content types, broken multipart, redirects, denials: Refused with what to look at, nothing kept."""
    study_uid, paths = study(tmp_path / "files", images=2)
    pacs = Pacs(paths)
    files = [path.read_bytes() for path in paths]
    pacs.change = lambda asked, reply: change(files, reply) if is_file(asked) else reply
    with near(tmp_path, pacs) as node:
        with pytest.raises(Refused, match=reason):
            run(node, study_uid)
        assert (node.files(), node.parts()) == ([], [])


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda _reply: Reply(b"[]", "text/html"), "instead of DICOM JSON"),
        (lambda _reply: Reply(b"[{"), "damaged JSON"),
        (lambda _reply: Reply(b"[" * 100_000), "damaged JSON"),
        (lambda _reply: Reply(b'{"a": 1}'), "no list of results"),
        (lambda _reply: Reply(b'[{"0020000D": {"Value": ["1.9"]}}]'), "about another study"),
        (lambda _reply: Reply(b'[{"0020000D": {"Value": [{"x": []}]}}]'), "no StudyInstanceUID"),
        (lambda _reply: Reply(b'[{"0020000D": []}]'), "no StudyInstanceUID"),
    ],
)
def test_a_list_that_is_none_is_refused(tmp_path: Path, change: Callable[[Reply], Reply], reason: str) -> None:
    """Web pages, broken JSON, JSON of another shape, another study's rows: Refused, never an empty list."""
    pacs = Pacs([])
    pacs.change = lambda _asked, reply: change(reply)
    with near(tmp_path, pacs) as node, pytest.raises(Refused, match=reason):
        fetch.missing(node.settings, node.ledger, "1.2")


def test_a_part_cut_off_loses_only_itself_and_is_asked_for_again(tmp_path: Path) -> None:
    """The connection ends inside the second of three files: the first is kept, the other two come by the next attempt."""
    study_uid, paths = study(tmp_path / "files", images=3)
    pacs = Pacs(paths)
    cut: list[str] = []

    def once(asked: str, reply: Reply) -> Reply:
        if is_file(asked) and not cut:
            cut.append(asked)
            reply.pieces = iter([reply.body[: len(reply.body) // 2]])
        return reply

    pacs.change = once
    with near(tmp_path, pacs) as node:
        outcome = run(node, study_uid)
        assert (outcome.complete, outcome.attempts, outcome.refused) == (True, 2, {})
        assert any("middle of a part" in warning for warning in outcome.warnings)
        assert (len(node.files()), node.parts()) == (3, [])


@pytest.mark.parametrize(
    ("keyword", "value", "reason"),
    [("StudyInstanceUID", "1.9", "another study"), ("PatientID", "ELSE", "another patient"), ("SOPInstanceUID", "1.9", "not asked for")],
)
def test_other_images_are_refused(tmp_path: Path, keyword: str, value: str, reason: str) -> None:
    """A server that sends another study's or patient's image, or one nobody asked for: refused, the right one kept."""
    study_uid, paths = study(tmp_path / "files", images=2)
    pacs = Pacs(paths)
    altered = dcmread(paths[0])
    setattr(altered, keyword, value)
    wrong = write(altered, tmp_path / "wrong.dcm").read_bytes()
    uid = str(dcmread(paths[0]).SOPInstanceUID)

    def swap(asked: str, reply: Reply) -> Reply:
        if is_file(asked):
            reply.body = reply.body.replace(paths[0].read_bytes(), wrong)
        return reply

    pacs.change = swap
    with near(tmp_path, pacs) as node:
        node.receive(paths[1:])
        outcome = run(node, study_uid)
        assert any(reason in said for said in outcome.refused)
        assert outcome.missing == (uid,)
        assert len(node.files()) == 1


def test_a_file_larger_than_allowed_is_refused_while_it_comes(tmp_path: Path) -> None:
    """A part without end is cut at the largest instance the node takes; the other image still comes."""
    study_uid, paths = study(tmp_path / "files", images=2)
    pacs = Pacs(paths)
    first = str(dcmread(paths[0]).SOPInstanceUID)
    head = paths[0].read_bytes()

    def endless() -> Iterator[bytes]:
        yield f"--{BOUNDARY}\r\nContent-Type: application/dicom\r\n\r\n".encode() + head
        while True:
            yield b"\0" * 65536

    def swell(asked: str, reply: Reply) -> Reply:
        return Reply(kind=MULTIPART, pieces=endless()) if is_file(asked) and not asked.endswith(second) else reply

    second = str(dcmread(paths[1]).SOPInstanceUID)
    pacs.change = swell
    with near(tmp_path, pacs) as node:
        node.spool.max_bytes = 200_000
        outcome = run(node, study_uid)
        assert outcome.retrieved == (second,)
        assert outcome.missing == (first,)
        assert any("larger than 200000 bytes" in said for said in outcome.refused)
        assert node.parts() == []


@pytest.mark.parametrize("where", ["list", "file"])
def test_a_byte_a_moment_ends_with_the_time(tmp_path: Path, where: str) -> None:
    """A server that drips its answer never reaches a read's time-out, and is cut at the peer's retrieve_timeout_s."""
    study_uid, paths = study(tmp_path / "files", images=1)
    pacs = Pacs(paths)

    def drip() -> Iterator[bytes]:
        while True:
            yield b" "
            time.sleep(0.02)

    def slow(asked: str, reply: Reply) -> Reply:
        return Reply(kind=reply.kind, pieces=drip()) if is_file(asked) == (where == "file") else reply

    pacs.change = slow
    with near(tmp_path, pacs, retrieve_timeout_s=1, retrieve_attempts=2) as node, pytest.raises(Retryable):
        run(node, study_uid)


def test_a_header_that_never_comes_ends_with_the_time(tmp_path: Path) -> None:
    """A server that drips its header lines is cut too: the reader sits in the socket then, not in our loop."""
    import socket  # noqa: PLC0415
    import threading  # noqa: PLC0415

    with socket.create_server(("127.0.0.1", 0)) as door:

        def drip() -> None:
            link, _ = door.accept()
            with link:
                try:
                    link.sendall(b"HTTP/1.1 200 OK\r\nX: ")
                    while True:
                        link.sendall(b"x")
                        time.sleep(0.02)
                except OSError:
                    return

        thread = threading.Thread(target=drip, daemon=True)
        thread.start()
        url = f"http://127.0.0.1:{door.getsockname()[1]}/"
        node = place(tmp_path / "node", 1, retrieve="wado-rs", dicomweb_url=url, retrieve_timeout_s=1)
        with pytest.raises(Retryable, match="given up after 1 s"):
            fetch.missing(node.settings, node.ledger, "1.2")
        thread.join(5)
        node.ledger.close()


@pytest.mark.parametrize("status", [429, 503])
def test_a_busy_server_is_asked_again(tmp_path: Path, status: int) -> None:
    """One answer of "not now" costs an attempt, not the study."""
    study_uid, paths = study(tmp_path / "files", images=2)
    pacs = Pacs(paths)
    busy = [status]
    pacs.change = lambda asked, reply: Reply(status=busy.pop()) if is_file(asked) and busy else reply
    with near(tmp_path, pacs) as node:
        outcome = run(node, study_uid)
        assert (outcome.complete, outcome.attempts) == (True, 2)
        assert outcome.warnings == (f"pacs cannot answer now (HTTP {status})",)


def test_a_listed_image_that_is_gone_is_missing(tmp_path: Path) -> None:
    """404 for one image: the others come, it is missing, and the peer's contradiction is reported."""
    study_uid, paths = study(tmp_path / "files", images=3)
    pacs = Pacs(paths)
    gone = str(dcmread(paths[0]).SOPInstanceUID)
    pacs.change = lambda asked, reply: Reply(status=404) if asked.endswith(gone) or (asked.count("/") == 3 and is_file(asked)) else reply
    with near(tmp_path, pacs, retrieve_attempts=1) as node:
        outcome = run(node, study_uid)
        assert (outcome.missing, len(outcome.retrieved)) == ((gone,), 2)
        assert any("lists 1 images that it does not have" in warning for warning in outcome.warnings)


def test_priors_are_checked_against_the_patient(tmp_path: Path) -> None:
    """A server that ignores its query keys gives no other patient's study; the URL with the ID is logged nowhere."""
    mine, other = image(generate_uid(), generate_uid()), image(generate_uid(), generate_uid())
    other.PatientID = "SOMEONE-ELSE"
    pacs = Pacs([write(dataset, tmp_path / f"{dataset.SOPInstanceUID}.dcm") for dataset in (mine, other)])
    answer = pacs.answer
    pacs.answer = lambda target: answer(target.replace("PatientID=", "Ignored="))  # type: ignore[method-assign]
    asked = fetch.PriorQuery(patient=fetch.Patient(patient_id="PHANTOM-1"), modality="CT", before_date="20250101")
    with near(tmp_path, pacs) as node:
        found = fetch.priors(node.settings, node.peer, asked)
    assert [prior.study_instance_uid for prior in found] == [str(mine.StudyInstanceUID)]
    assert not logging.getLogger("httpx").isEnabledFor(logging.INFO)


@given(
    contents=st.lists(st.binary(max_size=300), max_size=4),
    size=st.integers(min_value=1, max_value=50),
    preamble=st.sampled_from([b"", b"\r\n", b"hello\r\n"]),
)
def test_any_bytes_survive_multipart_in_any_pieces(contents: list[bytes], size: int, preamble: bytes) -> None:
    """However the stream is cut, each part's bytes come out as they went in."""
    contents = [content.replace(BOUNDARY.encode(), b"") for content in contents]
    body = preamble + parts(contents)
    stream = iter([body[start : start + size] for start in range(0, len(body), size)])
    assert [b"".join(pieces) for _, pieces in Multipart(stream, BOUNDARY).parts()] == contents


@given(st.binary(max_size=400), st.integers(min_value=1, max_value=40))
def test_no_bytes_break_the_multipart_reader(body: bytes, size: int) -> None:
    """Whatever comes: parts, Refused or Retryable, and an end."""
    stream = iter([body[start : start + size] for start in range(0, len(body), size)])
    try:
        for _, pieces in Multipart(stream, "b").parts():
            for _ in pieces:
                pass
    except (Refused, Retryable):
        pass


def test_content_types_are_read_with_their_parameters() -> None:
    """Case, quotes and order of parameters do not matter; nothing is no type."""
    assert media_type('Multipart/Related; boundary="a b"; type="application/dicom"')[1]["boundary"] == "a b"
    assert media_type("multipart/related;BOUNDARY=x") == ("multipart/related", {"boundary": "x"})
    assert media_type("")[0] == ""
