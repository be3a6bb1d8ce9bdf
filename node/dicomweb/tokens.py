"""Bearer tokens (RFC 6750): the client has one, the configuration its digest only."""

import secrets
from hashlib import sha256

_TOKEN_BYTES = 32


def new_token() -> str:
    """Return a token that nobody can guess."""
    return secrets.token_urlsafe(_TOKEN_BYTES)


def digest_of(token: str) -> str:
    """Return what the configuration holds of a token."""
    return sha256(token.encode()).hexdigest()
