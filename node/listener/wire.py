"""Read an association's bytes within limits and deadlines, and wait for them without burning a core.

Ref: PS3.8 9.3
"""

from __future__ import annotations

import select
import socket
import ssl
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from pynetdicom.dul import DULServiceProvider
from pynetdicom.fsm import InvalidEventError

from node import journal
from node.peers import ClosingSocket

if TYPE_CHECKING:
    from node.listener.acceptor import Link

log = journal.get("listener")

# A-P-ABORT PDUs by the provider. Ref: PS3.8 9.3.8, Table 9-26
_ABORT_TOO_LARGE = bytes.fromhex("07 00 00000004 00 00 02 06")
_ABORT_TOO_SLOW = bytes.fromhex("07 00 00000004 00 00 02 00")


class Wire(ClosingSocket):
    """A socket on which no read waits for ever or believes a length."""

    def __init__(self, link: Link, client_socket: socket.socket) -> None:
        super().__init__(link, client_socket=client_socket)
        self._link = link
        self._poll = select.poll()  # select() fails beyond descriptor 1023
        self._poll.register(client_socket, select.POLLIN)
        self._deadline = 0.0
        self._in_body = False

    @property
    def ready(self) -> bool:
        """Wait a moment for data: this is the reactor's pause."""
        sock = self.socket
        if sock is None or not self._is_connected:
            return False
        if isinstance(sock, ssl.SSLSocket) and sock.pending():
            return True
        return bool(self._poll.poll(self._link.pause_s * 1000))

    def recv(self, nr_bytes: int) -> bytearray:
        """Read a PDU's header, then its body: both before one deadline, the body within the limit."""
        now = self._link.heard_at = time.monotonic()
        if not self._in_body:
            self._deadline = now + self._link.pdu_timeout_s
        elif nr_bytes > self._link.pdu_limit:
            self._give_up("pdu_too_large", _ABORT_TOO_LARGE)
        self._in_body = not self._in_body
        buffer = bytearray(nr_bytes)
        view, got = memoryview(buffer), 0
        sock = self.socket
        while got < nr_bytes and sock is not None:
            try:
                sock.settimeout(max(self._deadline - time.monotonic(), 0.001))
                count = sock.recv_into(view[got:])
            except TimeoutError:
                self._give_up("pdu_too_slow", _ABORT_TOO_SLOW)
            if not count:
                return buffer[:got]
            got += count
        return buffer

    def send(self, bytestream: bytes) -> None:
        """Send within the time-out."""
        if self.socket is not None:
            self.socket.settimeout(self._link.pdu_timeout_s)
        super().send(bytestream)

    def _give_up(self, why: str, pdu: bytes) -> None:
        log.warning("association.broken", why=why, peer=self._link.host, calling_ae=self._link.calling_ae)
        self._link.policy.counters.add(broken=1)
        if self.socket is not None:
            with suppress(OSError):
                self.socket.settimeout(1)
                self.socket.sendall(pdu)
        raise OSError(why)

    def _shutdown_socket(self) -> None:
        super()._shutdown_socket()
        if not self._link.requested:
            self._link.dul.to_user_queue.put(None)  # ends the wait for a request that cannot come


class Layer(DULServiceProvider):
    """The upper layer, whose thread ends quietly when an abort overtakes a message."""

    def run_reactor(self) -> None:
        """Run until the association ends."""
        self._run_loop_delay = 0  # Wire.ready waits instead
        try:
            super().run_reactor()
        except InvalidEventError:
            log.warning("association.broken", why="out_of_order")
            self.kill_dul()


class Patience(threading.Event):
    """The checkpoint at which an association's loop pauses: longer once nothing has come for a while."""

    def __init__(self, link: Link) -> None:
        super().__init__()
        self._link = link

    def wait(self, timeout: float | None = None) -> bool:
        """Pause before the loop's next look, then as an Event does."""
        link = self._link
        if link.dimse.msg_queue.empty() and link.dul.to_user_queue.empty() and not link._kill:  # noqa: SLF001
            time.sleep(link.pause_s)
        return super().wait(timeout)
