"""Read a multipart/related answer as it streams, within limits: nothing of it is held but a piece.

Ref: PS3.18 8.6.1.2, RFC 2046 5.1, RFC 2387
"""

from __future__ import annotations

from collections.abc import Iterator
from email.message import Message

from node.errors import Refused, Retryable

HEADERS_MAX_BYTES = 16384
PREAMBLE_MAX_BYTES = 65536
BOUNDARY_MAX = 70  # Ref: RFC 2046 5.1.1


def media_type(value: str) -> tuple[str, dict[str, str]]:
    """Split a Content-Type into its type, in small letters, and its parameters."""
    message = Message()
    message["Content-Type"] = value.replace("\r", " ").replace("\n", " ")
    parameters = message.get_params(failobj=[])
    return message.get_content_type() if value else "", {str(name).lower(): str(text) for name, text in parameters[1:]}


class Multipart:
    """The parts of a stream; each must be read to its end before the next."""

    def __init__(self, pieces: Iterator[bytes], boundary: str) -> None:
        if not 0 < len(boundary) <= BOUNDARY_MAX or not boundary.isascii() or not boundary.isprintable():
            raise Refused("the answer is multipart without a usable boundary")
        self._pieces = pieces
        self._delimiter = b"\r\n--" + boundary.encode("ascii")
        self._buffer = bytearray(b"\r\n")  # the first delimiter may stand at the very start

    def parts(self) -> Iterator[tuple[str, Iterator[bytes]]]:
        """Yield the Content-Type and the pieces of each part. Raises Refused, and Retryable when the stream ends inside."""
        skipped = sum(len(piece) for piece in self._until_delimiter(limit=PREAMBLE_MAX_BYTES))
        del skipped
        while not self._is_last():
            kind = self._headers()
            body = self._until_delimiter()
            yield kind, body
            for _ in body:  # what its reader left
                pass

    def _more(self) -> None:
        piece = next(self._pieces, None)
        if piece is None:
            raise Retryable("the answer ended in the middle of a part")
        self._buffer += piece

    def _is_last(self) -> bool:
        """Tell "--" (the end) from white space and a line end (another part) behind a delimiter."""
        while len(self._buffer) < 2:
            self._more()
        if self._buffer[:2] == b"--":
            return True
        self._line(HEADERS_MAX_BYTES)
        return False

    def _headers(self) -> str:
        """Read a part's header lines; give its Content-Type."""
        kind, size = "", 0
        while line := self._line(HEADERS_MAX_BYTES):
            size += len(line)
            if size > HEADERS_MAX_BYTES:
                raise Refused("a part of the answer has headers without end")
            name, _, value = line.partition(b":")
            if name.strip().lower() == b"content-type":
                kind = value.strip().decode("ascii", "replace")
        # A part may have no bytes, and then the delimiter's own line end was the headers' last.
        self._buffer[:0] = b"" if not self._buffer.startswith(self._delimiter[2:]) else b"\r\n"
        return kind

    def _line(self, limit: int) -> bytes:
        while (end := self._buffer.find(b"\r\n")) < 0:
            if len(self._buffer) > limit:
                raise Refused("a part of the answer has headers without end")
            self._more()
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 2]
        return line

    def _until_delimiter(self, limit: int | None = None) -> Iterator[bytes]:
        """Yield pieces up to the next delimiter and step over it."""
        keep, given = len(self._delimiter) - 1, 0
        while (end := self._buffer.find(self._delimiter)) < 0:
            if len(self._buffer) > keep:
                piece = bytes(self._buffer[:-keep])
                del self._buffer[:-keep]
                given += len(piece)
                if limit is not None and given > limit:
                    raise Refused("the answer is called multipart and is not")
                yield piece
            self._more()
        if end:
            yield bytes(self._buffer[:end])
        del self._buffer[: end + len(self._delimiter)]
