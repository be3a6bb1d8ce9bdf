"""Bodies of several parts, made while they are sent (RFC 2387, PS3.18 Section 8.6.1.2)."""

import secrets
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from node.dicomweb.media_types import MULTIPART


@dataclass(frozen=True)
class Part:
    """One part: its Content-Type, where its resource is (empty: not said), and its content."""

    content_type: str
    location: str
    content: Iterable[bytes]


@dataclass(frozen=True)
class MultipartBody:
    """A body whose parts are read one after the other; `part_type` is that of the first."""

    part_type: str
    parts: Iterable[Part]
    boundary: str = field(default_factory=lambda: secrets.token_hex(16))

    @property
    def content_type(self) -> str:
        """The Content-Type of the whole."""
        media_type, _, parameters = self.part_type.partition(";")
        said = f"; {parameters}" if parameters else ""
        return f'{MULTIPART}; type="{media_type}"{said}; boundary={self.boundary}'

    def __iter__(self) -> Iterator[bytes]:
        """Each part's header goes along with the first bytes of its content."""
        delimiter = f"--{self.boundary}"
        for part in self.parts:
            lines = [delimiter, f"Content-Type: {part.content_type}"]
            if part.location:
                lines.append(f"Content-Location: {part.location}")
            head = "\r\n".join([*lines, "\r\n"]).encode()
            for chunk in part.content:
                yield head + chunk if head else chunk
                head = b""
            if head:
                yield head
            delimiter = f"\r\n--{self.boundary}"
        yield f"{delimiter}--\r\n".encode()
