"""Compressed frames -> stored values [row, column], by the codec of each transfer syntax.

Codecs run in processes of their own, one for each thread that asks: a hostile frame may end one.
"""

from dataclasses import dataclass
from queue import Empty, LifoQueue
from threading import BoundedSemaphore

import numpy as np
import numpy.typing as npt
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

from node.codestream import declared_by
from node.decoding_process import DecodingProcess

Stored = npt.NDArray[np.integer]

CODECS = {
    JPEGBaseline8Bit: "jpeg",
    JPEGExtended12Bit: "jpeg",
    JPEGLossless: "jpeg",
    JPEGLosslessSV1: "jpeg",
    JPEGLSLossless: "jpegls",
    JPEGLSNearLossless: "jpegls",
    JPEG2000Lossless: "jpeg2k",
    JPEG2000: "jpeg2k",
    HTJ2KLossless: "htj2k",
    HTJ2KLosslessRPCL: "htj2k",
    HTJ2K: "htj2k",
}


@dataclass(frozen=True)
class Layout:
    """How stored values are laid out (PS3.3 C.7.6.3).

    `is_rgb` says of several samples a pixel that they are red, green and blue as they are stored.
    """

    rows: int
    columns: int
    bits_allocated: int
    bits_stored: int
    high_bit: int
    signed: bool
    samples: int = 1
    is_rgb: bool = False

    @property
    def native_bytes(self) -> int:
        """Length of one frame when uncompressed."""
        return self.rows * self.columns * self.samples * self.bits_allocated // 8

    @property
    def dtype(self) -> np.dtype[np.integer]:
        """Type of the stored values, in this machine's byte order."""
        return np.dtype(f"{'i' if self.signed else 'u'}{self.bits_allocated // 8}")


MOST_PROCESSES = 8
"""More only wait for the processors; each may take what its largest frame does."""


class Codecs:
    """Decodes frames, from several threads too; close it to end the processes it started."""

    def __init__(self) -> None:
        self._idle: LifoQueue[DecodingProcess] = LifoQueue()
        self._turn = BoundedSemaphore(MOST_PROCESSES)

    def __enter__(self) -> "Codecs":
        return self

    def __exit__(self, *_: object) -> None:
        while not self._idle.empty():
            self._idle.get().close()

    def decode(self, codestream: bytes, syntax: UID, layout: Layout) -> Stored:
        """Return one frame's stored values [row, column], or [row, column, sample] of several.

        JPEG in colour becomes RGB, and so do the colour transforms of JPEG 2000. Raises ValueError
        where the codestream is not of the declared matrix or the codec refuses it,
        NotImplementedError for other transfer syntaxes, and EOFError or BrokenPipeError where it
        ended its process.
        """
        if syntax == RLELossless:
            codec = f"rle{layout.bits_allocated // 8}"
            values = self._in_process(codec, codestream, layout)
            return stored_bits(values.view(layout.dtype), layout)
        if syntax not in CODECS:
            raise NotImplementedError(f"no codec for {syntax.name}")
        declared = declared_by(codestream)
        if declared is None or declared[:3] != (layout.rows, layout.columns, layout.samples):
            raise ValueError("the codestream is not of the matrix that the header declares")
        if declared.precision > layout.bits_allocated:
            raise ValueError("the codestream has more bits than the header allocates")
        codec = CODECS[syntax]
        if codec == "jpeg" and layout.is_rgb:
            codec = "jpegrgb"
        values = self._in_process(codec, codestream, layout)
        bits = min(declared.precision, layout.bits_stored)
        if declared.signed == layout.signed and declared.precision == bits:
            return values
        unused = layout.bits_allocated - bits
        return (values.astype(layout.dtype) << unused) >> unused

    def _in_process(self, codec: str, codestream: bytes, layout: Layout) -> Stored:
        extents = (layout.rows, layout.columns, layout.samples)
        with self._turn:
            try:
                process = self._idle.get_nowait()
            except Empty:
                process = DecodingProcess()
            try:
                values = process.decode(codec, codestream, *extents)
            except Exception:
                process.close()
                raise
            self._idle.put(process)
        return values[..., 0] if layout.samples == 1 else values


def stored_bits(values: Stored, layout: Layout) -> Stored:
    """Leave out the bits beside the stored ones, which may hold overlays, and extend the sign."""
    above = layout.bits_allocated - 1 - layout.high_bit
    below = layout.bits_allocated - layout.bits_stored
    return (values << above) >> below if below else values
