"""The role `dicomweb`: an HTTP server of its own for the DICOMweb application."""

import asyncio
import logging
import signal
import socket
import ssl
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import structlog
import uvicorn
from starlette.applications import Starlette

from node.bookkeeper import Bookkeeper
from node.catalogue import Catalogue
from node.codecs import Codecs
from node.dicomweb.application import create_app
from node.dicomweb.connections import PatientlyLimited
from node.dicomweb.reading import reading_routes
from node.dicomweb.settings import DicomwebSettings
from node.dicomweb.store import StoreService
from node.disk import Disk
from node.holdings import Holdings
from node.reception import Intaker
from node.settings import Settings
from node.spool import Spool
from node.transport_security import HANDSHAKE_SECONDS, CertificateError, https_context

log = structlog.get_logger()

_LARGEST_HEADER = 32 << 10  # bytes of request line and headers
_BACKLOG = 128
_STOP_SECONDS = 10


class PromptLoop(asyncio.SelectorEventLoop):
    """asyncio's own event loop, which waits a minute for a TLS handshake unless it is told."""

    async def create_server(self, *arguments: Any, **keywords: Any) -> asyncio.Server:
        """Listen, with a limit to how long a handshake may take."""
        if keywords.get("ssl"):
            keywords["ssl_handshake_timeout"] = HANDSHAKE_SECONDS
        return await super().create_server(*arguments, **keywords)


def run_dicomweb(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT."""
    # uvicorn stops in order and then raises the signal again: without this the process would die
    # of it, and look to its supervisor as if it had crashed.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    logging.getLogger("python_multipart").setLevel(logging.CRITICAL)  # it quotes what it was sent
    dicomweb = settings.dicomweb
    if dicomweb is None:
        _cannot_start("it is not configured", "add a section [dicomweb]")
    try:
        secured_by = https_context(settings.tls) if dicomweb.tls and settings.tls else None
        with bound(dicomweb) as listening, serving(settings, dicomweb) as app:
            log.info("dicomweb.started", host=dicomweb.host, port=dicomweb.port, tls=dicomweb.tls)
            http_server(app, secured_by).run([listening])
    except (OSError, CertificateError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        _cannot_start(reason, "run 'overread check': it says whether port, disk or certificate")
    log.info("dicomweb.stopped")


@contextmanager
def serving(settings: Settings, dicomweb: DicomwebSettings) -> Iterator[Starlette]:
    """The application over the node's spool and catalogue; what it took is listed at the end."""
    catalogue = Catalogue(settings.database_url)
    spool = Spool(settings.spool_dir, incoming=".incoming-dicomweb")
    spool.prepare()
    disk = Disk(settings)
    disk.begin()
    bookkeeper = Bookkeeper(catalogue, spool)
    bookkeeper.start()
    warns = settings.node.other_content == "warn"
    intaker = Intaker(spool, disk, bookkeeper.note, warns_of_other_content=warns)
    store = StoreService(dicomweb, intaker)
    holdings = Holdings(settings, catalogue)
    try:
        with Codecs() as codecs:
            routes = [*store.routes(), *reading_routes(holdings, codecs, dicomweb)]
            yield create_app(dicomweb, routes)
    finally:
        store.close()
        bookkeeper.stop()
        catalogue.close()


def bound(dicomweb: DicomwebSettings) -> socket.socket:
    """Return the socket to listen on; OSError where the port is taken."""
    family = socket.AF_INET6 if ":" in dicomweb.host else socket.AF_INET
    where = (dicomweb.host, dicomweb.port)
    of_both = dicomweb.host == "::" and socket.has_dualstack_ipv6()  # as the DICOM port
    listening = socket.create_server(where, family=family, backlog=_BACKLOG, dualstack_ipv6=of_both)
    # Connections inherit it. asyncio sets it only on those whose protocol number was said; without
    # it each small answer waits 40 ms for the client's acknowledgement.
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listening


def http_server(app: Starlette, secured_by: ssl.SSLContext | None) -> uvicorn.Server:
    """Return the server, with limits on connections, headers and waiting."""
    config = uvicorn.Config(
        app,
        http=PatientlyLimited,
        loop=f"{__name__}:PromptLoop",
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,  # paths name studies
        server_header=False,
        proxy_headers=False,  # a client could write them itself
        ssl_context_factory=(lambda *_: secured_by) if secured_by else None,
        h11_max_incomplete_event_size=_LARGEST_HEADER,
        timeout_graceful_shutdown=_STOP_SECONDS,
    )
    return uvicorn.Server(config)


def _cannot_start(reason: str, remedy: str) -> NoReturn:
    log.error("dicomweb.cannot_start", reason=reason, remedy=remedy)
    sys.exit(1)
