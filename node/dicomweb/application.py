"""The DICOMweb service as an application: who may, what there is, and what failures look like."""

from collections.abc import Sequence

import structlog
from sqlalchemy.exc import SQLAlchemyError
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Mount

from node.dicomweb.access import Access
from node.dicomweb.answers import RETRY_SECONDS, problem, refused
from node.dicomweb.limits import Patience, Room
from node.dicomweb.settings import DicomwebSettings
from node.remedies import DEFECT

log = structlog.get_logger()


def create_app(dicomweb: DicomwebSettings, routes: Sequence[BaseRoute]) -> Starlette:
    """Return the application that serves `routes` below the base path.

    Routes with GET need the permission "read", those with POST the permission "store".
    """
    return Starlette(
        routes=[Mount(dicomweb.path, routes=routes)],
        middleware=[
            # Browsers ask before they show a token, so what answers that goes before all else.
            Middleware(
                CORSMiddleware,
                allow_origins=dicomweb.origins,
                allow_methods=("GET", "POST"),
                allow_headers=("Accept", "Authorization", "Content-Type"),
                expose_headers=("Warning",),
            ),
            Middleware(Access, clients=dicomweb.clients),
            Middleware(Room, most=dicomweb.max_requests),
            Middleware(Patience),
        ],
        exception_handlers={
            HTTPException: refused,
            SQLAlchemyError: _no_database,
            Exception: _failed,
        },
    )


async def _no_database(_request: Request, error: Exception) -> Response:
    log.error("dicomweb.no_database", error=type(error).__name__, remedy="run 'overread check'")
    return problem(
        503,
        "The database of the node does not answer. Try again later.",
        headers={"Retry-After": RETRY_SECONDS},
    )


async def _failed(request: Request, error: Exception) -> Response:
    log.error("dicomweb.failed", method=request.method, exc_info=error, remedy=DEFECT)
    return problem(500, "This failed in the node. Its log has the reason: tell its operators.")
