"""A lane for each peer: deliveries to one wait for each other, and never for another's."""

from concurrent.futures import Future, ThreadPoolExecutor

import structlog

from node.delivery import deliver_due
from node.remedies import DEFECT
from node.steps import Workbench

log = structlog.get_logger()


class Lanes:
    """Threads that deliver, at most one for each peer."""

    def __init__(self, bench: Workbench) -> None:
        self._bench = bench
        bench.outbox.resume()
        # One more, for deliveries to peers that the configuration no longer has.
        lanes = len(bench.settings.peers) + 1
        self._threads = ThreadPoolExecutor(max_workers=lanes, thread_name_prefix="lane")
        self._busy: dict[str, Future[None]] = {}

    def look(self) -> None:
        """Begin with what is due, where its lane is not at work already; returns at once."""
        for peer in self._bench.outbox.peers_due():
            if peer not in self._busy or self._busy[peer].done():
                self._busy[peer] = self._threads.submit(self._deliver, peer)

    def close(self) -> None:
        """Begin nothing more; what is under way is finished, or claimed again later."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _deliver(self, peer: str) -> None:
        try:
            deliver_due(self._bench, peer)
        except Exception:  # a defect in one delivery must not end the lane
            log.exception("lane.failed", peer=peer, remedy=DEFECT)
