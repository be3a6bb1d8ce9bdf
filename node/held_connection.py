"""An association's connection for one transfer alone: the upper layer leaves it alone meanwhile.

Where the association was asked for by this side, pynetdicom's upper layer polls, and finds nothing
while a transfer has the connection. Where a peer asked for it, what is to be sent stands in a queue
with the answers to the peer: the upper layer lends the connection when it comes to that. This
touches pynetdicom's private names: `tests/node/test_store_transfer.py` fails where an update
changes what they mean.
"""

import socket
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Protocol, cast

from pynetdicom.association import Association
from pynetdicom.dimse_primitives import C_CANCEL

from node.reactor_checkpoint import LOOK_AROUND, hold_reactor_safely

_PASSES_WITHIN = 30.0  # seconds; it comes by a thousand times a second
_MOST_CANCELLED = 10  # requests, as pynetdicom


class Holding(Protocol):
    """How a transfer comes by the connection, and what it keeps between objects."""

    buffer: Any

    def held(self) -> AbstractContextManager[socket.socket | None]:
        """Have the connection, None where it has ended; another thread may wait for it."""

    def cancel(self, message: int) -> bool:
        """Take note that the peer cancels a request of its own; False if it can have none."""


class TransportGate:
    """Lets the upper layer look at the connection, unless a transfer has it.

    Its reactor goes on, and finds nothing: to have it stand still takes a millisecond an object.
    """

    def __init__(self, association: Association) -> None:
        self._dul = association.dul
        self._look = association.dul._is_transport_event
        self._held = threading.Lock()
        self.is_passed = threading.Event()
        self.buffer: Any = None

    def __call__(self) -> bool:
        """Whether something happened on the connection; waits while a transfer has it."""
        self.is_passed.set()
        with self._held:
            return self._look()

    @contextmanager
    def held(self) -> Iterator[socket.socket | None]:
        """Have the connection."""
        with self._held:
            yield _open_connection(self._dul)

    def cancel(self, _message: int) -> bool:
        """Return False: this side asks, and the peer answers."""
        return False


class _Loan:
    """Stands in the queue of what is to be sent."""

    def __init__(self) -> None:
        self.begins, self.is_over = threading.Event(), threading.Event()


class LendingQueue:
    """Gives the upper layer what is to be sent, and lends the connection in between."""

    def __init__(self, association: Association) -> None:
        self._association, self._dul = association, association.dul
        self._next_primitive = association.dul._process_recv_primitive
        self.buffer: Any = None

    def __call__(self) -> bool:
        """Whether there is something to send; waits while the connection is lent."""
        queue = self._dul.to_provider_queue
        loan = cast("Any", queue.queue[0] if queue.queue else None)
        if not isinstance(loan, _Loan):
            return self._next_primitive()
        transport = self._dul.socket
        if transport is not None and transport.ready:
            return False  # what came is seen to first: it may be the end
        queue.get()
        loan.begins.set()
        loan.is_over.wait()
        self._dul._idle_timer.restart()
        return self._next_primitive()

    @contextmanager
    def held(self) -> Iterator[socket.socket | None]:
        """Have the connection when all is sent that was to be sent before."""
        loan = _Loan()
        self._dul.send_pdu(cast("Any", loan))
        try:
            while not loan.begins.wait(LOOK_AROUND) and self._dul.is_alive():
                pass
            yield _open_connection(self._dul) if loan.begins.is_set() else None
        finally:
            loan.is_over.set()

    def cancel(self, message: int) -> bool:
        """Have the service that answers a request find it cancelled (PS3.7 Section 9.3.2.3)."""
        requests = self._association.dimse.cancel_req
        if len(requests) < _MOST_CANCELLED:
            requests[message] = C_CANCEL()
        return True


def hold_connection(association: Association) -> None:
    """Make an association ready for transfers that this side asked for, and sent nothing on."""
    hold_reactor_safely(association)
    gate = TransportGate(association)
    association.dul._is_transport_event = gate  # type: ignore[method-assign]
    # Until its thread has come by, it may still be about to look without asking the gate.
    gate.is_passed.wait(_PASSES_WITHIN)


@contextmanager
def lending(association: Association) -> Iterator[None]:
    """Have an association that a peer asked for ready for transfers by who answers its request."""
    association.dul._process_recv_primitive = LendingQueue(association)  # type: ignore[method-assign]
    try:
        yield
    finally:
        del association.dul._process_recv_primitive


def holding(association: Association) -> Holding:
    """What `hold_connection` has given an association."""
    dul = association.dul
    given = dul._process_recv_primitive if association.is_acceptor else dul._is_transport_event
    return cast("Holding", given)


def _open_connection(dul: Any) -> socket.socket | None:
    connection = None if dul.socket is None else dul.socket.socket
    return None if connection is None or connection.fileno() < 0 else connection
