"""How fast a peer may send: read no faster than that, and TCP has the sender wait."""

import time
from dataclasses import dataclass

from node.side_by_side import Share
from node.store_request import StoreAnswer
from node.upper_layer import Reception

BURST = 1.0  # seconds' worth that may come at once


class Pace:
    """So many bytes a second, over all associations of one peer in all listener processes."""

    def __init__(self, bytes_per_second: float, share: Share, index: int) -> None:
        self._bytes_per_second = bytes_per_second
        self._share = share
        self._index = index

    def keep(self, length: int) -> None:
        """Return when `length` bytes more are due."""
        now = time.monotonic()
        seconds = length / self._bytes_per_second
        early = self._share.move_on(self._index, seconds, not_before=now - BURST) - now
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
