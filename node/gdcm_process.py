"""GDCM in a process of its own, which a broken codestream may end without harm to the node.

Both ends are here: `GdcmProcess` for the caller, and what `python -m node.gdcm_process` does:
read pickled requests from standard input, write pickled replies to standard output.
"""

import os
import pickle
import subprocess
import sys
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
from pydicom.pixels.decoders.base import get_decoder
from pydicom.uid import UID


class GdcmProcess:
    """One decoding process; it serves one caller at a time and is of no use once it failed."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "node.gdcm_process"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )

    def decode(
        self, encapsulated: bytes, syntax: UID, options: dict[str, Any]
    ) -> npt.NDArray[np.integer]:
        """Return the stored values [row, column].

        Raises ValueError where GDCM refuses the codestream, and EOFError or BrokenPipeError where
        it ended the process.
        """
        process = self._process
        if process.stdin is None or process.stdout is None:
            raise BrokenPipeError("the decoding process has no pipes")
        pickle.dump((encapsulated, str(syntax), options), process.stdin)
        process.stdin.flush()
        values: npt.NDArray[np.integer] | None
        values, error = pickle.load(process.stdout)  # noqa: S301 - from our own process
        if values is None:
            raise ValueError(error)
        return values

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.communicate()


def _serve(requests: BinaryIO, replies: BinaryIO) -> None:
    reply: tuple[npt.NDArray[np.integer] | None, str]
    while True:
        try:
            encapsulated, syntax, options = pickle.load(requests)  # noqa: S301 - from our parent
        except EOFError:
            return
        try:
            values, _ = get_decoder(UID(syntax)).as_array(
                encapsulated, index=0, raw=True, decoding_plugin="gdcm", **options
            )
            reply = (values, "")
        except Exception as error:  # noqa: BLE001 - whatever it is, the parent is told
            reply = (None, f"{type(error).__name__}: {error}")
        pickle.dump(reply, replies, pickle.HIGHEST_PROTOCOL)
        replies.flush()


if __name__ == "__main__":
    # GDCM and its codecs print to standard output, which carries the replies here.
    pipe = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    _serve(sys.stdin.buffer, pipe)
