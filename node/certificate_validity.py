"""How long the node's own certificate is valid: peers turn away one that has expired."""

import ssl
import time

from node.settings import TLSSettings
from node.transport_security import CertificateError

EXPIRES_SOON = 30
"""Days: who renews by hand needs to know before."""

_HAS_EXPIRED = 10  # X509_V_ERR_CERT_HAS_EXPIRED


def days_left(tls: TLSSettings) -> float:
    """Return for how long it is valid; CertificateError where it is not, or cannot be used."""
    server, client = (
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER),
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT),
    )
    client.check_hostname = False
    client.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    try:
        server.load_cert_chain(tls.certificate, tls.key)
        client.load_verify_locations(tls.certificate)
        shown = _shown(server, client)
    except ssl.SSLCertVerificationError as error:
        has_expired = error.verify_code == _HAS_EXPIRED
        reason = "has expired" if has_expired else f"is not valid: {error.verify_message}"
        raise CertificateError(f"{tls.certificate} {reason}; peers turn it away") from None
    except (ssl.SSLError, OSError) as error:
        raise CertificateError(f"{tls.certificate} cannot be used: {error.strerror}") from None
    return (ssl.cert_time_to_seconds(shown) - time.time()) / 86400


def _shown(server: ssl.SSLContext, client: ssl.SSLContext) -> str:
    """Until when the certificate of a server is valid: a handshake in memory reads it."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    asks = client.wrap_bio(to_client, to_server)
    answers = server.wrap_bio(to_server, to_client, server_side=True)
    for side in (asks, answers, asks):
        try:
            side.do_handshake()
        except ssl.SSLWantReadError:
            continue
    return str((asks.getpeercert() or {})["notAfter"])
