"""Accept associations from a hostile network: pynetdicom's acceptor with its open ends closed.

What pynetdicom leaves open and what closes it here:
    a socket that sends half a header, or one byte a minute      a deadline a PDU (Wire.recv)
    a PDU that claims 4 GB                                       a limit a PDU, nothing read beyond it (Wire.recv)
    connections that never ask for an association                not counted as associations; the oldest yields (Door.admit)
    a thread waiting 30 s for a peer that has gone               woken when its socket closes (Wire._shutdown_socket)
    a TLS handshake that blocks the accepting thread             done in the connection's own thread (Caller.handle)
    worklists and unknown classes accepted as storage            negotiated against storage_classes (Gate)
    a core burned by 100 idle associations                       waits instead of sleeps (Wire.ready, Patience)

Ref: PS3.8 7.1, 9.1.5, D.1
"""

from __future__ import annotations

import socket
import socketserver
import ssl
import threading
import time
from collections.abc import Mapping
from typing import Any, Protocol

from pydicom.uid import UID
from pynetdicom import AE
from pynetdicom.acse import ACSE
from pynetdicom.association import Association
from pynetdicom.pdu_primitives import A_ASSOCIATE
from pynetdicom.presentation import PresentationContext, negotiate_as_acceptor
from pynetdicom.transport import AddressInformation, RequestHandler, ThreadedAssociationServer

from node import journal
from node.listener.intake import Intake, Reception
from node.listener.wire import Layer, Patience, Wire
from node.settings import NodeSection
from node.storage_classes import is_storage_class, keeps_transfer_syntax

log = journal.get("listener")

EXPLICIT_BIG_ENDIAN = "1.2.840.10008.1.2.2"
REQUEST_MAX_BYTES = 262144  # an A-ASSOCIATE-RQ with 128 contexts of 40 transfer syntaxes needs 180 kB
WAITING_SPARE = 16  # connections about to ask, beside as many as there are association slots
PDU_SLACK_BYTES = 64  # some senders count the maximum without the headers of its PDVs
ACTIVE_WAIT_S, IDLE_WAIT_S, IDLE_AFTER_S = 0.002, 0.03, 0.5
# (result, source, diagnostic) of a rejection. Ref: PS3.8 Table 9-21
CALLING_AE_UNKNOWN, CALLED_AE_UNKNOWN, LIMIT_EXCEEDED = (1, 1, 3), (1, 1, 7), (2, 3, 2)


class Policy(Reception, Protocol):
    """Who may associate, and what becomes of what they send."""

    def refusal(self, calling_ae: str, called_ae: str, host: str) -> tuple[int, int, int] | None:
        """Give the rejection for a caller, or None."""

    def ended(self, calling_ae: str, brought: Mapping[str, int], *, released: bool) -> None:
        """Take note of an association that brought images of these studies and is over; must not block."""


class Gate(ACSE):
    """Negotiation by our policy, whatever pynetdicom's process-wide switches say."""

    def _negotiate_as_acceptor(self) -> None:
        link: Any = self.assoc
        request = self.requestor.primitive
        assert isinstance(request, A_ASSOCIATE)
        link.requested = True
        self.requestor.ae_title = request.calling_ae_title
        refusal = link.policy.refusal(link.calling_ae, link.called_ae, link.host) or link.server.full(link)
        if refusal is not None:
            log.warning("association.rejected", peer=link.host, calling_ae=link.calling_ae, called_ae=link.called_ae, code=list(refusal))
            link.policy.counters.add(rejected=1)
            self.send_reject(*refusal)
            link.is_rejected = True
            link.kill()
            return
        proposed = request.presentation_context_definition_list
        roles = {uid: (item.scu_role, item.scp_role) for uid, item in self.requestor.role_selection.items()}
        contexts, replies = negotiate_as_acceptor(proposed, [*link.acceptor.supported_contexts, *_storage(proposed)], roles)
        link._accepted_cx = {context.context_id: context for context in contexts if context.result == 0x00}  # noqa: SLF001
        link._rejected_cx = [context for context in contexts if context.result != 0x00]  # noqa: SLF001
        for item in replies:
            self.acceptor.add_negotiation_item(item)
        self.send_accept()
        link.is_established = True
        link.policy.counters.add(associations=1)


def _storage(proposed: list[PresentationContext]) -> list[PresentationContext]:
    """Support what storage the peer proposes: its own order of syntaxes, big endian last, nothing that cannot be walked."""
    wanted: dict[str, list[UID]] = {}
    for context in proposed:
        if context.abstract_syntax is not None and is_storage_class(context.abstract_syntax):
            wanted.setdefault(context.abstract_syntax, []).extend(context.transfer_syntax)
    supported = []
    for uid, syntaxes in wanted.items():
        context = PresentationContext()
        context.abstract_syntax = UID(uid)
        keeps = [syntax for syntax in dict.fromkeys(syntaxes) if keeps_transfer_syntax(syntax)]
        context.transfer_syntax = sorted(keeps, key=lambda syntax: syntax == EXPLICIT_BIG_ENDIAN)
        supported.append(context)
    return supported


class Link(Association):
    """One association with a caller."""

    def __init__(self, server: Door, policy: Policy) -> None:
        super().__init__(server.ae, "acceptor")
        self.server = server
        self.policy = policy
        self.requested = False
        self.opened_at = self.heard_at = time.monotonic()
        self.acse = Gate(self)
        self.dul = Layer(self)
        self.dul.daemon = True
        self.dimse: Intake = Intake(self, policy)
        self._reactor_checkpoint = Patience(self)
        self._reactor_checkpoint.set()
        self.acse_timeout, self.network_timeout = self.acse_timeout, self.network_timeout  # onto the new layer's timers

    @property
    def calling_ae(self) -> str:
        """Give the caller's AE title; empty before it has said so."""
        request = self.requestor.primitive
        return request.calling_ae_title.strip() if isinstance(request, A_ASSOCIATE) else ""

    @property
    def called_ae(self) -> str:
        """Give the AE title the caller asked for."""
        request = self.requestor.primitive
        return request.called_ae_title.strip() if isinstance(request, A_ASSOCIATE) else ""

    @property
    def host(self) -> str:
        """Give the caller's address."""
        return self.requestor.address

    @property
    def pause_s(self) -> float:
        """Give how long its threads wait between two looks: longer once nothing has come for a while."""
        return ACTIVE_WAIT_S if time.monotonic() - self.heard_at < IDLE_AFTER_S else IDLE_WAIT_S

    @property
    def pdu_timeout_s(self) -> float:
        """Give the deadline of one PDU: shorter until an association is asked for."""
        return (self.network_timeout if self.requested else self.acse_timeout) or 60.0

    @property
    def pdu_limit(self) -> int:
        """Give the length beyond which a PDU is not read."""
        return self.server.node.max_pdu_bytes + PDU_SLACK_BYTES if self.requested else REQUEST_MAX_BYTES

    def run_reactor(self) -> None:
        """Run the association; whatever ends it, its half-received data set goes, and its socket."""
        try:
            super().run_reactor()
        except Exception as error:  # noqa: BLE001 -- the process edge
            log.error("association.failed", peer=self.host, error=type(error).__name__)  # noqa: TRY400 -- nor its values
            self.kill()
        finally:
            self.server.forget(self)
            self.dimse.abandon()
            self._drop()
            if self.dimse.brought:
                self.policy.ended(self.calling_ae, self.dimse.brought, released=bool(self.is_released))

    def end(self) -> None:
        """Close the connection without a word."""
        self._kill = True
        self._drop()

    def _drop(self) -> None:
        if self.dul.socket is not None:
            self.dul.socket._shutdown_socket()  # noqa: SLF001


class Caller(RequestHandler):
    """One connection, from its acceptance to its association's start."""

    server: Door

    def handle(self) -> None:
        """Shake hands (TLS), then start the association's threads."""
        sock = self.request
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.settimeout(self.server.node.association_timeout_s)
        if isinstance(sock, ssl.SSLSocket):
            sock.do_handshake()
        link = self._create_association()
        self.server.admit(link)
        link.start()

    def _create_association(self) -> Link:
        link = Link(self.server, self.server.policy)
        link._server = self.server  # noqa: SLF001
        link.name = "AcceptorThread"
        link.set_socket(Wire(link, self.request))
        link.acceptor.maximum_length = self.server.node.max_pdu_bytes
        link.acceptor.ae_title = self.server.ae_title
        link.acceptor.address_info = self.local
        link.acceptor.implementation_class_uid = self.ae.implementation_class_uid
        link.acceptor.implementation_version_name = self.ae.implementation_version_name
        link.acceptor.supported_contexts = [*self.server.contexts]
        link.requestor.address_info = AddressInformation.from_tuple(self.client_address)
        for event, handler in self.server._handlers.items():  # noqa: SLF001
            if event.is_intervention and handler:
                link.bind(event, *handler)
        return link


class Door(ThreadedAssociationServer):
    """The listening socket and the associations behind it."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, ae: AE, node: NodeSection, policy: Policy, **options: Any) -> None:
        self.node = node
        self.policy = policy
        self._links: set[Link] = set()
        self._links_lock = threading.Lock()
        super().__init__(ae, (node.host, node.port), ae.ae_title, ae.supported_contexts, request_handler=Caller, **options)

    @property
    def links(self) -> list[Link]:
        """Give the connections that are open."""
        with self._links_lock:
            return list(self._links)

    def admit(self, link: Link) -> None:
        """Take a connection in; when too many have not asked for an association, the oldest of them is closed."""
        with self._links_lock:
            waiting = sorted((other for other in self._links if not other.requested), key=lambda other: other.opened_at)
            self._links.add(link)
        for oldest in waiting[: max(0, len(waiting) - self.node.max_associations - WAITING_SPARE + 1)]:
            log.warning("connection.closed", why="too_many_waiting", peer=oldest.host)
            oldest.end()

    def full(self, link: Link) -> tuple[int, int, int] | None:
        """Give the rejection when every association slot is taken by others. A connection alone takes none."""
        taken = sum(other is not link and other.requested and not other.is_rejected for other in self.links)
        return LIMIT_EXCEEDED if taken >= self.node.max_associations else None

    def forget(self, link: Link) -> None:
        """Give a connection's slot back."""
        with self._links_lock:
            self._links.discard(link)

    def close(self) -> None:
        """Accept no more; open associations go on."""
        socketserver.BaseServer.shutdown(self)
        self.server_close()

    def get_request(self) -> tuple[socket.socket, tuple[str, int]]:
        """Accept; the TLS handshake waits for the connection's own thread."""
        assert self.socket is not None
        client, address = self.socket.accept()
        if self.ssl_context is not None:
            client = self.ssl_context.wrap_socket(client, server_side=True, do_handshake_on_connect=False)
        return client, address

    def handle_error(self, _request: object, client_address: Any) -> None:
        """Note a connection that failed before its association; a failed handshake is the common one."""
        log.warning("connection.failed", peer=client_address[0])
        self.policy.counters.add(broken=1)
