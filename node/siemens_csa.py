"""The CSA header, in which Siemens scanners keep what DICOM had no place for.

It is a list of named tags, each a list of texts, in one of two layouts: CSA1, and CSA2 ("SV10").
"""

import re
import struct

import numpy as np
import numpy.typing as npt
from pydicom import Dataset

CREATOR = "SIEMENS CSA HEADER"
IMAGE_HEADER, SERIES_HEADER = 0x10, 0x20
"""Private elements (0029,xx10) and (0029,xx20)."""

MAX_BYTES = 2**22
"""Scanners write 100 to 300 kB."""

_GROUP = 0x0029
_CSA2_MAGIC = b"SV10"
_TAG = struct.Struct("<64si4sii4x")  # name, VM, VR, data type, number of items
_ITEM = struct.Struct("<4i")  # its length, in a word that depends on the layout

_PROTOCOL_BEGINS, _PROTOCOL_ENDS = "### ASCCONV BEGIN", "### ASCCONV END"
_SLICES = re.compile(r"^sSliceArray\.lSize[ \t]*=[ \t]*(\d{1,5})[ \t\r]*$", re.MULTILINE)
_POSITION = re.compile(
    r"^sSliceArray\.asSlice\[(\d{1,5})\]\.sPosition\.d(Sag|Cor|Tra)[ \t]*=[ \t]*(\S{1,40})",
    re.MULTILINE,
)
_AXES = {"Sag": 0, "Cor": 1, "Tra": 2}

Floats = npt.NDArray[np.float64]
CsaTags = dict[str, tuple[str, ...]]


def csa_tags(header: Dataset, element: int) -> CsaTags:
    """Return the tags of an image's CSA header; none where the image has no such header.

    Raises ValueError where the header is damaged.
    """
    try:
        content = header.private_block(_GROUP, CREATOR)[element].value
    except KeyError:
        return {}
    return parse_csa(content) if isinstance(content, bytes) and content else {}


def parse_csa(content: bytes) -> CsaTags:
    """Parse a CSA header; empty items are left out. Raises ValueError where it is damaged."""
    if len(content) > MAX_BYTES:
        raise ValueError("the CSA header is longer than any scanner's")
    try:
        return _parse(content)
    except struct.error as error:
        raise ValueError("the CSA header is shorter than it says") from error


def _parse(content: bytes) -> CsaTags:
    second_layout = content.startswith(_CSA2_MAGIC)
    position = 8 if second_layout else 0
    (count,) = struct.unpack_from("<I", content, position)
    position += 8
    found: CsaTags = {}
    length_offset: int | None = None
    for _ in range(count):
        name, _, _, _, items = _TAG.unpack_from(content, position)
        position += _TAG.size
        if length_offset is None:
            length_offset = 0 if second_layout else items
        values = []
        for _ in range(items):
            words = _ITEM.unpack_from(content, position)
            position += _ITEM.size
            length = words[1] if second_layout else words[0] - length_offset
            if not 0 <= length <= len(content) - position:
                raise ValueError("an item of the CSA header is longer than the header")
            value = _text(content[position : position + length])
            position += -(-length // 4) * 4
            if value:
                values.append(value)
        found[_text(name)] = tuple(values)
    return found


def prescribed_slices(series: CsaTags) -> Floats | None:
    """Return where the protocol in a series' CSA header puts the centres of the slices.

    LPS mm, shape (slices, 3), in the order of the protocol; None where there is no protocol.
    Raises ValueError where a place is no number.
    """
    for name in ("MrPhoenixProtocol", "MrProtocol"):
        _, _, behind = "".join(series.get(name, ())).partition(_PROTOCOL_BEGINS)
        protocol, _, _ = behind.partition(_PROTOCOL_ENDS)
        size = _SLICES.search(protocol)
        if size and int(size[1]):
            return _centres(protocol, int(size[1]))
    return None


def _centres(protocol: str, slices: int) -> Floats | None:
    found = _POSITION.findall(protocol)
    if not found and slices > 1:
        return None  # as an anonymiser leaves it
    centres = np.zeros((slices, 3))  # the protocol leaves out what is 0
    for index, axis, value in found:
        if int(index) < slices:
            centres[int(index), _AXES[axis]] = float(value)
    if not np.isfinite(centres).all():
        raise ValueError("a slice position of the protocol is not a number")
    return centres


def _text(value: bytes) -> str:
    return value.split(b"\0", 1)[0].decode("latin-1").strip()
