"""TLS of DICOM associations by BCP 195 (PS3.15 Section B.12): both sides show a certificate.

Certificates are read anew when their files change, so that renewing them needs no restart.
"""

import ssl
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import structlog

from node.settings import TLSSettings

log = structlog.get_logger()

CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"  # of TLS 1.2, as RFC 9325 Section 4.2 recommends
HANDSHAKE_SECONDS = 10.0


class CertificateError(Exception):
    """Certificate, key or authorities cannot be used; the text names the file."""


def server_context(tls: TLSSettings) -> ssl.SSLContext:
    """Return the context to accept connections with; CertificateError where a file is no good."""
    return _context(tls, _stamps(tls), is_server=True)


def client_context(tls: TLSSettings) -> ssl.SSLContext:
    """Return the context to open connections with; CertificateError where a file is no good."""
    return _context(tls, _stamps(tls), is_server=False)


def https_context(tls: TLSSettings) -> ssl.SSLContext:
    """Return the context of an HTTPS server, which asks no certificate of its clients.

    The certificate is read anew when it changes; where the new one is no good, the last that was
    good is shown, and the log says so. CertificateError where the first one is no good.
    """
    good = _https_context(tls, _stamps(tls))

    def renew(connection: ssl.SSLObject, _name: str, _context: ssl.SSLContext) -> None:
        nonlocal good
        try:
            good = _https_context(tls, _stamps(tls))
        except CertificateError as error:
            log.error("certificate.broken", reason=str(error), remedy="run 'overread check'")  # noqa: TRY400
        connection.context = good

    first = _https_context(tls, _stamps(tls))
    first.sni_callback = renew
    return first


def names_of(connection: ssl.SSLSocket) -> frozenset[str]:
    """Return what the peer's certificate calls it: DNS names and addresses, else common names."""
    certificate: dict[str, Any] = connection.getpeercert() or {}
    names = {str(name).lower() for _, name in certificate.get("subjectAltName", ())}
    if not names:
        subject = (part for parts in certificate.get("subject", ()) for part in parts)
        names = {str(name).lower() for kind, name in subject if kind == "commonName"}
    return frozenset(names)


def _stamps(tls: TLSSettings) -> tuple[int, ...]:
    """Return what changes when a file does."""
    stamps = []
    for path in (tls.certificate, tls.key, tls.authorities):
        try:
            stamps.append(path.stat().st_mtime_ns)
        except OSError as error:
            raise CertificateError(f"{path} cannot be read: {error.strerror}") from None
    return tuple(stamps)


@lru_cache(maxsize=8)
def _context(
    tls: TLSSettings,
    _stamps: tuple[int, ...],
    *,
    is_server: bool,
) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if is_server else ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(CIPHERS)
    context.verify_mode = ssl.CERT_REQUIRED
    _load(tls.authorities, lambda: context.load_verify_locations(tls.authorities))
    _load(tls.certificate, lambda: context.load_cert_chain(tls.certificate, tls.key))
    return context


@lru_cache(maxsize=2)
def _https_context(tls: TLSSettings, _stamps: tuple[int, ...]) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(CIPHERS)
    context.set_alpn_protocols(["http/1.1"])
    _load(tls.certificate, lambda: context.load_cert_chain(tls.certificate, tls.key))
    return context


def _load(path: Path, load: Callable[[], None]) -> None:
    try:
        load()
    except (ssl.SSLError, OSError) as error:
        reason = getattr(error, "reason", None) or error.strerror
        raise CertificateError(f"{path} cannot be used: {reason}") from None
