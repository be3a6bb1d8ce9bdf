"""What the listener processes of one node have in common: places that one holds, points in time.

Both are in a memory file that the supervisor makes and its children inherit: no disk is asked, and
nothing is left when the node ends. The kernel takes a place back from a process that is gone.
"""

import fcntl
import mmap
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

SHARE = "OVERREAD_SHARE"
"""Environment variable with the number of the memory file's descriptor."""

MOST_TIMES = 4096
_BYTES = MOST_TIMES * 8
_TURN = 1 << 62  # the place of whoever moves a point in time


def make_share() -> int:
    """Return the descriptor of a new memory file."""
    descriptor = os.memfd_create("overread")
    os.ftruncate(descriptor, _BYTES)
    return descriptor


class Share:
    """Numbered places and points in time; one object a process, for the locks are the process's."""

    def __init__(self) -> None:
        """Take what the supervisor made, or a share of its own without one."""
        inherited = os.environ.get(SHARE)
        self._descriptor = int(inherited) if inherited else make_share()
        self._times = memoryview(mmap.mmap(self._descriptor, _BYTES)).cast("d")
        self._lock = threading.Lock()
        self._held: set[int] = set()

    def take(self, places: range) -> int | None:
        """Take the first of these places that is free; None where none is."""
        with self._lock:
            for place in places:
                if place not in self._held and self._is_free(place):
                    self._held.add(place)
                    return place
        return None

    def give_back(self, place: int) -> None:
        """Let others have a place that was taken."""
        with self._lock:
            self._held.discard(place)
            fcntl.lockf(self._descriptor, fcntl.LOCK_UN, 1, place)

    def move_on(self, index: int, seconds: float, *, not_before: float) -> float:
        """Move a point in time on from where it is, or from `not_before`; returns where it is.

        Times are seconds of the machine's monotonic clock.
        """
        with self._turn():
            self._times[index] = max(self._times[index], not_before) + seconds
            return self._times[index]

    @contextmanager
    def _turn(self) -> Iterator[None]:
        with self._lock:  # the other is among processes only
            fcntl.lockf(self._descriptor, fcntl.LOCK_EX, 1, _TURN)
            try:
                yield
            finally:
                fcntl.lockf(self._descriptor, fcntl.LOCK_UN, 1, _TURN)

    def _is_free(self, place: int) -> bool:
        try:
            fcntl.lockf(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, place)
        except BlockingIOError:
            return False
        return True
