"""Data sets in XML, by the Native DICOM Model (PS3.19 Section A.1), made from their JSON model."""

import base64
import re
from collections.abc import Iterator, Mapping
from typing import Any
from xml.sax.saxutils import escape, quoteattr

from pydicom.datadict import keyword_for_tag

from node.dicomweb.dicom_json import Attributes

_BEGINNING = (
    '<?xml version="1.0" encoding="UTF-8"?>\n<NativeDicomModel'
    ' xmlns="http://dicom.nema.org/PS3.19/models/NativeDICOM" xml:space="preserve">'
)
_END = "</NativeDicomModel>\n"
_COMPONENTS = ("FamilyName", "GivenName", "MiddleName", "NamePrefix", "NameSuffix")
_GROUPS = ("Alphabetic", "Ideographic", "Phonetic")
_VR = re.compile("[A-Z]{2}")
_UNSAYABLE = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""What XML 1.0 has no way to write (Section 2.2), form feed and escape of DICOM among it."""


def xml_of(attributes: Attributes) -> bytes:
    """Return attributes of the DICOM JSON Model as a document of their own, in UTF-8.

    A text that XML cannot hold is given as UN, its bytes in UTF-8; so is what has no VR of DICOM.
    """
    return "".join((_BEGINNING, *_elements(attributes), _END)).encode()


def _elements(attributes: Attributes) -> Iterator[str]:
    for key in sorted(attributes):
        element = attributes[key]
        vr, content = element["vr"], "".join(_content(element))
        if not _VR.fullmatch(vr) or (vr != "SQ" and _UNSAYABLE.search(content)):
            vr, content = "UN", _as_bytes(element)
        creator = _creator(attributes, int(key, 16))
        # The number of a creator's block is that of the data set, and of no meaning here.
        tag = f"{key[:4]}00{key[6:]}" if creator else key
        keyword = keyword_for_tag(int(key, 16))
        yield f'<DicomAttribute tag="{tag}" vr="{vr}"'
        if keyword:
            yield f' keyword="{keyword}"'
        if creator:
            yield f" privateCreator={quoteattr(creator)}"
        yield f">{content}</DicomAttribute>"


def _content(element: Mapping[str, Any]) -> Iterator[str]:
    if "InlineBinary" in element:
        yield _inline(element["InlineBinary"])
    if "BulkDataURI" in element:
        yield f"<BulkData uri={quoteattr(element['BulkDataURI'])}/>"
    for number, value in enumerate(element.get("Value", ()), start=1):
        if element["vr"] == "SQ":
            yield f'<Item number="{number}">{"".join(_elements(value))}</Item>'
        elif element["vr"] == "PN":
            yield f'<PersonName number="{number}">{"".join(_person(value or {}))}</PersonName>'
        else:
            yield f'<Value number="{number}">{_escaped(_text(value))}</Value>'


def _person(name: Mapping[str, str]) -> Iterator[str]:
    for group in _GROUPS:
        if group in name:
            # What follows a fifth component, which none should, stays with the fifth.
            parts = zip(_COMPONENTS, name[group].split("^", len(_COMPONENTS) - 1), strict=False)
            said = "".join(f"<{key}>{_escaped(part)}</{key}>" for key, part in parts if part)
            yield f"<{group}>{said}</{group}>"


def _creator(attributes: Attributes, tag: int) -> str:
    """Return whose a private element is (PS3.5 Section 7.8.1), empty where nobody can be named."""
    if not tag >> 16 & 1 or tag & 0xFFFF < 0x1000:
        return ""
    reserved = attributes.get(f"{tag >> 16:04X}00{tag >> 8 & 0xFF:02X}", {})
    match reserved.get("Value"):
        case [str(creator)] if not _UNSAYABLE.search(creator):
            return creator
    return ""


def _inline(encoded: str) -> str:
    return f"<InlineBinary>{encoded}</InlineBinary>"


def _escaped(text: str) -> str:
    return escape(text, {"\r": "&#13;"})  # a parser would make a line feed of it


def _text(value: Any) -> str:
    """Return one value as text; JSON's numbers say 1.0 where DICOM says 1."""
    if isinstance(value, Mapping):
        return "=".join(value.get(group, "") for group in _GROUPS).rstrip("=")
    if isinstance(value, float):
        return str(value).removesuffix(".0")
    return "" if value is None else str(value)


def _as_bytes(element: Mapping[str, Any]) -> str:
    text = "\\".join(map(_text, element.get("Value", ())))
    return _inline(base64.b64encode(text.encode()).decode()) if text else ""
