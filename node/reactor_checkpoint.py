"""Holds pynetdicom's reactor while an SCU awaits its answer, without the race of the original.

An association's reactor thread takes DIMSE messages off the same queue as the `send_*` methods.
These stop it first, but take it for stopped while it may still be between the checkpoint and the
queue: on a busy machine it then swallows the response, and the request ends in a time-out.
"""

import threading

from pynetdicom.association import Association

LOOK_AROUND = 1.0
"""Seconds after which a reactor looks at its timers though nothing came."""

RARELY = 60.0
"""The same where nothing is to be expected: a hundred idle associations must cost nothing."""


class ReactorCheckpoint:
    """Where the reactor waits when told to; `clear` returns once it does wait there.

    It stands in for the `threading.Event` that pynetdicom 3.0 uses, with the same methods. One
    that waits for the bell holds the reactor, which would poll, until there is something to do.
    """

    def __init__(self, reactor: threading.Thread, *, waits_for_bell: bool = False) -> None:
        self._reactor = reactor
        self._changed = threading.Condition()
        self._is_open = True
        self._is_waiting = False
        self._waits_for_bell = waits_for_bell
        self._has_rung = True

    def clear(self) -> None:
        """Stop the reactor; returns when it stands still, or has ended."""
        if threading.current_thread() is self._reactor:  # it sends within a request (C-GET)
            return
        with self._changed:
            self._is_open = False
            while not self._is_waiting and self._reactor.is_alive():
                self._changed.wait(timeout=1.0)

    def set(self) -> None:
        """Let the reactor go on."""
        with self._changed:
            self._is_open = True
            self._has_rung = True
            self._changed.notify_all()

    def ring(self) -> None:
        """Tell the reactor that something came."""
        with self._changed:
            self._has_rung = True
            self._changed.notify_all()

    def wait(self) -> None:
        """Wait while stopped; the reactor calls this in each round."""
        with self._changed:
            while not self._is_open or (self._waits_for_bell and not self._has_rung):
                self._is_waiting = True
                self._changed.notify_all()
                seconds = RARELY if self._waits_for_bell else LOOK_AROUND
                if not self._changed.wait(seconds) and self._is_open:
                    break
            self._is_waiting = False
            self._has_rung = False


def hold_reactor_safely(association: Association) -> None:
    """Give an established association, on which nothing was sent yet, this checkpoint."""
    checkpoint = ReactorCheckpoint(association)
    association._reactor_checkpoint = checkpoint  # type: ignore[assignment]
