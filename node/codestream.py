"""What a compressed frame declares of itself.

Codecs allocate what the codestream says, whatever the DICOM header says. So the two are compared
before a codec sees the frame.
"""

from typing import NamedTuple

JPEG_START = b"\xff\xd8"
JPEG_2000_START = b"\xff\x4f\xff\x51"

START_OF_FRAME_MARKERS = frozenset({*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC})
"""SOF markers of JPEG (ISO 10918-1 Table B.1, without DHT, JPG and DAC) and of JPEG-LS."""


class Declared(NamedTuple):
    """Extent and values of one frame, as its codestream declares them."""

    rows: int
    columns: int
    components: int
    precision: int
    signed: bool


def declared_by(codestream: bytes) -> Declared | None:
    """Return what a JPEG, JPEG-LS or JPEG 2000 codestream declares, or None if it has no header.

    JPEG 2000 is found inside JP2 boxes too, in which some systems wrongly send it.
    """
    if codestream.startswith(JPEG_START):
        return _by_jpeg(codestream)
    start = codestream.find(JPEG_2000_START)
    return None if start < 0 else _by_jpeg_2000(codestream[start : start + 43])


def _by_jpeg(codestream: bytes) -> Declared | None:
    place = len(JPEG_START)
    while place + 10 <= len(codestream) and codestream[place] == 0xFF:
        marker = codestream[place + 1]
        if marker == 0xFF:  # fill byte before a marker
            place += 1
            continue
        if marker in START_OF_FRAME_MARKERS:
            return Declared(
                rows=int.from_bytes(codestream[place + 5 : place + 7], "big"),
                columns=int.from_bytes(codestream[place + 7 : place + 9], "big"),
                components=codestream[place + 9],
                precision=codestream[place + 4],
                signed=False,
            )
        place += 2 + int.from_bytes(codestream[place + 2 : place + 4], "big")
    return None


def _by_jpeg_2000(header: bytes) -> Declared | None:
    """Read the SIZ segment (ISO 15444-1 A.5.1): extents are those of the reference grid."""
    if len(header) < 43:
        return None
    right, bottom, left, top = (
        int.from_bytes(header[start : start + 4], "big") for start in (8, 12, 16, 20)
    )
    return Declared(
        rows=bottom - top,
        columns=right - left,
        components=int.from_bytes(header[40:42], "big"),
        precision=(header[42] & 0x7F) + 1,
        signed=header[42] >= 0x80,
    )
