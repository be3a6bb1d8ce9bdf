"""DICOM Upper Layer that waits, where pynetdicom 3.0.4 polls, and stores without a detour.

pynetdicom negotiates, releases and aborts as ever. Between that, its two threads an association
wake up a thousand times a second each, read 4096 bytes at a time, and turn each PDU into a series
of objects. Here the threads sleep until something comes, PDUs are read whole, and the PDUs of a
C-STORE are gathered, handed over and answered in the thread that read them. All other messages go
pynetdicom's way. This and `node/association_listener.py` touch its private names:
`tests/node/test_upper_layer.py` fails where an update changes what they mean.
"""

import os
import queue
import select
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol, cast

import structlog
from pynetdicom import evt
from pynetdicom.association import Association
from pynetdicom.dul import DULServiceProvider
from pynetdicom.transport import AssociationSocket

from node.reactor_checkpoint import LOOK_AROUND, RARELY, ReactorCheckpoint
from node.remedies import DEFECT
from node.store_request import (
    C_STORE_RQ,
    COMMAND_FIELD,
    DATA_SET_TYPE,
    MESSAGE_ID,
    NO_DATA_SET,
    SOP_CLASS_UID,
    SOP_INSTANCE_UID,
    CommandSet,
    StoreAnswer,
    StoreRequest,
    number,
    read_command_set,
    response,
    uid,
)

log = structlog.get_logger()


class Reception(Protocol):
    """Takes the data set of one C-STORE request."""

    def add(self, piece: memoryview) -> None:
        """Take the next piece."""

    def finish(self) -> StoreAnswer:
        """Return the answer when the data set is durable, or will not be."""

    def drop(self) -> None:
        """Forget it: the association ended before it was whole."""


Begin = Callable[[StoreRequest], Reception]

MAXIMUM_PDU = 131072  # bytes; senders' default of 16 K costs a round of overhead for every 16 K
MAXIMUM_CONTROL_PDU = 1 << 18  # an A-ASSOCIATE-RQ of 128 contexts with all syntaxes has 200 K
MAXIMUM_OTHER = 32 << 20  # bytes; a request to commit 100 000 instances has 15 MB
DISCARDED = 1 << 20  # bytes at once
MOST_WAITING = 16  # requests; one may be outstanding (PS3.7 Annex D.3.3.3)
P_DATA_TF = 0x04
TLS_HANDSHAKE = 0x16  # RFC 8446 Section 5.1
AWAITING_REQUEST, ESTABLISHED, ABORTED = ("Sta1", "Sta2"), "Sta6", "Sta13"  # PS3.8 Section 9.2.1
INVALID_PDU, CONNECTION_CLOSED = "Evt19", "Evt17"
_HEADER = struct.Struct(">BxL")  # PDU type, length (PS3.8 Section 9.3.1)
_VALUE_HEADER = struct.Struct(">LBB")  # PDV length, context ID, message control header
_COMMAND, _LAST = 1, 2  # bits of the message control header (PS3.8 Annex E.2)
NO_TIMEOUT = 1e9  # seconds


class InvalidPDUError(Exception):
    """The peer sent what no PDU may be; the association is aborted."""


@dataclass
class _Incoming:
    """A C-STORE request of which the data set is still coming."""

    context_id: int
    command: CommandSet
    reception: Reception
    is_complete: bool = False


class WaitingSocket(AssociationSocket):
    """A socket that reads what it is asked for at once, and within the network timeout."""

    _unread = b""

    def recv(self, nr_bytes: int) -> bytearray:
        """Return `nr_bytes`, fewer where the connection ends; OSError where they do not come."""
        buffer = bytearray(nr_bytes)
        view = memoryview(buffer)
        have = len(self._unread)
        if have:
            have = min(have, nr_bytes)
            view[:have] = self._unread[:have]
            self._unread = self._unread[have:]
        until = time.monotonic() + (self.assoc.network_timeout or NO_TIMEOUT)
        while have < nr_bytes:
            if time.monotonic() > until:
                raise TimeoutError("the peer sends too slowly")
            # On a plain socket this is one call: it returns when all is there, or time is up.
            read = self._receive_into(view[have:])
            if not read:
                view.release()
                del buffer[have:]
                break
            have += read
        return buffer

    def unread(self, encoded: bytes | bytearray) -> None:
        """Have `encoded` read again."""
        self._unread = bytes(encoded) + self._unread

    def discard(self) -> int:
        """Read what is there; returns how many bytes, 0 where the connection has ended."""
        unread, self._unread = self._unread, b""
        return len(unread or cast("socket.socket", self.socket).recv(DISCARDED))

    def _receive_into(self, view: memoryview) -> int:
        connection = cast("socket.socket", self.socket)
        if isinstance(connection, ssl.SSLSocket):
            return connection.recv_into(view)
        return connection.recv_into(view, 0, socket.MSG_WAITALL)

    @property
    def ready(self) -> bool:
        """Whether something can be read."""
        return bool(self._unread) or super().ready


class WaitingUpperLayer(DULServiceProvider):
    """The upper layer of one association: sleeps until the peer or the local user has something."""

    def __init__(self, assoc: Association, begin: Begin) -> None:
        super().__init__(assoc)
        self._begin = begin
        self._bell = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._has_bell = True
        self._bell_lock = threading.Lock()
        self._incoming: _Incoming | None = None
        self._other = 0  # bytes of a message that pynetdicom gathers

    def send_pdu(self, primitive: Any) -> None:
        """Have a primitive sent, soon."""
        super().send_pdu(primitive)
        self._ring()

    def kill_dul(self) -> None:
        """Have the thread end, soon."""
        super().kill_dul()
        self._ring()

    def stop_dul(self) -> bool:
        """End the thread if nothing is connected; returns whether it has ended."""
        connection = None if self.socket is None else self.socket.socket
        if self.state_machine.current_state in AWAITING_REQUEST and connection is not None:
            with suppress(OSError):  # it may be reading one that does not come
                connection.shutdown(socket.SHUT_RDWR)
        self._ring()
        return super().stop_dul()

    def run_reactor(self) -> None:
        """Serve the connection until it ends."""
        self._idle_timer.start()
        self.assoc._dul_ready.set()
        try:
            while not self._kill_thread:
                self._next_round()
        except Exception as error:  # whatever it is, no data set was acknowledged
            log.exception("association.failed", reason=type(error).__name__, remedy=DEFECT)
            self._abort_at_once()
        finally:
            if self._incoming is not None:  # ended half way: it was not acknowledged
                self._incoming.reception.drop()
            self.assoc.dimse.message = None  # an association lives until garbage is collected
            # Who still waits for an A-ASSOCIATE-RQ would wait for it in vain.
            self.to_user_queue.put(cast("Any", None))
            self._tell_user()
            with self._bell_lock:
                self._has_bell = False
                os.close(self._bell)

    def _next_round(self) -> None:
        if self.artim_timer.expired:
            self.event_queue.put("Evt18")
        has_primitive = self._process_recv_primitive()
        has_pdu = not has_primitive and self._is_transport_event()
        if has_pdu:
            self._idle_timer.restart()
        try:
            event = self.event_queue.get(block=False)
        except queue.Empty:
            if not has_pdu:
                self._wait()
            return
        try:
            self.state_machine.do_action(event)
        except Exception as error:  # noqa: BLE001 - pynetdicom parses command sets here
            self._log_invalid(f"it is no message that may come now ({type(error).__name__})")
            self._abort_at_once()
        self._tell_user()

    def _tell_user(self) -> None:
        checkpoint = self.assoc._reactor_checkpoint
        cast("ReactorCheckpoint", checkpoint).ring()

    def _ring(self) -> None:
        # Never after it was closed: its number may be that of an instance's file by then.
        with self._bell_lock:
            if self._has_bell:
                os.eventfd_write(self._bell, 1)

    def _wait(self) -> None:
        """Return when the peer or the local user has something, or it is time to look around."""
        poll = select.poll()
        poll.register(self._bell, select.POLLIN)
        connection = self.socket.socket if self.socket is not None else None
        if connection is not None and connection.fileno() >= 0:
            poll.register(connection, select.POLLIN)
        seconds = LOOK_AROUND
        if self.state_machine.current_state == ESTABLISHED:
            seconds = min(max(self._idle_timer.remaining, LOOK_AROUND), RARELY)
        came = poll.poll(seconds * 1000)
        if (self._bell, select.POLLIN) in came:
            os.eventfd_read(self._bell)
        elif not came:
            self._tell_user()  # who looks whether the idle timer has expired

    def _abort_at_once(self) -> None:
        """Send A-ABORT whatever the state is, and end."""
        source_is_provider = b"\x07\x00\x00\x00\x00\x04\x00\x00\x02\x00"
        if self.socket is not None and self.socket.socket is not None:
            self.socket.send(source_is_provider)
            self.socket._shutdown_socket()
        self.assoc.is_aborted = True
        self.assoc.is_established = False
        self.assoc._kill = True
        self._kill_thread = True
        evt.trigger(self.assoc, evt.EVT_CONN_CLOSE)  # as the state machine would

    def _read_pdu_data(self) -> None:
        """Read one PDU, which becomes an event, or a C-STORE request with all of its data set."""
        reader = cast("WaitingSocket", self.socket)
        try:
            if self.state_machine.current_state == ABORTED:
                self._pass_over(reader)
                return
            self._read_pdu(reader)
            while self._incoming is not None and not self._is_called_away():
                self._idle_timer.restart()
                self._read_pdu(reader)
        except InvalidPDUError as error:
            self._log_invalid(str(error))
            self.event_queue.put(INVALID_PDU)
        except OSError as error:
            address, remedy = self.assoc.requestor.address, "see the network, and the sender's log"
            log.warning("connection.lost", reason=str(error), address=address, remedy=remedy)
            self.event_queue.put(CONNECTION_CLOSED)

    def _log_invalid(self, reason: str) -> None:
        address, remedy = self.assoc.requestor.address, "see what is there: no DICOM sender does so"
        log.warning("pdu.invalid", reason=reason, address=address, remedy=remedy)

    def _pass_over(self, reader: WaitingSocket) -> None:
        """Read what still comes once the association is aborted, whatever it is."""
        if not reader.discard():
            self.event_queue.put(CONNECTION_CLOSED)

    def _is_called_away(self) -> bool:
        """Whether the local user has something, an abort that is, or the last PDU was no data."""
        queues = (self.to_provider_queue, self.event_queue)
        return self._kill_thread or not all(each.empty() for each in queues)

    def _read_pdu(self, reader: WaitingSocket) -> None:
        header = reader.recv(_HEADER.size)
        if len(header) < _HEADER.size:
            self.event_queue.put(CONNECTION_CLOSED)
            return
        kind, length = _HEADER.unpack(header)
        if kind == P_DATA_TF and self.state_machine.current_state == ESTABLISHED:
            self._read_data(reader, header, length)
            return
        if kind == TLS_HANDSHAKE:
            raise InvalidPDUError("it is the beginning of TLS, which has a port of its own")
        if length > MAXIMUM_CONTROL_PDU:
            raise InvalidPDUError("it is longer than such a PDU can be")
        reader.unread(header)
        super()._read_pdu_data()

    def _read_data(self, reader: WaitingSocket, header: bytearray, length: int) -> None:
        if length > MAXIMUM_PDU:
            raise InvalidPDUError("it is longer than what was negotiated")
        body = reader.recv(length)
        if len(body) < length:
            raise ConnectionError("the connection ended within a PDU")
        if self._incoming is None and not self._begins_store(body):
            self._bound_other(len(body))
            reader.unread(header + body)
            super()._read_pdu_data()
            return
        self._take_values(memoryview(body))
        if self._incoming is not None and self._incoming.is_complete:
            incoming, self._incoming = self._incoming, None
            self._answer(incoming)

    def _bound_other(self, length: int) -> None:
        """Raise InvalidPDUError where pynetdicom would keep more than another message may have."""
        dimse = self.assoc.dimse
        self._other = length + (self._other if dimse.message is not None else 0)
        if self._other > MAXIMUM_OTHER:
            raise InvalidPDUError("its message is no C-STORE, and larger than others may be")
        if dimse.msg_queue.qsize() > MOST_WAITING:
            raise InvalidPDUError("more requests wait than were negotiated")

    def _begins_store(self, body: bytearray) -> bool:
        """Whether a P-DATA-TF PDU begins with the whole command set of a C-STORE request."""
        if self.assoc.dimse.message is not None or len(body) < _VALUE_HEADER.size:
            return False
        length, _, control = _VALUE_HEADER.unpack_from(body)
        if control & (_COMMAND | _LAST) != _COMMAND | _LAST or length + 4 > len(body):
            return False
        try:
            command = read_command_set(memoryview(body)[_VALUE_HEADER.size : 4 + length])
            return (
                number(command, COMMAND_FIELD) == C_STORE_RQ
                and number(command, DATA_SET_TYPE) != NO_DATA_SET
                and len(command.get(MESSAGE_ID, b"")) == 2
            )
        except ValueError:
            return False  # pynetdicom says what is wrong with it

    def _take_values(self, body: memoryview) -> None:
        """Take the presentation data values of a PDU (PS3.8 Section 9.3.5.1)."""
        at = 0
        while at < len(body):
            if at + _VALUE_HEADER.size > len(body):
                raise InvalidPDUError("it ends within a presentation data value")
            length, context_id, control = _VALUE_HEADER.unpack_from(body, at)
            end = at + 4 + length
            if length < 2 or end > len(body):
                raise InvalidPDUError("a presentation data value is longer than its PDU")
            value = body[at + _VALUE_HEADER.size : end]
            if self._incoming is None:
                self._incoming = self._begun(context_id, read_command_set(value))
            elif self._incoming.is_complete or control & _COMMAND:
                raise InvalidPDUError("a message begins before the one before it is answered")
            elif context_id != self._incoming.context_id:
                raise InvalidPDUError("a data set changes its presentation context")
            else:
                self._incoming.reception.add(value)
                self._incoming.is_complete = bool(control & _LAST)
            at = end

    def _begun(self, context_id: int, command: CommandSet) -> _Incoming:
        context = self.assoc._accepted_cx.get(context_id)
        if context is None:
            raise InvalidPDUError("a presentation context is used that was not accepted")
        requestor = self.assoc.requestor
        request = StoreRequest(
            sop_class_uid=uid(command, SOP_CLASS_UID),
            instance_uid=uid(command, SOP_INSTANCE_UID),
            transfer_syntax=context.transfer_syntax[0],
            calling_ae_title=str(requestor.ae_title).strip(),
            address=str(requestor.address),
        )
        return _Incoming(context_id, command, self._begin(request))

    def _answer(self, incoming: _Incoming) -> None:
        self._idle_timer.timeout = None  # a disk may take its time, the peer does not
        command = response(incoming.command, incoming.reception.finish())
        value = _VALUE_HEADER.pack(len(command) + 2, incoming.context_id, _COMMAND | _LAST)
        pdu = _HEADER.pack(P_DATA_TF, len(value) + len(command)) + value + command
        cast("WaitingSocket", self.socket).send(pdu)
        self._idle_timer.timeout = self.assoc.network_timeout
        self._idle_timer.restart()
