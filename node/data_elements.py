"""Walks the data elements of a header without parsing their values, which pydicom does when asked.

What it does not know for certain it leaves to pydicom's own reader, which is slower: big endian,
value representations of no standard, sequences in elements of unknown representation.
"""

from functools import lru_cache
from struct import Struct, error

from pydicom import Dataset
from pydicom.charset import convert_encodings, default_encoding
from pydicom.dataelem import DataElement, RawDataElement, empty_value_for_VR
from pydicom.tag import BaseTag
from pydicom.valuerep import EXPLICIT_VR_LENGTH_32, STANDARD_VR

UNDEFINED_LENGTH = 0xFFFFFFFF
FIRST_PIXEL_TAG = 0x7FE00008
"""Float Pixel Data; Double Float Pixel Data and Pixel Data follow."""

MAX_ELEMENTS = 2**16
"""Many more than any image has beside its sequences; each takes a hundred times its bytes."""

MAX_NESTING = 16
"""Sequences within sequences; no CT or MR image has half as many."""

SPECIFIC_CHARACTER_SET = 0x00080005
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_EXPLICIT, _IMPLICIT, _LONG = Struct("<HH2sH"), Struct("<HHL"), Struct("<L")
_LONG_VRS = {vr.encode(): str(vr) for vr in EXPLICIT_VR_LENGTH_32}
_SHORT_VRS = {vr.encode(): str(vr) for vr in STANDARD_VR - EXPLICIT_VR_LENGTH_32}


class UnusualEncodingError(Exception):
    """The walk does not know how to go on; pydicom may."""


class MoreNeededError(Exception):
    """The elements go on behind the bytes given, at least as far as `end`."""

    def __init__(self, end: int) -> None:
        super().__init__(end)
        self.end = end


Elements = dict[BaseTag, DataElement | RawDataElement]


def walk_elements(
    content: bytes, start: int, *, implicit: bool, until: int = FIRST_PIXEL_TAG
) -> tuple[Elements, int]:
    """Return the little endian elements from `start` up to tag `until`, and where that one begins.

    Values are slices of `content`, to be parsed when they are asked for. Raises MoreNeededError
    where `content` ends before that tag, UnusualEncodingError (PS3.5 Section 7.1), and ValueError
    where there are too many.
    """
    elements: Elements = {}
    at, size = start, len(content)
    header = _implicit_header if implicit else _explicit_header
    try:
        while True:
            tag, vr, value, length = header(content, at)
            if tag >= until:
                return elements, at
            if vr is None and not implicit:
                raise UnusualEncodingError("no value representation")
            end = behind = value + length
            if length == UNDEFINED_LENGTH:
                vr = vr or "SQ"
                end, behind = _sequence_end(content, value, vr, implicit=implicit)
            if end > size:
                raise MoreNeededError(end)
            raw = content[value:end] if end > value else _empty(vr)
            key = _tag(tag)
            elements[key] = RawDataElement(key, vr, end - value, raw, value, implicit, True)
            if len(elements) > MAX_ELEMENTS:
                raise ValueError("a header has too many elements")
            at = behind
    except error:
        raise MoreNeededError(size + 1) from None


def header_of(elements: Elements, *, implicit: bool) -> Dataset:
    """Return walked elements as a data set in their character set."""
    header = Dataset(elements)
    declared = elements.get(_tag(SPECIFIC_CHARACTER_SET))
    encodings = default_encoding if declared is None else _encodings(declared.value or b"")
    header.set_original_encoding(implicit, True, encodings)
    return header


def _implicit_header(content: bytes, at: int) -> tuple[int, str | None, int, int]:
    """Return tag, no value representation, where the value begins, and its declared length."""
    group, number, length = _IMPLICIT.unpack_from(content, at)
    return group << 16 | number, None, at + 8, length


def _explicit_header(content: bytes, at: int) -> tuple[int, str | None, int, int]:
    """Return tag, value representation, where the value begins, and its declared length.

    Items and their delimiters have no value representation.
    """
    group, number, code, length = _EXPLICIT.unpack_from(content, at)
    vr = _SHORT_VRS.get(code)
    if vr is not None:
        return group << 16 | number, vr, at + 8, length
    vr = _LONG_VRS.get(code)
    if vr is not None:
        return group << 16 | number, vr, at + 12, _LONG.unpack_from(content, at + 8)[0]
    return group << 16 | number, None, at + 8, _LONG.unpack_from(content, at + 4)[0]


def _sequence_end(
    content: bytes, at: int, vr: str, *, implicit: bool, depth: int = 0
) -> tuple[int, int]:
    """Return where the items of a sequence of undefined length end, and where its delimiter does.

    PS3.5 Section 7.5.2.
    """
    if vr != "SQ" or depth > MAX_NESTING:
        raise UnusualEncodingError("not a sequence")
    header = _implicit_header if implicit else _explicit_header
    while True:
        group, number, length = _IMPLICIT.unpack_from(content, at)
        tag = group << 16 | number
        if tag == _SEQUENCE_END:
            return at, at + 8
        if tag != _ITEM:
            raise UnusualEncodingError("not an item")
        at += 8
        if length != UNDEFINED_LENGTH:
            at += length
            continue
        while True:
            tag, inner, value, length = header(content, at)
            if tag == _ITEM_END:
                at = value
                break
            if inner is None and not implicit:
                raise UnusualEncodingError("no value representation")
            at = value + length
            if length == UNDEFINED_LENGTH:
                inner = inner or "SQ"
                at = _sequence_end(content, value, inner, implicit=implicit, depth=depth + 1)[1]


@lru_cache(64)
def _empty(vr: str | None) -> bytes | None:
    value = empty_value_for_VR(vr, raw=True)
    return value if isinstance(value, bytes) else None


_tag = lru_cache(4096)(BaseTag)


@lru_cache(64)
def _encodings(declared: bytes) -> str | list[str]:
    names = [name.strip(" \0") for name in declared.decode("latin-1").split("\\")]
    found: list[str] = convert_encodings(names)
    return found
