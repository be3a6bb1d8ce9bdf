"""A DICOMweb server under test, in threads of this process, with the clients of a node's set-up."""

import threading
from contextlib import contextmanager
from io import BytesIO

import httpx2

from node.dicomweb.server import bound, http_server, serving
from node.dicomweb.tokens import digest_of
from node.settings import load_settings
from node.transport_security import https_context
from tests.node.configuration import free_ports, write_config

TOKEN = "the token of everything"  # noqa: S105
BOUNDARY = "a-boundary"
MULTIPART = f'multipart/related; type="application/dicom"; boundary={BOUNDARY}'


def configure(folder, *, dicomweb="", extra="", **node):
    """An `overread.toml` whose DICOMweb client may do everything; further keys and sections."""
    config = write_config(folder, **node)
    (port,) = free_ports(1)
    config.write_text(
        f"{config.read_text()}\n[dicomweb]\nport = {port}\n{dicomweb}\n[[dicomweb.clients]]\n"
        f'name = "router"\ntoken_sha256 = "{digest_of(TOKEN)}"\nmay = ["store", "read"]\n{extra}\n'
    )
    return config


@contextmanager
def dicomweb_server(config):
    """Serve what is configured; yields the settings."""
    settings = load_settings(config)
    dicomweb = settings.dicomweb
    secured_by = https_context(settings.tls) if dicomweb.tls else None
    with bound(dicomweb) as listening, serving(settings, dicomweb) as app:
        server = http_server(app, secured_by)
        thread = threading.Thread(target=server.run, args=[[listening]])
        thread.start()
        try:
            yield settings
        finally:
            server.should_exit = True
            thread.join()


def http_client(settings, *, token=TOKEN, **keywords):
    """An HTTP client of the server, which shows a token."""
    scheme = "https" if settings.dicomweb.tls else "http"
    return httpx2.Client(
        base_url=f"{scheme}://127.0.0.1:{settings.dicomweb.port}/dicom-web",
        headers={"Authorization": f"Bearer {token}"},
        trust_env=False,
        timeout=60,
        **keywords,
    )


def multipart(files, *, end=True):
    """A multipart/related body of these files."""
    parts = [
        b"--%s\r\nContent-Type: application/dicom\r\n\r\n%s\r\n" % (BOUNDARY.encode(), file)
        for file in files
    ]
    return b"".join([*parts, b"--%s--\r\n" % BOUNDARY.encode() if end else b""])


def as_file(dataset):
    """The bytes of a Part 10 file."""
    file = BytesIO()
    dataset.save_as(file)
    return file.getvalue()
