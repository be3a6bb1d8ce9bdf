"""C-STORE requests straight from a file to the connection (PS3.7 Section 9.3.1, PS3.8 Annex E).

pynetdicom 3.0.4 makes a chain of objects of each PDU, puts them all in a queue and polls. Here a
batch of PDUs is read into one buffer between headers that are there already, and sent by one call;
the answer is read where it is waited for. pynetdicom negotiates, releases and aborts as ever, and
leaves the connection alone meanwhile (`node/held_connection.py`).
"""

import os
import socket
import ssl
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from pynetdicom.association import Association

from node.held_connection import Holding, holding
from node.store_request import (
    C_CANCEL_RQ,
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
_MOST_COMMAND = 1 << 16  # bytes of a response's command set
_END_SECONDS = 5.0
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


@dataclass(frozen=True)
class SubOperation:
    """What a C-STORE request says of the retrieval that it is a part of.

    By C-MOVE it names who asked; by C-GET its message ID has to be another than the request's,
    whose association it is on (PS3.7 Section 9.1.1.1.1).
    """

    message_id: int = 1
    originator: MoveOriginator | None = None


ON_ITS_OWN = SubOperation()


def transfer(
    association: Association,
    context_id: int,
    stored: StoredObject,
    part_of: SubOperation,
    seconds: float,
) -> StoreAnswer:
    """Send one object and return what the peer answers.

    `seconds` is how long the peer may take nothing, and how long it may take to answer. Raises
    TransferError where it does neither, OSError where the file cannot be opened.
    """
    size = _value_size(association.dimse.maximum_pdu_size or 0)
    try:
        return _transfer(holding(association), (context_id, size), stored, part_of, seconds)
    except TransferError:
        if association.is_acceptor:
            association.is_established = False  # it is this thread that would find that out
        else:
            association.join(_END_SECONDS)  # so that nobody tries to release what has ended
        raise


def _transfer(
    holds: Holding,
    fits: tuple[int, int],
    stored: StoredObject,
    part_of: SubOperation,
    seconds: float,
) -> StoreAnswer:
    context_id, size = fits
    with stored.path.open("rb", buffering=0) as file, _within(holds, seconds) as connection:
        length = os.fstat(file.fileno()).st_size - stored.offset
        if holds.buffer is None or holds.buffer.fits != fits:
            holds.buffer = _Batch(context_id, size)
        batch: _Batch = holds.buffer
        command = store_command(
            stored.sop_class, stored.instance_uid, part_of.message_id, part_of.originator
        )
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
            command_set = _response(connection, context_id, holds)
            return _read_answer(command_set, part_of.message_id)
        except (OSError, ValueError, TransferError) as error:
            _end(connection, _ABORT)
            raise TransferError(_said(error)) from error


@contextmanager
def _within(holds: Holding, seconds: float) -> Iterator[socket.socket]:
    """The association's connection, with a time-out for each call."""
    with holds.held() as connection:
        if connection is None:
            raise TransferError("ended the association")
        before = connection.gettimeout()
        connection.settimeout(seconds)
        try:
            yield connection
        finally:
            if connection.fileno() >= 0:
                connection.settimeout(before)


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


def _response(connection: socket.socket, context_id: int, holds: Holding) -> bytes:
    """Read the response's command set; TransferError, ValueError or OSError where none comes."""
    command, is_whole = bytearray(), False
    while not is_whole:
        for context, is_last, value in _commands(_data_pdu(connection)):
            if context == context_id and not is_whole:
                command += value
                is_whole = is_last
            elif not (is_last and _cancels(value, holds)):
                raise ValueError("it is no command of this presentation context")
        if len(command) > _MOST_COMMAND:
            raise ValueError("its command set is too long")
    return bytes(command)


def _data_pdu(connection: socket.socket) -> memoryview:
    """Read the values of a P-DATA-TF PDU; TransferError where another PDU comes."""
    kind, length = _HEADER.unpack(_receive(connection, _HEADER.size))
    if kind == _A_ABORT:
        raise TransferError("aborted the association")
    if kind == _A_RELEASE_RQ:
        raise TransferError("ended the association without an answer")
    if kind != _P_DATA_TF or length > LARGEST_PDU:
        raise TransferError("answered with what is no DICOM response")
    return memoryview(_receive(connection, length))


def _commands(body: memoryview) -> Iterator[tuple[int, bool, memoryview]]:
    """Context ID, whether it is the last fragment, and value; ValueError unless all is command."""
    at = 0
    while at < len(body):
        if at + _VALUE_HEADER.size > len(body):
            raise ValueError("it ends within a presentation data value")
        size, context, control = _VALUE_HEADER.unpack_from(body, at)
        end = at + 4 + size
        if not control & _COMMAND or size < 2 or end > len(body):
            raise ValueError("it is no command")
        yield context, bool(control & _LAST), body[at + _VALUE_HEADER.size : end]
        at = end


def _cancels(value: memoryview, holds: Holding) -> bool:
    """Whether it is a C-CANCEL request, of which note is taken (PS3.7 Section 9.3.2.3)."""
    command = read_command_set(value)
    if number(command, COMMAND_FIELD) != C_CANCEL_RQ:
        return False
    return holds.cancel(number(command, RESPONDED_TO))


def _read_answer(encoded: bytes, message_id: int) -> StoreAnswer:
    command = read_command_set(encoded)
    if number(command, COMMAND_FIELD) != C_STORE_RSP:
        raise ValueError("it is no C-STORE response")
    if number(command, RESPONDED_TO) != message_id:
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
