"""One instance file, read once: its header, and where its pixel data lie.

Nothing in a file is believed before it was compared with the file's size, and nothing in it makes
reading raise anything but `UnreadableInstanceError`.
"""

import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

import pydicom
from pydicom.uid import DeflatedExplicitVRLittleEndian

from inference.assessment import Text

MAX_INFLATED_BYTES = 256 * 2**20
"""A deflated data set may grow to this; a slice of 8192 x 8192 x 16 bit needs half of it."""

UNDEFINED_LENGTH = 0xFFFFFFFF
PIXEL_DATA_TAG = (0x7FE0, 0x0010)


class UnreadableInstanceError(Exception):
    """An instance's header or pixel data cannot be used; `reason` is for the technologist."""

    def __init__(self, reason: Text) -> None:
        super().__init__(reason.en)
        self.reason = reason


@dataclass(frozen=True, eq=False)
class Instance:
    """The header of one SOP instance, without pixel data, and where to find these.

    `pixel_offset` is the file position of the value of Pixel Data, `pixel_length` its declared
    length (None where undefined, that is encapsulated), and `pixel_bytes_available` what the file
    really holds from there on. A deflated file has its `inflated_pixels` in memory instead.
    """

    path: Path
    header: pydicom.Dataset
    pixel_offset: int = 0
    pixel_length: int | None = None
    pixel_bytes_available: int = 0
    inflated_pixels: bytes | None = None

    @property
    def transfer_syntax(self) -> pydicom.uid.UID:
        """Transfer Syntax UID of the file; empty where the file meta does not say."""
        return pydicom.uid.UID(str(self.header.file_meta.get("TransferSyntaxUID") or ""))

    @property
    def uid(self) -> str:
        """SOP Instance UID."""
        return text_of(self.header, "SOPInstanceUID")

    def pixel_bytes(self, limit: int) -> bytes:
        """Return the value of Pixel Data as it is in the file, `limit` bytes at most."""
        if self.inflated_pixels is not None:
            return self.inflated_pixels[:limit]
        with self.path.open("rb") as file:
            file.seek(self.pixel_offset)
            return file.read(min(limit, self.pixel_bytes_available))


def read_instance(path: Path) -> Instance:
    """Read the header of a Part 10 file; SOP class and instance come from file meta if need be.

    Raises UnreadableInstanceError for anything that is not a DICOM file, and OSError where the
    file itself cannot be read.
    """
    with path.open("rb") as file:
        try:
            return _parse(path, file)
        except OSError:
            raise
        except Exception as error:  # a parser of hostile bytes raises anything
            raise UnreadableInstanceError(
                Text(
                    en=f"{path.name} cannot be read as a DICOM file. Send the series again.",
                    zh=f"{path.name} 无法作为 DICOM 文件读取。请重新发送该序列。",
                )
            ) from error


def _parse(path: Path, file: BinaryIO) -> Instance:
    if _is_deflated(file):
        header = pydicom.dcmread(file)
        pixels = bytes(header.PixelData) if "PixelData" in header else b""
        header.pop("PixelData", None)
        _complete(header)
        return Instance(
            path,
            header,
            pixel_length=len(pixels),
            pixel_bytes_available=len(pixels),
            inflated_pixels=pixels,
        )
    header = pydicom.dcmread(file, stop_before_pixels=True)
    _complete(header)
    implicit, little = header.original_encoding
    order: Literal["little", "big"] = "little" if little else "big"
    element = file.read(8 if implicit else 12)
    group = int.from_bytes(element[:2], order)
    number = int.from_bytes(element[2:4], order)
    if (group, number) != PIXEL_DATA_TAG:
        return Instance(path, header)
    length = int.from_bytes(element[-4:], order)
    offset = file.tell()
    return Instance(
        path,
        header,
        pixel_offset=offset,
        pixel_length=None if length == UNDEFINED_LENGTH else length,
        pixel_bytes_available=path.stat().st_size - offset,
    )


def _is_deflated(file: BinaryIO) -> bool:
    """Tell whether the data set is deflated; raises ValueError if it inflates beyond the limit."""
    start = file.read(1024)
    file.seek(0)
    if DeflatedExplicitVRLittleEndian.encode() not in start:
        return False
    # (0002,0000) File Meta Information Group Length is the first element after "DICM".
    file.seek(144 + int.from_bytes(start[140:144], "little"))
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    size = 0
    compressed = file.read(2**16)
    while compressed and not inflater.eof:
        size += len(inflater.decompress(compressed, 2**22))
        if size > MAX_INFLATED_BYTES:
            raise ValueError("the data set inflates beyond the limit")
        compressed = inflater.unconsumed_tail or file.read(2**16)
    file.seek(0)
    return True


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
        return header.get(keyword)
    except Exception:  # noqa: BLE001 - values are parsed on access, and hostile ones raise anything
        return None


def text_of(header: pydicom.Dataset, keyword: str) -> str:
    """Return an attribute's value as stripped text, empty where it is absent."""
    value = value_of(header, keyword)
    return "" if value is None else str(value).strip()


def numbers_of(header: pydicom.Dataset, keyword: str, count: int) -> tuple[float, ...] | None:
    """Return exactly `count` finite numbers, or None where the attribute has not got them."""
    value = value_of(header, keyword)
    items: Sequence[Any] = (
        value if isinstance(value, Sequence) and not isinstance(value, str) else [value]
    )
    if len(items) != count:
        return None
    try:
        numbers = tuple(float(item) for item in items)
    except (TypeError, ValueError, OverflowError):
        return None
    return numbers if all(math.isfinite(number) for number in numbers) else None


def integer_of(header: pydicom.Dataset, keyword: str, default: int = 0) -> int:
    """Return a single whole number, or `default` where the attribute has not got one."""
    numbers = numbers_of(header, keyword, 1)
    return default if numbers is None else int(numbers[0])
