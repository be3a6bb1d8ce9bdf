"""One small CT series in each transfer syntax that the node takes, encoded by real encoders."""

import imagecodecs
import numpy as np
from pydicom.encaps import encapsulate
from pydicom.uid import (
    HTJ2K,
    JPEG2000,
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

from tests.slices import grid_affine, write_slices

BITS = {JPEGBaseline8Bit: 8, JPEGExtended12Bit: 12}  # the others: 16


def _jpeg(bits, **options):
    return lambda x: imagecodecs.jpeg8_encode(x, bitspersample=bits, **options)


def _jpeg_2000(**options):
    return lambda x: imagecodecs.jpeg2k_encode(x, codecformat="j2k", **options)


def _runs(values):
    """RLE (PS3.5 Annex G), high bytes before low ones, in runs of literals."""
    segments = []
    for plane in (values >> 8, values & 255):
        row = plane.astype(np.uint8).tobytes()
        parts = [row[at : at + 128] for at in range(0, len(row), 128)]
        segment = b"".join(bytes([len(part) - 1]) + part for part in parts)
        segments.append(segment + b"\0" * (len(segment) % 2))
    starts = [2, 64, 64 + len(segments[0]), *[0] * 13]
    return np.array(starts, "<u4").tobytes() + b"".join(segments)


CODECS = {
    RLELossless: _runs,
    JPEGBaseline8Bit: _jpeg(8),
    JPEGExtended12Bit: _jpeg(12),
    JPEGLossless: _jpeg(16, lossless=True, predictor=4),
    JPEGLosslessSV1: _jpeg(16, lossless=True),
    JPEGLSLossless: imagecodecs.jpegls_encode,
    JPEGLSNearLossless: lambda x: imagecodecs.jpegls_encode(x, level=2),
    JPEG2000Lossless: _jpeg_2000(level=0, reversible=True),
    JPEG2000: _jpeg_2000(level=40),
    HTJ2KLossless: lambda x: imagecodecs.htj2k_encode(x, reversible=True),
    HTJ2KLosslessRPCL: lambda x: imagecodecs.htj2k_encode(x, reversible=True),
    HTJ2K: lambda x: imagecodecs.htj2k_encode(x, level=0.01, reversible=False),
}


def write_series(folder, syntax, *, count=3, size=16):
    """Write `count` images of one series in a transfer syntax; returns their paths."""
    bits = BITS.get(syntax, 16)
    pixels = np.random.default_rng(3).integers(0, 2 ** min(bits, 15), (count, size, size))

    def compress(header, k):
        header.BitsAllocated, header.BitsStored, header.HighBit = (
            max(8, bits // 9 * 16),
            bits,
            bits - 1,
        )
        header.PixelRepresentation = 0
        values = pixels[k].astype(f"u{header.BitsAllocated // 8}")
        header.PixelData = encapsulate([CODECS[syntax](values)])
        header["PixelData"].VR = "OB"
        header["PixelData"].is_undefined_length = True

    change = compress if syntax in CODECS else None
    return write_slices(
        folder, pixels.astype(np.int16), grid_affine(), transfer_syntax=syntax, change=change
    )
