"""Codecs in a process of their own, which a broken or hostile codestream may end without harm.

This is the caller's end, `node.decoding_server` the other. Requests and replies are plain numbers
and bytes: nothing that comes from a codec is trusted.
"""

import contextlib
import fcntl
import os
import struct
import subprocess
import sys
from typing import Any

import numpy as np
import numpy.typing as npt

PIPE_BYTES = 2**20
"""A slice of 512 x 512 passes in one piece, which takes a third of the time."""

REQUEST = struct.Struct("<8sIIIQ")  # codec, extents, length of the codestream that follows
REPLY = struct.Struct("<2s")  # type of the values that follow, or REFUSED
REFUSED = b"no"


class DecodingProcess:
    """One decoding process; it serves one caller at a time and is of no use once it failed."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "node.decoding_server"],
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
        request = REQUEST.pack(codec.encode(), rows, columns, samples, len(codestream))
        self._requests.write(request + codestream)
        self._requests.flush()
        (kind,) = REPLY.unpack(_exactly(self._replies, bytearray(REPLY.size)))
        if kind == REFUSED:
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
