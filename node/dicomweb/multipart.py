"""Parts of a multipart/related body (RFC 2387), piece by piece as they come; nothing is kept.

The parsing is python-multipart's; here its callbacks become values in order.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from email.message import Message
from email.utils import collapse_rfc2231_value
from enum import Enum
from functools import lru_cache

from python_multipart.exceptions import ParseError
from python_multipart.multipart import MultipartParser

MOST_HEADERS = 16
LONGEST_HEADER = 4096
LONGEST_BOUNDARY = 200  # 70 by RFC 2046 Section 5.1.1, and Orthanc's has 73


class MultipartError(ValueError):
    """The body is not what its Content-Type says; the text holds nothing of it."""


@dataclass(frozen=True)
class PartBegins:
    """A part with this Content-Type, in lower case; empty where it says none."""

    media_type: str


class Mark(Enum):
    """What is between pieces."""

    PART_ENDS = "part ends"


Event = PartBegins | memoryview | Mark


class MultipartReader:
    """Turns the bytes of a body, cut anywhere, into parts."""

    def __init__(self, boundary: str) -> None:
        if not 0 < len(boundary) <= LONGEST_BOUNDARY or not boundary.isascii():
            raise MultipartError("the boundary in Content-Type is missing, or none")
        self._events: list[Event] = []
        self._field = b""
        self._value = b""
        self._media_type = ""
        self._is_complete = False
        self._parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._part_begins,
                "on_header_field": self._header_field,
                "on_header_value": self._header_value,
                "on_header_end": self._header_ends,
                "on_headers_finished": self._headers_end,
                "on_part_data": self._data,
                "on_part_end": lambda: self._events.append(Mark.PART_ENDS),
                "on_end": self._end,
            },
            max_header_count=MOST_HEADERS,
            max_header_size=LONGEST_HEADER,
        )

    def feed(self, chunk: bytes) -> Iterator[Event]:
        """Return what the next bytes bring; MultipartError where they are no multipart."""
        try:
            self._parser.write(chunk)
        except ParseError:  # its text quotes the body
            raise MultipartError(
                "the body is not divided by the boundary in Content-Type"
            ) from None
        events, self._events = self._events, []
        return iter(events)

    def close(self) -> Iterator[Event]:
        """Say that the body is over; MultipartError where its end is missing."""
        if not self._is_complete:
            raise MultipartError("the body is cut short: its last boundary is missing")
        return iter(())

    def _part_begins(self) -> None:
        self._media_type = ""

    def _header_field(self, data: bytes, start: int, end: int) -> None:
        self._field += data[start:end]

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _header_ends(self) -> None:
        if self._field.lower() == b"content-type":
            self._media_type = _media_type(self._value.decode("latin-1"))
        self._field = self._value = b""

    def _headers_end(self) -> None:
        self._events.append(PartBegins(self._media_type))

    def _data(self, data: bytes, start: int, end: int) -> None:
        self._events.append(memoryview(data)[start:end])

    def _end(self) -> None:
        self._is_complete = True


class SinglePart:
    """A body that is one part by itself, read as if it were the only one of many."""

    def __init__(self, media_type: str) -> None:
        self._begins: list[Event] = [PartBegins(media_type)]

    def feed(self, chunk: bytes) -> Iterator[Event]:
        """Return what the next bytes bring."""
        begins, self._begins = self._begins, []
        return iter((*begins, memoryview(chunk)))

    def close(self) -> Iterator[Event]:
        """Say that the body is over."""
        return iter((*self._begins, Mark.PART_ENDS))


@lru_cache(maxsize=64)
def _media_type(content_type: str) -> str:
    """The media type alone; parts of a body mostly say the same, and parsing it takes a while."""
    return parameters_of(content_type)[0]


def parameters_of(content_type: str) -> tuple[str, dict[str, str]]:
    """Return the media type of a Content-Type header, in lower case, and its parameters."""
    message = Message()
    message["Content-Type"] = content_type.replace("\r", " ").replace("\n", " ")
    found = message.get_params(failobj=[])
    (media_type, _), parameters = found[0], found[1:]
    return media_type.strip().lower(), {
        name.lower(): collapse_rfc2231_value(value) for name, value in parameters
    }
