"""The status pages: worklist, study view, health; for anyone who sits at the node.

There is no login, so the pages are for this machine only: settings allow loopback addresses, and a
request whose Host header names anything else is refused, which a rebound DNS name cannot avoid.
"""

import re
import shutil
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import orjson
import structlog
import uvicorn
from jinja2 import Environment, PackageLoader, StrictUndefined
from pydantic import ValidationError
from pydicom.errors import InvalidDicomError
from pydicom.filereader import read_file_meta_info
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

from inference.assessment import AssessmentRecord, Text
from node.catalogue import Catalogue
from node.run_folder import RunFolder
from node.settings import Settings
from node.spool import Spool
from node.status import RunRow, study_rows
from node.tables import Run
from sr_writer.report import report_text
from sr_writer.wording import DEMONSTRATION, UNVERIFIED

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
RECENT = timedelta(hours=24)
"""How long a run that ended badly keeps the banner red, unless its study is sent again."""

_RUN_ID = re.compile(r"[0-9a-f]{32}")
_MAIN_STEPS_FROM = "complete"  # what comes before is the sender's time and the quiet period


@dataclass(frozen=True)
class Alarm:
    """Something an operator must know on whatever page they are, and what to do about it."""

    text: str
    remedy: str
    studies: tuple[str, ...] = ()


@dataclass(frozen=True)
class Health:
    """How the node is; it is well while there is no alarm."""

    database_reachable: bool
    free_gb: float | None
    min_free_gb: float
    instances_kept_aside: int
    troubled_runs: int
    alarms: tuple[Alarm, ...]


@dataclass(frozen=True)
class Bar:
    """One step of a timeline as drawn: percent of the time since the study was complete."""

    name: str
    at: datetime
    milliseconds: float
    start: float
    width: float


@dataclass(frozen=True)
class Picture:
    """A key slice, counted from 1 as on the picture itself."""

    name: str
    number: int


@dataclass(frozen=True)
class ObjectFile:
    """A DICOM object in the run's folder."""

    name: str
    sop_class: str
    instance_uid: str
    kilobytes: float


@dataclass(frozen=True)
class RunView:
    """All there is to show of a run."""

    row: RunRow
    bars: tuple[Bar, ...]
    record: AssessmentRecord | None
    report: Text | None
    pictures: tuple[Picture, ...]
    objects: tuple[ObjectFile, ...]
    damaged: bool  # something is there that cannot be read


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
        self._templates.globals["ae_title"] = settings.node.ae_title
        self._templates.globals["version"] = version("overread")
        self._templates.globals["unverified"] = UNVERIFIED
        self._templates.globals["demonstration"] = DEMONSTRATION

    def worklist(self, request: Request) -> Response:  # noqa: ARG002
        """The studies that received something last."""
        rows = study_rows(self._catalogue.worklist())
        demonstrates = any(_demonstrates(self._record(run)) for row in rows for run in row.runs)
        aside = self._spool.aside()
        return self._page("worklist.html", rows=rows, demonstrates=demonstrates, kept_aside=aside)

    def study(self, request: Request) -> Response:
        """One study, its runs of the latest content first."""
        study = self._catalogue.study(request.path_params["study_uid"])
        if study is None:
            raise HTTPException(404, "No such study: it is past retention, or was not sent yet")
        row = study_rows([study])[0]
        runs = [self._run_view(run) for run in row.runs]
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
        health = self._health()
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
            alarms=self._health().alarms,
        )

    def no_database(self, request: Request, error: Exception) -> Response:
        """The page while the catalogue cannot be asked."""
        log.error("web.no_database", path=request.url.path, error=type(error).__name__)
        return self._error(
            503,
            "The database of the node does not answer.",
            "Run 'overread check'; studies in the spool are safe and will be taken up again.",
        )

    def failed(self, request: Request, error: Exception) -> Response:
        """The page of a defect of ours."""
        log.error("web.failed", path=request.url.path, exc_info=error)
        return self._error(
            500,
            "This page could not be made. The processing of studies is not affected.",
            "The log has the reason; report it as a defect of Overread.",
        )

    def _page(self, template: str, **context: Any) -> Response:
        alarms = self._health().alarms
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
        return RunFolder(self._settings.runs_dir / run_id)

    def _record(self, run: RunRow) -> AssessmentRecord | None:
        try:
            return _read_record(self._settings.runs_dir / run.run_id)
        except FileNotFoundError:
            return None
        except (OSError, ValidationError) as error:
            reason = type(error).__name__
            log.error("assessment.unreadable", run=run.run_id, reason=reason)  # noqa: TRY400
            return None

    def _run_view(self, run: RunRow) -> RunView:
        folder = RunFolder(self._settings.runs_dir / run.run_id)
        record = self._record(run)
        objects = _object_files(folder)
        return RunView(
            row=run,
            bars=_bars(run),
            record=record,
            report=report_text(record) if record is not None else None,
            pictures=tuple(
                Picture(path.name, int(path.stem.removeprefix("slice_")) + 1)
                for path in folder.pictures()
            ),
            objects=objects,
            damaged=(record is None and folder.has_assessment())
            or len(objects) < len(folder.object_paths()),
        )

    def _health(self) -> Health:
        alarms = []
        node = self._settings.node
        free_gb = None
        try:
            free_gb = round(shutil.disk_usage(node.state_dir).free / 1e9, 1)
        except OSError as error:
            reason = error.strerror or type(error).__name__
            alarms.append(
                Alarm(
                    f"The state folder cannot be read: {reason}.",
                    "Mount it, or correct node.state_dir; nothing can be received until then.",
                )
            )
        if free_gb is not None and free_gb < node.min_free_gb:
            alarms.append(
                Alarm(
                    f"Disk nearly full: {free_gb} GB free, less than {node.min_free_gb} GB. "
                    "Instances are refused.",
                    "Make room, or lower node.retention_days.",
                )
            )
        reachable = True
        troubled: list[Run] = []
        try:
            troubled = self._catalogue.troubled_runs()
        except SQLAlchemyError:
            reachable = False
            alarms.append(
                Alarm("The database of the node does not answer.", "Run 'overread check'.")
            )
        recent = [run for run in troubled if datetime.now(UTC) - _ended(run) < RECENT]
        if recent:
            count = "One result" if len(recent) == 1 else f"{len(recent)} results"
            alarms.append(
                Alarm(
                    f"{count} failed or could not be delivered in the last 24 hours.",
                    "Open the study: it says what to do.",
                    tuple(sorted({run.study_uid for run in recent})),
                )
            )
        return Health(
            database_reachable=reachable,
            free_gb=free_gb,
            min_free_gb=node.min_free_gb,
            instances_kept_aside=self._spool.aside(),
            troubled_runs=len(troubled),
            alarms=tuple(alarms),
        )


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


@lru_cache(maxsize=1000)
def _read_record(folder: Path) -> AssessmentRecord:
    """The assessment of a run, which is written once."""
    return RunFolder(folder).record()


def _demonstrates(record: AssessmentRecord | None) -> bool:
    return record is not None and record.model.demonstration


def _object_files(folder: RunFolder) -> tuple[ObjectFile, ...]:
    files = []
    for path in folder.object_paths():
        try:
            meta = read_file_meta_info(path)
            kilobytes = path.stat().st_size / 1000
        except (OSError, InvalidDicomError) as error:
            reason = type(error).__name__
            log.error("object.unreadable", run=folder.path.name, file=path.name, reason=reason)  # noqa: TRY400
            continue
        files.append(
            ObjectFile(
                path.name,
                meta.MediaStorageSOPClassUID.name,
                meta.MediaStorageSOPInstanceUID,
                kilobytes,
            )
        )
    return tuple(files)


def _bars(run: RunRow) -> tuple[Bar, ...]:
    """Steps with their place on a common scale that begins when the study was complete."""
    begin = next((step.at for step in run.timeline if step.name == _MAIN_STEPS_FROM), None)
    bars = []
    for step in run.timeline:
        start = width = 0.0
        if begin is not None and step.at > begin:
            whole = (run.timeline[-1].at - begin).total_seconds() * 1000
            width = 100 * step.milliseconds / whole
            start = 100 * (step.at - begin).total_seconds() * 1000 / whole - width
        bars.append(Bar(step.name, step.at, step.milliseconds, start, width))
    return tuple(bars)


def _ended(run: Run) -> datetime:
    """About when a run ended badly: the last that is known of it."""
    moments = [run.opened_at, *(milestone.at for milestone in run.milestones)]
    return max([*moments, *(delivery.next_attempt_at for delivery in run.deliveries)])


def _day(date: str) -> str:
    """A DICOM date (PS3.5 Section 6.2, DA) with hyphens; anything else as it came."""
    if not re.fullmatch(r"\d{8}", date, re.ASCII):
        return date
    return f"{date[:4]}-{date[4:6]}-{date[6:]}"
