"""Who may open an association: AE title, address and certificate, by the configured peers."""

import ipaddress
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count

from pynetdicom.association import Association

from node.addresses import plain_address
from node.settings import MOST_ASSOCIATIONS, MOST_LISTENERS, Peer, Settings
from node.side_by_side import Share

_FIRST_SEAT = MOST_LISTENERS  # the places before are the listener processes' own
# A sender may ask for its next association before the process that had its last has seen it end.
_TRIES = 3
_PATIENCE = 0.1  # seconds


@dataclass(frozen=True)
class Refusal:
    """Why nobody is let in, and what an operator can do."""

    reason: str
    remedy: str


def refusal(
    settings: Settings, calling: str, address: str, names: frozenset[str] | None
) -> Refusal | None:
    """Return why an association request is refused, None where it is let in.

    `names` are those of the requestor's certificate, None where the connection has no TLS.
    """
    peers = [peer for peer in settings.peers if peer.ae_title == calling]
    if not peers:
        stranger = Refusal("its AE title is none of the peers'", "if it is meant, add it as a peer")
        return None if settings.node.accept_unknown_peers else stranger
    reasons = [_mismatch(peer, address, names) for peer in peers]
    return None if None in reasons else reasons[0]


def may_query(settings: Settings, calling: str, address: str, names: frozenset[str] | None) -> bool:
    """Whether a peer that is let in may ask what is held, and have it sent."""
    return any(
        peer.query and peer.ae_title == calling and _mismatch(peer, address, names) is None
        for peer in settings.peers
    )


def peer_of(
    settings: Settings, calling: str, address: str, names: frozenset[str] | None
) -> Peer | None:
    """Return the peer that a requestor is let in as; None for one that is none of them."""
    peers = [peer for peer in settings.peers if peer.ae_title == calling]
    return next((peer for peer in peers if _mismatch(peer, address, names) is None), None)


class Seats:
    """The associations that there are in all listener processes, those just asked for included."""

    def __init__(self, settings: Settings, share: Share) -> None:
        self._of_node = range(_FIRST_SEAT, _FIRST_SEAT + settings.node.max_associations)
        firsts = count(_FIRST_SEAT + MOST_ASSOCIATIONS, MOST_ASSOCIATIONS)
        self._of_peers = {
            peer.name: range(first, first + peer.max_associations)
            for peer, first in zip(settings.peers, firsts, strict=False)
        }
        self._share = share
        self._lock = threading.Lock()
        self._taken: dict[Association, list[int]] = {}

    def excess(self, association: Association, peer: Peer | None) -> str | None:
        """Return of which limit this would be one too many; None where it has its seats now."""
        if not self._take(association, self._of_node):
            return "there are node.max_associations already"
        if peer is None or not peer.max_associations:
            return None
        if self._take(association, self._of_peers[peer.name]):
            return None
        self._leave([association])  # nobody else is to be kept out by one that is turned away
        return f"peer {peer.name} has its max_associations already"

    def clear(self) -> None:
        """Give back the seats of associations that are over."""
        with self._lock:
            over = [one for one in self._taken if not _lasts(one)]
        self._leave(over)

    def _leave(self, associations: Sequence[Association]) -> None:
        with self._lock:
            seats = [seat for one in associations for seat in self._taken.pop(one, [])]
        for seat in seats:
            self._share.give_back(seat)

    def _take(self, association: Association, seats: range) -> bool:
        for attempt in range(_TRIES):
            time.sleep(_PATIENCE if attempt else 0)
            self.clear()
            seat = self._share.take(seats)
            if seat is not None:
                with self._lock:
                    self._taken.setdefault(association, []).append(seat)
                return True
        return False


def _lasts(association: Association) -> bool:
    is_over = association.is_released or association.is_aborted or association.is_rejected
    return association.is_alive() and not is_over


def _mismatch(peer: Peer, address: str, names: frozenset[str] | None) -> Refusal | None:
    if peer.addresses and not _is_within(address, peer.addresses):
        reason = f"its address is not one of peer {peer.name}"
        return Refusal(reason, "if it is meant, add it to 'addresses' of the peer")
    if peer.tls and names is None:
        reason = f"peer {peer.name} speaks TLS, and this connection does not"
        return Refusal(reason, "have it send to the port of [tls], or set 'tls' to false")
    if peer.tls_name and peer.tls_name.lower() not in (names or ()):
        reason = f"its certificate is not that of peer {peer.name}"
        return Refusal(reason, "if it is meant, set 'tls_name' to a name in its certificate")
    return None


def _is_within(
    address: str, networks: Sequence[ipaddress.IPv4Network | ipaddress.IPv6Network]
) -> bool:
    found = ipaddress.ip_address(plain_address(address))
    return any(found in network for network in networks)
