"""Compressed frames -> stored values, by the codec that is safe for each transfer syntax.

JPEG 2000 goes to OpenJPEG, JPEG-LS to CharLS, RLE to pydicom. Only GDCM reads every JPEG that CT
and MR come in, and it ends the process on some broken codestreams: it runs in processes of its own.
"""

from dataclasses import dataclass
from queue import Empty, LifoQueue
from typing import Any

import numpy as np
import numpy.typing as npt
from openjpeg.utils import decode as decode_jpeg_2000
from pydicom.encaps import get_frame
from pydicom.pixels.decoders.base import get_decoder
from pydicom.uid import (
    HTJ2K,
    JPEG2000,
    UID,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

from node.codestream import FrameSize, declared_size
from node.gdcm_process import GdcmProcess

Stored = npt.NDArray[np.integer]

OPENJPEG_SYNTAXES = {JPEG2000Lossless, JPEG2000, HTJ2KLossless, HTJ2KLosslessRPCL, HTJ2K}
GDCM_SYNTAXES = {JPEGBaseline8Bit, JPEGExtended12Bit, JPEGLossless, JPEGLosslessSV1}
JPEG_LS_SYNTAXES = {JPEGLSLossless, JPEGLSNearLossless}


@dataclass(frozen=True)
class Layout:
    """How stored values are laid out (PS3.3 C.7.6.3), one monochrome sample a pixel."""

    rows: int
    columns: int
    bits_allocated: int
    bits_stored: int
    high_bit: int
    signed: bool

    @property
    def native_bytes(self) -> int:
        """Length of the pixel data when uncompressed."""
        return self.rows * self.columns * self.bits_allocated // 8

    @property
    def dtype(self) -> np.dtype[np.integer]:
        """Type of the stored values, in this machine's byte order."""
        return np.dtype(f"{'i' if self.signed else 'u'}{self.bits_allocated // 8}")

    @property
    def decoding_options(self) -> dict[str, Any]:
        """What pydicom's decoders need to know of the pixels."""
        return {
            "pixel_keyword": "PixelData",
            "rows": self.rows,
            "columns": self.columns,
            "samples_per_pixel": 1,
            "photometric_interpretation": "MONOCHROME2",
            "number_of_frames": 1,
            "bits_allocated": self.bits_allocated,
            "bits_stored": self.bits_stored,
            "pixel_representation": int(self.signed),
        }


class Codecs:
    """Decodes frames, from several threads too; close it to end the processes it started."""

    def __init__(self) -> None:
        self._idle: LifoQueue[GdcmProcess] = LifoQueue()

    def __enter__(self) -> "Codecs":
        return self

    def __exit__(self, *_: object) -> None:
        while not self._idle.empty():
            self._idle.get().close()

    def decode(self, encapsulated: bytes, syntax: UID, layout: Layout) -> Stored:
        """Return the single frame's stored values [row, column].

        Raises ValueError where the codestream is not of the declared matrix, and whatever the
        codec raises where it cannot be decoded.
        """
        if syntax == RLELossless:
            return _decode_with_pydicom(encapsulated, syntax, layout, "pydicom")
        if syntax not in OPENJPEG_SYNTAXES | GDCM_SYNTAXES | JPEG_LS_SYNTAXES:
            raise NotImplementedError(f"no codec for {syntax.name}")
        frame = get_frame(encapsulated, 0, number_of_frames=1)
        if declared_size(frame) != FrameSize(layout.rows, layout.columns, components=1):
            raise ValueError("the codestream is not of the matrix that the header declares")
        if syntax in OPENJPEG_SYNTAXES:
            return _with_declared_sign(decode_jpeg_2000(frame), layout)
        if syntax in GDCM_SYNTAXES:
            return self._decode_with_gdcm(encapsulated, syntax, layout)
        return _decode_with_pydicom(encapsulated, syntax, layout, "pyjpegls")

    def _decode_with_gdcm(self, encapsulated: bytes, syntax: UID, layout: Layout) -> Stored:
        try:
            process = self._idle.get_nowait()
        except Empty:
            process = GdcmProcess()
        try:
            values = process.decode(encapsulated, syntax, layout.decoding_options)
        except Exception:
            process.close()
            raise
        self._idle.put(process)
        return values


def stored_bits(values: Stored, layout: Layout) -> Stored:
    """Leave out the bits beside the stored ones, which may hold overlays, and extend the sign."""
    above = layout.bits_allocated - 1 - layout.high_bit
    below = layout.bits_allocated - layout.bits_stored
    return (values << above) >> below if below else values


def _with_declared_sign(values: Stored, layout: Layout) -> Stored:
    """Read the values as Pixel Representation says where the codestream says otherwise."""
    if (values.dtype.kind == "i") == layout.signed:
        return values
    unused = layout.bits_allocated - layout.bits_stored
    return (values.astype(layout.dtype) << unused) >> unused


def _decode_with_pydicom(encapsulated: bytes, syntax: UID, layout: Layout, plugin: str) -> Stored:
    values, _ = get_decoder(syntax).as_array(
        encapsulated, index=0, raw=True, decoding_plugin=plugin, **layout.decoding_options
    )
    return values
