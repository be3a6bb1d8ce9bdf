"""The status pages: worklist, study view, health; for anyone who sits at the node.

There is no login, so the pages are for this machine only: settings allow loopback addresses, and a
request whose Host header names anything else is refused, which a rebound DNS name cannot avoid.
"""

import re
import signal
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import orjson
import structlog
import uvicorn
from jinja2 import Environment, PackageLoader, StrictUndefined
from sqlalchemy.exc import SQLAlchemyError
from starlette.applications import Starlette
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from node.catalogue import Catalogue
from node.remedies import CHECK_DATABASE, DEFECT
from node.run_folder import RunFolder
from node.settings import Settings
from node.spool import Spool
from node.status import RunRow, study_rows
from node.web.health import Alarm, health_of
from node.web.views import record_of, view_of
from sr_writer.wording import DEMONSTRATION, UNVERIFIED, percentage, seen_on

log = structlog.get_logger()

LOOPBACK_NAMES = ["localhost", "127.0.0.1", "[::1]"]
SECURITY_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'; object-src 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",  # pictures of patients must not stay in a browser's cache
}
_RUN_ID = re.compile(r"[0-9a-f]{32}")


class Pages:
    """The endpoints; plain functions run in threads, so the database may block them."""

    def __init__(self, settings: Settings, catalogue: Catalogue) -> None:
        self._settings = settings
        self._catalogue = catalogue
        self._spool = Spool(settings.spool_dir)
        self._templates = Environment(
            loader=PackageLoader("node.web"), autoescape=True, undefined=StrictUndefined
        )
        self._templates.filters["clock"] = lambda at: f"{at.astimezone():%Y-%m-%d %H:%M:%S}"
        self._templates.filters["day"] = _day
        self._templates.filters["percentage"] = percentage
        self._templates.filters["seen_on"] = seen_on
        self._templates.globals["ae_title"] = settings.node.ae_title
        self._templates.globals["version"] = version("overread")
        self._templates.globals["unverified"] = UNVERIFIED
        self._templates.globals["demonstration"] = DEMONSTRATION

    def worklist(self, request: Request) -> Response:  # noqa: ARG002
        """The studies that received something last."""
        rows = study_rows(self._catalogue.worklist())
        demonstrates = any(self._demonstrates(run) for row in rows for run in row.runs)
        aside = self._spool.aside()
        return self._page("worklist.html", rows=rows, demonstrates=demonstrates, kept_aside=aside)

    def study(self, request: Request) -> Response:
        """One study, its runs of the latest content first."""
        study = self._catalogue.study(request.path_params["study_uid"])
        if study is None:
            raise HTTPException(404, "No such study: it is past retention, or was not sent yet")
        row = study_rows([study])[0]
        runs = [view_of(run, self._run_folder(run.run_id)) for run in row.runs]
        demonstrates = any(
            run.record is not None and run.record.model.demonstration for run in runs
        )
        return self._page("study.html", study=row, runs=runs, demonstrates=demonstrates)

    def picture(self, request: Request) -> Response:
        """A picture that the run's folder lists."""
        return _listed(request.path_params["name"], self._folder(request).pictures(), "image/png")

    def dicom_object(self, request: Request) -> Response:
        """An object that the run's folder lists."""
        objects = self._folder(request).object_paths()
        return _listed(request.path_params["name"], objects, "application/dicom", download=True)

    def healthz(self, request: Request) -> Response:  # noqa: ARG002
        """The node's health for a monitor: 503 while there is an alarm."""
        health = health_of(self._settings, self._catalogue)
        return Response(
            orjson.dumps(
                {"ok": not health.alarms, "checked_at": datetime.now(UTC), **vars(health)}
            ),
            status_code=503 if health.alarms else 200,
            media_type="application/json",
        )

    def refused(self, request: Request, error: Exception) -> Response:  # noqa: ARG002
        """The page of a request that asks for what is not there."""
        if not isinstance(error, HTTPException):
            raise error
        return self._error(
            error.status_code,
            f"{error.detail}.",
            "Go back to the worklist.",
            alarms=health_of(self._settings, self._catalogue).alarms,
        )

    def no_database(self, request: Request, error: Exception) -> Response:
        """The page while the catalogue cannot be asked."""
        what = type(error).__name__
        log.error("web.no_database", path=request.url.path, error=what, remedy=CHECK_DATABASE)
        return self._error(
            503,
            "The database of the node does not answer.",
            "Run 'overread check'; studies in the spool are safe and will be taken up again.",
        )

    def failed(self, request: Request, error: Exception) -> Response:
        """The page of a defect of ours."""
        log.error("web.failed", path=request.url.path, exc_info=error, remedy=DEFECT)
        return self._error(
            500,
            "This page could not be made. The processing of studies is not affected.",
            "The log has the reason; report it as a defect of Overread.",
        )

    def _page(self, template: str, **context: Any) -> Response:
        alarms = health_of(self._settings, self._catalogue).alarms
        return HTMLResponse(self._templates.get_template(template).render(alarms=alarms, **context))

    def _error(
        self, status: int, text: str, remedy: str, *, alarms: tuple[Alarm, ...] = ()
    ) -> Response:
        page = self._templates.get_template("error.html")
        content = page.render(
            alarms=alarms, demonstrates=False, status=status, text=text, remedy=remedy
        )
        return HTMLResponse(content, status_code=status, headers=SECURITY_HEADERS)

    def _folder(self, request: Request) -> RunFolder:
        """The folder of the run that the request names; 404 unless there is such a run."""
        run_id = request.path_params["run_id"]
        if not _RUN_ID.fullmatch(run_id):
            raise HTTPException(404)
        try:
            self._catalogue.run(run_id)
        except KeyError:
            raise HTTPException(404) from None
        return self._run_folder(run_id)

    def _run_folder(self, run_id: str) -> RunFolder:
        return RunFolder(self._settings.runs_dir / run_id)

    def _demonstrates(self, run: RunRow) -> bool:
        record = record_of(self._run_folder(run.run_id))
        return record is not None and record.model.demonstration


class _SecurityHeaders:
    """Puts the security headers on every response."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(SECURITY_HEADERS)
            await send(message)

        await self._app(scope, receive, send_with_headers)


def create_app(settings: Settings, catalogue: Catalogue) -> Starlette:
    """Return the status pages over a node's catalogue and run folders."""
    pages = Pages(settings, catalogue)
    return Starlette(
        routes=[
            Route("/", pages.worklist),
            Route("/studies/{study_uid}", pages.study),
            Route("/runs/{run_id}/pictures/{name}", pages.picture),
            Route("/runs/{run_id}/objects/{name}", pages.dicom_object),
            Route("/healthz", pages.healthz),
            Mount("/static", StaticFiles(packages=[("node.web", "static")])),
        ],
        middleware=[
            Middleware(_SecurityHeaders),
            Middleware(TrustedHostMiddleware, allowed_hosts=LOOPBACK_NAMES, www_redirect=False),
        ],
        exception_handlers={
            HTTPException: pages.refused,
            SQLAlchemyError: pages.no_database,
            Exception: pages.failed,
        },
    )


def run_web(settings: Settings) -> None:
    """Serve the pages until SIGTERM or SIGINT."""
    # uvicorn stops in order and then raises the signal again: without this the process would die
    # of it, and look to its supervisor as if it had crashed.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    catalogue = Catalogue(settings.database_url)
    config = uvicorn.Config(
        create_app(settings, catalogue),
        host=settings.web.host,
        port=settings.web.port,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=5,
    )
    log.info("web.started", host=settings.web.host, port=settings.web.port)
    uvicorn.Server(config).run()
    catalogue.close()
    log.info("web.stopped")


def _listed(
    name: str, paths: Sequence[Path], media_type: str, *, download: bool = False
) -> Response:
    """The file of that name among those listed: the name itself never becomes a path."""
    for path in paths:
        if path.name == name:
            filename = name if download else None
            return FileResponse(path, media_type=media_type, filename=filename)
    raise HTTPException(404)


def _day(date: str) -> str:
    """A DICOM date (PS3.5 Section 6.2, DA) with hyphens; anything else as it came."""
    if not re.fullmatch(r"\d{8}", date, re.ASCII):
        return date
    return f"{date[:4]}-{date[4:6]}-{date[6:]}"
