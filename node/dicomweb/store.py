"""STOW-RS (PS3.18 Section 10.5): instances in, acknowledged when they are durable.

The body is read as it comes and never held whole. Its parts go into the spool in threads, several
at a time, so that one is fsynced while the next is received.
"""

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus

import structlog
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from node.addresses import plain_address
from node.dicomweb.answers import RETRY_SECONDS
from node.dicomweb.media_types import Body
from node.dicomweb.multipart import (
    Event,
    MultipartError,
    MultipartReader,
    PartBegins,
    SinglePart,
    parameters_of,
)
from node.dicomweb.resources import acceptable
from node.dicomweb.settings import DicomwebSettings
from node.dicomweb.store_response import FORMS, store_response
from node.dicomweb.upload import Outcome, Sender, Upload
from node.dicomweb.urls import base_url
from node.intake import IntakeError
from node.reception import PIECE, Intaker
from node.spool import InvalidUIDError, check_uid

log = structlog.get_logger()

_SEE_DISK = "see to the disk: the status page says how"

DICOM = "application/dicom"
MULTIPART = "multipart/related"
LARGEST_REQUEST = 64 << 30  # bytes
MOST_PARTS = 100_000
THREADS = 8
AT_ONCE = 16  # parts that are in threads, or wait for one
HANDED_OVER = 4 << 20  # bytes of one part that are collected before a thread takes them


class StoreService:
    """The endpoint; one for the process, which shares threads among requests."""

    def __init__(self, dicomweb: DicomwebSettings, intaker: Intaker) -> None:
        self._dicomweb = dicomweb
        self._intaker = intaker
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="stow")
        self._room = asyncio.Semaphore(AT_ONCE)

    def routes(self) -> list[Route]:
        """Return what is to be mounted below the base path."""
        return [
            Route("/studies", self.store, methods=["POST"]),
            Route("/studies/{study}", self.store, methods=["POST"]),
        ]

    def close(self) -> None:
        """Wait for what is being stored."""
        self._threads.shutdown()

    async def store(self, request: Request) -> Response:
        """Answer one Store transaction; what it was refused for is logged."""
        sender = Sender(
            request.state.client.name,
            plain_address(request.client.host) if request.client else "",
            str(request.path_params.get("study", "")),
        )
        try:
            return await self._stored(request, sender)
        except ClientDisconnect:
            refusal = HTTPException(400, "The client broke off.")
        except MultipartError as error:
            refusal = HTTPException(400, f"Send it again, whole: {error}.")
        except HTTPException as error:
            refusal = error
        is_ours = refusal.status_code == HTTPStatus.SERVICE_UNAVAILABLE
        log.warning(
            "dicomweb.not_stored",
            status=refusal.status_code,
            reason=refusal.detail,
            calling=sender.name,
            address=sender.address,
            remedy=_SEE_DISK if is_ours else "have the client do what the reason says",
        )
        raise refusal

    async def _stored(self, request: Request, sender: Sender) -> Response:
        _check_study(sender.study_uid)
        form = acceptable(request).choose(FORMS, [Body.SINGLE]).form
        reader = _reader(request)
        try:
            self._intaker.disk.check_space()
        except (IntakeError, OSError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise HTTPException(
                503, f"Try again later: {reason}.", {"Retry-After": RETRY_SECONDS}
            ) from None
        outcomes = await self._take(request, reader, sender)
        return store_response(outcomes, base_url(request, self._dicomweb), form)

    async def _take(
        self, request: Request, reader: MultipartReader | SinglePart, sender: Sender
    ) -> list[Outcome]:
        """Store the parts of a body; when it breaks off, those that were whole are stored."""
        loop = asyncio.get_running_loop()
        storing: list[asyncio.Future[Outcome]] = []
        pieces: list[memoryview] = []
        upload, size = None, 0
        try:
            async for event in _events(request, reader):
                if isinstance(event, PartBegins):
                    upload, pieces, size = self._begin(event, sender), [], 0
                elif upload is None:
                    continue
                elif isinstance(event, memoryview):
                    pieces.append(event)
                    size += len(event) + PIECE
                    if size > HANDED_OVER:
                        await loop.run_in_executor(self._threads, upload.add, pieces)
                        pieces, size = [], 0
                else:
                    await self._room.acquire()
                    done = loop.run_in_executor(self._threads, upload.finish, pieces)
                    done.add_done_callback(lambda _done: self._room.release())
                    storing.append(done)
                    upload = None
                    if len(storing) > MOST_PARTS:
                        raise HTTPException(413, f"Send at most {MOST_PARTS} instances at once.")
        finally:
            if upload is not None:
                upload.drop()
            await asyncio.gather(*storing, return_exceptions=True)
        if not storing:
            raise MultipartError("it holds no instance")
        return [one.result() for one in storing]

    def _begin(self, part: PartBegins, sender: Sender) -> Upload:
        is_dicom = part.media_type in ("", DICOM)
        return Upload(
            self._intaker, sender, "" if is_dicom else "the part is not application/dicom"
        )


async def _events(request: Request, reader: MultipartReader | SinglePart) -> AsyncIterator[Event]:
    received = 0
    async for chunk in request.stream():
        received += len(chunk)
        if received > LARGEST_REQUEST:
            raise HTTPException(413, "Send less at once: the request is larger than any study.")
        for event in reader.feed(chunk):
            yield event
    for event in reader.close():
        yield event


def _check_study(study: str) -> None:
    try:
        if study:
            check_uid(study, "Study Instance UID")
    except InvalidUIDError as error:
        raise HTTPException(400, f"Correct the path: {error}.") from None


def _reader(request: Request) -> MultipartReader | SinglePart:
    """What reads the body, by its Content-Type."""
    if request.headers.get("content-encoding", "identity") != "identity":
        raise HTTPException(415, "Send the body without Content-Encoding.")
    if int(request.headers.get("content-length", "0")) > LARGEST_REQUEST:
        raise HTTPException(413, "Send less at once: the request is larger than any study.")
    media_type, parameters = parameters_of(request.headers.get("content-type", ""))
    if media_type == DICOM:
        return SinglePart(media_type)
    if media_type != MULTIPART or parameters.get("type", DICOM).lower() != DICOM:
        raise HTTPException(
            415, f'Send Content-Type: {MULTIPART}; type="{DICOM}"; boundary=..., or {DICOM}.'
        )
    try:
        return MultipartReader(parameters.get("boundary", ""))
    except MultipartError as error:
        raise HTTPException(400, f"Correct Content-Type: {error}.") from None
