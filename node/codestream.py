"""The matrix that a compressed frame declares for itself.

Codecs allocate what the codestream says, whatever the DICOM header says; some end the process when
that fails. So the two are compared before a codec sees the frame.
"""

from typing import NamedTuple

JPEG_START = b"\xff\xd8"
JPEG_2000_START = b"\xff\x4f\xff\x51"

START_OF_FRAME_MARKERS = frozenset({*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC})
"""SOF markers of JPEG (ISO 10918-1 Table B.1, without DHT, JPG and DAC) and of JPEG-LS."""


class FrameSize(NamedTuple):
    """Extent of one frame, as its codestream declares it."""

    rows: int
    columns: int
    components: int


def declared_size(codestream: bytes) -> FrameSize | None:
    """Return what a JPEG, JPEG-LS or JPEG 2000 codestream declares, or None if it has no header.

    JPEG 2000 is found inside JP2 boxes too, in which some systems wrongly send it.
    """
    if codestream.startswith(JPEG_START):
        return _jpeg_size(codestream)
    start = codestream.find(JPEG_2000_START)
    return None if start < 0 else _jpeg_2000_size(codestream[start : start + 42])


def _jpeg_size(codestream: bytes) -> FrameSize | None:
    place = len(JPEG_START)
    while place + 10 <= len(codestream) and codestream[place] == 0xFF:
        marker = codestream[place + 1]
        if marker == 0xFF:  # fill byte before a marker
            place += 1
            continue
        if marker in START_OF_FRAME_MARKERS:
            return FrameSize(
                rows=int.from_bytes(codestream[place + 5 : place + 7], "big"),
                columns=int.from_bytes(codestream[place + 7 : place + 9], "big"),
                components=codestream[place + 9],
            )
        place += 2 + int.from_bytes(codestream[place + 2 : place + 4], "big")
    return None


def _jpeg_2000_size(header: bytes) -> FrameSize | None:
    """Read the SIZ segment (ISO 15444-1 A.5.1): extents are those of the reference grid."""
    if len(header) < 42:
        return None
    right, bottom, left, top = (
        int.from_bytes(header[start : start + 4], "big") for start in (8, 12, 16, 20)
    )
    components = int.from_bytes(header[40:42], "big")
    return FrameSize(rows=bottom - top, columns=right - left, components=components)
