"""Connections become associations: bounded in number, secured where asked for, none waits for one.

It is pynetdicom's server with `node/upper_layer.py` for its associations.
"""

import socket
import ssl
import struct
import threading
from collections import Counter
from collections.abc import Callable
from datetime import datetime
from typing import Any, cast

import structlog
from pynetdicom import AE, evt
from pynetdicom._globals import MODE_ACCEPTOR
from pynetdicom.association import Association
from pynetdicom.transport import RequestHandler, ThreadedAssociationServer

from node.addresses import plain_address
from node.reactor_checkpoint import ReactorCheckpoint
from node.transport_security import HANDSHAKE_SECONDS, CertificateError, trouble_of_handshake
from node.upper_layer import NO_TIMEOUT, Begin, WaitingSocket, WaitingUpperLayer

log = structlog.get_logger()

BACKLOG = 128
_KEEPALIVE = {  # a peer that is gone without a word is noticed after a minute
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE): 1,
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE): 30,  # seconds
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL): 10,
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT): 3,
}


class Acceptor(RequestHandler):
    """Makes an association of a connection."""

    server: "AssociationListener"

    def handle(self) -> None:
        """Serve one connection; the handshake of TLS happens here, where none waits for it."""
        address = self.client_address[0]
        try:
            self._handle(address)
        finally:
            self.server.has_begun(address)

    def _handle(self, address: str) -> None:
        context = self.server.secured_by
        try:
            connection = self._prepared(None if context is None else context())
        except (OSError, CertificateError) as error:
            trouble = trouble_of_handshake(error)
            log.warning(
                "connection.not_secured",
                reason=trouble.reason,
                remedy=trouble.remedy,
                address=address,
            )
            self.server.shutdown_request(self.request)
            return
        self.request = connection
        super().handle()

    def _create_association(self) -> Association:
        association = Association(self.ae, MODE_ACCEPTOR)
        association._server = self.server
        # The server finds its associations by this name.
        association.name = f"AcceptorThread@{datetime.now():%Y%m%d%H%M%S}"  # noqa: DTZ005
        association._reactor_checkpoint = ReactorCheckpoint(association, waits_for_bell=True)  # type: ignore[assignment]
        association.dul = WaitingUpperLayer(association, self.server.begin)
        association.dul.artim_timer.timeout = association.acse_timeout
        association.dul._idle_timer.timeout = association.network_timeout
        association.set_socket(WaitingSocket(association, client_socket=self.request))
        acceptor, entity = association.acceptor, self.ae
        acceptor.maximum_length = entity.maximum_pdu_size
        acceptor.ae_title = self.server.ae_title
        acceptor.address_info = self.local
        acceptor.implementation_class_uid = entity.implementation_class_uid
        acceptor.implementation_version_name = entity.implementation_version_name
        # Not copied: negotiation reads them only (checked by a test), and copying takes 85 ms.
        acceptor.supported_contexts = self.server.contexts
        association.requestor.address_info = self.remote
        for event, handlers in self.server._handlers.items():
            if isinstance(event, evt.NotificationEvent):
                for handler in handlers:
                    association.bind(event, *cast("tuple[Callable[..., Any], list[Any]]", handler))
            elif handlers:
                association.bind(event, *cast("tuple[Callable[..., Any], list[Any]]", handlers))
        return association

    def _prepared(self, context: ssl.SSLContext | None) -> socket.socket:
        connection = cast("socket.socket", self.request)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for option, value in _KEEPALIVE.items():
            connection.setsockopt(*option, value)
        timeout = self.ae.network_timeout or NO_TIMEOUT
        if context is None:
            patience = struct.pack("ll", int(timeout), int(timeout % 1 * 1e6))
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, patience)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, patience)
            return connection
        connection.settimeout(HANDSHAKE_SECONDS)
        secured = context.wrap_socket(connection, server_side=True)
        secured.settimeout(timeout)
        return secured


class AssociationListener(ThreadedAssociationServer):
    """Listens for connections; `begin` says what takes the data sets that come."""

    request_queue_size = BACKLOG
    daemon_threads = True

    def __init__(
        self,
        *arguments: Any,
        begin: Begin,
        most_associations: int,
        secured_by: Callable[[], ssl.SSLContext] | None,
        shares_port: bool,
        **keywords: Any,
    ) -> None:
        self.begin = begin
        self.most_associations = most_associations
        self.secured_by = secured_by
        self.shares_port = shares_port
        self._lock = threading.Lock()
        self._beginning: Counter[str] = Counter()
        self._may_leave_garbage = False
        super().__init__(*arguments, **keywords | {"request_handler": Acceptor})

    def server_bind(self) -> None:
        """Take the port, side by side with this node's other listener processes if there are any.

        The kernel gives each of them its part of the connections (socket(7), SO_REUSEPORT).
        """
        if self.shares_port:
            cast("socket.socket", self.socket).setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        super().server_bind()

    def get_request(self) -> tuple[socket.socket, tuple[str, int]]:
        """Return the next connection, and where it is from."""
        connection, address = super().get_request()
        return connection, (plain_address(address[0]), address[1])

    def verify_request(self, _request: Any, client_address: Any) -> bool:
        """Return whether a connection may stay open: each costs threads, whoever opens it.

        One address may have as many that say nothing as there may be associations, all together
        twice as many connections.
        """
        address, most = client_address[0], self.most_associations
        associations = self.active_associations
        silent = [one for one in associations if not one.is_established]
        with self._lock:
            silent_there = self._beginning[address] + sum(
                one.requestor.address == address for one in silent
            )
            if silent_there >= most or len(associations) + self._beginning.total() >= 2 * most:
                log.warning(
                    "connection.refused",
                    address=address,
                    silent=silent_there,
                    remedy="see what opens connections there, and have it or a firewall stop that",
                )
                return False
            self._beginning[address] += 1
            self._may_leave_garbage = True
        return True

    def service_actions(self) -> None:
        """Collect garbage as pynetdicom does, half a minute later, but only after connections.

        Associations are cycles; to look through all objects takes a tenth of a second.
        """
        if self._may_leave_garbage:
            super().service_actions()
            self._may_leave_garbage = self._gc[0] > 0

    def has_begun(self, address: str) -> None:
        """Take note that a connection is an association now, or over."""
        with self._lock:
            self._beginning[address] -= 1
            self._beginning += Counter()  # drops what is zero


def listen(
    entity: AE,
    address: tuple[str, int],
    handlers: list[evt.EventHandlerType],
    begin: Begin,
    *,
    most_associations: int,
    secured_by: Callable[[], ssl.SSLContext] | None = None,
    shares_port: bool = False,
) -> None:
    """Listen in a thread of its own until the entity is shut down; OSError if the port is taken.

    Where connections are to be secured, `secured_by` gives the context for the next of them. A
    port that is shared may be taken by further processes of the same user.
    """
    server = entity.make_server(
        address,
        evt_handlers=handlers,
        server_class=AssociationListener,
        begin=begin,
        most_associations=most_associations,
        secured_by=secured_by,
        shares_port=shares_port,
    )
    entity._servers.append(server)  # as `start_server` does, so that `shutdown` finds it
    threading.Thread(target=server.serve_forever, name="listener", daemon=True).start()
