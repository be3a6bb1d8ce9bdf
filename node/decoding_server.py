"""What a decoding process does: `python -m node.decoding_server`, one frame after the other.

It is bounded in memory and in processor time, since codestreams may be made to take all of either.
"""

import os
import resource
import signal
import sys
from typing import BinaryIO

import imagecodecs
import numpy as np
import numpy.typing as npt

from node.decoding_process import REFUSED, REPLY, REQUEST

MIN_SECONDS, PIXELS_A_SECOND = 5, 2_000_000
"""Processor time for one frame; the slowest codec takes a fifth of it."""

MAX_MEMORY = 3 * 2**29
"""Address space of the process; the largest frame, of 8192 x 8192, needs half of it."""


def _decoded(
    codec: str, codestream: bytes, rows: int, columns: int, samples: int
) -> npt.NDArray[np.integer]:
    values: npt.NDArray[np.integer]
    match codec:
        case "jpeg":  # libjpeg-turbo: baseline, extended and lossless; of colours it makes RGB
            values = imagecodecs.jpeg8_decode(codestream)
        case "jpegrgb":  # RGB already, which not every codestream says itself
            values = imagecodecs.jpeg8_decode(codestream, colorspace="RGB", outcolorspace="RGB")
        case "jpegls":
            values = imagecodecs.jpegls_decode(codestream)
        case "jpeg2k":
            values = imagecodecs.jpeg2k_decode(codestream)
        case "htj2k":
            values = imagecodecs.htj2k_decode(codestream)
        case _:  # "rle" and the bytes of a value
            kind = np.dtype(f"<u{codec[3:]}")
            decoded = imagecodecs.dicomrle_decode(codestream, kind)
            planes = np.frombuffer(decoded, kind, samples * rows * columns)
            values = np.moveaxis(planes.reshape(samples, rows, columns), 0, -1)
    if samples == 1:
        values = values[..., np.newaxis] if values.ndim == 2 else values
    return np.ascontiguousarray(values)


def _serve(requests: BinaryIO, replies: BinaryIO) -> None:
    while request := requests.read(REQUEST.size):
        name, rows, columns, samples, length = REQUEST.unpack(request)
        codestream = requests.read(length)
        signal.setitimer(
            signal.ITIMER_PROF, MIN_SECONDS + rows * columns * samples / PIXELS_A_SECOND
        )
        try:
            values = _decoded(name.rstrip(b"\0").decode(), codestream, rows, columns, samples)
        except Exception:  # noqa: BLE001 - whatever it is, the parent is told
            values = np.empty(0, np.uint8)
        signal.setitimer(signal.ITIMER_PROF, 0)
        if values.shape == (rows, columns, samples) and values.dtype.kind in "iu":
            replies.write(REPLY.pack(f"{values.dtype.kind}{values.dtype.itemsize}".encode()))
            replies.write(values.data)
        else:
            replies.write(REPLY.pack(REFUSED))
        replies.flush()


def _confine() -> None:
    """Bound what a hostile codestream can take; leave no core file, which would hold the image."""
    resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY, MAX_MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


if __name__ == "__main__":
    _confine()
    # Some codecs print to standard output, which carries the replies here.
    pipe = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    _serve(sys.stdin.buffer, pipe)
