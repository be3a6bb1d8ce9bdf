"""Data sets in the DICOM JSON Model (PS3.18 Annex F), from their bytes as they were received.

Values are converted straight from their encoding, which takes a fraction of the time that it takes
to make pydicom's elements of them; what is encoded in some unusual way goes that way.
"""

import base64
import math
import re
from collections.abc import Callable
from functools import lru_cache
from struct import error as StructError  # noqa: N812
from struct import iter_unpack
from typing import Any

import numpy as np
from pydicom import DataElement, Dataset
from pydicom.charset import convert_encodings, decode_bytes
from pydicom.datadict import dictionary_VR, private_dictionary_VR
from pydicom.dataelem import RawDataElement
from pydicom.tag import BaseTag
from pydicom.valuerep import PN_DELIMS, TEXT_VR_DELIMS

from node.instances import integer_of
from node.sequence_items import items_of

LARGEST_INLINE = 1024
"""Bytes of a binary value beyond which it is given by reference."""

UTF_8 = "ISO_IR 192"

Attributes = dict[str, dict[str, Any]]
Encodings = tuple[str, ...]

_CHARACTER_SET = 0x00080005
_WORDS = {"OW": "u2", "OF": "u4", "OL": "u4", "OD": "u8", "OV": "u8"}
_BINARY = frozenset({"OB", "UN", *_WORDS})
_NUMBERS = dict(zip(("US", "SS", "UL", "SL", "FL", "FD", "UV", "SV"), "HhLlfdQq", strict=True))
_ONE_VALUE = frozenset({"LT", "ST", "UT", "UR"})
_IN_CHARACTER_SET = frozenset({"LO", "LT", "SH", "ST", "UC", "UT"})
_DECIMAL = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?")
_INTEGER = re.compile(r"[+-]?\d{1,20}")


def json_of(dataset: Dataset, bulk_data: str = "") -> Attributes:
    """Return the attributes of a data set, without group lengths.

    Values of more than LARGEST_INLINE bytes become references below the URL `bulk_data`; where
    that is empty all are inline. A value that is not of its representation is given as UN.
    """
    signed = integer_of(dataset, "PixelRepresentation") == 1
    return _attributes(dataset, bulk_data, ("iso8859",), signed=signed)


def binary_of(dataset: Dataset, tag: BaseTag) -> bytes | None:
    """Return the bytes of a value in little endian; None where there is none of bytes."""
    element = dataset.get_item(tag)
    if element is None or not isinstance(element.value, bytes) or not element.value:
        return None
    vr = _representation(element, dataset, signed=False)
    is_little_endian = element.is_little_endian if isinstance(element, RawDataElement) else True
    return element.value if is_little_endian else _swapped(element.value, vr)


def _swapped(content: bytes, vr: str) -> bytes:
    word = _WORDS.get(vr)
    return np.frombuffer(content, word).byteswap().tobytes() if word else content


def _attributes(
    dataset: Dataset, bulk_data: str, encodings: Encodings, *, signed: bool
) -> Attributes:
    made: Attributes = {}
    declared = dataset.get_item(_CHARACTER_SET)
    if declared is not None:
        encodings = _encodings(declared.value)
    for tag in sorted(dataset.keys()):
        if tag & 0xFFFF == 0:
            continue
        key = f"{tag:08X}"
        where = f"{bulk_data}/{key}" if bulk_data else ""
        element = dataset.get_item(tag, keep_deferred=True)
        vr = _representation(element, dataset, signed=signed)
        if tag == _CHARACTER_SET:  # JSON is in UTF-8, whatever the data set was in
            made[key] = {"vr": "CS", "Value": [UTF_8]}
        elif vr == "SQ":
            made[key] = _sequence(dataset, element, encodings, where, signed=signed)
        elif isinstance(element, RawDataElement):
            made[key] = _raw(element, vr, encodings, where)
        else:
            made[key] = _parsed(element, where)
    return made


def _sequence(
    dataset: Dataset,
    element: DataElement | RawDataElement,
    encodings: Encodings,
    where: str,
    *,
    signed: bool,
) -> dict[str, Any]:
    try:
        items = items_of(dataset, element.tag)
    except Exception:  # of a damaged sequence pydicom raises anything
        if not isinstance(element, RawDataElement):
            raise
        return _raw(element, "UN", encodings, where)
    made = [
        _attributes(item, f"{where}/{number}" if where else "", encodings, signed=signed)
        for number, item in enumerate(items, start=1)
    ]
    return {"vr": "SQ", "Value": made} if made else {"vr": "SQ"}


def _representation(
    element: DataElement | RawDataElement, dataset: Dataset, *, signed: bool
) -> str:
    """Return the value representation that is stored, or that the dictionaries have for it."""
    stored = element.VR
    if stored is not None and stored != "UN":
        return str(stored)
    tag = BaseTag(element.tag)
    try:
        if not tag.is_private:
            vr = dictionary_VR(tag)
        elif tag.is_private_creator:
            vr = "LO"
        else:
            creator = dataset.get_item((tag.group << 16) | (tag.element >> 8))
            vr = private_dictionary_VR(tag, _ascii(creator.value) if creator else "")
    except KeyError:
        return "UN"
    if vr == "US or SS":
        return "SS" if signed else "US"
    return "OW" if " or " in vr else vr


def _raw(element: RawDataElement, vr: str, encodings: Encodings, where: str) -> dict[str, Any]:
    content = element.value
    if not content:
        return {"vr": vr}
    if vr not in _BINARY:
        try:
            values = _values(content, vr, encodings, element.is_little_endian)
        except (StructError, ValueError, LookupError):
            vr = "UN"
        else:
            return {"vr": vr, "Value": values} if values else {"vr": vr}
    if where and len(content) > LARGEST_INLINE:
        return {"vr": vr, "BulkDataURI": where}
    if not element.is_little_endian:
        content = _swapped(content, vr)
    return {"vr": vr, "InlineBinary": base64.b64encode(content).decode()}


def _values(content: bytes, vr: str, encodings: Encodings, is_little_endian: bool) -> list[Any]:
    order = "<" if is_little_endian else ">"
    if vr in _NUMBERS:
        return [_finite(value) for (value,) in iter_unpack(order + _NUMBERS[vr], content)]
    if vr == "AT":
        return [
            f"{group << 16 | number:08X}" for group, number in iter_unpack(f"{order}HH", content)
        ]
    if vr == "PN":
        text = decode_bytes(content, encodings, PN_DELIMS | {ord("\\")})
        names = [_person(name) for name in text.split("\\")]
        return names if any(names) else []
    if vr in _IN_CHARACTER_SET:
        text = decode_bytes(content, encodings, TEXT_VR_DELIMS)
    else:
        text = content.decode("latin-1")
    if vr in _ONE_VALUE:
        return [text.rstrip(" \0")] if text.rstrip(" \0") else []
    values = [value.strip(" \0") for value in text.split("\\")]
    return [_converted(value, vr) for value in values] if any(values) else []


def _converted(value: str, vr: str) -> Any:
    """Return a number where it is one; PS3.18 F.2.3 has the text too, null where it is empty."""
    if vr == "IS" and _INTEGER.fullmatch(value):
        return int(value)
    if vr in ("DS", "IS") and _DECIMAL.fullmatch(value):
        return _finite(float(value))
    return value or None


def _finite(value: Any) -> Any:
    """Return what JSON has for a number: none of it are infinite, or none (F.2.2)."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value).replace("inf", "Infinity").replace("nan", "NaN")
    return value


def _person(name: str) -> dict[str, str] | None:
    groups = zip(("Alphabetic", "Ideographic", "Phonetic"), name.split("="), strict=False)
    made = {key: group.rstrip(" \0") for key, group in groups if group.strip(" \0")}
    return made or None


def _parsed(element: DataElement, where: str) -> dict[str, Any]:
    """Return what pydicom has parsed already."""
    if element.VR == "PN":  # pydicom cannot say that one of several names is empty
        parsed = element.value if element.VM > 1 else [element.value]
        names = [_person(str(name or "")) for name in parsed]
        return {"vr": "PN", "Value": names} if any(names) else {"vr": "PN"}
    handler: Callable[[DataElement], str] | None = (lambda _: where) if where else None
    return element.to_json_dict(handler, LARGEST_INLINE)


def _encodings(declared: Any) -> Encodings:
    """Return Python's names of what Specific Character Set says, parsed or not."""
    if isinstance(declared, bytes):
        declared = declared.decode("latin-1").split("\\")
    elif isinstance(declared, str) or not declared:
        declared = [declared or ""]
    return _known_encodings(tuple(name.strip(" \0") for name in declared))


@lru_cache(64)
def _known_encodings(names: tuple[str, ...]) -> Encodings:
    return tuple(convert_encodings(list(names)))


def _ascii(content: Any) -> str:
    return content.decode("latin-1").strip(" \0") if isinstance(content, bytes) else str(content)
