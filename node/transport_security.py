"""TLS of DICOM associations by BCP 195 (PS3.15 Section B.12): both sides show a certificate.

Certificates are read anew when their files change, so that renewing them needs no restart.
"""

import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import structlog

from node.settings import TLSSettings

log = structlog.get_logger()

CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"  # of TLS 1.2, as RFC 9325 Section 4.2 recommends
HANDSHAKE_SECONDS = 10.0
_VERDICT_SECONDS = 2.0  # for what a server of TLS 1.3 says of our certificate after the handshake

_UNKNOWN_AUTHORITY = "if it is meant, add the authority that issued it to tls.authorities"
_UNBELIEVED = {  # X509_V_ERR_... of OpenSSL's x509_vfy.h
    9: "see the clocks of both machines",  # not valid yet
    10: "have it renewed there",  # expired
    62: "set tls_name of the peer to a name that its certificate has",  # another host
    64: "set tls_name of the peer to a name that its certificate has",  # another address
}
_NOT_TLS = "have both sides speak TLS, or neither; TLS has a port of its own"
_BROKEN_OFF = "see its log: it may not speak TLS, or not take our certificate"
_HANDSHAKES = (  # parts of OpenSSL's reason codes
    ("NOT_RETURN_A_CERTIFICATE", "it shows no certificate", "give it one"),
    ("SHARED_CIPHER", "its ciphers are too weak", "enable ECDHE with AES-GCM there (BCP 195)"),
    ("PROTOCOL", "its TLS is too old", "enable TLS 1.2 or 1.3 there"),
    ("WRONG_VERSION_NUMBER", "it does not speak TLS", _NOT_TLS),
    ("HTTP_REQUEST", "it does not speak TLS", _NOT_TLS),
    ("ALERT_CERTIFICATE_EXPIRED", "it takes our certificate for expired", "renew tls.certificate"),
    ("CERTIFICATE_REQUIRED", "it asks for a certificate", "see tls.certificate"),
    ("UNEXPECTED_EOF", "it broke off the handshake", _BROKEN_OFF),
    ("ALERT_", "it does not take our certificate or ciphers", "give it the authority of ours"),
)


class CertificateError(Exception):
    """Certificate, key or authorities cannot be used; the text names the file."""


@dataclass(frozen=True)
class Trouble:
    """Why a connection could not be secured, and what an operator can do."""

    reason: str
    remedy: str


def server_context(tls: TLSSettings) -> ssl.SSLContext:
    """Return the context to accept connections with; see `_latest_good`."""
    return _latest_good(tls, _server_context)


def client_context(tls: TLSSettings) -> ssl.SSLContext:
    """Return the context to open connections with; see `_latest_good`."""
    return _latest_good(tls, _client_context)


def https_context(tls: TLSSettings) -> ssl.SSLContext:
    """Return the context of an HTTPS server, which asks no certificate of its clients.

    Each connection gets what `_latest_good` gives then.
    """
    _latest_good(tls, _https_context)

    def renew(connection: ssl.SSLObject, _name: str, _context: ssl.SSLContext) -> None:
        connection.context = _latest_good(tls, _https_context)

    first = _new_https_context(tls)
    first.sni_callback = renew
    return first


def check_files(tls: TLSSettings) -> None:
    """Raise CertificateError where a file is no good as it is now."""
    _server_context(tls, _stamps(tls))


def trouble_of_handshake(error: Exception) -> Trouble:
    """Put into words why a connection could not be secured, of the peer as "it"."""
    if isinstance(error, CertificateError):
        return Trouble(str(error), "run 'overread check'")
    if isinstance(error, ssl.SSLCertVerificationError):
        reason = f"its certificate is not believed: {error.verify_message}"
        return Trouble(reason, _UNBELIEVED.get(error.verify_code, _UNKNOWN_AUTHORITY))
    code = getattr(error, "reason", None)
    for part, reason, remedy in _HANDSHAKES:
        if code and part in code:
            return Trouble(f"{reason} ({code})", remedy)
    said = code or getattr(error, "strerror", None) or str(error)
    return Trouble(said, "see the peer's log")


def trouble_with(
    address: tuple[str, int], context: ssl.SSLContext, server_name: str
) -> Trouble | None:
    """Return why connections to a server cannot be secured; None where something else is wrong."""
    try:
        with (
            socket.create_connection(address, HANDSHAKE_SECONDS) as plain,
            context.wrap_socket(plain, server_hostname=server_name) as secured,
        ):
            secured.settimeout(_VERDICT_SECONDS)
            secured.recv(1)
    except ssl.SSLError as error:
        return trouble_of_handshake(error)
    except ConnectionResetError:
        return Trouble("it broke off the handshake", _BROKEN_OFF)
    except OSError:
        return None
    return None


def names_of(connection: ssl.SSLSocket) -> frozenset[str]:
    """Return what the peer's certificate calls it: DNS names and addresses, else common names."""
    certificate: dict[str, Any] = connection.getpeercert() or {}
    names = {str(name).lower() for _, name in certificate.get("subjectAltName", ())}
    if not names:
        subject = (part for parts in certificate.get("subject", ()) for part in parts)
        names = {str(name).lower() for kind, name in subject if kind == "commonName"}
    return frozenset(names)


def _latest_good(tls: TLSSettings, build: "_Build") -> ssl.SSLContext:
    """Return what the files give, or gave when they were last good; the log says which is wrong.

    A renewal takes a moment in which certificate and key do not belong together, and may go wrong;
    nobody is to be turned away for that. CertificateError where they never were good.
    """
    try:
        context = build(tls, _stamps(tls))
    except CertificateError as error:
        if (tls, build) not in _good:
            raise
        if _told.get(build) != str(error):
            _told[build] = str(error)
            remedy = "run 'overread check'; until it is mended the last that was good is shown"
            log.error("certificate.broken", reason=str(error), remedy=remedy)  # noqa: TRY400
        return _good[tls, build]
    _good[tls, build] = context
    _told.pop(build, None)
    return context


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
def _server_context(tls: TLSSettings, _stamps: tuple[int, ...]) -> ssl.SSLContext:
    return _mutual(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), tls)


@lru_cache(maxsize=8)
def _client_context(tls: TLSSettings, _stamps: tuple[int, ...]) -> ssl.SSLContext:
    return _mutual(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), tls)


@lru_cache(maxsize=2)
def _https_context(tls: TLSSettings, _stamps: tuple[int, ...]) -> ssl.SSLContext:
    return _new_https_context(tls)


_Build = Callable[[TLSSettings, tuple[int, ...]], ssl.SSLContext]
_good: dict[tuple[TLSSettings, _Build], ssl.SSLContext] = {}
_told: dict[_Build, str] = {}


def _mutual(context: ssl.SSLContext, tls: TLSSettings) -> ssl.SSLContext:
    """Have both sides show a certificate."""
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(CIPHERS)
    context.verify_mode = ssl.CERT_REQUIRED
    _load(tls.authorities, lambda: context.load_verify_locations(tls.authorities))
    _load(tls.certificate, lambda: context.load_cert_chain(tls.certificate, tls.key))
    return context


def _new_https_context(tls: TLSSettings) -> ssl.SSLContext:
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
