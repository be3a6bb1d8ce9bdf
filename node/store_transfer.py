"""C-STORE requests straight from a file to the connection (PS3.7 Section 9.3.1, PS3.8 Annex E).

pynetdicom 3.0.4 makes a chain of objects of each PDU, puts them all in a queue and polls. Here a
batch of PDUs is read into one buffer between headers that are there already, and sent by one call;
the answer is read where it is waited for. pynetdicom negotiates, releases and aborts as ever, and
leaves the connection alone meanwhile. This touches its private names:
`tests/node/test_store_transfer.py` fails where an update changes what they mean.
"""

import os
import socket
import ssl
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from pynetdicom.association import Association

from node.reactor_checkpoint import hold_reactor_safely
from node.store_request import (
    C_STORE_RSP,
    COMMAND_FIELD,
    COMMENT_LENGTH,
    ERROR_COMMENT,
    RESPONDED_TO,
    STATUS,
    MoveOriginator,
    StoreAnswer,
    number,
    read_command_set,
    store_command,
)

LARGEST_PDU = 131072
"""Bytes that a PDU of ours has at most, whatever the peer takes; more is not faster."""
_BATCH = 1 << 19  # bytes that are read and sent by one call, while the peer takes those before
_MOST_PDUS = 512  # IOV_MAX is 1024
_MESSAGE_ID = 1  # one operation at a time
_MOST_COMMAND = 1 << 16  # bytes of a response's command set
_END_SECONDS = 5.0
_PASSES_WITHIN = 30.0  # seconds; it comes by a thousand times a second
_MEND_DISK = "see to the disk, or restore the file"
_P_DATA_TF, _A_RELEASE_RQ, _A_ABORT = 0x04, 0x05, 0x07
_HEADER = struct.Struct(">BxL")  # PDU type, length (PS3.8 Section 9.3.1)
_VALUE_HEADER = struct.Struct(">LBB")  # PDV length, context ID, message control header
_BOTH = _HEADER.size + _VALUE_HEADER.size
_DATA, _COMMAND, _LAST = 0, 1, 2  # bits of the message control header (PS3.8 Annex E.2)
_ABORT = b"\x07\x00\x00\x00\x00\x04\x00\x00\x00\x00"  # by the service user, PS3.8 Section 9.3.8


class TransferError(Exception):
    """What the peer did instead of an answer; the association has ended."""

    def __init__(self, reason: str, remedy: str = "see the peer's log") -> None:
        super().__init__(reason)
        self.remedy = remedy


@dataclass(frozen=True)
class StoredObject:
    """A data set as it lies in a file from `offset` on."""

    path: Path
    offset: int
    sop_class: str
    instance_uid: str
    originator: MoveOriginator | None = None


class TransportGate:
    """Lets the upper layer look at the connection, unless a transfer has it."""

    def __init__(self, association: Association) -> None:
        self._look = association.dul._is_transport_event
        self.held = threading.Lock()
        self.is_passed = threading.Event()
        self._batch: _Batch | None = None

    def __call__(self) -> bool:
        """Whether something happened on the connection; waits while a transfer has it."""
        self.is_passed.set()
        with self.held:
            return self._look()

    def batch(self, context_id: int, size: int) -> "_Batch":
        """The buffer for a presentation context and size; the last one is kept."""
        if self._batch is None or self._batch.fits != (context_id, size):
            self._batch = _Batch(context_id, size)
        return self._batch


def prepare(association: Association) -> None:
    """Make an established association, on which nothing was sent yet, ready for transfers."""
    hold_reactor_safely(association)
    gate = TransportGate(association)
    association.dul._is_transport_event = gate  # type: ignore[method-assign]
    # Until its thread has come by, it may still be about to look without asking the gate.
    gate.is_passed.wait(_PASSES_WITHIN)


def transfer(
    association: Association, context_id: int, stored: StoredObject, seconds: float
) -> StoreAnswer:
    """Send one object and return what the peer answers.

    `seconds` is how long the peer may take nothing, and how long it may take to answer. Raises
    TransferError where it does neither, OSError where the file cannot be opened.
    """
    size = _value_size(association.acceptor.maximum_length or 0)
    try:
        return _transfer(association, context_id, stored, size, seconds)
    except TransferError:
        association.join(_END_SECONDS)  # so that nobody tries to release what has ended
        raise


def _transfer(
    association: Association, context_id: int, stored: StoredObject, size: int, seconds: float
) -> StoreAnswer:
    with stored.path.open("rb", buffering=0) as file, _held(association) as connection:
        length = os.fstat(file.fileno()).st_size - stored.offset
        batch = _gate(association).batch(context_id, size)
        command = store_command(
            stored.sop_class, stored.instance_uid, _MESSAGE_ID, stored.originator
        )
        connection.settimeout(seconds)
        try:
            # Held back until data follows: two packets would wake the peer twice.
            _send(connection, _command_pdus(command, context_id, size), socket.MSG_MORE)
            for pdus in batch.pdus(file.fileno(), stored.offset, length):
                _send(connection, pdus)
        except TransferError:  # the file's fault
            _end(connection)
            raise
        except OSError as error:
            _end(connection)
            what = "took nothing more" if isinstance(error, TimeoutError) else "broke off"
            raise TransferError(f"{what} within an object") from error
        try:
            return _answer(connection, context_id)
        except (OSError, ValueError, TransferError) as error:
            _end(connection, _ABORT)
            raise TransferError(_said(error)) from error


@contextmanager
def _held(association: Association) -> Iterator[socket.socket]:
    """The association's connection, which the upper layer leaves alone meanwhile.

    Its reactor goes on, and finds nothing: to have it stand still takes a millisecond an object.
    """
    with _gate(association).held:
        transport = association.dul.socket
        connection = None if transport is None else transport.socket
        if connection is None or connection.fileno() < 0:
            raise TransferError("ended the association")
        try:
            yield connection
        finally:
            if connection.fileno() >= 0:
                connection.settimeout(None)


def _gate(association: Association) -> TransportGate:
    return cast("TransportGate", association.dul._is_transport_event)


def _value_size(maximum_length: int) -> int:
    """Bytes of a message that go into a PDU of a peer that takes so many (0: any number).

    Fragments are of an even length (PS3.8 Section 9.3.5.1).
    """
    size = (min(maximum_length or LARGEST_PDU, LARGEST_PDU) - _VALUE_HEADER.size) & ~1
    if size <= 0:
        raise TransferError(f"takes PDUs of {maximum_length} bytes, into which nothing fits")
    return size


def _headers(size: int, context_id: int, control: int) -> bytes:
    return _HEADER.pack(_P_DATA_TF, size + _VALUE_HEADER.size) + _VALUE_HEADER.pack(
        size + 2, context_id, control
    )


def _command_pdus(command: bytes, context_id: int, size: int) -> memoryview:
    pdus = bytearray()
    for at in range(0, len(command), size):
        value = command[at : at + size]
        control = _COMMAND | (_LAST if at + size >= len(command) else 0)
        pdus += _headers(len(value), context_id, control) + value
    return memoryview(pdus)


class _Batch:
    """A buffer of PDUs that lack their data only, for one presentation context and size."""

    def __init__(self, context_id: int, size: int) -> None:
        self.fits = (context_id, size)
        self._size, self._step = size, size + _BOTH
        self._slots = min(max(1, _BATCH // self._step), _MOST_PDUS)
        self._header = _headers(size, context_id, _DATA)
        self._buffer = memoryview(bytearray((self._header + bytes(size)) * self._slots))
        starts = range(_BOTH, len(self._buffer), self._step)
        self._values = [self._buffer[start : start + size] for start in starts]

    def pdus(self, file: int, offset: int, length: int) -> Iterator[memoryview]:
        """The PDUs of a data set in batches; each is good until the next is asked for."""
        count = max(1, -(-length // self._size))
        left = length
        while count > self._slots:
            _read(file, self._values, offset + length - left, self._slots * self._size)
            yield self._buffer
            left -= self._slots * self._size
            count -= self._slots
        _read(file, self._values[:count], offset + length - left, left)
        begin = (count - 1) * self._step
        last = left - (count - 1) * self._size
        self._buffer[begin : begin + _BOTH] = _headers(last, self.fits[0], _DATA | _LAST)
        yield self._buffer[: begin + _BOTH + last]
        self._buffer[begin : begin + _BOTH] = self._header


def _read(file: int, values: list[memoryview], offset: int, length: int) -> None:
    """Fill `values` with the `length` bytes that are left; a file that grew changes nothing."""
    try:
        found = os.preadv(file, values, offset) if length else 0
    except OSError as error:
        raise TransferError(f"was not sent a file: {error.strerror}", _MEND_DISK) from None
    if found < length:
        raise TransferError("was not sent a file: it is shorter than it was", _MEND_DISK)


def _send(connection: socket.socket, content: memoryview, flags: int = 0) -> None:
    """Send everything, in as many pieces as the peer takes; each may take the whole time-out."""
    if isinstance(connection, ssl.SSLSocket):
        flags = 0  # it knows none
    while content:
        content = content[connection.send(content, flags) :]


def _answer(connection: socket.socket, context_id: int) -> StoreAnswer:
    """Read the response; TransferError, ValueError or OSError where something else comes."""
    command = bytearray()
    while True:
        kind, length = _HEADER.unpack(_receive(connection, _HEADER.size))
        if kind == _A_ABORT:
            raise TransferError("aborted the association")
        if kind == _A_RELEASE_RQ:
            raise TransferError("ended the association without an answer")
        if kind != _P_DATA_TF or length > LARGEST_PDU:
            raise TransferError("answered with what is no DICOM response")
        body = memoryview(_receive(connection, length))
        at = 0
        while at < len(body):
            if at + _VALUE_HEADER.size > len(body):
                raise ValueError("it ends within a presentation data value")
            size, context, control = _VALUE_HEADER.unpack_from(body, at)
            end = at + 4 + size
            if context != context_id or not control & _COMMAND or size < 2 or end > len(body):
                raise ValueError("it is no command of this presentation context")
            command += body[at + _VALUE_HEADER.size : end]
            at = end
            if control & _LAST:
                return _read_answer(bytes(command))
        if len(command) > _MOST_COMMAND:
            raise ValueError("its command set is too long")


def _read_answer(encoded: bytes) -> StoreAnswer:
    command = read_command_set(encoded)
    if number(command, COMMAND_FIELD) != C_STORE_RSP:
        raise ValueError("it is no C-STORE response")
    if number(command, RESPONDED_TO) != _MESSAGE_ID:
        raise ValueError("it answers another request")
    comment = command.get(ERROR_COMMENT, b"").decode("ascii", "replace").strip(" \0")
    said = "".join(one if one.isprintable() else "?" for one in comment)
    return StoreAnswer(number(command, STATUS), said[:COMMENT_LENGTH])


def _receive(connection: socket.socket, length: int) -> bytearray:
    buffer = bytearray(length)
    view = memoryview(buffer)
    while view:
        read = connection.recv_into(view)
        if not read:
            raise TransferError("ended the connection without an answer")
        view = view[read:]
    return buffer


def _said(error: Exception) -> str:
    if isinstance(error, TransferError):
        return str(error)
    if isinstance(error, TimeoutError):
        return "did not answer a C-STORE request"
    if isinstance(error, OSError):
        return "broke off without an answer"
    return f"answered with what cannot be understood: {error}"


def _end(connection: socket.socket, farewell: bytes = b"") -> None:
    """Have the upper layer see the end of the connection, after what is left to say."""
    with suppress(OSError):  # it may have ended already
        connection.settimeout(1.0)
        if farewell:
            connection.sendall(farewell)
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
