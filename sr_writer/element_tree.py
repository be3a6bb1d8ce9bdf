"""A data set as a tree of plain elements: read, written and compared fast, in either VR encoding.

pydicom takes 0.15 ms an element to do that; a segmentation has 30 elements a frame.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from pydicom.charset import convert_encodings
from pydicom.datadict import dictionary_VR, keyword_for_tag
from pydicom.valuerep import EXPLICIT_VR_LENGTH_32

TEXT = frozenset({"SH", "LO", "ST", "LT", "UC", "UT", "PN"})
"""Value representations that Specific Character Set is about (PS3.5 Section 6.1.2.3)."""

_LONG = frozenset(vr.value for vr in EXPLICIT_VR_LENGTH_32)
_CHARACTER_SET = 0x00080005
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_UNDEFINED = 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class Element:
    """An element: text is decoded, a sequence is its items, all else stays the bytes it is.

    Specific Character Set has no value here: it is a matter of the encoding.
    """

    tag: int
    vr: str
    value: "bytes | str | list[list[Element]]"

    @property
    def name(self) -> str:
        """Its keyword, or its tag where it has none."""
        return keyword_for_tag(self.tag) or f"({self.tag >> 16:04X},{self.tag & 0xFFFF:04X})"


def read_elements(content: bytes, *, is_implicit: bool) -> list[Element]:
    """Read a little endian data set without file meta (PS3.5 Section 7.1).

    ValueError where it is cut short, compressed, or holds what no dictionary knows.
    """
    try:
        elements, end = _read(content, 0, len(content), "ascii", is_implicit=is_implicit)
    except struct.error:
        raise ValueError("the data set is cut short") from None
    if end != len(content):
        raise ValueError("the data set is not as long as its elements")
    return elements


def write_elements(elements: Sequence[Element], charset: str, *, is_implicit: bool) -> bytes:
    """Write a data set, text in `charset`, sequences and items with defined length.

    ValueError where a text has no such characters, or a value is too long for its VR.
    """
    (encoding,) = convert_encodings(charset)
    return b"".join(
        _written(element, charset, encoding, is_implicit=is_implicit) for element in elements
    )


def first_unequal(one: Sequence[Element], other: Sequence[Element]) -> str | None:
    """Return the name of the first element that is not in both alike, None where there is none.

    Where a dictionary leaves the VR open ("OB or OW"), as Implicit VR does, either will do.
    """
    for mine, theirs in zip(one, other, strict=False):
        if mine.tag != theirs.tag or mine.vr not in theirs.vr.split(" or "):
            return mine.name
        if isinstance(mine.value, list) and isinstance(theirs.value, list):
            if len(mine.value) != len(theirs.value):
                return mine.name
            for item, its in zip(mine.value, theirs.value, strict=True):
                unequal = first_unequal(item, its)
                if unequal is not None:
                    return unequal
        elif mine.value != theirs.value:
            return mine.name
    longer = max(one, other, key=len)
    return None if len(one) == len(other) else longer[min(len(one), len(other))].name


def _read(
    content: bytes, at: int, end: int, encoding: str, *, is_implicit: bool
) -> tuple[list[Element], int]:
    """Read elements up to `end` or an item's delimiter; returns where they are over."""
    elements: list[Element] = []
    while at < end:
        group, number = struct.unpack_from("<HH", content, at)
        tag = group << 16 | number
        if tag == _ITEM_END:
            return elements, at + 8
        if is_implicit:
            vr = _vr_of(tag)
            (length,) = struct.unpack_from("<I", content, at + 4)
            at += 8
        else:
            vr = content[at + 4 : at + 6].decode("ascii")
            is_long = vr in _LONG
            (length,) = struct.unpack_from("<I" if is_long else "<H", content, at + 6 + 2 * is_long)
            at += 12 if is_long else 8
        if vr == "SQ":
            items, at = _read_items(content, at, length, encoding, is_implicit=is_implicit)
            elements.append(Element(tag, vr, items))
            continue
        if length == _UNDEFINED or at + length > end:
            raise ValueError(f"{Element(tag, vr, b'').name} is compressed or cut short")
        value = content[at : at + length]
        at += length
        if tag == _CHARACTER_SET:
            (encoding,) = convert_encodings(value.decode("ascii").strip(" "))
            elements.append(Element(tag, vr, b""))
        elif vr in TEXT:
            elements.append(Element(tag, vr, value.decode(encoding).rstrip(" \0")))
        else:
            elements.append(Element(tag, vr, value))
    return elements, at


def _read_items(
    content: bytes, at: int, length: int, encoding: str, *, is_implicit: bool
) -> tuple[list[list[Element]], int]:
    items = []
    end = len(content) if length == _UNDEFINED else at + length
    while at < end:
        group, number, size = struct.unpack_from("<HHI", content, at)
        at += 8
        if (group << 16 | number) == _SEQUENCE_END:
            break
        if (group << 16 | number) != _ITEM:
            raise ValueError("a sequence holds what is no item")
        last = end if size == _UNDEFINED else at + size
        item, at = _read(content, at, last, encoding, is_implicit=is_implicit)
        items.append(item)
    return items, at


def _written(element: Element, charset: str, encoding: str, *, is_implicit: bool) -> bytes:
    tag, vr, value = element.tag, element.vr, element.value
    if isinstance(value, list):
        items = [write_elements(item, charset, is_implicit=is_implicit) for item in value]
        value = b"".join(_header(_ITEM) + struct.pack("<I", len(item)) + item for item in items)
    elif tag == _CHARACTER_SET:
        value = charset.encode("ascii")
    elif isinstance(value, str):
        try:
            value = value.encode(encoding)
        except UnicodeEncodeError:
            raise ValueError(f"{element.name} cannot be written in {charset}") from None
    if len(value) % 2:
        value += b" "  # only text of ours is odd; all else is as long as it was
    header = _header(tag)
    if is_implicit:
        return header + struct.pack("<I", len(value)) + value
    header += vr.encode("ascii")
    if vr in _LONG:
        return header + struct.pack("<HI", 0, len(value)) + value
    if len(value) > 0xFFFF:
        raise ValueError(f"{element.name} is too long in {charset}")
    return header + struct.pack("<H", len(value)) + value


def _header(tag: int) -> bytes:
    return struct.pack("<HH", tag >> 16, tag & 0xFFFF)


@cache
def _vr_of(tag: int) -> str:
    """Return the VR by the dictionary, which is all that a reader of Implicit VR has."""
    try:
        return dictionary_VR(tag)
    except KeyError:
        raise ValueError(f"{Element(tag, '', b'').name} is in no dictionary") from None
