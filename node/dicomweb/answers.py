"""Answers that say in words what was wrong and what to do (PS3.18 Section 8.5)."""

from collections.abc import Mapping

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

DICOM_JSON = "application/dicom+json"
DICOM_XML = "application/dicom+xml"
RETRY_SECONDS = "60"
HEADERS = {
    "Cache-Control": "no-store",  # images of patients must not stay in a cache on the way
    "X-Content-Type-Options": "nosniff",
}

_BY_ROUTING = {
    "Not Found": "Nothing is served under this path: see docs/dicomweb.md.",
    "Method Not Allowed": "This path is not for that method: GET is for reading, and POST for "
    "storing, to /studies or /studies/STUDY.",
}
"""What Starlette says of paths and methods, in words that help."""


def problem(status: int, text: str, *, headers: Mapping[str, str] | None = None) -> Response:
    """Return the answer to a request that is not served."""
    return PlainTextResponse(
        text + "\n", status_code=status, headers={**HEADERS, **(headers or {})}
    )


async def refused(_request: Request, error: Exception) -> Response:
    """Answer what an endpoint refuses with an HTTPException; its detail is a sentence."""
    if not isinstance(error, HTTPException):
        raise error
    said = _BY_ROUTING.get(error.detail, error.detail)
    return problem(error.status_code, said, headers=error.headers)
