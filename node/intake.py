"""What a sender hands us, checked before it may become a file: identity, wholeness, pixel data.

The data set is kept as its bytes and never decoded here; its elements are walked only as far as
needed to know that they are all there and whose they are.
"""

import zlib
from dataclasses import dataclass
from io import BytesIO
from mmap import mmap
from typing import BinaryIO, Literal

from pydicom import Dataset
from pydicom.dataelem import RawDataElement
from pydicom.filereader import read_dataset
from pydicom.pixels.utils import get_expected_length
from pydicom.uid import (
    HTJ2K,
    JPEG2000,
    UID,
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    EnhancedCTImageStorage,
    EnhancedMRColorImageStorage,
    EnhancedMRImageStorage,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    LegacyConvertedEnhancedCTImageStorage,
    LegacyConvertedEnhancedMRImageStorage,
    MRImageStorage,
    MultiFrameGrayscaleByteSecondaryCaptureImageStorage,
    MultiFrameGrayscaleWordSecondaryCaptureImageStorage,
    MultiFrameTrueColorSecondaryCaptureImageStorage,
    RLELossless,
    SecondaryCaptureImageStorage,
)

from node.instances import MAX_INFLATED_BYTES
from node.spool import InstanceKey, InvalidUIDError, check_uid
from sr_writer.header import PRODUCT

# Image storage that a CT or MR study consists of. Secondary captures (dose screens, reformats) are
# taken because a PACS routes whole studies; assembly sets them aside, and our own are told apart.
# Structured reports and segmentations are not: routed back to us, they are declined at negotiation.
STORAGE_CLASSES = (
    CTImageStorage,
    EnhancedCTImageStorage,
    LegacyConvertedEnhancedCTImageStorage,
    MRImageStorage,
    EnhancedMRImageStorage,
    EnhancedMRColorImageStorage,
    LegacyConvertedEnhancedMRImageStorage,
    SecondaryCaptureImageStorage,
    MultiFrameGrayscaleByteSecondaryCaptureImageStorage,
    MultiFrameGrayscaleWordSecondaryCaptureImageStorage,
    MultiFrameTrueColorSecondaryCaptureImageStorage,
)
TRANSFER_SYNTAXES = (
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    ExplicitVRBigEndian,
    DeflatedExplicitVRLittleEndian,
    RLELossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    JPEG2000Lossless,
    JPEG2000,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    HTJ2K,
)

# C-STORE response status codes: PS3.4 Table B.2-1 and PS3.7 Section 9.1.1.1.9
SUCCESS = 0x0000
DUPLICATE_INSTANCE = 0x0111
INVALID_INSTANCE = 0x0117
OUT_OF_RESOURCES = 0xA700
MISMATCH = 0xA900
CANNOT_UNDERSTAND = 0xC000

_PIXEL_DATA = (0x7FE00010, 0x7FE00008, 0x7FE00009)  # integer, float, double float
_ITEM = 0xFFFEE000
_SEQUENCE_END = 0xFFFEE0DD
_UNDEFINED = 0xFFFFFFFF
_LONG_VRS = (b"OB", b"OW", b"OF", b"OD", b"OL", b"OV", b"UN")


class IntakeError(Exception):
    """The instance is not taken; `status` goes into the response, the text into log and comment.

    The text holds no value from the data set: it may be a patient's name, or hostile.
    """

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


@dataclass(frozen=True)
class Intake:
    """An instance that may be stored."""

    key: InstanceKey
    sop_class_uid: str
    is_own_result: bool = False
    """Whether this node's software made it: a result that a PACS routed back."""


def inspect(
    encoded: bytes | mmap, transfer_syntax: UID, sop_class: str, instance: str, *, start: int = 0
) -> Intake:
    """Check an encoded data set against the C-STORE request that brought it (PS3.4 Section B.2).

    It begins at `start` in `encoded`. `sop_class` and `instance` are the Affected SOP Class and
    Instance UIDs of the request. Raises IntakeError for a data set that is cut short, is no image,
    or is not what the request says.
    """
    try:
        check_uid(instance, "Affected SOP Instance UID")
    except InvalidUIDError as error:
        raise IntakeError(INVALID_INSTANCE, str(error)) from None
    header = _walk(encoded, start, transfer_syntax)
    declared_class = _text(header, "SOPClassUID")
    if declared_class and declared_class != sop_class:
        raise IntakeError(MISMATCH, "SOP Class UID of data set and request differ")
    if _text(header, "SOPInstanceUID") != instance:
        raise IntakeError(MISMATCH, "SOP Instance UID of data set and request differ")
    try:
        key = InstanceKey(
            _text(header, "StudyInstanceUID"), _text(header, "SeriesInstanceUID"), instance
        )
    except InvalidUIDError as error:
        raise IntakeError(CANNOT_UNDERSTAND, str(error)) from None
    return Intake(key, sop_class, is_own_result=PRODUCT in _text(header, "SoftwareVersions"))


def _walk(encoded: bytes | mmap, begin: int, transfer_syntax: UID) -> Dataset:
    """The elements before the pixel data; IntakeError unless every element is whole."""
    implicit = transfer_syntax.is_implicit_VR
    little = transfer_syntax.is_little_endian
    try:
        if transfer_syntax == DeflatedExplicitVRLittleEndian:
            encoded, begin = _inflate(encoded[begin:]), 0
        stream: BinaryIO = BytesIO(encoded) if isinstance(encoded, bytes) else encoded  # type: ignore[assignment]  # mmap reads like a file
        stream.seek(begin)
        header = read_dataset(
            stream, implicit, little, stop_when=lambda tag, _vr, _length: tag >= min(_PIXEL_DATA)
        )
        _check_whole(header)
        start = stream.tell()
        end = _end_of_pixel_data(encoded, start, implicit=implicit, little=little)
        if not transfer_syntax.is_compressed and end - start < get_expected_length(header):
            raise IntakeError(CANNOT_UNDERSTAND, "pixel data are shorter than the image")
        stream.seek(end)
        _check_whole(read_dataset(stream, implicit, little))
    except IntakeError:
        raise
    except Exception as error:  # a parser of hostile bytes raises what it will
        raise IntakeError(
            CANNOT_UNDERSTAND, f"data set cannot be parsed ({type(error).__name__})"
        ) from error
    return header


def _inflate(deflated: bytes) -> bytes:
    """Inflate a data set (PS3.5 Section A.5), to the limit at most."""
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    encoded = inflater.decompress(deflated, MAX_INFLATED_BYTES)
    if not inflater.eof:
        raise IntakeError(CANNOT_UNDERSTAND, "data set is cut short, or inflates beyond the limit")
    return encoded


def _check_whole(dataset: Dataset) -> None:
    for element in dataset.values():
        if (
            isinstance(element, RawDataElement)
            and element.length != _UNDEFINED
            and len(element.value or b"") != element.length
        ):
            raise IntakeError(CANNOT_UNDERSTAND, "data set is cut short")


@dataclass(frozen=True)
class _Bytes:
    """Numbers and tags in an encoded data set; IntakeError where it ends too early."""

    encoded: bytes | mmap
    order: Literal["little", "big"]

    def number(self, offset: int, size: int) -> int:
        if offset + size > len(self.encoded):
            raise IntakeError(CANNOT_UNDERSTAND, "data set is cut short in the pixel data")
        return int.from_bytes(self.encoded[offset : offset + size], self.order)

    def tag(self, offset: int) -> int:
        return self.number(offset, 2) << 16 | self.number(offset + 2, 2)


def _end_of_pixel_data(encoded: bytes | mmap, at: int, *, implicit: bool, little: bool) -> int:
    """Offset behind the pixel data that begins at `at`; IntakeError if it is not all there."""
    source = _Bytes(encoded, "little" if little else "big")
    if len(encoded) == at or source.tag(at) not in _PIXEL_DATA:
        raise IntakeError(CANNOT_UNDERSTAND, "no pixel data: not an image, or cut short")
    if implicit:
        length_at, start = at + 4, at + 8
    elif encoded[at + 4 : at + 6] in _LONG_VRS:
        length_at, start = at + 8, at + 12
    else:
        raise IntakeError(CANNOT_UNDERSTAND, "pixel data has no value representation it may have")
    length = source.number(length_at, 4)
    if length == _UNDEFINED:
        return _end_of_fragments(source, start)
    if length == 0 or start + length > len(encoded):
        raise IntakeError(CANNOT_UNDERSTAND, "data set is cut short in the pixel data")
    return start + length


def _end_of_fragments(source: _Bytes, start: int) -> int:
    """Offset behind encapsulated pixel data (PS3.5 Section A.4)."""
    while source.tag(start) == _ITEM:
        start += 8 + source.number(start + 4, 4)
    if source.tag(start) != _SEQUENCE_END or source.number(start + 4, 4) != 0:
        raise IntakeError(CANNOT_UNDERSTAND, "data set is cut short in the pixel data")
    return start + 8


def _text(header: Dataset, keyword: str) -> str:
    try:
        value = header.get(keyword)
    except Exception as error:  # values are parsed on access
        raise IntakeError(CANNOT_UNDERSTAND, f"{keyword} cannot be parsed") from error
    return "" if value is None else str(value).strip()
