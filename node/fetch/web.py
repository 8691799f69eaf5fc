"""HTTP to a DICOMweb server that may be slow, wrong or hostile: no redirects, no proxies, one deadline, bounded answers.

Reasons name a status or a kind of fault, never a URL: it may hold a patient's ID. Ref: PS3.18 8
"""

from __future__ import annotations

import contextlib
import json
import logging
import socket
import threading
from collections.abc import Generator, Iterator, Mapping
from types import TracebackType
from typing import Any, Self

import httpx

from node.errors import Misconfigured, Refused, Retryable
from node.fetch.multipart import Multipart, media_type
from node.fetch.plan import Deadline
from node.peers import client_tls
from node.settings import Peer, Settings

JSON_MAX_BYTES = 64 * 1024**2
PIECE_BYTES = 262144
AGAIN = frozenset({408, 409, 425, 429, 500, 502, 503, 504})
DICOM = "application/dicom"
# httpx prints each request's URL at INFO, httpcore its headers at DEBUG.
for _name in ("httpx", "httpcore"):
    logging.getLogger(_name).setLevel(logging.WARNING)


class Gone(Refused):
    """The server has no such thing."""


class Web:
    """A client of one peer's DICOMweb root, from `with` to its end; everything ends with the deadline."""

    def __init__(self, settings: Settings, peer: Peer, deadline: Deadline) -> None:
        if peer.dicomweb_url is None:
            raise Misconfigured(f"the peer {peer.name!r} has no dicomweb_url")
        self.peer = peer
        self._deadline = deadline
        self._root = peer.dicomweb_url.rstrip("/")
        self._socket: socket.socket | None = None
        self._timer = threading.Timer(deadline.left_s, self._cut)
        self._timer.daemon = True
        node = settings.node
        self._client = httpx.Client(
            timeout=httpx.Timeout(node.network_timeout_s, connect=node.association_timeout_s),
            verify=client_tls(settings) if self._root.startswith("https:") else True,
            headers={"Accept-Encoding": "identity", "User-Agent": "overread", **_bearer(peer)},
            auth=_basic(peer),
            follow_redirects=False,
            trust_env=False,
            limits=httpx.Limits(max_connections=1),
        )

    def __enter__(self) -> Self:
        """Start the deadline's clock."""
        self._timer.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Close the connection."""
        self._timer.cancel()
        self._client.close()

    @property
    def host(self) -> str:
        """Give the server's host."""
        return httpx.URL(self._root).host

    def rows(self, path: str, keys: Mapping[str, str]) -> list[dict[str, Any]]:
        """Ask a question; give its rows of DICOM JSON. Ref: PS3.18 8.3.4, F.2. Raises Retryable, Refused."""
        with self._answer(path, keys, "application/dicom+json") as answer:
            if answer.status_code == 204:
                return []
            kind, _ = media_type(answer.headers.get("Content-Type", ""))
            if kind not in {"application/dicom+json", "application/json"}:
                raise Refused(f"{self.peer.name} answers a query with {kind or 'no content type'} instead of DICOM JSON")
            body = bytearray()
            for piece in self._pieces(answer):
                body += piece
                if len(body) > JSON_MAX_BYTES:
                    raise Refused(f"{self.peer.name} answers a query with more than {JSON_MAX_BYTES // 1024**2} MB")
        try:
            rows = json.loads(body)
        except (ValueError, RecursionError):
            raise Refused(f"{self.peer.name} answers a query with damaged JSON") from None
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise Refused(f"{self.peer.name} answers a query with JSON that is no list of results")
        return rows

    def files(self, path: str) -> Generator[Iterator[bytes], None, None]:
        """Yield each Part-10 file of an answer as its pieces, in the syntax it is stored in. Raises Retryable, Refused."""
        accept = f'multipart/related; type="{DICOM}"; transfer-syntax=*'
        with self._answer(path, {}, accept) as answer:
            kind, parameters = media_type(answer.headers.get("Content-Type", ""))
            if kind == DICOM:
                yield self._pieces(answer)
            elif kind == "multipart/related":
                for part, pieces in Multipart(self._pieces(answer), parameters.get("boundary", "")).parts():
                    if media_type(part)[0] not in {DICOM, ""}:
                        raise Refused(f"{self.peer.name} sends a part of {media_type(part)[0]} instead of {DICOM}")
                    yield pieces
            elif answer.status_code != 204:
                raise Refused(f"{self.peer.name} answers with {kind or 'no content type'} instead of DICOM files")

    @contextlib.contextmanager
    def _answer(self, path: str, keys: Mapping[str, str], accept: str) -> Iterator[httpx.Response]:
        self._deadline.need()
        extensions = {"trace": self._watch}
        try:
            with self._client.stream(
                "GET", self._root + path, params=dict(keys), headers={"Accept": accept}, extensions=extensions
            ) as answer:
                self._judge(answer)
                yield answer
        except httpx.HTTPError as error:  # its words hold the URL
            self._deadline.need()
            raise Retryable(f"{self.peer.name} cannot be reached by DICOMweb or broke off ({type(error).__name__})") from None

    def _judge(self, answer: httpx.Response) -> None:
        name, code = self.peer.name, answer.status_code
        if code in {200, 204, 206}:
            if answer.headers.get("Content-Encoding", "identity") != "identity":
                raise Refused(f"{name} compresses its answer although it was asked not to")
        elif code in AGAIN:
            raise Retryable(f"{name} cannot answer now (HTTP {code})")
        elif code in {401, 403}:
            raise Refused(f"{name} does not let us in (HTTP {code}): look at dicomweb_user and dicomweb_password, or dicomweb_token")
        elif code in {404, 410}:
            raise Gone(f"{name} has no such study, series or image, or dicomweb_url is wrong (HTTP {code})")
        elif 300 <= code < 400:
            raise Refused(f"{name} sends us elsewhere (HTTP {code}): set dicomweb_url to where its services are")
        else:
            raise Refused(f"{name} refuses the request (HTTP {code})")

    def _pieces(self, answer: httpx.Response) -> Iterator[bytes]:
        for piece in answer.iter_raw(PIECE_BYTES):
            self._deadline.need()
            yield piece

    def _watch(self, event: str, info: Mapping[str, Any]) -> None:
        """Note the socket, so that the deadline can end a read that gets a byte a minute."""
        if event in {"connection.connect_tcp.complete", "connection.start_tls.complete"}:
            self._socket = info["return_value"].get_extra_info("socket")
            if not self._deadline.left_s:
                self._cut()

    def _cut(self) -> None:
        if self._socket is not None:
            with contextlib.suppress(OSError):
                socket.socket.shutdown(self._socket, socket.SHUT_RDWR)  # an SSL socket's own would wait for its reader


def _basic(peer: Peer) -> httpx.BasicAuth | None:
    if peer.dicomweb_user is None or peer.dicomweb_password is None:
        return None
    return httpx.BasicAuth(peer.dicomweb_user, peer.dicomweb_password.get_secret_value())


def _bearer(peer: Peer) -> dict[str, str]:
    return {} if peer.dicomweb_token is None else {"Authorization": f"Bearer {peer.dicomweb_token.get_secret_value()}"}
