"""The head of a Part 10 file: preamble, prefix and group 0002 (PS3.10 Section 7.1).

Only what the rest is to be read by is taken from it.
"""

import struct
from dataclasses import dataclass

LARGEST_HEAD = 16 << 10  # bytes; most have 300
_PREFIX = b"DICM"
_START = 132
_LONG_VRS = b"OB OD OF OL OV OW SQ SV UC UN UR UT UV".split()  # PS3.5 Table 7.1-1
_GROUP_LENGTH, _CLASS, _INSTANCE, _TRANSFER_SYNTAX = 0x0000, 0x0002, 0x0003, 0x0010


class HeadError(ValueError):
    """What came is no Part 10 file; the text holds nothing of it."""


@dataclass(frozen=True)
class Head:
    """What the head says of the data set, unchecked, and where that begins."""

    sop_class_uid: str
    instance_uid: str
    transfer_syntax: str
    end: int


def read_head(file: bytes) -> Head | None:
    """Return the head of a file that begins so; None where more of it is needed.

    Raises HeadError where it is no head, whatever comes next.
    """
    if len(file) < _START:
        return None
    if file[128:_START] != _PREFIX:
        raise HeadError("this is no DICOM Part 10 file")
    found: dict[int, bytes] = {}
    at, end = _START, LARGEST_HEAD
    while at < end and file[at : at + 2] == b"\x02\x00":
        if at + 12 > len(file):
            return _unfinished(file, at)
        number, vr, length = struct.unpack_from("<H2sH", file, at + 2)
        start = at + 8
        if vr in _LONG_VRS:
            (length,), start = struct.unpack_from("<L", file, start), at + 12
        at = start + length
        found[number] = file[start:at]
        if number == _GROUP_LENGTH:
            end = min(at + int.from_bytes(found[number], "little"), LARGEST_HEAD)
    if at > LARGEST_HEAD or at + 2 > len(file):
        return _unfinished(file, at)
    return Head(_uid(found, _CLASS), _uid(found, _INSTANCE), _uid(found, _TRANSFER_SYNTAX), at)


def _unfinished(file: bytes, end: int) -> Head | None:
    """None while the head may still end; else raises HeadError."""
    if max(end, len(file)) > LARGEST_HEAD:
        raise HeadError("the file meta information is larger than it may be")
    return None


def _uid(found: dict[int, bytes], number: int) -> str:
    return found.get(number, b"").rstrip(b"\0 ").decode("ascii", "replace")
