"""Values between two processes: arrays go through shared memory, the rest is pickled.

The memory has no name: the kernel frees it when both ends have let go of it, however they ended.
"""

import mmap
import os
import pickle
from collections.abc import Iterable
from itertools import accumulate
from multiprocessing.connection import Connection
from multiprocessing.reduction import recv_handle, send_handle
from typing import Any

_ALIGNMENT = 64  # bytes, as numpy aligns what it allocates


def send(connection: Connection, value: object) -> None:
    """Send `value`; raises OSError where the other end is gone."""
    buffers: list[pickle.PickleBuffer] = []
    pickled = pickle.dumps(value, protocol=5, buffer_callback=buffers.append)
    arrays = [buffer.raw() for buffer in buffers]
    sizes = [array.nbytes for array in arrays]
    connection.send((pickled, sizes))
    if not arrays:
        return
    memory = os.memfd_create("overread")
    with os.fdopen(memory, "wb") as file:
        *starts, end = _places(sizes)
        file.truncate(end)
        for start, array in zip(starts, arrays, strict=True):
            file.seek(start)
            file.write(array)
        file.flush()
        send_handle(connection, memory, None)


def receive(connection: Connection) -> Any:
    """Receive a value; its arrays are read-only. Raises EOFError where the other end is gone."""
    pickled, sizes = connection.recv()
    if not sizes:
        return pickle.loads(pickled)  # noqa: S301 - from our own process
    memory = recv_handle(connection)
    try:
        mapping = memoryview(mmap.mmap(memory, 0, access=mmap.ACCESS_READ))
    finally:
        os.close(memory)
    arrays = [
        mapping[start : start + size]
        for start, size in zip(_places(sizes), sizes, strict=False)  # the last place is the end
    ]
    return pickle.loads(pickled, buffers=arrays)  # noqa: S301 - from our own process


def _places(sizes: Iterable[int]) -> list[int]:
    """Where each array starts, and at least 1 byte where the last one ends."""
    steps = (-(-max(size, 1) // _ALIGNMENT) * _ALIGNMENT for size in sizes)
    return list(accumulate(steps, initial=0))
