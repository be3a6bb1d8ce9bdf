"""Codecs in a process of their own, which a broken or hostile codestream may end without harm.

Both ends are here: `DecodingProcess` for the caller, and what `python -m node.decoding_process`
does. Requests and replies are plain numbers and bytes: nothing that comes from a codec is trusted.
"""

import contextlib
import fcntl
import os
import resource
import signal
import struct
import subprocess
import sys
from typing import Any, BinaryIO

import imagecodecs
import numpy as np
import numpy.typing as npt

MIN_SECONDS, PIXELS_A_SECOND = 5, 2_000_000
"""Processor time for one frame; the slowest codec takes a fifth of it."""

MAX_MEMORY = 3 * 2**29
"""Address space of the process; the largest frame, of 8192 x 8192, needs half of it."""

PIPE_BYTES = 2**20
"""A slice of 512 x 512 passes in one piece, which takes a third of the time."""

_REQUEST = struct.Struct("<8sIIIQ")  # codec, extents, length of the codestream that follows
_REPLY = struct.Struct("<2s")  # type of the values that follow, or _REFUSED
_REFUSED = b"no"


class DecodingProcess:
    """One decoding process; it serves one caller at a time and is of no use once it failed."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "node.decoding_process"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
        )
        assert self._process.stdin is not None  # noqa: S101 - a pipe, as asked for
        assert self._process.stdout is not None  # noqa: S101
        self._requests, self._replies = self._process.stdin, self._process.stdout
        for pipe in (self._requests, self._replies):
            with contextlib.suppress(OSError):  # the user's pipes may have reached their limit
                fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, PIPE_BYTES)

    def decode(
        self, codec: str, codestream: bytes, rows: int, columns: int, samples: int
    ) -> npt.NDArray[np.integer]:
        """Return the stored values [row, column, sample] of one frame, as the codestream has them.

        Raises ValueError where the codec refuses the codestream or finds another matrix in it, and
        EOFError or BrokenPipeError where the codestream ended the process.
        """
        request = _REQUEST.pack(codec.encode(), rows, columns, samples, len(codestream))
        self._requests.write(request + codestream)
        self._requests.flush()
        (kind,) = _REPLY.unpack(_exactly(self._replies, bytearray(_REPLY.size)))
        if kind == _REFUSED:
            raise ValueError("the codec refuses the codestream")
        values: npt.NDArray[np.integer] = np.empty(
            (rows, columns, samples), np.dtype(kind.decode())
        )
        _exactly(self._replies, values)
        return values

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.communicate()


def _exactly(replies: Any, buffer: Any) -> Any:
    if replies.readinto(buffer) != memoryview(buffer).nbytes:
        raise EOFError("the decoding process has ended")
    return buffer


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
    while request := requests.read(_REQUEST.size):
        name, rows, columns, samples, length = _REQUEST.unpack(request)
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
            replies.write(_REPLY.pack(f"{values.dtype.kind}{values.dtype.itemsize}".encode()))
            replies.write(values.data)
        else:
            replies.write(_REPLY.pack(_REFUSED))
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
