"""Frames as people look at them: windowed, scaled, as JPEG or PNG (PS3.18 Section 8.3.5).

Modality LUT, VOI LUT and presentation follow each other as in PS3.4 Section N.2.
"""

import io
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt
from PIL import Image as Picture
from pydicom import Dataset
from pydicom.pixels.processing import apply_color_lut, convert_color_space

from node.codecs import Codecs
from node.dicomweb.images import Image, NotAnImageError
from node.image_header import tag_of
from node.instances import numbers_of, text_of, value_of
from node.sequence_items import items_of

LARGEST_VIEWPORT = 4096
"""Pixels of a side that a client may ask for."""

DEFAULT_QUALITY = 90
THUMBNAIL = 256

Function = Literal["LINEAR", "LINEAR_EXACT", "SIGMOID"]
Grey = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]

_GROUPS = ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence")
_VALUES = ("PixelValueTransformationSequence", "FrameVOILUTSequence")


@dataclass(frozen=True)
class Window:
    """What values are shown from black to white (PS3.3 C.11.2.1.2)."""

    centre: float
    width: float
    function: Function = "LINEAR"


@dataclass(frozen=True)
class Viewport:
    """How large the picture may be, and which part of the image is in it, in its pixels.

    A negative width or height of the part mirrors it; 0 means the whole.
    """

    width: int
    height: int
    left: float = 0
    top: float = 0
    part_width: float = 0
    part_height: float = 0


@dataclass(frozen=True)
class Appearance:
    """What a client wants to see; None: as the image says."""

    window: Window | None = None
    viewport: Viewport | None = None
    quality: int = DEFAULT_QUALITY


def rendered(
    image: Image, number: int, appearance: Appearance, media_type: str, codecs: Codecs
) -> bytes:
    """Return frame `number`, counted from 1, as image/jpeg or image/png.

    Raises NotAnImageError where it cannot be drawn, and NoSuchFrameError.
    """
    picture = Picture.fromarray(_shown(image, number, appearance.window, codecs))
    if appearance.viewport is not None:
        picture = _placed(picture, appearance.viewport)
    buffer = io.BytesIO()
    if media_type == "image/png":
        picture.save(buffer, "PNG", compress_level=3)
    else:
        picture.save(buffer, "JPEG", quality=appearance.quality)
    return buffer.getvalue()


def _shown(image: Image, number: int, window: Window | None, codecs: Codecs) -> Bytes:
    """Return what a screen shows, [row, column] or [row, column, colour]."""
    values = image.values(number, codecs)
    header = image.instance.header
    try:
        if image.photometric == "PALETTE COLOR":
            coloured = apply_color_lut(values, header)
            return (coloured >> (8 if coloured.dtype.itemsize == 2 else 0)).astype(np.uint8)
        if image.layout.samples > 1:
            return _in_rgb(image, values)
    except (ValueError, AttributeError, KeyError, TypeError, NotImplementedError) as error:
        raise NotAnImageError("its colours cannot be made out") from error
    shown = _grey(values, _frame_header(header, number), window)
    return 255 - shown if image.photometric == "MONOCHROME1" else shown


def _in_rgb(image: Image, values: npt.NDArray[np.integer]) -> Bytes:
    colours = (values >> (image.layout.bits_stored - 8)).astype(np.uint8)
    photometric = image.decoded_photometric
    if photometric == "RGB":
        return colours
    converted: Bytes = convert_color_space(colours, photometric, "RGB")
    return converted


def _frame_header(header: Dataset, number: int) -> Dataset:
    """Return what says how one frame is shown: what is its own before what is shared."""
    made = Dataset()
    implicit, little_endian = header.original_encoding
    made.set_original_encoding(implicit, little_endian, "iso8859")
    made.update({tag: header.get_item(tag) for tag in _VALUE_TAGS & header.keys()})
    for keyword, at in zip(_GROUPS, (0, number - 1), strict=True):
        groups = items_of(header, tag_of(keyword))
        for group in _VALUES if at < len(groups) else ():
            for item in items_of(groups[at], tag_of(group))[:1]:
                made.update({tag: item.get_item(tag) for tag in item.keys()})  # noqa: SIM118
    return made


_VALUE_TAGS = frozenset(
    tag_of(keyword)
    for keyword in (
        *("RescaleSlope", "RescaleIntercept", "ModalityLUTSequence", "PixelRepresentation"),
        *("WindowCenter", "WindowWidth", "VOILUTFunction", "VOILUTSequence"),
    )
)


def _grey(stored: npt.NDArray[np.integer], header: Dataset, window: Window | None) -> Bytes:
    values = _rescaled(stored, header)
    own = window or _window_of(header)
    table = None if window else _table(header, "VOILUTSequence")
    if table is not None:
        shown = _looked_up(values, table)
        return _stretched(shown, 0, float(2**table.bits - 1))
    if own is None:
        return _stretched(values, float(values.min()), float(values.max()))
    return _windowed(values, own)


def _rescaled(stored: npt.NDArray[np.integer], header: Dataset) -> Grey:
    table = _table(header, "ModalityLUTSequence")
    if table is not None:
        return _looked_up(stored.astype(np.float32), table)
    slope = numbers_of(header, "RescaleSlope", 1) or (1.0,)
    intercept = numbers_of(header, "RescaleIntercept", 1) or (0.0,)
    return stored.astype(np.float32) * np.float32(slope[0]) + np.float32(intercept[0])


@dataclass(frozen=True, eq=False)
class _Table:
    """A LUT (PS3.3 C.11.1.1, C.11.2.1.1): entries of `bits`, of which the first is for `first`."""

    first: int
    bits: int
    entries: Grey


def _table(header: Dataset, keyword: str) -> _Table | None:
    items = items_of(header, tag_of(keyword))
    if not items:
        return None
    descriptor = numbers_of(items[0], "LUTDescriptor", 3)
    content = value_of(items[0], "LUTData")
    if descriptor is None or content is None:
        raise NotAnImageError("its look-up table is broken")
    count, first, bits = (int(number) for number in descriptor)
    count = count % 2**16 or 2**16
    if isinstance(content, bytes):
        content = np.frombuffer(content, "u1" if len(content) < 2 * count else "<u2")
    entries = np.atleast_1d(np.asarray(content, np.float32))[:count]
    if entries.size < count or not 1 <= bits <= 16:
        raise NotAnImageError("its look-up table is broken")
    return _Table(first, bits, entries)


def _looked_up(values: Grey, table: _Table) -> Grey:
    places = np.clip(values - table.first, 0, len(table.entries) - 1).astype(np.intp)
    return table.entries[places]


def _window_of(header: Dataset) -> Window | None:
    """Return the first window of the image, None where it has none that can be."""
    centres, widths = value_of(header, "WindowCenter"), value_of(header, "WindowWidth")
    try:
        centre, width = (float(_first(values)) for values in (centres, widths))
    except (TypeError, ValueError, IndexError):
        return None
    said = text_of(header, "VOILUTFunction")
    function: Function = "LINEAR"
    if said == "LINEAR_EXACT":
        function = "LINEAR_EXACT"
    elif said == "SIGMOID":
        function = "SIGMOID"
    made = Window(centre, width, function)
    return made if is_possible(made) else None


def _first(values: object) -> float:
    return values if isinstance(values, float) else float(values[0])  # type: ignore[index]


def is_possible(window: Window) -> bool:
    """Whether the width is what the function needs (PS3.3 C.11.2.1.2 and C.11.2.1.3)."""
    finite = np.isfinite(window.centre) and np.isfinite(window.width)
    return bool(finite and (window.width >= 1 if window.function == "LINEAR" else window.width > 0))


def _windowed(values: Grey, window: Window) -> Bytes:
    centre, width = window.centre, window.width
    if window.function == "SIGMOID":
        exponent = np.clip(-4 * (values - np.float32(centre)) / np.float32(width), -80, 80)
        return _bytes(255 / (1 + np.exp(exponent)))
    if window.function == "LINEAR":
        centre, width = centre - 0.5, max(width - 1, 1e-6)
    return _stretched(values, centre - width / 2, centre + width / 2)


def _stretched(values: Grey, low: float, high: float) -> Bytes:
    """Return `low` as black and `high` as white, and what is beyond as they are."""
    scale = 255 / (high - low) if high > low else 0.0
    shown = (values - np.float32(low)) * np.float32(scale)
    return _bytes(np.clip(shown, 0, 255, out=shown))


def _bytes(shown: Grey) -> Bytes:
    rounded: Bytes = np.rint(shown).astype(np.uint8)
    return rounded


def _placed(picture: Picture.Image, viewport: Viewport) -> Picture.Image:
    """Cut out the part, and scale it to fit into the viewport (PS3.18 Section 8.3.5.1.3)."""
    width, height = viewport.part_width or picture.width, viewport.part_height or picture.height
    left, top = viewport.left, viewport.top
    right, bottom = min(left + abs(width), picture.width), min(top + abs(height), picture.height)
    if right - left < 1 or bottom - top < 1:
        raise NotAnImageError("the part of it that the viewport names lies outside of it")
    scale = min(viewport.width / (right - left), viewport.height / (bottom - top))
    size = max(1, round((right - left) * scale)), max(1, round((bottom - top) * scale))
    placed = picture.resize(
        size, Picture.Resampling.BILINEAR, box=(left, top, right, bottom), reducing_gap=2.0
    )
    if width < 0:
        placed = placed.transpose(Picture.Transpose.FLIP_LEFT_RIGHT)
    return placed.transpose(Picture.Transpose.FLIP_TOP_BOTTOM) if height < 0 else placed


def as_thumbnail(appearance: Appearance) -> Appearance:
    """Return the appearance in the size of a thumbnail, where no size was asked for."""
    return (
        appearance
        if appearance.viewport
        else replace(appearance, viewport=Viewport(THUMBNAIL, THUMBNAIL))
    )
