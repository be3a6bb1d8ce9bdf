"""Who is refused, by address: wrong tokens cost time, and the log hears of it now and then.

A token that is right never waits, whatever else comes from its address: behind a proxy all clients
have one.
"""

from asyncio import sleep
from collections import OrderedDict
from dataclasses import dataclass
from math import inf
from time import monotonic

FREE = 20  # wrong tokens that cost an address nothing
FORGOTTEN_AFTER = 10.0  # seconds, one at a time
STEP = 0.25  # seconds that each further one has to wait longer
LONGEST = 5.0
MOST_WAITING = 16  # requests at once; each may hold 2 MB of its body
MOST_REMEMBERED = 1000
LOGGED_EVERY = 60.0  # seconds


@dataclass
class _Met:
    """Refusals of one address for one reason."""

    wrong: float = 0.0
    last: float = 0.0
    logged: float = -inf
    since_logged: int = 0


class Strangers:
    """Those that were refused lately; one for the process, used by its event loop alone."""

    def __init__(self) -> None:
        self._met: OrderedDict[tuple[str, str], _Met] = OrderedDict()
        self._waiting = 0

    def to_log(self, address: str, reason: str) -> int:
        """Take note of a refusal; returns how many the log has not heard of, 0 for not yet."""
        met = self._remembered(address, reason)
        met.since_logged += 1
        now = monotonic()
        if now < met.logged + LOGGED_EVERY:
            return 0
        times, met.since_logged, met.logged = met.since_logged, 0, now
        return times

    async def wait(self, address: str, reason: str) -> bool:
        """Have a wrong token wait for its answer; False where too many wait already."""
        met = self._remembered(address, reason)
        now = monotonic()
        met.wrong = max(met.wrong - (now - met.last) / FORGOTTEN_AFTER, 0.0) + 1
        met.last = now
        seconds = min((met.wrong - FREE) * STEP, LONGEST)
        if seconds <= 0:
            return True
        if self._waiting >= MOST_WAITING:
            return False
        self._waiting += 1
        try:
            await sleep(seconds)
        finally:
            self._waiting -= 1
        return True

    def _remembered(self, address: str, reason: str) -> _Met:
        met = self._met.setdefault((address, reason), _Met())
        self._met.move_to_end((address, reason))
        if len(self._met) > MOST_REMEMBERED:
            self._met.popitem(last=False)
        return met
