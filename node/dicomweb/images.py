"""The frames of any image that is held, as they are stored or uncompressed, to be sent or drawn."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from pydicom.uid import UID, RLELossless

from node.codecs import CODECS, Codecs, Layout
from node.instances import Instance, integer_of, text_of

LARGEST_MATRIX = 2**16 - 1
"""Rows and Columns are US (PS3.6)."""

LARGEST_FRAME = 2**28
"""Bytes of one uncompressed frame; a colour image of 8192 x 8192 takes three quarters of it."""

CHUNK = 2**20

JPEG_2000_COLOURS = ("YBR_RCT", "YBR_ICT")
Values = npt.NDArray[np.integer]


class NotAnImageError(ValueError):
    """The instance has no pixel data, or none that can be read; the text says why."""


class NoSuchFrameError(LookupError):
    """The image has fewer frames."""


@dataclass(frozen=True, eq=False)
class Image:
    """An instance with integer pixel data, and how these are laid out.

    `photometric` and `planar` are of the stored pixels; `frame_bits` is the length of one
    uncompressed frame.
    """

    instance: Instance
    layout: Layout
    frames: int
    photometric: str
    planar: bool

    @property
    def is_compressed(self) -> bool:
        """Whether frames are codestreams of their own."""
        return self.instance.pixel_length is None

    @property
    def frame_bits(self) -> int:
        """Bits of one uncompressed frame; native YBR_FULL_422 leaves out a third of them."""
        layout = self.layout
        bits = layout.rows * layout.columns * layout.samples * layout.bits_allocated
        return (
            bits * 2 // 3 if self.photometric == "YBR_FULL_422" and not self.is_compressed else bits
        )

    @property
    def decoded_photometric(self) -> str:
        """Photometric Interpretation of what decoding makes of it (PS3.5 Section 8.2)."""
        if not self.is_compressed or self.layout.samples == 1:
            return self.photometric
        by_jpeg = CODECS.get(self.instance.transfer_syntax) == "jpeg"
        return "RGB" if by_jpeg or self.photometric in JPEG_2000_COLOURS else self.photometric

    def codestream(self, number: int) -> bytes:
        """Return frame `number`, counted from 1, as it is stored compressed."""
        return self.instance.encapsulated_frame(self._index(number))

    def uncompressed(self, number: int, codecs: Codecs) -> bytes:
        """Return frame `number`, counted from 1, in little endian; if decoded, colours by pixel."""
        index = self._index(number)
        if self.is_compressed:
            values = self._decoded(index, codecs)
            return values.astype(self.layout.dtype.newbyteorder("<"), copy=False).tobytes()
        if self.layout.bits_allocated == 1:
            return np.packbits(self._bits(index), bitorder="little").tobytes()
        length = self.frame_bits // 8
        return self._native(index * length, length)

    def values(self, number: int, codecs: Codecs) -> Values:
        """Return frame `number`, counted from 1, as values [row, column] or [row, column, sample].

        Bits beside the stored ones are left out.
        """
        layout = self.layout
        index = self._index(number)
        if self.is_compressed:
            return self._decoded(index, codecs)
        if layout.bits_allocated == 1:
            return self._bits(index).reshape(layout.rows, layout.columns)
        if self.photometric == "YBR_FULL_422":
            raise NotAnImageError("its colours are subsampled without being compressed")
        content = self.uncompressed(number, codecs)
        values = np.frombuffer(content, layout.dtype.newbyteorder("<"))
        shaped: Values
        if layout.samples == 1:
            shaped = values.reshape(layout.rows, layout.columns)
        elif self.planar:
            shaped = values.reshape(layout.samples, layout.rows, layout.columns)
            shaped = shaped.transpose(1, 2, 0)
        else:
            shaped = values.reshape(layout.rows, layout.columns, layout.samples)
        unused = layout.bits_allocated - layout.bits_stored
        above = layout.bits_allocated - 1 - layout.high_bit
        return (shaped << above) >> unused if unused else shaped

    def all_uncompressed(self, codecs: Codecs) -> Iterator[bytes]:
        """Return the value of Pixel Data in little endian, piece by piece, not padded."""
        if self.is_compressed:
            for number in range(1, self.frames + 1):
                yield self.uncompressed(number, codecs)
            return
        length = self.uncompressed_length
        step = length if self.instance.deflated else CHUNK
        for at in range(0, length, step or 1):
            yield self._native(at, min(step, length - at))

    @property
    def uncompressed_length(self) -> int:
        """Bytes of all frames uncompressed."""
        return (self.frames * self.frame_bits + 7) // 8

    def _index(self, number: int) -> int:
        if not 1 <= number <= self.frames:
            raise NoSuchFrameError(f"there is no frame {number}: it has {self.frames}")
        return number - 1

    def _decoded(self, index: int, codecs: Codecs) -> Values:
        try:
            codestream = self.instance.encapsulated_frame(index)
            return codecs.decode(codestream, self.instance.transfer_syntax, self.layout)
        except (ValueError, NotImplementedError, EOFError, BrokenPipeError) as error:
            raise NotAnImageError("its pixel data cannot be decoded") from error

    def _bits(self, index: int) -> npt.NDArray[np.uint8]:
        """Pixels of one bit follow each other across bytes and frames (PS3.5 Section 8.1.1)."""
        first = index * self.frame_bits
        at, end = first // 8, (first + self.frame_bits + 7) // 8
        content = np.frombuffer(self._native(at, end - at), np.uint8)
        bits = np.unpackbits(content, bitorder="little")
        return bits[first - 8 * at :][: self.frame_bits]

    def _native(self, start: int, length: int) -> bytes:
        """Read native pixel data, swapped where big endian (words also of 8 bits: PS3.5 A.3)."""
        instance = self.instance
        if instance.transfer_syntax.is_little_endian:
            content = instance.pixel_bytes(start, length)
        else:
            word = self.layout.bits_allocated // 8
            if word < 2 and instance.pixel_vr == "OW":
                word = 2
            first = start % max(word, 1)
            end = first + length + -(first + length) % max(word, 1)
            content = instance.pixel_bytes(start - first, end)
            if word > 1:
                content = np.frombuffer(content, f"u{word}").byteswap().tobytes()
            content = content[first : first + length]
        if len(content) != length:
            raise NotAnImageError("its pixel data are shorter than it says")
        return content


def image_of(instance: Instance) -> Image:
    """Return the image that an instance holds; raises NotAnImageError where it holds none.

    Checks the Image Pixel attributes (PS3.3 C.7.6.3) against each other, and before anything is
    allocated.
    """
    header = instance.header
    if instance.pixel_bytes_available <= 0:
        raise NotAnImageError("it has no pixel data")
    rows, columns = integer_of(header, "Rows"), integer_of(header, "Columns")
    samples = integer_of(header, "SamplesPerPixel", 1)
    bits = integer_of(header, "BitsAllocated")
    stored = integer_of(header, "BitsStored", bits)
    high = integer_of(header, "HighBit", stored - 1)
    photometric = text_of(header, "PhotometricInterpretation")
    layout = Layout(
        rows=rows,
        columns=columns,
        bits_allocated=bits,
        bits_stored=stored,
        high_bit=high,
        signed=integer_of(header, "PixelRepresentation") == 1,
        samples=samples,
        is_rgb=photometric == "RGB",
    )
    fits = 0 < rows <= LARGEST_MATRIX and 0 < columns <= LARGEST_MATRIX
    if not fits or samples not in (1, 3) or layout.native_bytes > LARGEST_FRAME:
        raise NotAnImageError("its matrix is none")
    if bits not in (1, 8, 16, 32) or not 0 < stored <= high + 1 <= bits:
        raise NotAnImageError("its bits allocated, bits stored and high bit contradict each other")
    frames = max(1, integer_of(header, "NumberOfFrames", 1))
    planar = integer_of(header, "PlanarConfiguration") == 1
    image = Image(instance, layout, frames, photometric, planar)
    syntax = instance.transfer_syntax
    if not syntax.is_transfer_syntax or image.is_compressed != syntax.is_compressed:
        raise NotAnImageError("its pixel data are not encoded as its transfer syntax says")
    if not image.is_compressed and image.uncompressed_length > instance.pixel_bytes_available:
        raise NotAnImageError("its pixel data are shorter than it says")
    return image


def can_decode(transfer_syntax: str) -> bool:
    """Whether pixel data of this transfer syntax can be answered uncompressed."""
    syntax = UID(transfer_syntax)
    known = syntax.is_transfer_syntax and not syntax.is_private
    return known and (not syntax.is_compressed or syntax in CODECS or syntax == RLELossless)
