"""The role `dicomweb`: an HTTP server of its own for the DICOMweb application."""

import signal
import ssl
import sys

import structlog
import uvicorn

from node.dicomweb.application import create_app
from node.dicomweb.settings import DicomwebSettings
from node.settings import Settings, TLSSettings
from node.transport_security import CertificateError, https_context

log = structlog.get_logger()

_LARGEST_HEADER = 32 << 10  # bytes of request line and headers


def run_dicomweb(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT."""
    dicomweb = settings.dicomweb
    if dicomweb is None:
        log.error("dicomweb.cannot_start", reason="not configured", remedy="add [dicomweb]")
        sys.exit(1)
    # uvicorn stops in order and then raises the signal again: without this the process would die
    # of it, and look to its supervisor as if it had crashed.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    try:
        server = uvicorn.Server(_configured(settings, dicomweb))
    except CertificateError as error:
        log.error("dicomweb.cannot_start", reason=str(error), remedy="run 'overread check'")  # noqa: TRY400
        sys.exit(1)
    log.info("dicomweb.started", host=dicomweb.host, port=dicomweb.port, tls=dicomweb.tls)
    server.run()
    log.info("dicomweb.stopped")


def _configured(settings: Settings, dicomweb: DicomwebSettings) -> uvicorn.Config:
    context = _context(settings.tls) if dicomweb.tls and settings.tls else None
    return uvicorn.Config(
        create_app(dicomweb, []),
        host=dicomweb.host,
        port=dicomweb.port,
        http="h11",
        ws="none",
        log_config=None,
        access_log=False,  # paths name studies
        server_header=False,
        proxy_headers=False,  # a client could write them itself
        ssl_context_factory=(lambda *_: context) if context else None,
        h11_max_incomplete_event_size=_LARGEST_HEADER,
        limit_concurrency=dicomweb.max_connections,
        timeout_graceful_shutdown=10,
    )


def _context(tls: TLSSettings) -> ssl.SSLContext:
    return https_context(tls)
