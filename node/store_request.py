"""C-STORE in bytes (PS3.7 Section 9.3.1): the request's command set, the response, the file meta.

Command sets are Implicit VR Little Endian, whatever was negotiated (PS3.7 Section 6.3.1).
"""

import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from pydicom.uid import UID

from node.spool import InstanceKey
from sr_writer.identifiers import IMPLEMENTATION_UID

C_STORE_RQ, C_STORE_RSP, C_CANCEL_RQ = 0x0001, 0x8001, 0x0FFF
NO_DATA_SET = 0x0101
COMMENT_LENGTH = 64  # Error Comment (0000,0902) is LO

# Element numbers in group 0000 (PS3.7 Annex E)
SOP_CLASS_UID = 0x0002
COMMAND_FIELD = 0x0100
MESSAGE_ID = 0x0110
RESPONDED_TO = 0x0120
PRIORITY = 0x0700
DATA_SET_TYPE = 0x0800
STATUS = 0x0900
ERROR_COMMENT = 0x0902
SOP_INSTANCE_UID = 0x1000
MOVE_ORIGINATOR = 0x1030
MOVE_MESSAGE_ID = 0x1031

CommandSet = Mapping[int, bytes]
"""Element number in group 0000 -> value as it came."""


@dataclass(frozen=True)
class StoreRequest:
    """What a C-STORE request and its association say of a data set; nothing of it is checked."""

    sop_class_uid: str
    instance_uid: str
    transfer_syntax: UID
    calling_ae_title: str
    address: str
    study_uid: str = ""
    """The study that it has to be of, where the request names one (PS3.18 Section 10.5)."""


@dataclass(frozen=True)
class StoreAnswer:
    """The response's Status, its Error Comment where it is no success, else what is stored."""

    status: int
    comment: str = ""
    key: InstanceKey | None = None


def read_command_set(encoded: bytes | memoryview) -> CommandSet:
    """Return the elements of a command set; ValueError where it is none, or not whole."""
    elements: dict[int, bytes] = {}
    at = 0
    while at < len(encoded):
        if at + 8 > len(encoded):
            raise ValueError("the command set is cut short")
        group, element, length = struct.unpack_from("<HHL", encoded, at)
        at += 8
        if group != 0 or at + length > len(encoded):
            raise ValueError("the command set has an element of another group, or is cut short")
        elements[element] = bytes(encoded[at : at + length])
        at += length
    return elements


def number(command: CommandSet, element: int) -> int:
    """Return an element of VR US; ValueError where it is missing or something else."""
    value = command.get(element, b"")
    if len(value) != 2:
        raise ValueError(f"the command set has no element (0000,{element:04X}) of two bytes")
    return int.from_bytes(value, "little")


def uid(command: CommandSet, element: int) -> str:
    """Return an element of VR UI as text, whatever it holds; empty where it is missing."""
    return command.get(element, b"").rstrip(b"\0 ").decode("ascii", "replace")


def response(request: CommandSet, answer: StoreAnswer) -> bytes:
    """Return the command set that answers a C-STORE request."""
    elements = [
        (SOP_CLASS_UID, request.get(SOP_CLASS_UID, b"")),
        (COMMAND_FIELD, struct.pack("<H", C_STORE_RSP)),
        (RESPONDED_TO, request[MESSAGE_ID]),
        (DATA_SET_TYPE, struct.pack("<H", NO_DATA_SET)),
        (STATUS, struct.pack("<H", answer.status)),
    ]
    if answer.comment:
        elements.append((ERROR_COMMENT, _even(answer.comment[:COMMENT_LENGTH].encode(), b" ")))
    elements.append((SOP_INSTANCE_UID, request.get(SOP_INSTANCE_UID, b"")))
    return _command_set(elements)


@dataclass(frozen=True)
class MoveOriginator:
    """Whose C-MOVE request a C-STORE request is a part of (PS3.7 Section 9.1.1.1.6)."""

    ae_title: str
    message_id: int


def store_command(
    sop_class_uid: str, instance_uid: str, message_id: int, originator: MoveOriginator | None = None
) -> bytes:
    """Return the command set of a C-STORE request, of medium priority."""
    moved = []
    if originator is not None:
        moved = [
            (MOVE_ORIGINATOR, _even(originator.ae_title.encode(), b" ")),
            (MOVE_MESSAGE_ID, struct.pack("<H", originator.message_id)),
        ]
    return _command_set(
        [
            (SOP_CLASS_UID, _even(sop_class_uid.encode(), b"\0")),
            (COMMAND_FIELD, struct.pack("<H", C_STORE_RQ)),
            (MESSAGE_ID, struct.pack("<H", message_id)),
            (PRIORITY, struct.pack("<H", 0)),
            (DATA_SET_TYPE, struct.pack("<H", 0x0001)),
            (SOP_INSTANCE_UID, _even(instance_uid.encode(), b"\0")),
            *moved,
        ]
    )


def file_meta(request: StoreRequest) -> bytes:
    """Return preamble, prefix and group 0002 of the file that holds the data set (PS3.10 7.1)."""
    body = b"".join(
        (
            struct.pack("<HH2sHL", 0x0002, 0x0001, b"OB", 0, 2) + b"\x00\x01",
            _element(0x0002, b"UI", request.sop_class_uid),
            _element(0x0003, b"UI", request.instance_uid),
            _element(0x0010, b"UI", request.transfer_syntax),
            _element(0x0012, b"UI", IMPLEMENTATION_UID),
            _element(0x0016, b"AE", request.calling_ae_title),
        )
    )
    group_length = struct.pack("<HH2sHL", 0x0002, 0x0000, b"UL", 4, len(body))
    return b"\0" * 128 + b"DICM" + group_length + body


def _command_set(elements: Iterable[tuple[int, bytes]]) -> bytes:
    body = b"".join(
        struct.pack("<HHL", 0, element, len(value)) + value for element, value in elements
    )
    return struct.pack("<HHLL", 0, 0, 4, len(body)) + body


def _element(number: int, vr: bytes, value: str) -> bytes:
    encoded = _even(value.encode("ascii", "replace"), b"\0" if vr == b"UI" else b" ")
    return struct.pack("<HH2sH", 0x0002, number, vr, len(encoded)) + encoded


def _even(value: bytes, pad: bytes) -> bytes:
    return value + pad if len(value) % 2 else value
