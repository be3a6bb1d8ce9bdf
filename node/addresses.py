"""IP addresses as operators write them."""

import ipaddress


def plain_address(address: str) -> str:
    """Return an address as operators know it: an IPv6 socket has IPv4 ones as a part of IPv6."""
    try:
        mapped = getattr(ipaddress.ip_address(address), "ipv4_mapped", None)
    except ValueError:  # what a server says of who calls it, and not an address
        return address
    return str(mapped or address)


def bracketed(host: str) -> str:
    """Return a host as it stands before a port."""
    return f"[{host}]" if ":" in host else host
