"""So many requests at once, and none of them for ever: 503 for one too many, 408 for silence."""

import asyncio
import time

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from node.dicomweb.answers import RETRY_SECONDS, problem

SILENCE_SECONDS = 30.0
GRACE_SECONDS = 60.0
SLOWEST = 4096  # bytes a second, on average after the grace


class Room:
    """Serves so many requests at once; comes after those without a token are turned away."""

    def __init__(self, app: ASGIApp, most: int) -> None:
        self._app = app
        self._most = most
        self._served = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer it with 503."""
        if self._served >= self._most:
            text = "Try again later: there are as many requests as dicomweb.max_requests allows."
            answer = problem(503, text, headers={"Retry-After": RETRY_SECONDS})
            await answer(scope, receive, send)
            return
        self._served += 1
        try:
            await self._app(scope, receive, send)
        finally:
            self._served -= 1


class Patience:
    """Waits for the pieces of a body so long and no longer."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request; what it takes us to store its pieces does not count."""
        waited, received, is_whole = 0.0, 0, False

        async def receive_in_time() -> Message:
            nonlocal waited, received, is_whole
            if is_whole:  # what comes now is that the client is gone
                return await receive()
            began = time.monotonic()
            try:
                async with asyncio.timeout(SILENCE_SECONDS):
                    message = await receive()
            except TimeoutError:
                raise HTTPException(408, "Send it again: nothing came for too long.") from None
            waited += time.monotonic() - began
            received += len(message.get("body", b""))
            is_whole = not message.get("more_body", False)
            if waited > GRACE_SECONDS and received < waited * SLOWEST:
                raise HTTPException(408, "Send it again, faster: it came too slowly.")
            return message

        await self._app(scope, receive_in_time, send)
