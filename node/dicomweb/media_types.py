"""Which form of a resource a client is answered with: the Accept header and the query parameter.

PS3.18 Section 8.7 on RFC 9110 Section 12.5.1.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

MULTIPART = "multipart/related"
ANY = "*/*"
LONGEST = 4096
"""Characters that are read of what a client accepts; browsers send two hundred."""

_TOKEN = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"  # noqa: S105 - of HTTP, RFC 9110 Section 5.6.2
_MEDIA_TYPE = re.compile(rf"{_TOKEN}/{_TOKEN}")
_ELEMENT = re.compile(r'(?:[^,"]|"(?:[^"\\]|\\.)*+")++')
_PARAMETER = re.compile(
    # Many clients leave out the quotation marks of type=application/dicom.
    rf';\s*(?P<name>{_TOKEN})\s*=\s*(?:"(?P<quoted>(?:[^"\\]|\\.)*)"|(?P<plain>[^\s;"]+))\s*'
)
_QUALITY = re.compile(r"0?\.\d{1,3}|0\.?|1(\.0{0,3})?")  # Java says .2 where 0.2 is meant


class MalformedAcceptError(ValueError):
    """What a client says that it accepts is not what HTTP has for it."""


class Body(Enum):
    """What a response's body is."""

    MULTIPART = "multipart"
    SINGLE = "single"


@dataclass(frozen=True)
class MediaRange:
    """One thing that a client accepts, all in lower case.

    `media_type` may have wildcards; where the `body` is multipart, it is that of the parts. The
    body is None where any will do. `transfer_syntax` is a UID, `*`, or empty where none is given.
    """

    media_type: str
    body: Body | None
    transfer_syntax: str = ""
    quality: float = 1.0


@dataclass(frozen=True)
class Form:
    """A form that an object can be answered in.

    `transfer_syntax` is empty where the media type has none. What clients mean who do not name it:
    by `transfer-syntax=*` the form that is `stored`, by the media type alone the one that is
    `plain`, by a wildcard the `default`. Where it has `bodies` of its own, it comes in no other.
    """

    media_type: str
    transfer_syntax: str = ""
    stored: bool = False
    plain: bool = True
    default: bool = False
    bodies: tuple[Body, ...] = ()

    @property
    def content_type(self) -> str:
        """The Content-Type of a body or of a part."""
        syntax = self.transfer_syntax
        return f"{self.media_type};transfer-syntax={syntax}" if syntax else self.media_type


@dataclass(frozen=True)
class Chosen:
    """The form to answer in, and what the body is."""

    form: Form
    body: Body


def accepted(text: str) -> list[MediaRange]:
    """Read an Accept header or `accept` parameter: what is preferred first.

    Raises MalformedAcceptError, which names no more than the kind of mistake.
    """
    if not text.strip():
        return []
    if len(text) > LONGEST:
        raise MalformedAcceptError(f"Accept is longer than {LONGEST} characters")
    ranges = [_range(element.strip()) for element in _ELEMENT.findall(text) if element.strip()]
    if not ranges or '"' in _ELEMENT.sub("", text):
        raise MalformedAcceptError("Accept is no list of media types")
    return sorted(ranges, key=lambda one: -one.quality)  # stable: in the order given, if alike


def choose(
    acceptable: Sequence[MediaRange], forms: Sequence[Form], bodies: Sequence[Body]
) -> Chosen | None:
    """Return the form and body that a client prefers, None where none is acceptable.

    `bodies` are those that the resource can have; a wildcard means the first.
    """
    for one in acceptable:
        for form in forms:
            body = _body(one, form.bodies or bodies)
            if body is None or one.quality == 0 or not _matches(one, form):
                continue
            if not _is_refused(form, acceptable):
                return Chosen(form, body)
    return None


def _body(one: MediaRange, bodies: Sequence[Body]) -> Body | None:
    if one.body is None:
        return bodies[0]
    return one.body if one.body in bodies else None


def _range(element: str) -> MediaRange:
    head, _, _ = element.partition(";")
    # In a query a plus sign stands for a space, and application/dicom+json is often not escaped.
    media_type = head.strip().replace(" ", "+").lower()
    parameters = {}
    at = len(head)
    while at < len(element):
        found = _PARAMETER.match(element, at)
        if found is None:
            raise MalformedAcceptError("Accept has a parameter that is not name=value")
        value = found["plain"] or re.sub(r"\\(.)", r"\1", found["quoted"] or "")
        parameters[found["name"].lower()] = value.strip().lower()
        at = found.end()
    quality = parameters.get("q", "1")
    if media_type == "*":  # as some libraries write it
        media_type = ANY
    if not _MEDIA_TYPE.fullmatch(media_type) or not _QUALITY.fullmatch(quality):
        raise MalformedAcceptError("Accept has something that is no media type, or q beyond 0 to 1")
    body = None if media_type == ANY else Body.SINGLE
    if media_type in (MULTIPART, "multipart/*"):
        body = Body.MULTIPART
        media_type = parameters.get("type", ANY).replace(" ", "+")
    syntax = parameters.get("transfer-syntax", "")
    return MediaRange(media_type, body, syntax, float(quality))


def _matches(one: MediaRange, form: Form) -> bool:
    """Whether the range means this form; a wildcard means the default (PS3.18 Section 8.7.8.1)."""
    main, _, sub = one.media_type.partition("/")
    if sub == "*":
        return form.default and main in ("*", form.media_type.partition("/")[0])
    if one.media_type != form.media_type:
        return False
    if one.transfer_syntax == "*":
        return form.stored
    return one.transfer_syntax == form.transfer_syntax if one.transfer_syntax else form.plain


def _is_refused(form: Form, acceptable: Sequence[MediaRange]) -> bool:
    """Whether the client says q=0 of this very media type."""
    return any(one.quality == 0 and one.media_type == form.media_type for one in acceptable)
