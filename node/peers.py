"""Speak to DICOM peers: application entities, time-outs, TLS, associations, echo.

Ref: PS3.8, PS3.15 B.9 to B.12 (TLS)
"""

from __future__ import annotations

import ipaddress
import logging
import socket
import ssl
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from pynetdicom import AE, _config, evt
from pynetdicom.association import Association
from pynetdicom.dimse import DIMSEServiceProvider
from pynetdicom.pdu_primitives import A_ASSOCIATE
from pynetdicom.presentation import PresentationContext, build_context
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]
from pynetdicom.transport import AddressInformation, AssociationSocket

from node.errors import Misconfigured, NoContext, Refused, Retryable
from node.part10 import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION
from node.settings import Peer, Settings

# pynetdicom's own logging costs a tenth of a C-STORE and prints identifiers: we log events of our own.
_config.LOG_HANDLER_LEVEL = "none"
logging.getLogger("pynetdicom").setLevel(logging.CRITICAL)

PDU_MAX_BYTES = 2 * 1024**2  # twice what [node] max_pdu_bytes may be: some senders count without headers
PDU_TIMEOUT_S = 60.0

Handler = tuple[Any, Callable[..., Any]] | tuple[Any, Callable[..., Any], list[Any]]


class ClosingSocket(AssociationSocket):
    """A socket that is closed even when it was never connected: pynetdicom leaves that to the garbage collector."""

    def _shutdown_socket(self) -> None:
        super()._shutdown_socket()
        if self.socket is not None:
            self.socket.close()


class Mailbox(DIMSEServiceProvider):
    """The DIMSE layer of an association that we opened: answers are for whoever asked, and for nobody else.

    pynetdicom's reactor looks for requests too. It is paused while somebody waits for answers, but that it is "paused" may
    still be true of the question before: then it takes one answer of this one and drops it, about once in 20 questions.
    Nobody asks us on an association of ours (a report of storage commitment takes another way), so it finds nothing here.
    """

    def get_msg(self, block: bool = False) -> Any:  # noqa: FBT001, FBT002 -- pynetdicom's signature
        """Give the next message to one who waits for it."""
        return super().get_msg(block=True) if block else (None, None)


class _Outgoing(ClosingSocket):
    """The socket of an association that we opened: no PDU is read beyond a limit, or for longer than a message may take.

    pynetdicom asks for a PDU's header of 6 bytes, then for its body. Ref: PS3.8 9.3.1
    """

    _in_body = False
    _until = 0.0

    def recv(self, nr_bytes: int) -> bytearray:
        """Read a header, then its body, both before one deadline; raises OSError, which ends the association."""
        if not self._in_body:
            self._until = time.monotonic() + (self.assoc.network_timeout or PDU_TIMEOUT_S)
        elif nr_bytes > PDU_MAX_BYTES:
            raise OSError("the peer announces a PDU beyond all limits")
        self._in_body = not self._in_body
        buffer, got = bytearray(nr_bytes), 0
        with memoryview(buffer) as view:
            while got < nr_bytes and self.socket is not None:
                self.socket.settimeout(max(self._until - time.monotonic(), 0.001))
                count = self.socket.recv_into(view[got:])
                if not count:
                    break
                got += count
        return buffer[:got]


class _Entity(AE):
    def _create_socket(self, assoc: Association, address: AddressInformation, tls_args: tuple[ssl.SSLContext, str] | None) -> ClosingSocket:
        link = _Outgoing(assoc, address=address)
        link.tls_args = tls_args
        return link


def application_entity(settings: Settings, ae_title: str) -> AE:
    """Build an application entity with our time-outs, PDU size and implementation identity."""
    ae = _Entity(ae_title=ae_title)
    ae.implementation_class_uid = IMPLEMENTATION_CLASS_UID
    ae.implementation_version_name = IMPLEMENTATION_VERSION
    ae.maximum_pdu_size = settings.node.max_pdu_bytes
    ae.maximum_associations = settings.node.max_associations
    ae.acse_timeout = settings.node.association_timeout_s
    ae.connection_timeout = settings.node.association_timeout_s
    ae.dimse_timeout = settings.node.network_timeout_s
    ae.network_timeout = settings.node.network_timeout_s
    return ae


@contextmanager
def association(
    settings: Settings, peer: Peer, contexts: Sequence[PresentationContext], *, handlers: Sequence[Handler] = (), roles: Sequence[Any] = ()
) -> Iterator[Association]:
    """Open an association to a peer; released at the end of the block, aborted when the block raises.

    roles  SCP/SCU role selection items
    Raises Retryable when the peer cannot be reached, aborts or rejects for now; Refused when it rejects for good or accepts no context.
    """
    ae = application_entity(settings, peer.calling_ae or settings.node.ae_titles[0])
    opened = [(evt.EVT_CONN_OPEN, _tune, [settings.node.network_timeout_s]), *handlers]
    tls = (client_tls(settings), peer.host) if peer.tls else None
    try:
        link = ae.associate(
            peer.host,
            peer.port,
            contexts=list(contexts),
            ae_title=peer.ae_title,
            max_pdu=settings.node.max_pdu_bytes,
            ext_neg=list(roles),
            tls_args=tls,
            evt_handlers=opened,
        )
    except OSError as error:
        raise Retryable(f"{_name(peer)} cannot be reached: {error.strerror or error}") from error
    if not link.is_established:
        raise _failure(peer, link)
    link.dimse = Mailbox(link)
    try:
        yield link
    except BaseException:
        link.abort()
        raise
    if link.is_established:
        link.release()


def echo(settings: Settings, peer: Peer) -> float:
    """Send a C-ECHO; give the seconds from opening the association to the answer. Raises as `association` does."""
    begin = time.perf_counter()
    with association(settings, peer, [build_context(Verification)]) as link:
        status = link.send_c_echo().get("Status")
        if status is None:
            raise Retryable(f"{_name(peer)} gave no answer to the echo")
        if status != 0x0000:
            raise Refused(f"{_name(peer)} answered the echo with status {status:04X}")
        return time.perf_counter() - begin


def may_call(settings: Settings, calling_ae: str, host: str) -> bool:
    """Tell whether a calling AE may send from that address. Without [[node.allowed_callers]] anyone may.

    A caller's hosts are addresses, networks ("10.1.0.0/16") or names, resolved at each association.
    """
    callers = settings.node.allowed_callers
    if not callers:
        return True
    return any(
        caller.ae_title == calling_ae and (not caller.hosts or any(_is_host(host, name) for name in caller.hosts)) for caller in callers
    )


def server_tls(settings: Settings) -> ssl.SSLContext | None:
    """Build the listener's TLS, or None without a certificate. With `tls_ca`, callers must show a certificate of that authority."""
    node = settings.node
    if node.tls_certificate is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    _load(context, settings)
    if node.tls_ca is not None:
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def client_tls(settings: Settings) -> ssl.SSLContext:
    """Build TLS towards a peer: its certificate is verified, against `tls_ca` where set; ours is shown where we have one."""
    context = ssl.create_default_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    _load(context, settings)
    return context


def _load(context: ssl.SSLContext, settings: Settings) -> None:
    node = settings.node
    try:
        if node.tls_certificate is not None:
            context.load_cert_chain(node.tls_certificate, node.tls_key)
        if node.tls_ca is not None:
            context.load_verify_locations(node.tls_ca)
    except OSError as error:  # ssl.SSLError is one
        raise Misconfigured(f"the TLS files of [node] cannot be read (tls_certificate, tls_key, tls_ca): {error}") from error


def _tune(event: evt.Event, timeout_s: float) -> None:
    """Switch off Nagle's algorithm, which costs 40 ms a message, and bound every wait on the socket."""
    link = event.assoc.dul.socket
    if link is not None and link.socket is not None:
        link.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        link.socket.settimeout(timeout_s)


def _failure(peer: Peer, link: Association) -> Refused | Retryable:
    answer = link.acceptor.primitive
    if link.is_rejected and isinstance(answer, A_ASSOCIATE):
        text = f"{_name(peer)} rejects the association: {answer.reason_str}"
        return Refused(text) if answer.result == 0x01 else Retryable(text)
    if isinstance(answer, A_ASSOCIATE) and answer.result == 0x00:
        return NoContext(f"{_name(peer)} accepts none of the presentation contexts")
    if answer is None and not link.is_aborted:
        return Retryable(f"{_name(peer)} cannot be reached")
    return Retryable(f"{_name(peer)} cannot be reached or aborts the association")


def _name(peer: Peer) -> str:
    return f"{peer.name} ({peer.ae_title} at {peer.host}:{peer.port})"


def _is_host(address: str, name: str) -> bool:
    try:
        return ipaddress.ip_address(address) in ipaddress.ip_network(name, strict=False)
    except ValueError:
        pass
    try:
        return any(entry[4][0] == address for entry in socket.getaddrinfo(name, None))
    except OSError:
        return False
