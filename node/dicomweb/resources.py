"""What a URL of WADO-RS names, what the client accepts of it, and where its parts are."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import StreamingResponse

from node.dicomweb.answers import HEADERS
from node.dicomweb.media_types import (
    ANY,
    Body,
    Chosen,
    Form,
    MalformedAcceptError,
    MediaRange,
    accepted,
    choose,
)
from node.dicomweb.multipart_body import MultipartBody
from node.holdings import HeldInstance, Holdings
from node.spool import InstanceKey, InvalidUIDError, check_uid

_LEVELS = (
    ("study", "Study Instance UID"),
    ("series", "Series Instance UID"),
    ("instance", "SOP Instance UID"),
)


@dataclass(frozen=True)
class Acceptable:
    """What a client accepts: the query parameter goes before the header (PS3.18 8.7.8.1)."""

    by_query: Sequence[MediaRange]
    by_header: Sequence[MediaRange]

    def choose(self, forms: Sequence[Form], bodies: Sequence[Body]) -> Chosen:
        """Return what to answer; raises HTTPException 406 that names what there is."""
        chosen = choose(self.by_query, forms, bodies) or choose(self.by_header, forms, bodies)
        if chosen is None:
            offered = "; ".join(form.content_type for form in forms) or "none"
            how = " or ".join(body.value for body in bodies)
            raise HTTPException(
                406,
                f"What the client accepts cannot be answered here. There is ({how}): {offered}.",
            )
        return chosen


def acceptable(request: Request) -> Acceptable:
    """Read what the client accepts; raises HTTPException 400 where that cannot be read."""
    try:
        by_query = accepted(request.query_params.get("accept", ""))
        by_header = accepted(", ".join(request.headers.getlist("accept")) or ANY)
    except MalformedAcceptError as error:
        raise HTTPException(400, f"{error}.") from None
    return Acceptable(by_query, by_header)


def uids_of(request: Request) -> dict[str, str]:
    """Return the UIDs in the path by level; raises HTTPException 400 for what is none."""
    uids = {}
    for level, name in _LEVELS:
        if level in request.path_params:
            uids[level] = request.path_params[level]
            try:
                check_uid(uids[level], name)
            except InvalidUIDError as error:
                raise HTTPException(400, f"{error}.") from None
    return uids


def held_instances(request: Request, holdings: Holdings) -> list[HeldInstance]:
    """Return the instances that the path names; raises HTTPException 404 where there are none."""
    found = holdings.instances(**uids_of(request))
    if not found:
        raise HTTPException(
            404, "Nothing of this UID is held: it was never received, or is past retention."
        )
    return found


def instance_url(base: str, key: InstanceKey) -> str:
    """Return where an instance is."""
    return f"{base}/studies/{key.study}/series/{key.series}/instances/{key.instance}"


def streamed(chunks: Iterator[bytes], content_type: str) -> StreamingResponse:
    """Answer with what is made while it is sent; what fails at once is raised here."""
    first = next(chunks, b"")
    return StreamingResponse(chain((first,), chunks), headers=HEADERS, media_type=content_type)


def in_parts(body: MultipartBody) -> StreamingResponse:
    """Answer with several parts."""
    return streamed(iter(body), body.content_type)
