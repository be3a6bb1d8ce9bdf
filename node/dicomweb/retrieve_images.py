"""WADO-RS: frames, rendered images and thumbnails (PS3.18 Sections 10.4.1.1.3 to 10.4.1.1.6)."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from threading import BoundedSemaphore

from pydicom.uid import (
    HTJ2K,
    JPEG2000,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from node.codecs import Codecs
from node.dicomweb.answers import HEADERS
from node.dicomweb.images import (
    Image,
    NoSuchFrameError,
    NotAnImageError,
    can_decode,
    image_of,
)
from node.dicomweb.media_types import Body, Form
from node.dicomweb.multipart_body import MultipartBody, Part
from node.dicomweb.rendering import (
    DEFAULT_QUALITY,
    LARGEST_VIEWPORT,
    Appearance,
    Function,
    Viewport,
    Window,
    as_thumbnail,
    is_possible,
    rendered,
)
from node.dicomweb.resources import acceptable, held_instances, in_parts, instance_url
from node.dicomweb.retrieve import INSTANCE_PATH, LEVEL_PATHS, OCTETS, told
from node.dicomweb.settings import DicomwebSettings
from node.dicomweb.urls import base_url
from node.holdings import HeldInstance, Holdings
from node.instances import read_instance

MEDIA_TYPES = {
    JPEGBaseline8Bit: "image/jpeg",
    JPEGExtended12Bit: "image/jpeg",
    JPEGLossless: "image/jpeg",
    JPEGLosslessSV1: "image/jpeg",
    JPEGLSLossless: "image/jls",
    JPEGLSNearLossless: "image/jls",
    JPEG2000Lossless: "image/jp2",
    JPEG2000: "image/jp2",
    HTJ2KLossless: "image/jphc",
    HTJ2KLosslessRPCL: "image/jphc",
    HTJ2K: "image/jphc",
    RLELossless: "image/dicom-rle",
}
"""What a frame is called that is answered as it is stored (PS3.18 Table 8.7.3-5)."""

RENDERED_FORMS = (Form("image/jpeg", default=True), Form("image/png"))
FUNCTIONS: dict[str, Function] = {
    "linear": "LINEAR",
    "linear-exact": "LINEAR_EXACT",
    "sigmoid": "SIGMOID",
}

_AT_ONCE = 4
"""Frames that are decoded or drawn at a time, since each takes memory."""

_FRAMES = re.compile(r"[0-9]{1,9}(,[0-9]{1,9})*")
_NUMBER = re.compile(r"[+-]?[0-9]{1,12}(\.[0-9]{0,12})?")


class RetrieveImages:
    """The endpoints; plain functions run in threads, so files and codecs may block them."""

    def __init__(self, holdings: Holdings, codecs: Codecs, dicomweb: DicomwebSettings) -> None:
        self._holdings = holdings
        self._codecs = codecs
        self._dicomweb = dicomweb
        self._turn = BoundedSemaphore(_AT_ONCE)

    def frames(self, request: Request) -> Response:
        """Answer frames of an instance, uncompressed or as they are stored."""
        numbers = _frame_numbers(request)
        accepts = acceptable(request)
        (held,) = held_instances(request, self._holdings)
        image = image_of(read_instance(held.path))
        bodies = [Body.MULTIPART, Body.SINGLE] if len(numbers) == 1 else [Body.MULTIPART]
        chosen = accepts.choose(_frame_forms(image), bodies)
        _check_frames(image, numbers)
        as_stored = chosen.form.transfer_syntax != ExplicitVRLittleEndian
        if chosen.body is Body.SINGLE:
            content = self._frame(image, numbers[0], as_stored=as_stored)
            return Response(content, headers=HEADERS, media_type=chosen.form.content_type)
        url = instance_url(base_url(request, self._dicomweb), held.key)
        parts = (
            Part(
                chosen.form.content_type,
                f"{url}/frames/{number}",
                (self._frame(image, number, as_stored=as_stored),),
            )
            for number in numbers
        )
        return in_parts(MultipartBody(chosen.form.media_type, parts))

    def _frame(self, image: Image, number: int, *, as_stored: bool) -> bytes:
        with self._turn:
            if as_stored:
                return image.codestream(number)
            return image.uncompressed(number, self._codecs)

    def rendered(self, request: Request) -> Response:
        """Answer the images that the path names as pictures: one, or a part for each frame."""
        appearance = _appearance(request)
        accepts = acceptable(request)
        shown = list(self._one_instance(request)) if "instance" in request.path_params else None
        if shown is None:
            bodies = [Body.MULTIPART]
        else:
            bodies = [Body.SINGLE, Body.MULTIPART] if len(shown) == 1 else [Body.MULTIPART]
        chosen = accepts.choose(RENDERED_FORMS, bodies)
        frames = iter(shown) if shown else _frames_of(held_instances(request, self._holdings))
        first = next(frames, None)
        if first is None:
            raise NotAnImageError("none of it is an image")
        media_type = chosen.form.media_type
        if chosen.body is Body.SINGLE:
            return self._picture(first, appearance, media_type)
        base = base_url(request, self._dicomweb)
        parts = (
            Part(
                media_type,
                f"{instance_url(base, one.held.key)}/frames/{one.number}/rendered",
                (self._drawn(one, appearance, media_type),),
            )
            for one in chain((first,), frames)
        )
        return in_parts(MultipartBody(media_type, parts))

    def thumbnail(self, request: Request) -> Response:
        """Answer one small picture of what the path names: of the image in the middle."""
        appearance = as_thumbnail(_appearance(request))
        form = acceptable(request).choose(RENDERED_FORMS, [Body.SINGLE]).form
        if "frames" in request.path_params:
            frames = list(self._one_instance(request))
        else:
            held = held_instances(request, self._holdings)
            (kind, _), *_ = Counter(one.sop_class_uid for one in held).most_common(1)
            alike = [one for one in held if one.sop_class_uid == kind]
            frames = list(_frames_of([alike[len(alike) // 2]]))
        if not frames:
            raise NotAnImageError("it is no image")
        return self._picture(frames[len(frames) // 2], appearance, form.media_type)

    def _one_instance(self, request: Request) -> Iterator["_Shown"]:
        (held,) = held_instances(request, self._holdings)
        image = image_of(read_instance(held.path))
        numbers: Iterable[int] = range(1, image.frames + 1)
        if "frames" in request.path_params:
            numbers = _frame_numbers(request)
            _check_frames(image, numbers)
        return (_Shown(held, image, number) for number in numbers)

    def _picture(self, shown: "_Shown", appearance: Appearance, media_type: str) -> Response:
        content = self._drawn(shown, appearance, media_type)
        return Response(content, headers=HEADERS, media_type=media_type)

    def _drawn(self, shown: "_Shown", appearance: Appearance, media_type: str) -> bytes:
        with self._turn:
            return rendered(shown.image, shown.number, appearance, media_type, self._codecs)


@dataclass(frozen=True)
class _Shown:
    """A frame that is to be drawn."""

    held: HeldInstance
    image: Image
    number: int


def image_routes(images: RetrieveImages) -> list[BaseRoute]:
    """Return the routes of frames, rendered images and thumbnails."""
    frames = INSTANCE_PATH + "/frames/{frames}"
    routes: list[BaseRoute] = [Route(frames, told(images.frames))]
    for path in (*LEVEL_PATHS, frames):
        routes.append(Route(f"{path}/rendered", told(images.rendered)))
        routes.append(Route(f"{path}/thumbnail", told(images.thumbnail)))
    return routes


def _frames_of(held: Iterable[HeldInstance]) -> Iterator[_Shown]:
    """Return all frames of those instances that are images."""
    for one in held:
        try:
            image = image_of(read_instance(one.path))
        except NotAnImageError:
            continue
        for number in range(1, image.frames + 1):
            yield _Shown(one, image, number)


def _frame_forms(image: Image) -> list[Form]:
    """Return what frames can be answered as: uncompressed, or as they are stored."""
    syntax = image.instance.transfer_syntax
    if not image.is_compressed:
        return [Form(OCTETS, ExplicitVRLittleEndian, stored=True, default=True)]
    forms = [Form(OCTETS, syntax, stored=True, plain=False)]
    if can_decode(syntax):
        forms.insert(0, Form(OCTETS, ExplicitVRLittleEndian, default=True))
    if syntax in MEDIA_TYPES:
        forms.append(Form(MEDIA_TYPES[syntax], syntax, stored=True))
    return forms


def _frame_numbers(request: Request) -> list[int]:
    """Read the list of frames; raises HTTPException 400 for what is none."""
    said = request.path_params["frames"]
    numbers = [int(one) for one in said.split(",")] if _FRAMES.fullmatch(said) else []
    if not numbers or 0 in numbers:
        raise HTTPException(400, "Frames are numbers from 1, with commas between them.")
    return numbers


def _check_frames(image: Image, numbers: Iterable[int]) -> None:
    if max(numbers) > image.frames:
        raise NoSuchFrameError(f"it has {image.frames} frames")


def _appearance(request: Request) -> Appearance:
    """Read how pictures shall look; raises HTTPException 400 for what cannot be.

    What is not known here, such as annotations, is left out (PS3.18 Section 8.3).
    """
    query = request.query_params
    quality = query.get("quality", str(DEFAULT_QUALITY))
    if not (quality.isascii() and quality.isdigit() and 1 <= int(quality[:4]) <= 100):
        raise HTTPException(400, "quality is a whole number from 1 to 100.")
    window = _window(query["window"]) if "window" in query else None
    viewport = _viewport(query["viewport"]) if "viewport" in query else None
    return Appearance(window, viewport, int(quality))


def _window(text: str) -> Window:
    centre, width, function = [*text.split(","), "linear"][:3] if "," in text else ("", "", "")
    if _NUMBER.fullmatch(centre) and _NUMBER.fullmatch(width) and text.count(",") <= 2:
        made = Window(float(centre), float(width), FUNCTIONS.get(function.lower(), "LINEAR"))
        if function.lower() in FUNCTIONS and is_possible(made):
            return made
    raise HTTPException(
        400, "window is CENTER,WIDTH and one of linear (width 1 or more), linear-exact, sigmoid."
    )


def _viewport(text: str) -> Viewport:
    sides, part = text.split(",")[:2], text.split(",")[2:]
    numbers = [float(one) if _NUMBER.fullmatch(one) else 0.0 for one in part]
    readable = all(_NUMBER.fullmatch(one) or not one for one in part)
    if (
        all(
            one.isascii() and one.isdigit() and 1 <= int(one[:9]) <= LARGEST_VIEWPORT
            for one in sides
        )
        and len(sides) == 2
        and len(part) in (0, 4)
        and readable
        and min(numbers[:2], default=0) >= 0
    ):
        return Viewport(int(sides[0]), int(sides[1]), *numbers)
    raise HTTPException(
        400,
        "viewport is WIDTH,HEIGHT of the picture, and of what is shown of the image LEFT,TOP,WIDTH,"
        f"HEIGHT: whole numbers to {LARGEST_VIEWPORT}, then numbers from 0 (negative: mirrored).",
    )
