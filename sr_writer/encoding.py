"""A written object in another transfer syntax or character set: other bytes, the same content.

What a destination does not take as it lies in the file is encoded anew on the way to it. The result
is read back and compared before anybody gets it.
"""

import zlib
from pathlib import Path

from pydicom.filebase import DicomBytesIO
from pydicom.filereader import read_file_meta_info
from pydicom.filewriter import write_file_meta_info
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    ParametricMapStorage,
    SegmentationStorage,
)

from sr_writer.element_tree import first_unequal, read_elements, write_elements
from sr_writer.results import LABEL_MAP_SEGMENTATION_STORAGE

UTF_8 = "ISO_IR 192"
"""Specific Character Set of the objects as they are written (PS3.3 Section C.12.1.1.2)."""

TRANSFER_SYNTAXES = (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)
"""What an object can be encoded in, the smallest first."""
DEFLATED = frozenset({SegmentationStorage, LABEL_MAP_SEGMENTATION_STORAGE, ParametricMapStorage})
"""SOP classes that are worth it: a mask becomes 100 times smaller, a report saves 50 kB."""

_PREAMBLE = b"\0" * 128 + b"DICM"
_META_OFFSET = len(_PREAMBLE) + 12
"""Where what File Meta Information Group Length counts begins: behind that element."""


class EncodingError(ValueError):
    """An object does not say the same in the encoding that was asked for."""


def transfer_syntaxes(sop_class: UID) -> tuple[UID, ...]:
    """Return what objects of a class are proposed in, the best first.

    Implicit VR Little Endian, the default, is always among them (PS3.5 Section 10.1).
    """
    return TRANSFER_SYNTAXES if sop_class in DEFLATED else TRANSFER_SYNTAXES[1:]


def encoded(path: Path, transfer_syntax: UID, charset: str) -> bytes:
    """Return the object in the file `path` as another Part 10 file; its UIDs stay.

    Parameters
    ----------
    path
        A Part 10 file in Explicit VR Little Endian and UTF-8, as all that is written here.
    transfer_syntax
        One of `TRANSFER_SYNTAXES`.
    charset
        Defined term of Specific Character Set (PS3.3 C.12.1.1.2), for instance "GB18030". The data
        set gets it, and each item that has one of its own.

    Raises
    ------
    EncodingError
        Where a text has no such characters, or what was encoded does not read back equal, element
        by element.
    """
    meta = read_file_meta_info(path)
    if meta.TransferSyntaxUID != ExplicitVRLittleEndian:
        raise EncodingError(f"{path.name} is in {meta.TransferSyntaxUID.name}; write it natively")
    content = path.read_bytes()[_META_OFFSET + meta.FileMetaInformationGroupLength :]
    is_implicit = transfer_syntax == ImplicitVRLittleEndian
    if is_implicit or charset != UTF_8:
        try:
            content = _rewritten(content, charset, is_implicit=is_implicit)
        except ValueError as error:
            raise EncodingError(f"{path.name}: {error}") from None
    if transfer_syntax == DeflatedExplicitVRLittleEndian:
        content = _deflated(content)
    meta.TransferSyntaxUID = transfer_syntax
    buffer = DicomBytesIO()
    buffer.write(_PREAMBLE)
    write_file_meta_info(buffer, meta)
    buffer.write(content)
    return buffer.getvalue()


def _rewritten(content: bytes, charset: str, *, is_implicit: bool) -> bytes:
    elements = read_elements(content, is_implicit=False)
    written = write_elements(elements, charset, is_implicit=is_implicit)
    unequal = first_unequal(elements, read_elements(written, is_implicit=is_implicit))
    if unequal is not None:
        raise ValueError(f"{unequal} does not read back as it was")
    return written


def _deflated(content: bytes) -> bytes:
    """Return a data set as PS3.5 Section A.5 has it: a raw deflate stream of even length."""
    deflater = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    stream = deflater.compress(content) + deflater.flush()
    if zlib.decompress(stream, -zlib.MAX_WBITS) != content:
        raise EncodingError("the deflated data set does not inflate to what it was")
    return stream + b"\0" * (len(stream) % 2)
