"""An instance as a Part 10 file to be sent: as it is stored, or in Explicit VR Little Endian."""

import io
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path

from pydicom import Dataset, dcmread, dcmwrite
from pydicom.uid import UID, ExplicitVRLittleEndian

from node.codecs import Codecs
from node.dicomweb.images import CHUNK, Image, image_of
from node.instances import Instance, read_instance

LONGEST_VALUE = 2**32 - 2
"""Of an element whose length is given (PS3.5 Section 7.1.1)."""

_DEFERRED = 2**16
"""Bytes of a value beyond which it is read when it is asked for."""

_OFFSETS = ("ExtendedOffsetTable", "ExtendedOffsetTableLengths")


class NotConvertibleError(Exception):
    """An instance cannot be encoded in Explicit VR Little Endian."""


def as_stored(path: Path) -> Iterator[bytes]:
    """Return the file piece by piece."""
    with path.open("rb", buffering=0) as file:
        while chunk := file.read(CHUNK):
            yield chunk


def explicit_little_endian(path: Path, codecs: Codecs) -> Iterator[bytes]:
    """Return the instance in Explicit VR Little Endian, its pixel data frame by frame.

    What follows the pixel data is left out: padding, and signatures that no longer hold. Raises
    NotConvertibleError before the first piece where that can be known, UnreadableInstanceError for
    what is no DICOM file, and NotAnImageError for a frame that cannot be decoded.
    """
    instance = read_instance(path)
    if instance.pixel_bytes_available == 0:
        yield _encoded(parsed(path))
        return
    image = image_of(instance)
    length = image.uncompressed_length + image.uncompressed_length % 2
    if length > LONGEST_VALUE:
        raise NotConvertibleError("it is longer than an element can be when it is uncompressed")
    pieces = image.all_uncompressed(codecs)
    first = next(pieces)
    vr = b"OW" if image.layout.bits_allocated > 8 else b"OB"
    element = struct.pack("<HH2sHL", 0x7FE0, 0x0010, vr, 0, length)
    yield _encoded(_uncompressed_header(instance, image)) + element + first
    yield from pieces
    if image.uncompressed_length % 2:
        yield b"\0"


def parsed(path: Path, tags: Sequence[int] | None = None) -> Dataset:
    """Return the data set, or these elements of it; NotConvertibleError where it is damaged."""
    try:
        return dcmread(path, defer_size=_DEFERRED, specific_tags=list(tags) if tags else None)
    except Exception as error:  # a parser of hostile bytes raises anything
        raise NotConvertibleError("it is damaged") from error


def _uncompressed_header(instance: Instance, image: Image) -> Dataset:
    header = instance.header
    if image.is_compressed:
        for keyword in _OFFSETS:
            if keyword in header:
                delattr(header, keyword)
        if image.layout.samples > 1:
            header.PhotometricInterpretation = image.decoded_photometric
            header.PlanarConfiguration = 0
    return header


def _encoded(dataset: Dataset) -> bytes:
    dataset.file_meta.TransferSyntaxUID = UID(ExplicitVRLittleEndian)
    buffer = io.BytesIO()
    try:
        dcmwrite(buffer, dataset, implicit_vr=False, little_endian=True, enforce_file_format=True)
    except Exception as error:  # values are parsed here, and hostile ones raise anything
        raise NotConvertibleError("its attributes cannot be encoded") from error
    return buffer.getvalue()
