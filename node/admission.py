"""Who may open an association: AE title, address and certificate, by the configured peers."""

import ipaddress
import threading
from collections.abc import Sequence
from weakref import WeakKeyDictionary

from pynetdicom.association import Association

from node.settings import Peer, Settings


def refusal(
    settings: Settings, calling: str, address: str, names: frozenset[str] | None
) -> str | None:
    """Return why an association request is refused, None where it is let in.

    `names` are those of the requestor's certificate, None where the connection has no TLS.
    """
    peers = [peer for peer in settings.peers if peer.ae_title == calling]
    if not peers:
        return None if settings.node.accept_unknown_peers else "its AE title is none of the peers'"
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
    """The associations that each peer has, those being negotiated included."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._taken: WeakKeyDictionary[Association, str] = WeakKeyDictionary()

    def take(self, association: Association, peer: Peer) -> bool:
        """Whether the peer may have this association besides those it has."""
        if not peer.max_associations:
            return True
        with self._lock:
            held = sum(name == peer.name and _lasts(one) for one, name in self._taken.items())
            if held >= peer.max_associations:
                return False
            self._taken[association] = peer.name
        return True


def _lasts(association: Association) -> bool:
    is_over = association.is_released or association.is_aborted or association.is_rejected
    return association.is_alive() and not is_over


def _mismatch(peer: Peer, address: str, names: frozenset[str] | None) -> str | None:
    if peer.addresses and not _is_within(address, peer.addresses):
        return f"its address is not one of peer {peer.name}"
    if peer.tls and names is None:
        return f"peer {peer.name} speaks TLS, and this connection does not"
    if peer.tls_name and peer.tls_name.lower() not in (names or ()):
        return f"its certificate is not that of peer {peer.name}"
    return None


def _is_within(
    address: str, networks: Sequence[ipaddress.IPv4Network | ipaddress.IPv6Network]
) -> bool:
    found = ipaddress.ip_address(address)
    mapped = getattr(found, "ipv4_mapped", None)
    return any((mapped or found) in network for network in networks)
