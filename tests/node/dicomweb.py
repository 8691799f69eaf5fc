"""A DICOMweb server on loopback that answers as a test tells it, honestly by default."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from pydicom import Dataset, dcmread

BOUNDARY = "0verread"
MULTIPART = f'multipart/related; type="application/dicom"; boundary={BOUNDARY}'
JSON = "application/dicom+json"


@dataclass
class Reply:
    """One HTTP answer; `pieces` instead of a body end with the connection, so that it can break off."""

    body: bytes = b""
    kind: str = JSON
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    pieces: Iterator[bytes] | None = None


class Pacs:
    """What the server holds, the requests it got, and how it answers: `answer` may be replaced."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self.files = [(dcmread(path, stop_before_pixels=True), path.read_bytes()) for path in paths]
        self.asked: list[str] = []
        self.headers: list[dict[str, str]] = []
        self.page = 1000
        self.change: Callable[[str, Reply], Reply] = lambda _path, reply: reply

    def answer(self, target: str) -> Reply:
        """Answer a GET."""
        url = urlsplit(target)
        keys = {name: values[0] for name, values in parse_qs(url.query).items()}
        words = url.path.strip("/").split("/")[1:]  # without the root
        self.asked.append("/".join(words))
        uids = dict(zip(words[0::2], words[1::2], strict=False))
        chosen = [entry for entry in self.files if _is_below(entry[0], uids)]
        if "limit" in keys:
            return self.change("/".join(words), self._rows(words[-1], chosen, keys))
        if not chosen:
            return self.change("/".join(words), Reply(status=404))
        return self.change("/".join(words), Reply(parts([content for _, content in chosen]), MULTIPART))

    def _rows(self, level: str, chosen: list[tuple[Dataset, bytes]], keys: dict[str, str]) -> Reply:
        unique = {"studies": "StudyInstanceUID", "series": "SeriesInstanceUID", "instances": "SOPInstanceUID"}[level]
        rows: dict[str, Any] = {}
        for header, _ in chosen:
            if all(str(header.get(name, "")) == value for name, value in keys.items() if name in {"StudyInstanceUID", "PatientID"}):
                shown = Dataset()
                for keyword in (
                    "StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID", "Modality", "PatientID", "StudyDate",
                ):  # fmt: skip
                    if keyword in header:
                        shown[keyword] = header[keyword]
                rows[str(header[unique].value)] = shown.to_json_dict()
        start = int(keys.get("offset", "0"))
        some = list(rows.values())[start : start + self.page]
        return Reply(json.dumps(some).encode()) if some else Reply(status=204)


def parts(contents: Sequence[bytes], kind: str = "application/dicom") -> bytes:
    """Make a multipart body."""
    head = f"--{BOUNDARY}\r\nContent-Type: {kind}\r\n\r\n".encode()
    return b"".join(head + content + b"\r\n" for content in contents) + f"--{BOUNDARY}--\r\n".encode()


def _is_below(header: Dataset, uids: dict[str, str]) -> bool:
    names = {"studies": "StudyInstanceUID", "series": "SeriesInstanceUID", "instances": "SOPInstanceUID"}
    return all(str(header[names[level]].value) == uid for level, uid in uids.items())


def _send(handler: BaseHTTPRequestHandler, reply: Reply) -> None:
    handler.send_response(reply.status)
    handler.send_header("Content-Type", reply.kind)
    for name, value in reply.headers.items():
        handler.send_header(name, value)
    if reply.pieces is None:
        handler.send_header("Content-Length", str(len(reply.body)))
        handler.end_headers()
        handler.wfile.write(reply.body)
        return
    handler.send_header("Connection", "close")
    handler.end_headers()
    handler.close_connection = True
    with suppress(OSError):  # the client has had enough
        for piece in reply.pieces:
            handler.wfile.write(piece)
            handler.wfile.flush()


@contextmanager
def serving(pacs: Pacs) -> Iterator[str]:
    """Serve; gives the root of its DICOMweb services."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            pacs.headers.append(dict(self.headers))
            reply = pacs.answer(self.path)
            _send(self, reply)

        def log_message(self, *_arguments: object) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/dicom-web"
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)
