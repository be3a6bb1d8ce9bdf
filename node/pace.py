"""How fast a peer may send: read no faster than that, and TCP has the sender wait."""

import threading
import time
from dataclasses import dataclass

from node.store_request import StoreAnswer
from node.upper_layer import Reception

BURST = 1.0  # seconds' worth that may come at once


class Pace:
    """So many bytes a second, over all associations of one peer."""

    def __init__(self, bytes_per_second: float) -> None:
        self._bytes_per_second = bytes_per_second
        self._lock = threading.Lock()
        self._due = 0.0

    def keep(self, length: int) -> None:
        """Return when `length` bytes more are due."""
        with self._lock:
            now = time.monotonic()
            self._due = max(self._due, now - BURST) + length / self._bytes_per_second
            early = self._due - now
        if early > 0:
            time.sleep(early)


@dataclass(frozen=True)
class PacedReception:
    """A reception that takes its pieces at a peer's pace."""

    reception: Reception
    pace: Pace

    def add(self, piece: memoryview) -> None:
        """Take the next piece when it is due."""
        self.pace.keep(len(piece))
        self.reception.add(piece)

    def finish(self) -> StoreAnswer:
        """Return the answer to the request."""
        return self.reception.finish()

    def drop(self) -> None:
        """Forget the data set."""
        self.reception.drop()
