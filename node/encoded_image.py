"""An encoded image, walked as it came: whether all of it is there, and whose it is.

No value is decoded but the few that intake has to know. What the walk of `node/data_elements.py`
does not know is left to pydicom's reader, which is slower.
"""

import zlib
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from io import BytesIO
from itertools import accumulate
from mmap import mmap
from typing import Literal

from pydicom import Dataset
from pydicom.datadict import tag_for_keyword
from pydicom.dataelem import RawDataElement
from pydicom.filereader import read_dataset
from pydicom.tag import BaseTag
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian

from node.data_elements import (
    FIRST_PIXEL_TAG,
    MAX_ELEMENTS,
    UNDEFINED_LENGTH,
    MoreNeededError,
    UnusualEncodingError,
    walk_elements,
)
from node.encapsulation import MAX_FRAGMENTS
from node.instances import MAX_INFLATED_BYTES

_FIRST_READ = 1 << 14  # bytes in which most headers end
MAXIMUM_HEADER = 64 << 20  # bytes; the functional groups of 10 000 frames have 30 MB
MAXIMUM_UNUSUAL = 8 << 20  # bytes of a header that pydicom has to read, which takes longer
MAXIMUM_TRAILER = 1 << 20  # bytes behind the pixel data: signatures, padding
_PIXEL_DATA = (0x7FE00010, FIRST_PIXEL_TAG, 0x7FE00009)  # integer, float, double float
_FIRST_TAG = 0x00080000
_ITEM = 0xFFFEE000
_SEQUENCE_END = 0xFFFEE0DD
_LONG_VRS = (b"OB", b"OW", b"OF", b"OD", b"OL", b"OV", b"UN")
_TEXTS = (
    "SOPClassUID",
    "SOPInstanceUID",
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "SoftwareVersions",
    "PhotometricInterpretation",
    "NumberOfFrames",
)
_NUMBERS = ("Rows", "Columns", "SamplesPerPixel", "BitsAllocated")
_TAGS = {keyword: BaseTag(tag_for_keyword(keyword) or 0) for keyword in (*_TEXTS, *_NUMBERS)}
_META_GROUP = b"\x02\x00"  # with which a big endian data set would pass for file meta, too
_FOREIGN = "it has elements that belong into no data set"
_CUT_SHORT = "data set is cut short"
_CUT_SHORT_IN_PIXEL_DATA = f"{_CUT_SHORT} in the pixel data"
_NO_IMAGE = "no pixel data: not an image, or cut short"

Attributes = Mapping[str, str]
"""Keyword -> value as text, empty where it is absent."""


class BrokenImageError(ValueError):
    """It is no image, or not a whole one; the text has no value of it and fits Error Comment."""


class EncodedBytes:
    """The bytes of a data set in the pieces in which they came, the first of them at `start`."""

    def __init__(self, pieces: Sequence[bytes | memoryview | mmap], start: int = 0) -> None:
        self._pieces = pieces
        self._ends = list(accumulate(map(len, pieces)))
        self.start = start
        self.size = self._ends[-1] if pieces else 0

    def between(self, begin: int, end: int) -> bytes:
        """Return the bytes from `begin` to before `end`, fewer where they end earlier."""
        end = min(end, self.size)
        at = bisect_right(self._ends, begin)
        parts = []
        while begin < end:
            offset = self._ends[at] - len(self._pieces[at])
            parts.append(self._pieces[at][begin - offset : end - offset])
            begin += len(parts[-1])
            at += 1
        return bytes(parts[0]) if len(parts) == 1 else b"".join(parts)


def attributes_of_image(encoded: EncodedBytes, transfer_syntax: UID) -> Attributes:
    """Return what intake wants to know of an image; BrokenImageError unless it is whole.

    Every element is walked to its end (PS3.5 Sections 7.1 and A.4), and native pixel data are as
    long as rows, columns and frames have it.
    """
    if transfer_syntax == DeflatedExplicitVRLittleEndian:
        encoded = EncodedBytes([_inflate(encoded.between(encoded.start, encoded.size))])
    if encoded.between(encoded.start, encoded.start + 2) == _META_GROUP:
        raise BrokenImageError(_FOREIGN)
    implicit = transfer_syntax.is_implicit_VR
    try:
        if not transfer_syntax.is_little_endian:
            raise UnusualEncodingError("big endian")
        attributes, at = _walked(encoded, implicit=implicit)
    except UnusualEncodingError:
        attributes, at = _read(encoded, transfer_syntax)
    order: Literal["little", "big"] = "little" if transfer_syntax.is_little_endian else "big"
    end = _end_of_pixel_data(encoded, at, order, implicit=implicit)
    if not transfer_syntax.is_compressed and end - at < _expected_length(attributes):
        raise BrokenImageError("pixel data are shorter than the image")
    if encoded.size - end > MAXIMUM_TRAILER:
        raise BrokenImageError("more follows the pixel data than may")
    if end < encoded.size:
        rest = BytesIO(encoded.between(end, encoded.size))
        _check_whole(read_dataset(rest, implicit, order == "little"))
    return attributes


def _walked(encoded: EncodedBytes, *, implicit: bool) -> tuple[Attributes, int]:
    """Return the attributes of a little endian header, and where the pixel data begin."""
    length = _FIRST_READ
    while True:
        content = encoded.between(encoded.start, encoded.start + length)
        try:
            elements, end = walk_elements(content, 0, implicit=implicit)
            break
        except MoreNeededError as error:
            if encoded.start + error.end > encoded.size:
                raise BrokenImageError(_NO_IMAGE) from None
            if error.end > MAXIMUM_HEADER:
                raise BrokenImageError("the header is longer than any image's") from None
            length = min(max(error.end, 2 * length), MAXIMUM_HEADER)
    _check_groups(elements)
    values = {
        keyword: element.value or b"" if (element := elements.get(tag)) else b""
        for keyword, tag in _TAGS.items()
    }
    attributes = {
        keyword: values[keyword].decode("ascii", "replace").rstrip("\0 ") for keyword in _TEXTS
    }
    attributes.update(
        {
            keyword: str(int.from_bytes(values[keyword][:2], "little")) if values[keyword] else ""
            for keyword in _NUMBERS
        }
    )
    return attributes, encoded.start + end


def _read(encoded: EncodedBytes, transfer_syntax: UID) -> tuple[Attributes, int]:
    """Return the attributes as pydicom reads them, and where the pixel data begin."""
    stream = BytesIO(encoded.between(encoded.start, encoded.start + MAXIMUM_UNUSUAL))
    left = iter(range(MAX_ELEMENTS))
    header = read_dataset(
        stream,
        transfer_syntax.is_implicit_VR,
        transfer_syntax.is_little_endian,
        stop_when=lambda tag, _vr, _length: tag >= FIRST_PIXEL_TAG or next(left, None) is None,
    )
    _check_whole(header)
    _check_groups(header.keys())
    found = {keyword: header.get(keyword) for keyword in _TAGS}
    attributes = {key: "" if value is None else str(value).strip() for key, value in found.items()}
    return attributes, encoded.start + stream.tell()


def _inflate(deflated: bytes) -> bytes:
    """Inflate a data set (PS3.5 Section A.5), to the limit at most."""
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    inflated = inflater.decompress(deflated, MAX_INFLATED_BYTES)
    if not inflater.eof:
        raise BrokenImageError(f"{_CUT_SHORT}, or inflates beyond the limit")
    return inflated


def _check_groups(tags: Iterable[BaseTag]) -> None:
    """Refuse what would be read otherwise from the file, where the file meta comes before it.

    No data set has elements of groups 0000 to 0007 (PS3.5 Section 7.1).
    """
    if min(map(int, tags), default=_FIRST_TAG) < _FIRST_TAG:  # BaseTag compares slowly
        raise BrokenImageError(_FOREIGN)


def _check_whole(dataset: Dataset) -> None:
    for element in dataset.values():
        if (
            isinstance(element, RawDataElement)
            and element.length != UNDEFINED_LENGTH
            and len(element.value or b"") != element.length
        ):
            raise BrokenImageError(_CUT_SHORT)


def _expected_length(attributes: Attributes) -> int:
    """Bytes of native pixel data without padding (PS3.5 Section 8.1.1)."""
    for keyword in _NUMBERS:
        if not attributes[keyword]:
            raise BrokenImageError(f"{keyword} is missing")
    rows, columns, samples, bits = (int(attributes[keyword]) for keyword in _NUMBERS)
    length = rows * columns * samples * max(1, int(attributes["NumberOfFrames"] or 1))
    if attributes["PhotometricInterpretation"] == "YBR_FULL_422":
        length = length // 3 * 2  # PS3.3 C.7.6.3.1.2: two samples share one of each colour
    return (length * bits + 7) // 8


def _end_of_pixel_data(
    encoded: EncodedBytes, at: int, order: Literal["little", "big"], *, implicit: bool
) -> int:
    """Offset behind the pixel data that begins at `at`; BrokenImageError if it is not all there."""
    if encoded.size == at or _tag(encoded, at, order) not in _PIXEL_DATA:
        raise BrokenImageError(_NO_IMAGE)
    if implicit:
        length_at, start = at + 4, at + 8
    elif encoded.between(at + 4, at + 6) in _LONG_VRS:
        length_at, start = at + 8, at + 12
    else:
        raise BrokenImageError("pixel data has no value representation it may have")
    length = _number(encoded, length_at, 4, order)
    if length == UNDEFINED_LENGTH:
        return _end_of_fragments(encoded, start, order)
    if length == 0 or start + length > encoded.size:
        raise BrokenImageError(_CUT_SHORT_IN_PIXEL_DATA)
    return start + length


def _end_of_fragments(encoded: EncodedBytes, at: int, order: Literal["little", "big"]) -> int:
    """Offset behind encapsulated pixel data (PS3.5 Section A.4)."""
    for _ in range(MAX_FRAGMENTS + 2):  # with the offset table, and what ends the sequence
        if _tag(encoded, at, order) != _ITEM:
            break
        at += 8 + _number(encoded, at + 4, 4, order)
    if _tag(encoded, at, order) != _SEQUENCE_END or _number(encoded, at + 4, 4, order) != 0:
        raise BrokenImageError(_CUT_SHORT_IN_PIXEL_DATA)
    return at + 8


def _number(encoded: EncodedBytes, at: int, size: int, order: Literal["little", "big"]) -> int:
    if at + size > encoded.size:
        raise BrokenImageError(_CUT_SHORT_IN_PIXEL_DATA)
    return int.from_bytes(encoded.between(at, at + size), order)


def _tag(encoded: EncodedBytes, at: int, order: Literal["little", "big"]) -> int:
    return _number(encoded, at, 2, order) << 16 | _number(encoded, at + 2, 2, order)
