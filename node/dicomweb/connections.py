"""HTTP connections with a deadline wherever they wait, and without a detour for large bodies.

uvicorn gives up on a connection that is idle between requests, and on nothing else: a client that
sends its headers a byte at a time, or reads its answer so, would keep a connection for ever. And it
copies each byte of a body four times, which costs more than all else that is done with an image.

Private names of uvicorn and h11 are used here and nowhere else; both are pinned, and
tests/node/test_dicomweb_hostile.py fails when they change.
"""

import asyncio
from math import inf
from typing import Any

from h11._readers import ContentLengthReader
from uvicorn.protocols.http.h11_impl import H11Protocol

MOST_CONNECTIONS = 1000
LARGEST_PIECE = 1 << 20  # bytes that are read at once; asyncio's own are a quarter
REQUEST_SECONDS = 10.0  # from a connection, or the first byte of a request, to its headers' end
READING_SECONDS = 60.0  # in which a client has to take about 64 KB of an answer
_END_OF_HEADERS = b"\r\n\r\n"


class PatientlyLimited(H11Protocol):
    """A connection with a deadline wherever it waits for the client between bodies.

    What a client still sends when it has its answer, such as a body that was refused, is read and
    thrown away until the same deadline, so that it does get to see that answer.
    """

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self._request_due: asyncio.TimerHandle | None = None
        self._reading_due: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for the first request."""
        super().connection_made(transport)
        if hasattr(transport, "max_size"):  # TLS has buffers of its own
            transport.max_size = LARGEST_PIECE
        self._await_request()
        if len(self.connections) > MOST_CONNECTIONS:
            self._longest_waiting().make_room()

    def make_room(self) -> None:
        """Close at once."""
        self._forget_request()
        self.transport.abort()

    def data_received(self, data: bytes) -> None:
        """Have h11 understand all but bodies, and keep count of who is waited for."""
        head, body = self._divided(data)
        if head:
            self._understand(head)
        if body and not self.transport.is_closing() and not self._passed_on(body):
            self._understand(body)

    def _divided(self, data: bytes) -> tuple[bytes, bytes]:
        """What ends the headers of a request, and what is behind it; where h11 does not care."""
        if self.cycle is not None and not self.cycle.response_complete:
            return b"", data
        head, end, behind = data.partition(_END_OF_HEADERS)
        return head + end, behind

    def _understand(self, data: bytes) -> None:
        """Stop to wait when a request is there; begin when one begins."""
        super().data_received(data)
        if self.cycle is not None and not self.cycle.response_complete:
            self._forget_request()
        else:
            self._await_request()

    def _passed_on(self, data: bytes) -> bool:
        """Give the request a piece of its body as it came; whether that could be done.

        Only what is nothing but body, by its Content-Length; all else is for h11 to understand.
        """
        reader, cycle = self.conn._reader, self.cycle
        if (
            cycle is None
            or cycle.response_complete
            or not isinstance(reader, ContentLengthReader)
            or len(self.conn._receive_buffer)
            or len(data) > reader._remaining
        ):
            return False
        reader._remaining -= len(data)
        if cycle.body:  # the request is slower than its client
            self.flow.pause_reading()
            data = bytes(cycle.body) + data
        cycle.body = data  # type: ignore[assignment]  # uvicorn makes bytes of it
        cycle.message_event.set()
        if not reader._remaining:
            self.handle_events()  # h11 sees that the body is over
        return True

    def on_response_complete(self) -> None:
        """End by force what does not end by itself."""
        super().on_response_complete()
        if self.transport.is_closing():
            self._await_reading()

    def timeout_keep_alive_handler(self) -> None:
        """End by force what does not end by itself."""
        super().timeout_keep_alive_handler()
        self._await_reading()

    def pause_writing(self) -> None:
        """Begin to wait for the client to read."""
        super().pause_writing()
        self._await_reading()

    def resume_writing(self) -> None:
        """Stop to wait: the client has read."""
        super().resume_writing()
        self._forget_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the deadlines."""
        super().connection_lost(exc)
        self._forget_request()
        self._forget_reading()

    def _longest_waiting(self) -> "PatientlyLimited":
        """The connection that can be spared: who says nothing makes room for who comes."""
        waiting = [one for one in self.connections if isinstance(one, PatientlyLimited)]
        return min(waiting, key=lambda one: one._request_due.when() if one._request_due else inf)

    def _await_request(self) -> None:
        if self._request_due is None:
            self._request_due = self.loop.call_later(REQUEST_SECONDS, self.transport.abort)

    def _await_reading(self) -> None:
        if self._reading_due is None:
            self._reading_due = self.loop.call_later(READING_SECONDS, self.transport.abort)

    def _forget_reading(self) -> None:
        if self._reading_due is not None:
            self._reading_due.cancel()
            self._reading_due = None

    def _forget_request(self) -> None:
        if self._request_due is not None:
            self._request_due.cancel()
            self._request_due = None
