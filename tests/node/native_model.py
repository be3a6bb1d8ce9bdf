"""Reads documents of the Native DICOM Model (PS3.19 Section A.1), whoever wrote them.

Numbers are read to six digits: peers make single floats of them.
"""

import base64
from xml.etree import ElementTree

NAMESPACE = "{http://dicom.nema.org/PS3.19/models/NativeDICOM}"
NUMBERS = {"DS", "IS", "FL", "FD", "US", "SS", "UL", "SL", "UV", "SV"}

SEVERAL_XML = 'multipart/related; type="application/dicom+xml"'


def documents_of(response):
    """The documents in a multipart response, each read."""
    assert response.status_code == 200, response.text
    boundary = response.headers["Content-Type"].partition("boundary=")[2].strip('"').encode()
    before, *parts, after = (b"\r\n" + response.content).split(b"\r\n--" + boundary)
    assert (before.strip(), after.strip()) == (b"", b"--")
    read = []
    for part in parts:
        head, _, document = part.partition(b"\r\n\r\n")
        assert b"content-type: application/dicom+xml" in head.lower()
        read.append(read_document(document))
    return read


def read_document(document):
    """Attributes by tag and private creator, each with its VR and values."""
    root = ElementTree.fromstring(document)  # noqa: S314 - written by the node, or by a peer
    assert _name(root) == "NativeDicomModel"
    return _attributes(root)


def _attributes(parent):
    found = {}
    for one in parent:
        assert _name(one) == "DicomAttribute"
        key = one.get("tag"), one.get("privateCreator", "")
        assert key not in found
        vr = one.get("vr")
        numbers = [child.get("number") for child in one if "number" in child.attrib]
        assert numbers == [str(number) for number in range(1, len(numbers) + 1)]
        found[key] = vr, one.get("keyword", ""), [_value(child, vr) for child in one]
    return found


def _value(child, vr):
    match _name(child):
        case "Item":
            return _attributes(child)
        case "PersonName":
            return {
                _name(group): {_name(part): part.text for part in group if part.text}
                for group in child
            }
        case "InlineBinary":
            return base64.b64decode(child.text, validate=False)
        case "BulkData":
            return child.get("uri")
        case "Value":
            text = child.text or ""
            return float(f"{float(text):.6g}") if vr in NUMBERS and text else text
    raise AssertionError(child.tag)


def _name(element):
    return element.tag.removeprefix(NAMESPACE)
