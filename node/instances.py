"""One instance file: its header, read once, and its pixel data, read when they are decoded.

Nothing in a file is believed before it was compared with the file's size, and nothing in it makes
reading raise anything but `UnreadableInstanceError`.
"""

import math
import mmap
import os
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, BinaryIO, Literal

import pydicom
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import FileMetaDataset
from pydicom.tag import BaseTag
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
)

from inference.assessment import Text
from node.data_elements import (
    UNDEFINED_LENGTH,
    MoreNeededError,
    UnusualEncodingError,
    header_of,
    walk_elements,
)
from node.encapsulation import frame_ranges

MAX_INFLATED_BYTES = 256 * 2**20
"""A deflated data set may grow to this; a slice of 8192 x 8192 x 16 bit needs half of it."""

HEADER_BYTES = 2**14
"""Read of a file at first; most headers are shorter."""

MAX_INTEGER = 2**32
"""No whole number of a header is larger (PS3.5 Section 6.2); text can say anything."""

META_START = 132
"""The file meta information follows the preamble and "DICM" (PS3.10 Section 7.1)."""

PIXEL_DATA_TAG = (0x7FE0, 0x0010)


class UnreadableInstanceError(Exception):
    """An instance's header or pixel data cannot be used; `reason` is for the technologist."""

    def __init__(self, reason: Text) -> None:
        super().__init__(reason.en)
        self.reason = reason


@dataclass(frozen=True, eq=False)
class Instance:
    """The header of one SOP instance, without pixel data, and where to find these.

    `pixel_offset` is where the value of Pixel Data begins, `pixel_length` its declared length (None
    where undefined, that is encapsulated), `pixel_vr` its value representation (empty where the
    file does not say), and `pixel_bytes_available` what there really is from there on. All count
    bytes of the file, and of the inflated data set where `deflated`.
    """

    path: Path
    header: pydicom.Dataset
    pixel_offset: int = 0
    pixel_length: int | None = None
    pixel_bytes_available: int = 0
    pixel_vr: str = ""
    deflated: bool = False

    @cached_property
    def transfer_syntax(self) -> UID:
        """Transfer Syntax UID of the file; empty where the file meta does not say."""
        return UID(text_of(self.header.file_meta, "TransferSyntaxUID"))

    @cached_property
    def uid(self) -> str:
        """SOP Instance UID."""
        return text_of(self.header, "SOPInstanceUID")

    def pixel_bytes(self, start: int, length: int) -> bytes:
        """Return bytes of the value of Pixel Data, fewer where it ends before."""
        length = max(0, min(length, self.pixel_bytes_available - start))
        if self.deflated:
            several = integer_of(self.header, "NumberOfFrames", 1) > 1
            return (self._inflated_pixels if several else self._inflate())[start : start + length]
        with self.path.open("rb", buffering=0) as file:
            return os.pread(file.fileno(), length, self.pixel_offset + start)

    def encapsulated_frame(self, index: int) -> bytes:
        """Return one frame's codestream, its fragments joined.

        Raises ValueError where the frames cannot be told apart.
        """
        if integer_of(self.header, "NumberOfFrames", 1) <= 1:
            content = self.pixel_bytes(0, self.pixel_bytes_available)
            ranges = frame_ranges(lambda at, size: content[at : at + size], len(content), 1, ())
            return b"".join(content[at : at + size] for at, size in ranges[0])
        return b"".join(self.pixel_bytes(at, size) for at, size in self._frame_ranges[index])

    def _inflate(self) -> bytes:
        with self.path.open("rb", buffering=0) as file:
            file.seek(_meta_end(file.read(META_START + 12)))
            end = self.pixel_offset + self.pixel_bytes_available
            return _inflated(file, end)[self.pixel_offset :]

    @cached_property
    def _inflated_pixels(self) -> bytes:
        """Kept, since the frames of a deflated data set cannot be reached one by one."""
        return self._inflate()

    @cached_property
    def _frame_ranges(self) -> list[list[tuple[int, int]]]:
        frames = integer_of(self.header, "NumberOfFrames", 1)
        table = value_of(self.header, "ExtendedOffsetTable") or b""
        offsets = struct.unpack(f"<{frames}Q", table) if len(table) == 8 * frames else ()
        return frame_ranges(self.pixel_bytes, self.pixel_bytes_available, frames, offsets)


def read_instance(path: Path) -> Instance:
    """Read the header of a Part 10 file; SOP class and instance come from file meta if need be.

    Raises UnreadableInstanceError for anything that is not a DICOM file, and OSError where the
    file itself cannot be read.
    """
    with path.open("rb", buffering=0) as file:
        try:
            instance = _parse(path, file)
            _complete(instance.header)
        except Exception as error:  # a parser of hostile bytes raises anything, also OSError
            if isinstance(error, OSError) and error.errno is not None:
                raise
            raise UnreadableInstanceError(
                Text(
                    en=f"{path.name} cannot be read as a DICOM file. Send the series again.",
                    zh=f"{path.name} 无法作为 DICOM 文件读取。请重新发送该序列。",
                )
            ) from error
        return instance


def _parse(path: Path, file: BinaryIO) -> Instance:
    """Walk the header; leave to pydicom what is encoded in some other way than most files are."""
    start = file.read(HEADER_BYTES)
    try:
        meta, at = walk_elements(start, META_START, implicit=False, until=0x00030000)
        if at != _meta_end(start) or start[128:132] != b"DICM":
            raise UnusualEncodingError("no file meta information of its declared length")
        file_meta = FileMetaDataset(meta)
        syntax = text_of(file_meta, "TransferSyntaxUID")
        if syntax == DeflatedExplicitVRLittleEndian:
            file.seek(at)
            instance = _deflated(path, _inflated(file, MAX_INFLATED_BYTES + 1))
        elif syntax in ("", ExplicitVRBigEndian):
            raise UnusualEncodingError("big endian, or not said")
        else:
            size = os.fstat(file.fileno()).st_size
            instance = _walk(path, file, start, at, size, implicit=syntax == ImplicitVRLittleEndian)
    except (UnusualEncodingError, MoreNeededError):
        file.seek(0)
        return _parse_with_pydicom(path, file)
    instance.header.file_meta = file_meta
    return instance


def _meta_end(start: bytes) -> int:
    """File position behind the file meta information, by its group length (0002,0000)."""
    return META_START + 12 + int.from_bytes(start[META_START + 8 : META_START + 12], "little")


def _walk(
    path: Path, file: BinaryIO, content: bytes, at: int, size: int, *, implicit: bool
) -> Instance:
    """Walk a little endian header that begins at `at`, reading on where it is longer."""
    while True:
        try:
            elements, end = walk_elements(content, at, implicit=implicit)
            element = content[end : end + 12]
            if len(element) < 12:
                raise MoreNeededError(end + 12)
            break
        except MoreNeededError as error:
            if error.end > size:
                raise
            content += file.read(max(error.end - len(content), len(content)))
    header = header_of(elements, implicit=implicit)
    return _placed(path, header, element, end, size, implicit=implicit)


def _placed(
    path: Path,
    header: pydicom.Dataset,
    element: bytes,
    at: int,
    size: int,
    *,
    implicit: bool,
    order: Literal["little", "big"] = "little",
) -> Instance:
    """Return the instance whose element at `at`, of which 12 bytes are given, is Pixel Data."""
    group, number = (int.from_bytes(element[start : start + 2], order) for start in (0, 2))
    if (group, number) != PIXEL_DATA_TAG:
        return Instance(path, header)
    length = int.from_bytes(element[4:8] if implicit else element[8:12], order)
    offset = at + (8 if implicit else 12)
    return Instance(
        path,
        header,
        pixel_offset=offset,
        pixel_length=None if length == UNDEFINED_LENGTH else length,
        pixel_bytes_available=max(0, size - offset),
        pixel_vr="" if implicit else element[4:6].decode("latin-1"),
    )


def _deflated(path: Path, content: bytes) -> Instance:
    if len(content) > MAX_INFLATED_BYTES:
        raise ValueError("the data set inflates beyond the limit")
    elements, end = walk_elements(content, 0, implicit=False)
    header, element = header_of(elements, implicit=False), content[end : end + 12]
    found = _placed(path, header, element, end, len(content), implicit=False)
    return replace(found, deflated=True)


def _inflated(file: BinaryIO, limit: int) -> bytes:
    """Inflate a data set from the file's position on, to `limit` bytes (PS3.5 Section A.5)."""
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    parts: list[bytes] = []
    missing = limit
    compressed = file.read(2**16)
    while compressed and missing > 0 and not inflater.eof:
        parts.append(inflater.decompress(compressed, missing))
        missing -= len(parts[-1])
        compressed = inflater.unconsumed_tail or file.read(2**16)
    return b"".join(parts)


def _parse_with_pydicom(path: Path, file: BinaryIO) -> Instance:
    # Mapped: a file that is read makes room for whatever length an element says that it has.
    with mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapped:
        header = pydicom.dcmread(mapped, stop_before_pixels=True)  # type: ignore[arg-type]  # mmap reads like a file
        at = mapped.tell()
        element, size = mapped.read(12), len(mapped)
    implicit, little = header.original_encoding
    order: Literal["little", "big"] = "little" if little else "big"
    return _placed(path, header, element, at, size, implicit=bool(implicit), order=order)


def _complete(header: pydicom.Dataset) -> None:
    """Take what an anonymiser stripped from the data set out of the file meta information."""
    for keyword, source in (
        ("SOPClassUID", "MediaStorageSOPClassUID"),
        ("SOPInstanceUID", "MediaStorageSOPInstanceUID"),
    ):
        if not text_of(header, keyword):
            setattr(header, keyword, pydicom.uid.UID(str(header.file_meta.get(source) or "")))


def value_of(header: pydicom.Dataset, keyword: str) -> Any:
    """Return an attribute's value, or None where it is absent or cannot be parsed."""
    try:
        return header.get(keyword) if _stored(header, keyword) else None
    except Exception:  # noqa: BLE001 - values are parsed on access, and hostile ones raise anything
        return None


def text_of(header: pydicom.Dataset, keyword: str) -> str:
    """Return an attribute's value as stripped text, empty where it is absent."""
    element = _stored(header, keyword)
    if isinstance(element, RawDataElement) and _vr(element) in ("UI", "CS"):
        stored = element.value or b""
        if stored.isascii() and b"\\" not in stored:
            return stored.decode("ascii").strip("\0 ")
    value = value_of(header, keyword)
    return "" if value is None else str(value).strip()


def numbers_of(header: pydicom.Dataset, keyword: str, count: int) -> tuple[float, ...] | None:
    """Return exactly `count` finite numbers, or None where the attribute has not got them."""
    element = _stored(header, keyword)
    if element is None:
        return None
    items = _unparsed_numbers(element) if isinstance(element, RawDataElement) else None
    if items is None:
        value = value_of(header, keyword)
        items = value if isinstance(value, Sequence) and not isinstance(value, str) else [value]
    if len(items) != count:
        return None
    try:
        numbers = tuple([float(item) for item in items])
    except (TypeError, ValueError, OverflowError):
        return None
    return numbers if all(map(math.isfinite, numbers)) else None


def integer_of(header: pydicom.Dataset, keyword: str, default: int = 0) -> int:
    """Return a single whole number, or `default` where the attribute has not got one."""
    numbers = numbers_of(header, keyword, 1)
    if numbers is None or abs(numbers[0]) > MAX_INTEGER:
        return default
    return int(numbers[0])


def _stored(header: pydicom.Dataset, keyword: str) -> DataElement | RawDataElement | None:
    """Return an attribute as it is in the header, without parsing it; None where it is absent."""
    return header.get_item(_tag(keyword), keep_deferred=True)


@lru_cache(256)
def _tag(keyword: str) -> BaseTag:
    return BaseTag(tag_for_keyword(keyword) or 0)


@lru_cache(256)
def _dictionary_vr(tag: BaseTag) -> str:
    return dictionary_VR(tag)


def _vr(element: RawDataElement) -> str:
    return element.VR or _dictionary_vr(element.tag)


def _unparsed_numbers(element: RawDataElement) -> Sequence[Any] | None:
    """Return what `float` reads as the numbers of an element; None where pydicom has to parse it.

    Parsing costs ten times what the few numbers do that a series is judged by.
    """
    stored = element.value
    vr = _vr(element)
    if vr in ("DS", "IS") and stored:
        return stored.rstrip(b"\0 ").split(b"\\")
    if vr == "US" and stored and len(stored) == 2:
        return [int.from_bytes(stored, "little" if element.is_little_endian else "big")]
    return None
