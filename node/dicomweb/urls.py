"""How clients call what is served here."""

import re

from starlette.requests import Request

from node.addresses import bracketed
from node.dicomweb.settings import DicomwebSettings

_HOST = re.compile(r"([A-Za-z0-9.-]{1,253}|\[[0-9a-fA-F:.]{2,45}\])(:[0-9]{1,5})?")


def base_url(request: Request, dicomweb: DicomwebSettings) -> str:
    """Return the URL of the base path: the configured one, else by the name that the client called.

    The port is ours: some clients, dicomweb-client among them, leave it out of their Host.
    """
    if dicomweb.url:
        return dicomweb.url
    named = _HOST.fullmatch(request.headers.get("host", ""))
    host = named[1] if named else bracketed(dicomweb.host)
    return f"{'https' if dicomweb.tls else 'http'}://{host}:{dicomweb.port}{dicomweb.path}"
